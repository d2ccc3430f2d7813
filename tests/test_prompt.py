"""The prompt fits, carries where each passage comes from, and runs nothing that a document says."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from errors import UsageError
from ingest.types import Passage
from rag.prompt import DECISIONS, live, opened, opening, prompt
from rag.types import Hit, Turn


def hit(number: int, text: str) -> Hit:
    return Hit(Passage(number, f"doc{number}.pdf", number, "Title", 4, "Leave › Carry-over", text, 0, len(text), "2025-03-01"), 1.0, "both")


def count(messages: Sequence[Turn]) -> list[int]:
    """One token a word: enough to test the counting."""
    return [0] * sum(len(each.content.split()) for each in messages)


def test_passages_are_numbered_with_document_page_section_and_date() -> None:
    made = prompt("How long?", [hit(1, "Ten days."), hit(2, "Two weeks.")], count, 500)
    text = made.messages[-1].content

    assert "[1] doc1.pdf, p. 4 · Leave › Carry-over · 2025-03-01\nTen days." in text
    assert "[2] doc2.pdf" in text and text.endswith("How long?")


def test_what_does_not_fit_is_left_out_whole() -> None:
    """A long last passage goes; the ones before it stay complete."""
    made = prompt("How long?", [hit(1, "word " * 50), hit(2, "word " * 900)], count, 200)

    assert len(made.hits) == 1 and len(made.tokens) <= 200
    assert made.messages[-1].content.count("word") == 50


def test_a_question_that_cannot_fit_is_refused_with_a_cure() -> None:
    with pytest.raises(UsageError) as raised:
        prompt("why " * 300, [hit(1, "Ten days.")], count, 200)

    assert "shorter" in raised.value.cure


def test_document_text_is_never_a_template() -> None:
    """A document with $question or {{ }} in it is shown as it is."""
    made = prompt("How long?", [hit(1, "Costs $question or $$5 or {{ system }}.")], count, 500)

    assert "Costs $question or $$5 or {{ system }}." in made.messages[-1].content


def letters(messages: Sequence[Turn]) -> list[int]:
    """A token a letter."""
    return [ord(letter) for turn in messages for letter in f"<{turn.role}>{turn.content}"]


def test_an_opening_begins_every_prompt_and_holds_what_can_be_known() -> None:
    """The instructions before anything is asked; with the first passage once it is found, whatever question and passages follow."""
    wording = opened("answer")
    hits = [hit(1, "Ten days."), hit(2, "Two weeks.")]
    for question in ("Who?", "How long?", "Is it so?"):
        whole = list(prompt(question, hits, letters, 5000).tokens)
        instructions, first = opening((), letters, wording), opening(hits, letters, wording)
        assert whole[: len(instructions)] == instructions and whole[: len(first)] == first
        assert "".join(map(chr, first)).rstrip().endswith("Ten days.") and "".join(map(chr, instructions)).endswith("<user>")


OWN = "<!-- version 3 -->\n# user\n$passages\n\nSay it briefly: $question\n"


def own(home: Path, name: str, text: str = OWN) -> None:
    (home / "prompts").mkdir(parents=True, exist_ok=True)
    (home / "prompts" / f"{name}.md").write_text(text, encoding="utf-8")


def decide(home: Path, *entries: Mapping[str, object]) -> None:
    (home / "prompts").mkdir(parents=True, exist_ok=True)
    (home / "prompts" / DECISIONS).write_text("".join(json.dumps(each) + "\n" for each in entries), encoding="utf-8")


def test_the_shipped_prompt_is_live_until_a_decision_says_otherwise(tmp_path: Path) -> None:
    """A file that lies in the data folder changes nothing."""
    own(tmp_path, "short")
    assert live(tmp_path).label == opened("answer").label == "answer v1"


def test_what_is_live_is_the_text_that_was_adopted(tmp_path: Path) -> None:
    """An admin edited the file after it had been measured: answers keep to the measured words."""
    own(tmp_path, "short")
    decide(tmp_path, {"action": "adopted", "prompt": "short", "version": 3, "text": OWN})
    own(tmp_path, "short", OWN.replace("briefly", "in rhyme"))
    made = prompt("How long?", [hit(1, "Ten days.")], count, 500, live(tmp_path))

    assert made.name == "short v3" and made.messages[-1].content.endswith("Say it briefly: How long?")


def test_going_back_takes_the_last_adoption_away(tmp_path: Path) -> None:
    """Twice forward and once back is the first; once more is the shipped one."""
    first = {"action": "adopted", "prompt": "short", "version": 3, "text": OWN}
    second = {"action": "adopted", "prompt": "other", "version": 1, "text": OWN.replace("3", "1")}
    back = {"action": "went back"}
    decide(tmp_path, first, second, back)
    assert live(tmp_path).label == "short v3"
    decide(tmp_path, first, second, back, back)
    assert live(tmp_path).label == "answer v1"


def test_damaged_decisions_are_an_error_and_no_guess(tmp_path: Path) -> None:
    """Half a line, from a disk that was full: which prompt is live is not known, and not made up."""
    own(tmp_path, "short")
    (tmp_path / "prompts" / DECISIONS).write_text('{"action": "adop')
    with pytest.raises(UsageError, match="cannot be read"):
        live(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "# user\n$passages $question\n",
        "<!-- version 1 -->\nNo message\n",
        "<!-- version 1 -->\n# user\n$question\n",
        "<!-- version 1 -->\n# user\n$passages $question $home\n",
        "<!-- version 1 -->\n# user\n$passages $question for $5\n",
    ],
    ids=["no version", "no message", "no passages", "a variable nobody fills", "a bare dollar"],
)
def test_a_file_that_is_no_prompt_is_refused_before_anyone_asks(tmp_path: Path, text: str) -> None:
    own(tmp_path, "short", text)
    with pytest.raises(UsageError):
        opened("short", tmp_path)


@pytest.mark.parametrize("name", ["../answer", "/etc/passwd", "README", "", "short.md"])
def test_a_name_never_leads_out_of_the_two_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        opened(name, tmp_path)


def test_an_own_prompt_does_not_hide_a_shipped_one(tmp_path: Path) -> None:
    """Receipts name prompts: one name, one prompt."""
    own(tmp_path, "answer")
    with pytest.raises(UsageError, match="Footnote comes with"):
        opened("answer", tmp_path)
