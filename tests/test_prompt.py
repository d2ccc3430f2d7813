"""The prompt fits, carries where each passage comes from, and runs nothing that a document says."""

from collections.abc import Sequence

import pytest

from errors import UsageError
from ingest.types import Passage
from rag.prompt import prompt
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
