"""From documents to what is live and back: data sets hold no secrets, a candidate goes live only if it is better."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import config
from config import LIVE, ROOT, Settings, live
from errors import ModelMissing, UsageError
from evals.private import covered, personal
from evals.questions import from_lines, half_of
from rag.engine import adapter_file, files
from rag.reader import Reader
from tests.towns import triples
from tune.__main__ import main
from tune.data import load_triples
from tune.gate import adopt, back, judge, keep, kind_of, status
from tune.gather import gather

SAMPLE = ROOT / "examples" / "questions.jsonl"
READER = ROOT / "models" / "reader"


def row(number: int, right: bool, *, answerable: bool = True, found: bool = True, cited: bool = True, wrong: int = 0) -> dict[str, Any]:
    """What `evals.run` says of one answer."""
    scores = dict.fromkeys(("exact", "f1", "word_recall", "number_right", "number_wrong", "gold_in_passages", "citation_precision"))
    return {
        **scores, "id": str(number), "question": f"Question {number}?", "answerable": answerable, "found": found, "kind": "",
        "contains": float(right) if answerable else None, "citation_recall": None,
        "cited_gold": float(cited) if answerable else None, "quotes_wrong": wrong, "seconds": 0.1, "cpu_s": 0.1,
    }  # fmt: skip


def rows(right: int, *, of: int = 40, refused: int = 10, cited: int = 40, wrong: int = 0) -> list[dict[str, Any]]:
    """`of` answerable questions with `right` right ones and `cited` cited ones, and ten unanswerable ones, `refused` of them refused."""
    asked = [row(number, number < right, cited=number < cited, wrong=wrong if number == 0 else 0) for number in range(of)]
    return asked + [row(of + number, False, answerable=False, found=number >= refused) for number in range(10)]


def test_a_candidate_that_is_shown_to_be_better_may_go_live() -> None:
    verdict = judge(rows(20), rows(32), "right_or_refused")
    assert verdict.reasons == ()
    assert verdict.difference.low > 0


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (rows(20), "right_or_refused is not shown to get better"),
        (rows(21), "right_or_refused is not shown to get better"),
        (rows(12), "contains gets worse"),
        (rows(36, refused=8), "refused_rightly gets worse"),
        (rows(36, cited=30), "cited_gold gets worse"),
        (rows(36, wrong=1), "1 quotes differ from the stored text"),
    ],
)
def test_a_candidate_is_refused_with_the_reason(after: list[dict[str, Any]], reason: str) -> None:
    """Not better, or better only by a chance difference, or better at a price that nobody agreed to pay."""
    assert any(each.startswith(reason) for each in judge(rows(20), after, "right_or_refused").reasons)


def test_what_goes_live_survives_its_training_folder_and_can_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One adapter, then a better one, then back twice; each time the settings name what was live then."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    home = tmp_path / "home"
    better, about = judge(rows(20), rows(32), "right_or_refused"), {"questions": "own.jsonl"}
    for name in ("first", "second"):
        training = tmp_path / name
        training.mkdir()
        (training / "adapter.gguf").write_bytes(b"GGUF" + name.encode())
        adopt(home, training / "adapter.gguf", "adapter", "compressed", better, about)
        shutil.rmtree(training)
        settings = config.load()
        assert (adapter_file(settings) or Path()).read_bytes() == b"GGUF" + name.encode()
        assert settings.model_level == "compressed"
    assert config.load(adapter="").adapter == ""  # a flag, the environment and footnote.toml come first
    assert status(home).count("live: adapter") == 2 and "0.500 → 0.800" not in status(home)
    back(home)
    assert (adapter_file(config.load()) or Path()).read_bytes() == b"GGUFfirst"
    back(home)
    assert (config.load().adapter, config.load().model_level) == ("", "")
    with pytest.raises(UsageError, match="Nothing that was trained here is live"):
        back(home)


def test_a_refused_candidate_cannot_be_adopted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is refused"):
        adopt(tmp_path, tmp_path / "adapter.gguf", "adapter", None, judge(rows(20), rows(20), "right_or_refused"), {})
    assert live(tmp_path) == {} and not (tmp_path / LIVE).exists()


def test_decisions_that_cannot_be_read_are_not_guessed(tmp_path: Path) -> None:
    """Half a line after a crash, or a setting that no decision may touch, stops the start with what to do."""
    for text in ('{"action": "live", "sett', '{"action": "live", "settings": {"port": "1"}}\n', '{"action": "back"}\n'):
        (tmp_path / LIVE).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="cannot be read"):
            live(tmp_path)


def test_a_live_reader_whose_file_was_changed_does_not_answer(tmp_path: Path) -> None:
    """Weights are compared with reader.json anyway; here the fitted evidence beside them is changed."""
    place = keep(tmp_path, READER, "reader")
    assert place.parent == tmp_path / "models" / "reader" and kind_of(place) == "reader"
    assert Reader(place, 1).name == Reader(READER, 1).name
    (place / "evidence.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelMissing, match="has changed since it went live"):
        Reader(place, 1)


def test_personal_data_is_covered_and_nothing_moves() -> None:
    """Offsets of answers must hold; what looks like a figure of the business stays."""
    text = (
        "Write to anna.berg@alderwick.example or call +44 113 496 0123. Account GB29 NWBK 6016 1331 9268 19, card 4111 1111 1111 1111. "
        "Name: Anna Berg | Team: Sales. Leave is 28 days, invoices over £12,500.00 go to the director by 31.12.2025, see section 4.2.1."
    )
    hidden = covered(text)
    assert len(hidden) == len(text)
    for secret in ("anna", "496", "NWBK", "9268", "4111", "Anna Berg"):
        assert secret not in hidden
    assert hidden[text.index("Team") :] == text[text.index("Team") :]
    assert {kind for _, _, kind in personal(text)} == {"e-mail", "phone", "bank account", "card", "field"}
    assert not personal("In 2024 and 2025, 1,250 of 12 500 000 people (12.5 %) paid 3-5 times; ISO 27001, version 10.4.12, 9:00-17:30.")


class Pages:
    """A catalog of two documents, one in each half of the questions."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def documents(self) -> list[Any]:
        from ingest.catalog import Document

        made = []
        for number, name in enumerate(self.texts):
            fields = {each.name: "" for each in dataclasses.fields(Document)} | {"id": number, "document": name, "status": "ready"}
            made.append(Document(**fields))  # type: ignore[arg-type]
        return made

    def passages_of(self, document_id: int) -> list[Any]:
        from ingest.types import Passage

        name = list(self.texts)[document_id]
        return [Passage(document_id, name, document_id, name, None, "", self.texts[name], 0, len(self.texts[name]))]


