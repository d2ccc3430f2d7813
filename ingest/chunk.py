"""Pages → passages. The passages of a page, joined, are the page; none begins or ends inside a sentence that fits.

A page is cut in the cheapest way: each passage costs, a cut inside a paragraph costs more than one between paragraphs or
before a heading, and so does a passage that is tiny or that runs on into another section.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config import Settings
from ingest.sentences import sentences, units
from ingest.types import Heading, Page, ParsedDocument

RULES = 1  # number of these rules; when it changes, passages are cut anew from the pages that are kept
WINDOW_TOKENS = 254  # what the bundled embedder reads of one text, less the marks at its start and end
CONTEXT_TOKENS = 64  # of title, section and table header; longer ones are shortened from the left
HEADER_TOKENS = 40  # of a table's header row inside that context
SECTION_JOIN = " › "

# Costs, in passages: a passage itself costs 1.
COST_CUT_PARAGRAPH = 0.2  # cut between two paragraphs
COST_CUT_LINE = 0.5  # between list items or table rows
COST_CUT_SENTENCE = 0.9
COST_CUT_WORD = 4.0  # inside a sentence: only one that is too long by itself
COST_TINY = 1.2  # a passage of no words; falls to 0 at TINY_TOKENS
COST_SECTION = 1.0  # a passage that runs on over a heading
TINY_TOKENS = 60

_HEADING, _PARAGRAPH, _LINE, _SENTENCE, _WORDS = range(5)
_CUT_COST = {_HEADING: 0.0, _PARAGRAPH: COST_CUT_PARAGRAPH, _LINE: COST_CUT_LINE, _SENTENCE: COST_CUT_SENTENCE, _WORDS: COST_CUT_WORD}
_BREAKS = (re.compile(r" \| "), re.compile(r"[;:,—–] "), re.compile(r"\s+"), re.compile(r"[、，；：]"))


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage of one page before it has a number. `context` is what the embedder reads before the text."""

    start: int
    end: int
    section: str
    context: str


@dataclass(frozen=True, slots=True)
class _Atom:
    """What is never cut: a sentence with the space after it, or a part of one that is too long."""

    start: int
    end: int
    tokens: int
    before: int  # kind of the boundary before it
    heading: bool


def chunk_document(parsed: ParsedDocument, count_tokens: Callable[[str], int], settings: Settings) -> list[tuple[int, Piece]]:
    """(page position, piece) of a whole document; headings reach over page ends."""
    found: list[tuple[int, Piece]] = []
    above: tuple[Heading, ...] = ()
    for position, page in enumerate(parsed.pages):
        found.extend((position, piece) for piece in chunk(page, parsed.title, count_tokens, settings, above))
        for heading in page.headings:
            above = _under(above, heading)
    return found


def chunk(
    page: Page, title: str, count_tokens: Callable[[str], int], settings: Settings, above: Sequence[Heading] = ()
) -> list[Piece]:
    """Cuts one page. `above` are the headings that were open where the page begins, outermost first."""
    text = page.text
    if not text:
        return []
    limit = min(settings.passage_tokens, WINDOW_TOKENS - CONTEXT_TOKENS)
    atoms = _atoms(page, count_tokens, limit)
    pieces: list[Piece] = []
    paths = _paths(page, above)
    for first, last in _cut(atoms, limit):
        start, end = atoms[first].start, atoms[last - 1].end
        path = _section(paths, atoms[first:last])
        table = next((each for each in page.tables if each.header and each.start < start < each.end), None)
        header = table.header if table is not None and table.header not in text[start:end] else ""
        pieces.append(Piece(start, end, SECTION_JOIN.join(path), _context(title, path, header, count_tokens)))
    return pieces


def _atoms(page: Page, count_tokens: Callable[[str], int], limit: int) -> list[_Atom]:
    text = page.text
    headings = {each.start for each in page.headings}
    starts: dict[int, int] = {}
    for start, _ in sentences(text):
        starts[start] = _SENTENCE
    for start, end in units(text):
        first = min((each for each in range(start, min(end, start + 12)) if each in starts), default=None)
        if first is not None and first != start:
            del starts[first]  # the marker of a list item stays with its sentence
        line = text.rfind("\n", 0, start) + 1
        blank = line == 0 or not text[text.rfind("\n", 0, line - 1) + 1 : line - 1].strip()
        starts[start] = _PARAGRAPH if blank else _LINE
    for start in headings:
        starts[start] = _HEADING
    order = sorted(starts)
    if not order:
        order, starts = [0], {0: _PARAGRAPH}
    atoms: list[_Atom] = []
    for i, start in enumerate(order):
        begin = 0 if i == 0 else start
        end = order[i + 1] if i + 1 < len(order) else len(text)
        tokens = count_tokens(text[begin:end])
        heading = start in headings
        if tokens <= limit:
            atoms.append(_Atom(begin, end, tokens, starts[start], heading))
            continue
        before = starts[start]
        for part_start, part_end, part_tokens in _parts(text, begin, end, count_tokens, limit):
            atoms.append(_Atom(part_start, part_end, part_tokens, before, heading))
            before, heading = _WORDS, False
    return atoms


