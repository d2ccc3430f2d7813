"""An answer's sentence and the other candidates → one that says otherwise about the same thing, with a note on which source is newer.

Two sentences contradict each other only where they say the same but for one fact (a number, date, amount, name or "not") in the same
place, and nothing around them (headings, title, path) says that they speak of different things. A fact told in other words is not seen:
"part-time" for "full-time" would be other words too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ingest.editions import VERSION, YEAR, age
from ingest.sentences import is_row
from ingest.types import Passage
from rag.cite import align
from rag.evidence import Candidate
from rag.rows import header_of
from rag.types import Hit, Sentence
from rag.words import Word, stem, words
from rag.write import quoted

LEAST_SHARED = 3  # ordinary words that both say; with fewer nobody can tell what they are about
MOST_NAMES = 4  # words of one name: "Dr Anna Maria Berg"
ENUMERATOR = re.compile(r"^\s*(?:\d{1,2}[.)]|[-•*])\s+")
# What may stand before a name that is the sentence's fact: "is led by Anna Berg"; a name elsewhere is what the sentence is about.
BEFORE_NAME = re.compile(r"(?:\b(?:is|are|was|were|be|by|called|named|ist|sind|war|von|heißt)|:)\s*(?:(?:the|der|die)\s+)?$", re.IGNORECASE)
# What may stand before a date with a year that is the sentence's fact, and not the time that it speaks of.
BEFORE_DATE = re.compile(
    r"\b(?:until|by|from|since|before|after|bis|ab|seit|vor|nach)\s+(?:(?:the|zum|dem)\s+)?(?:\d{1,2}(?:\.|st|nd|rd|th)?\s+)?"
    r"(?:[^\W\d_]+\s+)?(?:\d{1,2},?\s+)?$", re.IGNORECASE
)
CURRENCIES = frozenset("$€£¥")


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in text.split())


MONTHS = _stems(
    """january february march april may june july august september october november december jan feb mar apr jun jul aug sept sep oct
    nov dec januar februar märz mai juni juli oktober dezember"""
)
# A number after one of these names a thing and says nothing about it.
LABELS = _stems(
    """section chapter page step figure table part appendix annex article paragraph clause item line level grade tier phase stage version
    revision room floor building gate bay day week module lesson unit exhibit note form schedule rule question"""
)
VERSIONS = _stems("v version rev revision ed edition old new draft final copy current archive archived superseded previous")
# Words of titles and paths that do not say what a text is about.
KINDS = _stems(
    """policy policies procedure guide guideline handbook manual rule faq term condition plan overview summary introduction general note
    notice document information info page index readme file draft final copy new current old archive archived version revision edition
    update updated revised employee staff company detail key fact glance appendix contents richtlinie handbuch leitfaden übersicht"""
)


def differing(shown: Sequence[Sentence], candidates: Sequence[Candidate], hits: Sequence[Hit]) -> tuple[Sentence | None, str]:
    """The sentence to show beside `shown` and the note to give; (None, note) if it is shown already, (None, "") without a conflict.

    `candidates` and `hits` are those of the evidence, numbered as the citations are.
    """
    taken = [found for sentence in shown if (found := _candidate(sentence, candidates, hits)) is not None]
    for mine in taken:
        other = conflict(mine, candidates, hits)
        if other is not None:
            new = None if other in taken else quoted(hits[other.number - 1], other.number, other.start, other.end, other.key)
            return new, note(hits[mine.number - 1].passage, hits[other.number - 1].passage)
    return None, ""


def conflict(shown: Candidate, others: Sequence[Candidate], hits: Sequence[Hit]) -> Candidate | None:
    """The first of `others` that says otherwise than `shown` about the same thing, from another document or section."""
    mine = hits[shown.number - 1]
    said = stated(mine, shown.start, shown.end)
    for other in others:
        theirs = hits[other.number - 1]
        if (theirs.passage.document_id, theirs.passage.section) == (mine.passage.document_id, mine.passage.section):
            continue
        if contradict(said, stated(theirs, other.start, other.end)):
            return other
    return None


@dataclass(frozen=True, slots=True)
class Stated:
    """A sentence as it is compared: its words, a row's cells, and what the words around it say it is about."""

    text: str
    claim: tuple[Word, ...]  # without function words
    cells: tuple[tuple[str, str], ...]  # of a table row: column's name and value
    about: frozenset[str]  # words of path, title and headings that name a subject; of numbers those in the path: invoice-17 is not -18


