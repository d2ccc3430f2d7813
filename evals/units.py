"""Passages found → the units a question set names (documents, pages, paragraphs), best first, each counted once.

Sets cut their documents differently from any index, so both sides are mapped onto the stored text: a unit is ranked where the
first passage that stands for it is ranked (max-pooling).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evals.questions import Gold, Question

KINDS = ("document", "page", "paragraph")
PARAGRAPH = re.compile(r"\S(?:(?!\n[ \t]*\n).)*", re.DOTALL)
WORD = re.compile(r"\w+")
SAME = 0.6  # share of word triples in common from which a stored paragraph is (a part of) a gold text
COVERED = 0.5  # a passage stands for a paragraph when it holds half of it, or lies half in it

Unit = tuple[str, int | None, int]  # document, page number, paragraph (0 where the unit is larger)


@dataclass(frozen=True, slots=True)
class StoredPage:
    """One page of the index: what both our passages and the baseline's chunks are slices of."""

    document: str
    number: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """text[start:end] of a stored page, as something found."""

    document: str
    page: int | None
    start: int
    end: int


def kind_of(questions: Sequence[Question]) -> str:
    """The smallest unit that the golds of a set name throughout: "page", "paragraph" or "document"."""
    golds = [gold for question in questions for gold in question.gold]
    if any(gold.page is not None for gold in golds):
        return "page"
    return "paragraph" if golds and all(gold.text for gold in golds) else "document"


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Spans of what blank lines part."""
    return [match.span() for match in PARAGRAPH.finditer(text)]


class Units:
    """The units of some stored pages, for one kind. Paragraphs that make up one gold text are one unit."""

    def __init__(self, pages: Iterable[StoredPage], kind: str, golds: Iterable[Gold] = ()) -> None:
        self.kind = kind
        self._pages = {(page.document, page.number): page for page in pages}
        self._names = sorted({document for document, _ in self._pages})
        self._unpaged = {document for document, number in self._pages if number is None}
        self._blocks: dict[tuple[str, int | None], list[tuple[int, int, int]]] = {}  # start, end, unit number
        self._gold: dict[Gold, frozenset[Unit]] = {}
        if kind == "paragraph":
            for key, page in self._pages.items():
                self._blocks[key] = [(start, end, at) for at, (start, end) in enumerate(paragraphs(page.text))]
            for gold in golds:
                self._locate(gold)

    def document(self, name: str) -> str:
        """The stored document that a set calls `name`; it may stand in a source's folder."""
        if name in self._names:
            return name
        return next((each for each in self._names if each.endswith("/" + name)), name)

    def wanted(self, gold: Gold, slack: int = 0) -> frozenset[Unit]:
        """The units that answer, any of which will do where `slack` pages either side are allowed. Empty: not in the index."""
        document = self.document(gold.document)
        if self.kind == "paragraph":
            return self._gold.get(gold, frozenset())
        if self.kind == "document" or gold.page is None or document in self._unpaged:
            return frozenset({(document, None, 0)} if document in self._names else ())
        numbers = range(gold.page - slack, gold.page + slack + 1)
        return frozenset((document, number, 0) for number in numbers if (document, number) in self._pages)

    def of(self, span: Span) -> list[Unit]:
        """The units a passage stands for, the one it covers most first."""
        if self.kind == "document":
            return [(span.document, None, 0)]
        if self.kind == "page":
            return [(span.document, span.page, 0)]
        held: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for start, end, number in self._blocks.get((span.document, span.page), ()):
            sizes[number] = sizes.get(number, 0) + end - start
            if start < span.end and span.start < end:
                held[number] = held.get(number, 0) + min(end, span.end) - max(start, span.start)
        length = span.end - span.start
        kept = [(-size, number) for number, size in held.items() if size >= COVERED * min(sizes[number], length)]
        return [(span.document, span.page, number) for _, number in sorted(kept)]

    def ranking(self, spans: Iterable[Span]) -> list[Unit]:
        """Units in the order in which the first span that stands for each was found."""
        return list(dict.fromkeys(unit for span in spans for unit in self.of(span)))

    def _locate(self, gold: Gold) -> None:
        document = self.document(gold.document)
        wanted = _triples(gold.text)
        found: set[Unit] = set()
        for (name, page), blocks in self._blocks.items():
            if name != document:
                continue
            text = self._pages[name, page].text
            numbers = set()
            for start, end, number in blocks:
                there = _triples(text[start:end])
                common = len(wanted & there)
                if common and common >= SAME * min(len(wanted), len(there)) and common >= min(3, len(there)):
                    numbers.add(number)
            if numbers:
                first = min(numbers)
                self._blocks[name, page] = [(s, e, first if n in numbers else n) for s, e, n in blocks]
                found.add((name, page, first))
        self._gold[gold] = frozenset(found)


def _triples(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.casefold())
    return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