def test_triples_hold_one_half_no_secrets_nothing_twice_and_nothing_unreviewed() -> None:
    """What the gate will ask about is not trained on; a line that waits for a person is not trained on either."""
    text = "Leave is 28 days a year. Ask Ms Berg, +44 113 496 0123, for more. The office opens at seven in the morning."
    names = [f"handbook-{number}.md" for number in range(20)]
    mine = next(n for n in names if half_of(from_lines([line(n)])[0]) == "tune")
    held = next(n for n in names if half_of(from_lines([line(n)])[0]) == "report")
    asked = [
        line(mine), line(mine), line(held), line(mine, question="When does the office open?", answer="seven in the morning"),
        line(mine, question="Who is asked?", answer="+44 113 496 0123"), {**line(mine, question="How long is leave?"), "review": True},
        line(mine, question="How much is paid?", answer="500 pounds"), {**line(mine), "answerable": False, "answers": [], "gold": []},
    ]
    found, counts = gather(Pages({mine: text, held: text}), asked)  # type: ignore[arg-type]
    assert [(each.question, each.answer) for each in found] == [
        ("How many days is leave?", "28 days"), ("When does the office open?", "seven in the morning"),
    ]
    for each in found:
        assert each.group == mine and each.answer is not None and each.start is not None
        assert each.passage[each.start :].startswith(each.answer) and "496" not in each.passage
    assert counts["kept"] == 2 and counts["asked twice"] == 1 and counts["kept for the gate"] >= 1 and counts["waits for review"] == 1
    assert counts["personal data in question or answer"] == 1 and counts["answer not found in its place"] == 1