def stated(hit: Hit, start: int, end: int) -> Stated:
    """The sentence text[start:end] of a passage, ready to be compared."""
    passage, text = hit.passage, hit.passage.text
    path = VERSION.sub(" ", YEAR.sub(" ", passage.document.rpartition(".")[0]))
    name = [each.form for each in words(path) if each.form not in VERSIONS]
    around = [each.form for each in words(VERSION.sub(" ", f"{passage.title}. {passage.section}")) if each.kind in ("content", "name")]
    about = frozenset(each for each in (*name, *around) if each not in KINDS)
    cells = tuple[tuple[str, str], ...]()
    if is_row(text, start, end):
        values, names = _cells(text[start:end]), _cells(header_of(text, start, passage.context))
        cells = tuple(zip(names if len(names) == len(values) else [""] * len(values), values, strict=True))
    said = ENUMERATOR.sub("", text[start:end])
    claim = tuple(each for each in words(said) if each.kind != "function")
    return Stated(said, claim, cells, about)


def contradict(a: Stated, b: Stated) -> bool:
    """The two say the same but for one fact, and nothing around them sets them apart."""
    if bool(a.cells) != bool(b.cells):
        return False
    said = {each.form for each in (*a.claim, *b.claim)}
    if (a.about ^ b.about) - said:
        return False
    return _rows_differ(a.cells, b.cells) if a.cells else _sentences_differ(a, b)


def _sentences_differ(a: Stated, b: Stated) -> bool:
    matched = align(a.claim, b.claim)
    shared = sum(not a.claim[at].critical for at, _ in matched)
    if shared < LEAST_SHARED:
        return False
    facts = 0
    for left, right in pairwise([(-1, -1), *matched, (len(a.claim), len(b.claim))]):
        mine, theirs = a.claim[left[0] + 1 : right[0]], b.claim[left[1] + 1 : right[1]]
        if not mine and not theirs:
            continue
        before = a.claim[left[0]] if left[0] >= 0 else None
        leads = [side.text[: part[0].start] for side, part in ((a, mine), (b, theirs)) if part]
        if not _fact(mine, theirs, before, leads):
            return False  # another subject, condition or place ("part-time", "new employees"), and not only another fact
        facts += 1
    return facts == 1


def _fact(mine: Sequence[Word], theirs: Sequence[Word], before: Word | None, leads: Sequence[str]) -> bool:
    """What stands in the same place of two sentences is a fact told differently.

    `before` is the word before it that both have, `leads` the texts before it.
    """
    if [each.kind for each in (*mine, *theirs)] == ["negation"]:
        return True
    if not mine or not theirs:
        return False
    if all(any(_figure(each) for each in side) for side in (mine, theirs)):
        if any(each.kind != "number" and each.form not in MONTHS for each in (*mine, *theirs)):
            return False
        if all(any(YEAR.fullmatch(each.form) for each in side) for side in (mine, theirs)) and not (before and before.form in CURRENCIES):
            return all(BEFORE_DATE.search(lead) for lead in leads)  # "in 2021" and "in 2022" speak of different times
        return before is None or before.form not in LABELS
    named = all(each.kind == "name" for each in (*mine, *theirs)) and max(len(mine), len(theirs)) <= MOST_NAMES
    return named and all(BEFORE_NAME.search(lead) for lead in leads)


def _rows_differ(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]]) -> bool:
    """Rows of equal columns and an equal first cell, of which a value differs."""
    if [name.casefold() for name, _ in a] != [name.casefold() for name, _ in b] or not any(letter.isalpha() for letter in a[0][1]):
        return False
    values = [(words(mine), words(theirs)) for (_, mine), (_, theirs) in zip(a, b, strict=True)]
    unlike = [pair for pair in values if [each.form for each in pair[0]] != [each.form for each in pair[1]]]
    return (
        values[0] not in unlike and 0 < len(unlike) <= max(1, len(values) // 2)
        and all(mine and theirs and all(any(_figure(each) for each in side) for side in (mine, theirs)) for mine, theirs in unlike)
    )


def _figure(word: Word) -> bool:
    return word.kind == "number" and word.form[0].isdigit()


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")] if row else []


def note(mine: Passage, theirs: Passage) -> str:
    """What to tell the reader: that the sources differ, and which is newer where that can be told."""
    for ours, other in zip(_age(mine), _age(theirs), strict=True):
        if ours and other and ours != other:
            new, old = (mine, theirs) if ours > other else (theirs, mine)
            return f"The sources differ. {_dated(new)} is newer than {_dated(old)}."
    return f"The sources differ, and nothing says which is newer: {_dated(mine)} and {_dated(theirs)}."


def _age(passage: Passage) -> tuple[list[int], ...]:
    return age(passage.document, passage.title, passage.date)


def _dated(passage: Passage) -> str:
    return f"{passage.location} ({passage.date})" if passage.date else passage.location


def _candidate(sentence: Sentence, candidates: Sequence[Candidate], hits: Sequence[Hit]) -> Candidate | None:
    """The candidate that a shown sentence cites."""
    for cited in sentence.citations:
        offset = hits[cited.n - 1].passage.start
        for each in candidates:
            if each.number == cited.n and cited.start <= each.start + offset and each.end + offset <= cited.end:
                return each
    return None
