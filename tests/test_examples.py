"""The sample company is what its sources say, and its questions can be answered from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from examples.build import COMPANY, HERE
from tests.render import FORMATS, Text, as_markdown, read, render

QUESTIONS = [json.loads(line) for line in (HERE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def _sources() -> dict[str, Text]:
    """Built document → its source."""
    found = {}
    for source in (HERE / "sources").rglob("*.md"):
        text = read(source.read_text(encoding="utf-8"))
        found[source.relative_to(HERE / "sources").with_suffix("." + text.facts["as"]).as_posix()] = text
    return found


def test_every_document_has_a_source_and_every_source_a_document() -> None:
    built = {path.relative_to(COMPANY).as_posix() for path in COMPANY.rglob("*") if path.is_file()}
    assert built == set(_sources())


def test_the_sample_company_has_every_format() -> None:
    assert {path.suffix[1:] for path in COMPANY.rglob("*") if path.is_file()} == set(FORMATS)


def test_the_sample_company_is_small() -> None:
    """A clone and a first run stay quick: under 4 MB and at most 40 documents."""
    files = [path for path in COMPANY.rglob("*") if path.is_file()]
    assert 25 <= len(files) <= 40
    assert sum(path.stat().st_size for path in files) < 4_000_000


def test_each_answer_stands_in_the_document_that_is_named_for_it() -> None:
    sources = _sources()
    for each in QUESTIONS:
        assert bool(each["answers"]) == each["answerable"] == bool(each["gold"]), each["id"]
        for gold in each["gold"]:
            words = _plain(as_markdown(sources[gold["doc"]]).decode())
            assert any(_plain(answer) in words for answer in each["answers"]), each


def test_the_questions_are_what_the_smoke_set_promises() -> None:
    assert len(QUESTIONS) == len({each["id"] for each in QUESTIONS}) == 40
    assert sum(not each["answerable"] for each in QUESTIONS) == 10
    assert sum("history" in each for each in QUESTIONS) == 3


def test_rendering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Rebuilding unchanged sources must not look like a change of every document."""
    text = read("title: Twice\ndate: 2025-05-05\n---\n# Twice\n\nOne line.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    for format in FORMATS:
        for name in ("first", "second"):
            render(text, format, tmp_path / f"{name}.{format}")
        assert (tmp_path / f"first.{format}").read_bytes() == (tmp_path / f"second.{format}").read_bytes(), format


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[|*,]", " ", text).split()).casefold()