def line(document: str, question: str = "How many days is leave?", answer: str = "28 days") -> dict[str, Any]:
    gold = {"doc": document, "page": None, "section": "", "text": ""}
    return {"id": f"{document}{question}", "question": question, "answers": [answer], "answerable": True, "gold": [gold]}


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The sample company's plain pages, indexed where the test may write, and an empty data folder."""
    from ingest.embed import Embedder
    from ingest.refresh import refresh

    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOOTNOTE_INDEX", str(tmp_path / "indexes"))
    monkeypatch.setenv("FOOTNOTE_THREADS", "1")
    folder = tmp_path / "docs"
    shutil.copytree(ROOT / "examples" / "sources", folder, ignore=shutil.ignore_patterns("*.json", "*.csv"))
    settings = config.load()
    embedder = Embedder(settings)
    refresh([("company", folder)], "default", settings, embedder=lambda: embedder)
    return settings


def test_the_whole_way_on_the_real_models(company: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents → triples → adapter → gate. An adapter of one step is no better, so it is refused, and nothing changes."""
    assert main(["data", str(tmp_path / "made.jsonl"), "--half", "all", "--count", "60"]) == 0
    made = load_triples(tmp_path / "made.jsonl")
    assert len(made) >= 20
    more = [*made, *triples()]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in more), encoding="utf-8")
    trained = ["adapter", "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out"), "--hold-out", "0.2"]
    assert main([*trained, "--steps", "1", "--rank", "2", "--threads", "1"]) == 0
    candidate = tmp_path / "out" / "adapter.gguf"
    (tmp_path / "few.jsonl").write_text(
        "".join(json.dumps({**line(each.group, each.question, str(each.answer)), "id": str(n)}) + "\n" for n, each in enumerate(made[:4])),
        encoding="utf-8",
    )
    capsys.readouterr()
    asked = ["--questions", str(tmp_path / "few.jsonl"), "--half", "all", "--results", str(tmp_path / "results")]
    assert main(["gate", str(candidate), *asked, "--level", "compressed"]) == 1
    shown = capsys.readouterr().out
    assert "Refused; what is live stays." in shown and "right_or_refused is not shown to get better" in shown
    assert "+ adapter (" in shown and len(list((tmp_path / "results").glob("*.json"))) == 2
    assert main(["status"]) == 0
    assert "Nothing that was trained here is live." in capsys.readouterr().out


def test_a_better_reader_goes_live_and_back(company: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against an embedder that answers nothing any more, the reader that ships is better; it is taken on, used, and taken back.

    The state before is a reader whose threshold refuses everything: a real state of the product, if a useless one.
    """
    mute = tmp_path / "mute"
    shutil.copytree(READER, mute)
    weights = json.loads((mute / "evidence.json").read_text(encoding="utf-8"))
    (mute / "evidence.json").write_text(json.dumps({**weights, "threshold": 99.0}), encoding="utf-8")
    place = keep(company.home, mute, "reader")
    before = {"action": "live", "at": "before", "kind": "reader", "digest": place.name, "score": "none", "before": 0, "after": 0}
    before |= {"settings": {"reader": str(place.relative_to(company.home))}, "questions": "", "difference": {"n": 0, "low": 0, "high": 0}}
    company.home.mkdir(exist_ok=True)
    (company.home / LIVE).write_text(json.dumps(before) + "\n", encoding="utf-8")
    assert Path(config.load().reader) == place
    assert main(["data", str(tmp_path / "made.jsonl"), "--half", "all", "--count", "30"]) == 0
    # without figures: who says nothing states no wrong amount either, and the gate would hold that against the candidate
    made = [each for each in load_triples(tmp_path / "made.jsonl") if not any(letter.isdigit() for letter in each.answer or "")][:6]
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({**line(each.group, each.question, str(each.answer)), "id": str(n)}) + "\n" for n, each in enumerate(made)),
        encoding="utf-8",
    )
    asked = ["--questions", str(tmp_path / "asked.jsonl"), "--half", "all", "--results", str(tmp_path / "results")]
    candidate = tmp_path / "candidate"
    shutil.copytree(READER, candidate)
    assert main(["gate", str(candidate), *asked]) == 0, capsys.readouterr().out
    shutil.rmtree(candidate)
    assert Path(config.load().reader).name == files.digest(Path(config.load().reader)) != place.name
    assert main(["back"]) == 0
    assert Path(config.load().reader) == place
