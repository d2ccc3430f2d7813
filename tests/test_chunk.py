"""Passages: they tile their page, keep sentences and rows whole, and say where they stand."""

import re
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

import config
from ingest.chunk import CONTEXT_TOKENS, Piece, chunk, chunk_document
from ingest.sentences import sentences
from ingest.types import Heading, Page, ParsedDocument, Table

SETTINGS = config.Settings()


def starts(text: str) -> Sequence[int]:
    return [match.start() for match in re.finditer(r"\w+|[^\w\s]", text)]


def page(text: str, tables: Sequence[Table] = ()) -> Page:
    """A page whose "#" lines are headings."""
    marks = re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)
    return Page(1, text, tuple(Heading(each.start(), len(each[1]), each[2]) for each in marks), tuple(tables))


def cut(text: str, tokens: int = 40, tables: Sequence[Table] = ()) -> list[Piece]:
    return chunk(page(text, tables), "Handbook", starts, replace(SETTINGS, passage_tokens=tokens))


def paragraph(word: str, sentences_: int) -> str:
    return " ".join(f"{word.capitalize()} {number} is what this sentence says." for number in range(sentences_))


def test_a_heading_stays_with_what_follows_it() -> None:
    """A heading alone at the end of a passage would be lost for the text it heads."""
    text = f"# One\n\n{paragraph('one', 4)}\n\n## Two\n\n{paragraph('two', 4)}\n\n# Three\n\n{paragraph('three', 4)}\n"
    pieces = cut(text)
    assert len(pieces) == 3
    assert [text[each.start : each.end].split("\n")[0] for each in pieces] == ["# One", "## Two", "# Three"]


def test_sections_are_paths_of_headings() -> None:
    """A reader sees where a passage stands: "A › B", and a higher heading closes the lower ones."""
    text = f"# A\n\n{paragraph('a', 4)}\n\n## B\n\n{paragraph('b', 4)}\n\n# C\n\n{paragraph('c', 4)}\n"
    assert [each.section for each in cut(text)] == ["A", "A › B", "C"]


def test_tiny_paragraphs_are_merged() -> None:
    """Ten lines of three words are one passage, not ten."""
    assert len(cut("\n\n".join(f"Short line {number}." for number in range(8)))) == 1


def test_headings_reach_over_page_ends() -> None:
    """On the page after its heading a text still belongs to the section."""
    parsed = ParsedDocument("pdf", "Book", (page(f"# Leave\n\n{paragraph('a', 2)}"), Page(2, paragraph("b", 2))))
    assert [piece.section for _, piece in chunk_document(parsed, starts, SETTINGS)] == ["Leave", "Leave"]


def test_a_table_is_cut_between_rows_and_its_header_is_context() -> None:
    """Row 30 of a table means nothing without the names of its columns."""
    rows = "\n".join(f"| Clerk {number} | {number} days |" for number in range(30))
    text = f"Days by role.\n\n| Role | Days |\n{rows}\n\nThat is all."
    start = text.index("| Role")
    pieces = cut(text, tables=[Table(start, text.index("\n\nThat"), "| Role | Days |")])
    assert len(pieces) > 3
    for each in pieces[1:]:
        assert text[each.start] == "|" or text[each.start :].startswith("That")
    for each in pieces:
        body = text[each.start : each.end]
        assert ("Clerk" in body) == (("| Role | Days |" in each.context) != ("| Role | Days |" in body))


def test_context_is_title_and_section() -> None:
    """What the embedder reads before the text; a heading that is the title is not said twice."""
    pieces = cut(f"# Handbook\n\n{paragraph('a', 4)}\n\n## Leave\n\n{paragraph('b', 4)}")
    assert [each.context for each in pieces] == ["Handbook", "Handbook\nLeave"]


def test_a_long_sentence_is_cut_and_an_endless_word_too() -> None:
    """No passage outgrows what the embedder reads, whatever the page holds."""
    for text in ("word, " * 500, "x" * 20_000, "。" * 3000, "a|" * 2000, "# " + "heading " * 300):
        pieces = cut(text)
        assert "".join(text[each.start : each.end] for each in pieces) == text
        assert all(len(starts(text[each.start : each.end])) <= 40 for each in pieces)


def test_a_page_of_headings_alone_is_cut_too() -> None:
    """A table of contents of which every line was taken for a heading must not become one endless passage."""
    text = "\n\n".join(f"# Heading number {number}" for number in range(200))
    assert all(len(starts(text[each.start : each.end])) <= 40 for each in cut(text))


def test_an_empty_page_has_no_passages() -> None:
    """A picture's page is kept for its number, without passages."""
    assert cut("") == []


LINE = st.sampled_from(
    [
        "# Alpha",
        "## Beta",
        "One. Two three! Four?",
        "- item one",
        "| a | b |",
        "",
        "",
        "A long line that says rather much, and then more. " * 4,
        "漢字。かな。",
    ]
)


@settings(deadline=None)
@given(st.lists(LINE, min_size=1, max_size=30), st.integers(8, 60))
def test_passages_joined_are_the_page_and_sentences_stay_whole(lines: list[str], tokens: int) -> None:
    """The two promises everything later stands on: offsets tile the page, and a quote is never cut by a passage that had room."""
    text = "\n".join(lines)
    pieces = cut(text, tokens)
    assert "".join(text[each.start : each.end] for each in pieces) == text
    edges = {each.start for each in pieces}
    for start, end in sentences(text):
        if len(starts(text[start:end])) < tokens - 2:
            assert not edges & set(range(start + 1, end))
    assert all(len(starts(each.context)) <= CONTEXT_TOKENS for each in pieces)
