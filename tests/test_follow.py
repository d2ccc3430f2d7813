"""Follow-ups are measured beside the same question asked in other ways, and made by code from questions that stand alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.conversations import conversations, follow_up
from evals.questions import Gold, Question, half_of, read
from rag.condense import condense
from rag.types import Turn
from tests.sample_company import DOCUMENTS, SOURCE, evals

SET = Path(__file__).resolve().parent.parent / "evals" / "multi_turn.jsonl"


def question(number: int, text: str, document: str) -> Question:
    return Question(str(number), text, (f"answer {number}",), True, (Gold(document),))


def test_every_follow_up_of_our_set_has_its_conversation_and_stands_in_the_sample_company() -> None:
    """History that alternates, a question that stands alone, a file that is there; a change of topic is asked as it stands."""
    lines = read(SET)
    assert len(lines) >= 120 and len({each.conversation for each in lines}) >= 60
    for each in lines:
        assert each.conversation and each.rewrite and each.history[-1][0] == "assistant"
        assert [role for role, _ in each.history] == ["user", "assistant"] * (len(each.history) // 2)
        assert each.answerable == bool(each.gold) == bool(each.answers)
        assert all((SOURCE / gold.document).is_file() for gold in each.gold)
        assert each.kind != "change" or each.rewrite == each.question


def test_a_conversation_is_on_one_side() -> None:
    """Its follow-ups are about different documents: without its name one would be chosen with and the other reported."""
    halves: dict[str, set[str]] = {}
    for each in read(SET):
        halves.setdefault(each.conversation, set()).add(half_of(each))
    assert {len(each) for each in halves.values()} == {1}
    assert {side for each in halves.values() for side in each} == {"tune", "report"}


@pytest.mark.parametrize(
    ("before", "asked", "expected"),
    [
        ("When was the Harbour Museum built?", "Who designed the Harbour Museum?", ("pronoun", "Who designed it?")),
        ("Where does Ann Lee live?", "What is Ann Lee's trade?", ("pronoun", "What is its trade?")),
        ("Who founded Leith?", "How many people lived in Leith in 1900?", ("pronoun", "How many people lived there in 1900?")),
        ("What is the price of a Wren?", "What is the price of a Heron?", ("ellipsis", "And of a Heron?")),
        ("Who founded Leith?", "What is the warranty on the frame?", None),
    ],
)
def test_what_two_questions_share_is_left_out_of_the_second(before: str, asked: str, expected: tuple[str, str] | None) -> None:
    assert follow_up(before, asked) == expected


def test_a_phrase_is_replaced_whole_or_not_at_all() -> None:
    """Seen: "How many Muslims are in London?" after a question about Muslims became "How many it are in London?"."""
    assert follow_up("What do Muslims in Leith eat?", "How many Muslims are in London?") is None


def test_made_conversations_keep_the_question_they_came_from() -> None:
    """Every follow-up has the earlier questions before it, its own question as the rewrite, and that question's gold place."""
    asked = [
        question(1, "When was the Harbour Museum built?", "a.md"), question(2, "Who designed the Harbour Museum?", "a.md"),
        question(3, "How tall is the Harbour Museum?", "a.md"), question(4, "What does a ticket cost?", "b.md"),
    ]
    by_text = {each.question: each for each in asked}
    kinds = set()
    for seed in range(8):
        made = conversations(asked, 10, seed)
        assert made == conversations(asked, 10, seed)
        for each in made:
            origin = by_text[each["rewrite"]]
            assert each["gold"][0]["doc"] == origin.gold[0].document and each["answers"] == list(origin.answers)
            assert len(each["history"]) >= 2 and each["history"][-1]["role"] == "assistant"
            assert (each["question"] == each["rewrite"]) == (each["kind"] == "change")
            kinds.add(each["kind"])
    assert kinds == {"pronoun", "change"}


def test_a_made_set_is_read_as_questions(tmp_path: Path) -> None:
    """`evals make --conversations` needs no index, and what it writes is a question set."""
    single = tmp_path / "single.jsonl"
    lines = [
        {"id": at, "question": text, "answers": ["x"], "gold": [{"doc": "a.md"}]}
        for at, text in enumerate(["When was the Harbour Museum built?", "Who designed the Harbour Museum?"])
    ]
    single.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = evals(tmp_path, "make", str(tmp_path / "many.jsonl"), "--conversations", str(single))
    assert done.returncode == 0, done.stderr
    (made,) = read(tmp_path / "many.jsonl")
    assert made.rewrite in {each["question"] for each in lines} and "it" in made.question.split("?")[0].split() and made.history
    assert condense(made.question, [Turn(*each) for each in made.history]) != made.question


@pytest.mark.slow
def test_a_follow_up_finds_what_the_question_standing_alone_finds(tmp_path: Path) -> None:
    """The real embedder on a few conversations: searched as the app does, they find clearly more than as they were asked."""
    shared = tmp_path.parent / "sample-company"
    for name in DOCUMENTS:
        (shared / "documents" / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / "documents" / name).write_bytes((SOURCE / name).read_bytes())
    kept = [
        line for line in SET.read_text(encoding="utf-8").splitlines()
        if (gold := json.loads(line)["gold"]) and all(each["doc"] in DOCUMENTS for each in gold)
    ]
    asked = tmp_path / "follow.jsonl"
    asked.write_text("\n".join(kept), encoding="utf-8")
    done = evals(
        tmp_path, "follow", str(asked), "--docs", str(shared / "documents"), "--index", str(shared / "index"), "--unit", "paragraph",
        "--results", str(tmp_path / "results"), "--json",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["questions"] == len(kept) > 20 and summary["absent"] == 0
    assert summary["gain over as asked"]["nDCG@10"]["low"] > 0
    assert summary["footnote"]["recall@5"]["mean"] > 0.8
