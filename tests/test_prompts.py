"""The better of two prompts goes live by a decision that questions nobody chose with confirm, and one command takes it back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from errors import UsageError
from evals.__main__ import main
from evals.prompts import Judgement, adopt, back, conclusion, judge, status, text
from evals.run import CITING, WORDING
from rag.prompt import DECISIONS, Wording, decisions, live, opened, parsed
from tests.sample_company import company, evals

MEASURED = {"model": "scripted", "level": "free", "collection": "docs", "index_version": "v1", "results": "r.json"}
SHORT = "<!-- version 3 -->\n# user\n$passages\n\nSay it briefly: $question\n"


def rows(right: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(at), "question": f"q{at}", "answerable": True, "found": True, "seconds": 1.0, "cpu_s": 1.0,
            **dict.fromkeys((*WORDING, *CITING)), "contains": score, "number_wrong": 1 - score,
        }
        for at, score in enumerate(right)
    ]


def compared(tune: tuple[list[float], list[float]], report: tuple[list[float], list[float]], score: str = "right_or_refused") -> Judgement:
    """`answer v1` beside `short v3`, by what each got right."""
    labels = ("answer v1", "short v3")
    halves = {"tune": tune, "report": report}
    found = {which: {name: rows(right) for name, right in zip(labels, pair, strict=True)} for which, pair in halves.items()}
    return judge(found, labels, score)


ALL, NONE = [1.0] * 30, [0.0] * 30
CONFIRMED = compared((NONE, ALL), (NONE, ALL))


def short(words: str = SHORT) -> Wording:
    return parsed("short", words)


# judging


def test_a_gain_that_the_held_out_half_shows_too_is_confirmed() -> None:
    assert CONFIRMED.winner == "short v3" and CONFIRMED.confirmed and "confirms it" in conclusion(CONFIRMED)


def test_a_gain_on_the_tuning_half_alone_is_luck_until_shown() -> None:
    """The prompt was chosen for the tuning questions; the others say nothing of the kind, and that is said."""
    found = compared((NONE, ALL), (ALL, ALL))
    assert found.winner == "short v3" and not found.confirmed and "does not confirm" in conclusion(found)


def test_a_prompt_that_loses_the_held_out_half_is_not_confirmed() -> None:
    found = compared((NONE, ALL), (ALL, NONE))
    assert not found.confirmed and found.report.least < -0.9


def test_two_questions_confirm_nothing() -> None:
    """Both won: it could be luck."""
    assert not compared((NONE, ALL), ([0.0, 0.0], [1.0, 1.0])).confirmed


def test_prompts_that_do_equally_well_leave_nothing_to_confirm() -> None:
    found = compared((ALL, ALL), (NONE, ALL))
    assert found.winner == "" and not found.confirmed and "equally well" in conclusion(found)


def test_the_first_prompt_can_win_too() -> None:
    found = compared((ALL, NONE), (ALL, NONE))
    assert found.winner == "answer v1" and found.confirmed


def test_less_is_better_where_less_is_better() -> None:
    """Wrong amounts stated: the prompt that states fewer wins."""
    found = compared((NONE, ALL), (NONE, ALL), score="number_wrong")
    assert found.winner == "short v3" and found.confirmed and found.tune.difference.mean == -1.0


def test_the_questions_that_changed_are_named() -> None:
    found = compared(([0.0, 1.0], [1.0, 1.0]), ([0.0, 1.0], [0.0, 1.0]))
    assert "0 → 1  0  q0" in text(found) and "q1" not in text(found)


# deciding


def test_an_adopted_prompt_is_live_and_the_decision_says_why(tmp_path: Path) -> None:
    entry = adopt(tmp_path, short(), CONFIRMED, MEASURED)
    assert live(tmp_path).label == "short v3"
    assert (entry["before"], entry["after"]) == ("answer v1", "short v3") and entry["at"] and entry["commit"] and entry["sha256"]
    assert entry["report"]["before"]["mean"] == 0.0 and entry["report"]["after"]["mean"] == 1.0 and entry["results"] == "r.json"
    assert decisions(tmp_path) == [entry]


def test_what_was_not_confirmed_is_not_adopted(tmp_path: Path) -> None:
    """Not by a mistake of the caller either."""
    with pytest.raises(UsageError, match="not confirmed"):
        adopt(tmp_path, short(), compared((NONE, ALL), (ALL, ALL)), MEASURED)
    with pytest.raises(UsageError, match="not confirmed"):
        adopt(tmp_path, opened("answer"), CONFIRMED, MEASURED)
    assert live(tmp_path).label == "answer v1" and not (tmp_path / "prompts").exists()


def test_one_version_number_never_means_two_texts(tmp_path: Path) -> None:
    """Receipts name prompts by name and version."""
    adopt(tmp_path, short(), CONFIRMED, MEASURED)
    with pytest.raises(UsageError, match="with other words"):
        adopt(tmp_path, short(SHORT.replace("briefly", "at length")), CONFIRMED, MEASURED)


def test_going_back_is_a_decision_too_and_ends_at_the_shipped_prompt(tmp_path: Path) -> None:
    """The history is only ever added to."""
    adopt(tmp_path, short(), CONFIRMED, MEASURED)
    entry = back(tmp_path)
    assert (entry["before"], entry["after"]) == ("short v3", "answer v1") and live(tmp_path).label == "answer v1"
    assert [each["action"] for each in decisions(tmp_path)] == ["adopted", "went back"]
    with pytest.raises(UsageError, match="came with Footnote"):
        back(tmp_path)


def test_the_status_shows_what_is_live_and_how_it_came_to_be(tmp_path: Path) -> None:
    assert "Live: answer v1" in status(tmp_path) and "no decision" in status(tmp_path)
    adopt(tmp_path, short(), CONFIRMED, MEASURED)
    back(tmp_path)
    lines = status(tmp_path).splitlines()
    assert lines[0] == "Live: answer v1" and "went back: short v3 → answer v1" in lines[1] and "adopted: answer v1 → short v3" in lines[2]


def test_decisions_are_written_whole(tmp_path: Path) -> None:
    """Nothing is left beside them that a crash could be blamed on."""
    adopt(tmp_path, short(), CONFIRMED, MEASURED)
    assert [each.name for each in (tmp_path / "prompts").iterdir()] == [DECISIONS]


# the command, without a model


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["answer"], ["answer", "answer", "--questions", "q.jsonl"], ["answer", "copy"],
        ["answer", "nowhere", "--questions", "q.jsonl"], ["--back"], ["answer", "copy", "--adopt", "--back"],
        ["answer", "copy", "--questions", "q.jsonl", "--adopt", "--level", "free"],
    ],
    ids=lambda each: " ".join(each) or "nothing",
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--adopt measures what people are served by: a level given by hand is not that."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path))
    try:
        code = main(["prompts", *arguments])
    except SystemExit as ended:  # argparse's own way out
        code = int(str(ended.code))
    assert code == 2 and capsys.readouterr().err.strip() and not list(tmp_path.iterdir())


def test_a_prompt_goes_live_only_in_place_of_the_one_it_was_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Better than some other prompt is not better than what people have."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path))
    adopt(tmp_path, short(), CONFIRMED, MEASURED)
    assert main(["prompts", "answer", "copy", "--questions", "q.jsonl", "--adopt"]) == 2
    assert "short v3 is live" in capsys.readouterr().err
    assert main(["prompts", "--back"]) == 0 and main(["prompts", "--status"]) == 0
    assert "answer v1 is live again" in capsys.readouterr().out


# with the real model


SAID = "$not_found\n" * 12
REFUSE = f"<!-- version 1 -->\n# user\n{SAID}$passages\n$question\n{SAID}"  # a model this small goes on with what it has just read


@pytest.mark.real
@pytest.mark.slow
def test_a_better_prompt_goes_live_with_the_real_model_and_is_taken_back(tmp_path: Path) -> None:
    """An earlier admin let a prompt go live that makes the model refuse everything; the shipped one is measured against it."""
    home = tmp_path / "home"
    (home / "prompts").mkdir(parents=True)
    (home / "prompts" / "refuse.md").write_text(REFUSE, encoding="utf-8")
    earlier = dataclasses.replace(CONFIRMED, labels=("answer v1", "refuse v1"), winner="refuse v1")
    adopt(home, opened("refuse", home), earlier, MEASURED)
    quick = {"FOOTNOTE_MODEL_LEVEL": "free", "FOOTNOTE_ANSWER_TOKENS": "16", "FOOTNOTE_KEEP_PASSAGES": "2"}

    asked = [*company(tmp_path), "--where", "answerable=True"]
    done = evals(tmp_path, "prompts", "refuse", "answer", *asked, "--score", "contains", "--adopt", **quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answer v1 is live from now on, instead of refuse v1" in done.stdout and live(home).label == "answer v1"
    made = decisions(home)[-1]
    assert made["level"] == "free" and made["after"] == "answer v1" and made["report"]["at_least"] > 0
    assert (tmp_path / "results" / made["results"]).is_file()

    back(home)
    assert live(home).label == "refuse v1"
    assert "went back: answer v1 → refuse v1" in status(home) and "There are: answer, copy, refuse" in status(home)