def _parts(
    text: str, start: int, end: int, count_tokens: Callable[[str], int], limit: int
) -> list[tuple[int, int, int]]:
    """A sentence that is too long, in parts that fit: halved at the most telling break near its middle, again and again."""
    tokens = count_tokens(text[start:end])
    if tokens <= limit or end - start < 2:
        return [(start, end, tokens)]
    middle = (start + end) // 2
    reach = (end - start) // 3
    cut = middle
    for pattern in _BREAKS:
        places = [match.end() for match in pattern.finditer(text, middle - reach, middle + reach) if start < match.end() < end]
        if places:
            cut = min(places, key=lambda place: abs(place - middle))
            break
    return _parts(text, start, cut, count_tokens, limit) + _parts(text, cut, end, count_tokens, limit)


def _cut(atoms: Sequence[_Atom], limit: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the atoms of each passage, by the cheapest way through; shortest path from the last cut to the first."""
    best = [0.0] + [float("inf")] * len(atoms)
    came = [0] * (len(atoms) + 1)
    for last in range(1, len(atoms) + 1):
        if last < len(atoms) and atoms[last - 1].heading:
            continue  # a heading stays with what follows it
        tokens, crossed, led = 0, 0, False
        for first in range(last - 1, -1, -1):
            atom = atoms[first]
            tokens += atom.tokens
            if tokens > limit and first < last - 1 and not all(each.heading for each in atoms[first : last - 1]):
                break
            if led and not atom.heading:
                crossed += 1  # text of an earlier section, before a heading that is now inside the passage
            led = atom.heading
            if best[first] == float("inf"):
                continue
            cost = best[first] + 1.0 + COST_SECTION * crossed + COST_TINY * max(0.0, 1.0 - tokens / TINY_TOKENS)
            cost += _CUT_COST[atom.before] if first else 0.0
            if cost < best[last]:
                best[last], came[last] = cost, first
    cuts: list[tuple[int, int]] = []
    last = len(atoms)
    while last:
        cuts.append((came[last], last))
        last = came[last]
    return cuts[::-1]


def _paths(page: Page, above: Sequence[Heading]) -> list[tuple[int, tuple[str, ...]]]:
    """(offset, heading path from there on), ascending."""
    open_headings = tuple(above)
    found = [(0, tuple(each.text for each in open_headings))]
    for heading in sorted(page.headings, key=lambda each: each.start):
        open_headings = _under(open_headings, heading)
        found.append((heading.start, tuple(each.text for each in open_headings)))
    return found


def _under(above: tuple[Heading, ...], heading: Heading) -> tuple[Heading, ...]:
    return (*(each for each in above if each.level < heading.level), heading)


def _section(paths: Sequence[tuple[int, tuple[str, ...]]], atoms: Sequence[_Atom]) -> tuple[str, ...]:
    """The heading path that all text of a passage shares; where it shares none, that of its first text."""
    touched: list[tuple[str, ...]] = []
    for atom in atoms:
        if atom.heading and len(atoms) > 1:
            continue
        path = next(path for start, path in reversed(paths) if start <= atom.start)
        if path not in touched:
            touched.append(path)
    if not touched:
        return next(path for start, path in reversed(paths) if start <= atoms[0].start)
    shared = 0
    while all(len(path) > shared for path in touched) and len({path[shared] for path in touched}) == 1:
        shared += 1
    return touched[0][:shared] or touched[0]


def _context(title: str, path: Sequence[str], header: str, count_tokens: Callable[[str], int]) -> str:
    """Title, section and table header, each on its line, within CONTEXT_TOKENS."""
    section = [each for each in path if each != title]
    while header and count_tokens(header) > HEADER_TOKENS:
        header = header[: len(header) * 3 // 4].rpartition(" | ")[0]
    room = CONTEXT_TOKENS - (count_tokens(header) if header else 0)
    while section and count_tokens(f"{title} {SECTION_JOIN.join(section)}") > room:
        section = section[1:]
    while title and count_tokens(title) > room:
        title = title[: len(title) * 3 // 4].rpartition(" ")[0]
    return "\n".join(line for line in (title, SECTION_JOIN.join(section), header) if line)
