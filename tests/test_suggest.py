"""Example questions: made from the documents, the same every time, and none rather than nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.open import open_index
from rag.suggest import MOST, suggest
from tests.engine_room import build, settings_in

BODY = (
    "The rules of this section apply to all employees, and they are read by the people who have to follow them in the office.\n"
)


def made(folder: Path, files: dict[str, str], allowed: set[str] | None = None) -> list[str]:
    settings = settings_in(folder)
    build(settings, files)
    index = open_index(settings.index, "default")
    try:
        ids = None if allowed is None else {each.id for each in index.catalog.documents() if each.document in allowed}
        first = suggest(index.catalog, ids)
        assert suggest(index.catalog, ids) == first
        return first
    finally:
        index.close()


def test_a_heading_becomes_a_question_about_its_document(tmp_path: Path) -> None:
    """In lower case where the text writes the words so, without its number, with the title as it is spoken of."""
    text = f"# Travel policy\n\n## 3.1 Annual leave\n\nPeople ask how annual leave is counted. {BODY}"
    assert made(tmp_path, {"travel.md": text}) == ["What does the Travel policy say about annual leave?"]


def test_a_heading_that_is_a_question_is_asked_as_it_is_and_first(tmp_path: Path) -> None:
    """People wrote it themselves: nothing made up is better."""
    files = {
        "a.md": f"# Bike manual\n\n## Battery care\n\nThe battery wants care. {BODY}",
        "b.md": f"# Questions\n\n## May I work from home on Fridays?\n\n{BODY}",
    }
    assert made(tmp_path, files)[0] == "May I work from home on Fridays?"


@pytest.mark.parametrize(
    ("title", "heading", "body"),
    [
        ("Travel policy", "Introduction", BODY),  # names no topic
        ("Travel policy", "Table of contents", BODY),
        ("Travel policy", "Meals", "Yes.\n"),  # nothing to answer with
        ("Travel policy", "Travel policy", BODY),  # asks about itself
        ("Travel policy", "A: B / C", BODY),
        ("Travel policy", "Q3 2024 results", BODY),
        ("Travel policy", "ANNEX", BODY),
        ("travel_policy_v2", "Meals", BODY),  # a file name, no title
        ("RE: RE: your order", "Meals", BODY),
        (
            "Reisekosten",
            "Mahlzeiten",
            "Mahlzeiten werden gegen Beleg erstattet, höchstens vierzig Euro am Tag. " * 3,
        ),  # not English
        ("Travel policy", "Meals", "| Place | Euro |\n| --- | --- |\n" + "| Bern | 40 |\n" * 20),  # a table only
    ],
)
def test_nothing_is_asked_rather_than_nonsense(title: str, heading: str, body: str, tmp_path: Path) -> None:
    """Each of these headings would make a silly question or one without an answer."""
    assert made(tmp_path, {"file.md": f"# {title}\n\n## {heading}\n\n{body}"}) == []


def test_questions_come_from_different_documents(tmp_path: Path) -> None:
    """A long document does not crowd out the others, and there are never too many."""
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"]
    long = "# Long guide\n\n" + "".join(f"## About {word}\n\nIt is about {word}. {BODY}\n" for word in words)
    files = {"long.md": long} | {
        f"{word}.md": f"# {word.title()} policy\n\n## Terms of {word}\n\nThe terms. {BODY}" for word in words
    }
    found = made(tmp_path, files)
    assert len(found) == MOST == len(set(found))
    assert sum("Long guide" in each for each in found) <= 1


def test_documents_that_may_not_be_seen_suggest_nothing(tmp_path: Path) -> None:
    """A question would tell that the document is there."""
    files = {
        "open.md": f"# Open guide\n\n## Office plants\n\nThe office plants. {BODY}",
        "secret.md": f"# Secret plan\n\n## Hidden merger\n\nThe hidden merger. {BODY}",
    }
    assert made(tmp_path, files, {"open.md"}) == ["What does the Open guide say about office plants?"]
