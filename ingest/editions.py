"""Documents of a collection → those that say nearly the same, and which of two is the newer edition.

Found by content first: a document's sketch holds the smallest hashes of its runs of three words, and two sketches tell how much of
their texts is shared, in any language. Names, titles and dates then say which is newer. What a document is for is not known: the
reports of two years count as editions too, so the older is labelled and never hidden.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.catalog import Document

RULES = 1  # number of the rules below; when it changes, the next refresh compares all documents anew
SKETCH_HASHES = 128  # of a document; an overlap is known to about 0.04
LEAST_WORDS = 30  # in a document; shorter ones ("To be written.") are alike without being versions of anything
ALIKE = 0.80  # shared text from which two documents are pointed out as nearly the same, whatever they are called
TITLED = 0.50  # shared text from which documents are editions of one whose titles, not their files, differ by year or version alone
EDITION = 0.15  # shared text that is enough where files are called the same but for year or version; a rewritten policy shares a quarter
MORE_THAN_ALL = 2.0
NEIGHBOURS = 8  # documents with the same hash that are compared with each; boilerplate would pair everything with everything
LEAST_SHARED = 8  # equal hashes from which two sketches are compared

YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
VERSION = re.compile(r"(?<![a-z])(?:v|version|rev|revision|ed|edition)[ ._-]*(\d+(?:\.\d+)*)", re.IGNORECASE)
OLD = re.compile(r"(?<![a-z])(?:old|outdated|obsolete|superseded|archived?|former|previous|alt|veraltet)(?![a-z])", re.IGNORECASE)
_COPY = re.compile(r"\(\d{1,2}\)\s*$|(?<![a-z])(?:copy|kopie|copie|copia|final|new|neu|current)(?![a-z])", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003134f]")


@dataclass(frozen=True, slots=True)
class Edition:
    """What one document has to do with another: `kind` is "older" (the other is a newer edition) or "alike" (nothing says which is
    newer); `overlap` is the share of their text that both have, from 0 to 1."""

    document: int
    other: int
    kind: str
    overlap: float


def sketch(texts: Iterable[str]) -> bytes:
    """The SKETCH_HASHES smallest hashes (uint64, ascending) of the runs of three words of a document; empty for a short one."""
    import numpy

    words = [zlib.crc32(word.encode()) for text in texts for word in _words(text)]
    if len(words) < LEAST_WORDS:
        return b""
    hashes = numpy.array(words, dtype=numpy.uint64)
    first, second, third = (numpy.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
    runs = hashes[:-2] * first + hashes[1:-1] * second + hashes[2:] * third
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64: all bits depend on all
        runs = (runs ^ (runs >> numpy.uint64(shift))) * numpy.uint64(factor)
    runs ^= runs >> numpy.uint64(31)
    return bytes(numpy.unique(runs)[:SKETCH_HASHES].astype("<u8").tobytes())


def editions(documents: Sequence[Document], sketches: Mapping[int, bytes]) -> list[Edition]:
    """For each document at most one relation: to its newest edition, else to the document before it that it is most alike."""
    by_id = {each.id: each for each in documents}
    related: dict[int, list[tuple[int, float]]] = {}
    for (one, other), overlap in overlaps({number: body for number, body in sketches.items() if number in by_id}).items():
        related.setdefault(one, []).append((other, overlap))
        related.setdefault(other, []).append((one, overlap))
    found: dict[int, Edition] = {}
    for number, others in sorted(related.items()):
        mine = by_id[number]
        newest: tuple[Document, float] | None = None
        nearest: tuple[float, str, int] | None = None
        for other, overlap in others:
            theirs = by_id[other]
            if overlap >= _least_of_editions(mine, theirs):
                order = newer(theirs, mine)
                if order and (newest is None or newer(theirs, newest[0])):
                    newest = theirs, overlap
                if order is not None:
                    continue
            if overlap >= ALIKE and (theirs.document, other) < (mine.document, number):
                nearest = max(nearest or (0.0, "", 0), (overlap, theirs.document, other))
        if newest is not None:
            found[number] = Edition(number, newest[0].id, "older", round(newest[1], 2))
        elif nearest is not None:
            found[number] = Edition(number, nearest[2], "alike", round(nearest[0], 2))
    return [_to_the_end(each, found) for each in found.values()]


def _to_the_end(edition: Edition, found: Mapping[int, Edition]) -> Edition:
    """An edition's newest one: of 2019, 2021 and 2025 the first may share text with the second only."""
    seen = {edition.document}
    while (further := found.get(edition.other)) is not None and edition.kind == further.kind == "older" and further.other not in seen:
        seen.add(edition.other)
        edition = replace(edition, other=further.other)
    return edition


def _least_of_editions(one: Document, other: Document) -> float:
    """How much text two documents must share to be editions of one; more than all where their names say that they are not."""
    ours, theirs = PurePosixPath(one.path), PurePosixPath(other.path)
    if ours.stem != theirs.stem:
        called_the_same = plain_name(ours.stem) == plain_name(theirs.stem) != ""
    else:  # then the folders must tell them apart: 2023/policy.pdf and 2025/policy.pdf
        called_the_same = plain_name(str(ours.with_suffix(""))) == plain_name(str(theirs.with_suffix("")))
    if called_the_same:
        return EDITION
    titled_the_same = one.title != other.title and plain_name(one.title) == plain_name(other.title) != ""
    return TITLED if titled_the_same else MORE_THAN_ALL


def overlaps(sketches: Mapping[int, bytes]) -> dict[tuple[int, int], float]:
    """(document, document), lower number first → the share of their runs of words that both have; pairs with little are left out."""
    import numpy

    hashes = {number: numpy.frombuffer(body, dtype="<u8") for number, body in sorted(sketches.items()) if body}
    if len(hashes) < 2:
        return {}
    owners = numpy.repeat(numpy.array(list(hashes), dtype=numpy.uint64), [len(each) for each in hashes.values()])
    every = numpy.concatenate(list(hashes.values()))
    order = numpy.lexsort((owners, every))
    every, owners = every[order], owners[order]
    pairs = []
    for step in range(1, NEIGHBOURS + 1):
        same = every[step:] == every[:-step]
        pairs.append((owners[:-step][same] << numpy.uint64(32)) | owners[step:][same])
    found, counts = numpy.unique(numpy.concatenate(pairs), return_counts=True)
    result = {}
    for pair in found[counts >= LEAST_SHARED].tolist():
        one, other = pair >> 32, pair & 0xFFFFFFFF
        overlap = _overlap(hashes[one], hashes[other])
        if overlap >= EDITION:
            result[one, other] = overlap
    return result


def newer(one: Document, other: Document) -> bool | None:
    """Whether `one` is newer than `other`; None where nothing says so."""
    for ours, theirs in zip(age(one.document, one.title, one.date), age(other.document, other.title, other.date), strict=True):
        if ours and theirs and ours != theirs:
            return ours > theirs
    return None


def age(name: str, title: str, date: str | None) -> tuple[list[int], ...]:
    """What says how new a document is, the most telling first, each empty or greater for newer: the last year in its name or title,
    its version's number, a word that says that it is out of date, its own date."""
    said = f"{name} {title}"
    version = VERSION.search(said)
    return (
        [max(map(int, YEAR.findall(said)))] if YEAR.search(said) else [],
        [int(part) for part in version[1].split(".")] if version else [],
        [0 if OLD.search(said) else 1],
        [int(part) for part in (date or "").split("-") if part.isdigit()],
    )


def plain_name(name: str) -> str:
    """The words of a name without what says how old it is: "Travel policy 2025 (final).pdf" and "travel_policy_v2" are one."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("_", " ")
    for pattern in (_COPY, VERSION, YEAR, OLD):
        text = pattern.sub(" ", text)
    return " ".join(_WORD.findall(text))


def _words(text: str) -> list[str]:
    lower = text.lower()
    if not lower.isascii():
        lower = _UNSPACED.sub(r" \g<0> ", lower)  # scripts without spaces: each character is a word
    return _WORD.findall(lower)


def _overlap(one: Any, other: Any) -> float:
    """The share of both sketches' smallest hashes that stand in both."""
    import numpy

    union = numpy.union1d(one, other)[:SKETCH_HASHES]
    both = numpy.intersect1d(one, other, assume_unique=True)
    return float(numpy.isin(union, both, assume_unique=True).mean())
