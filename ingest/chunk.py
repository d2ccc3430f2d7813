"""Pages → passages. The passages of a page, joined, are the page; none begins or ends inside a sentence that fits.

A page is cut in the cheapest way: each passage costs, a cut inside a paragraph costs more than one between paragraphs or
before a heading, and so does a passage that is tiny or that runs on into another section.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
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
TOKEN_CHARACTERS = 10  # a token is taken for at least one in so many characters: the embedder folds an endless word into one
MARKER_CHARACTERS = 12  # how far into a list item its first sentence may start
BREAK_REACH = 2000  # characters to either side of the middle in which a break is looked for

# Costs, in passages: a passage itself costs 1.
COST_CUT_PARAGRAPH = 0.2  # cut between two paragraphs
COST_CUT_LINE = 0.5  # between list items or table rows
COST_CUT_SENTENCE = 0.9
COST_CUT_WORD = 4.0  # inside a sentence: only one that is too long by itself
COST_TINY = 1.2  # a passage of no words; falls to 0 at TINY_TOKENS
COST_LONE_HEADING = 6.0  # a passage that ends with a heading, parted from what it heads
COST_SECTION = 1.0  # a passage that runs on over a heading
TINY_TOKENS = 60

_HEADING, _PARAGRAPH, _LINE, _SENTENCE, _WORDS = range(5)
_CUT_COST = {
    _HEADING: 0.0,
    _PARAGRAPH: COST_CUT_PARAGRAPH,
    _LINE: COST_CUT_LINE,
    _SENTENCE: COST_CUT_SENTENCE,
    _WORDS: COST_CUT_WORD,
}
_BREAKS = (re.compile(r" \| "), re.compile(r"[;:,—–] "), re.compile(r"\s+"), re.compile(r"[、，；：]"))

TokenStarts = Callable[[str], Sequence[int]]


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


def chunk_document(parsed: ParsedDocument, token_starts: TokenStarts, settings: Settings) -> list[tuple[int, Piece]]:
    """(page position, piece) of a whole document; headings reach over page ends."""
    found: list[tuple[int, Piece]] = []
    above: tuple[Heading, ...] = ()
    for position, page in enumerate(parsed.pages):
        found.extend((position, piece) for piece in chunk(page, parsed.title, token_starts, settings, above))
        for heading in page.headings:
            above = _under(above, heading)
    return found


def chunk(page: Page, title: str, token_starts: TokenStarts, settings: Settings, above: Sequence[Heading] = ()) -> list[Piece]:
    """Cuts one page. `token_starts` gives where the embedder's tokens of a text start; `above` are the headings that were open
    where the page begins, outermost first."""
    text = page.text
    if not text:
        return []
    limit = min(settings.passage_tokens, WINDOW_TOKENS - CONTEXT_TOKENS)
    atoms = _atoms(page, token_starts, limit)
    pieces: list[Piece] = []
    contexts: dict[tuple[tuple[str, ...], str], str] = {}
    offsets, paths = _paths(page, above)
    for first, last in _cut(atoms, limit):
        start, end = atoms[first].start, atoms[last - 1].end
        path = _section(offsets, paths, atoms[first:last])
        table = next((each for each in page.tables if each.header and each.start < start < each.end), None)
        header = table.header if table is not None and table.header not in text[start:end] else ""
        if (path, header) not in contexts:
            contexts[path, header] = _context(title, path, header, lambda line: len(token_starts(line)))
        pieces.append(Piece(start, end, SECTION_JOIN.join(path), contexts[path, header]))
    return pieces


def _atoms(page: Page, token_starts: TokenStarts, limit: int) -> list[_Atom]:
    text = page.text
    tokens = token_starts(text)

    def count(start: int, end: int) -> int:
        real = bisect_left(tokens, end) - bisect_left(tokens, start)
        return max(1, real, (end - start) // TOKEN_CHARACTERS)

    headings = {each.start for each in page.headings}
    starts = _boundaries(text, headings)
    order = sorted(starts)
    atoms: list[_Atom] = []
    for i, start in enumerate(order):
        begin = 0 if i == 0 else start
        end = order[i + 1] if i + 1 < len(order) else len(text)
        before, heading = starts[start], start in headings
        for part_start, part_end in _parts(text, begin, end, count, limit):
            atoms.append(_Atom(part_start, part_end, count(part_start, part_end), before, heading))
            before, heading = _WORDS, False
    return atoms


def _boundaries(text: str, headings: set[int]) -> dict[int, int]:
    """Offset → kind of the boundary there, for every place where a page may be cut."""
    starts = {start: _SENTENCE for start, _ in sentences(text)}
    for start, end in units(text):
        marked = next((each for each in range(start, min(end, start + MARKER_CHARACTERS)) if each in starts), start)
        if marked != start:
            del starts[marked]  # the marker of a list item stays with its sentence
        line = text.rfind("\n", 0, start) + 1
        blank = line == 0 or not text[text.rfind("\n", 0, line - 1) + 1 : line - 1].strip()
        starts[start] = _PARAGRAPH if blank else _LINE
    for start in headings:
        starts[start] = _HEADING
    return starts or {0: _PARAGRAPH}


def _parts(text: str, start: int, end: int, count: Callable[[int, int], int], limit: int) -> list[tuple[int, int]]:
    """A sentence that is too long, in parts that fit: halved at the most telling break near its middle, again and again."""
    if count(start, end) <= limit or end - start < 2:
        return [(start, end)]
    middle = (start + end) // 2
    reach = min((end - start) // 3, BREAK_REACH)
    cut = middle
    for pattern in _BREAKS:
        places = [match.end() for match in pattern.finditer(text, middle - reach, middle + reach) if start < match.end() < end]
        if places:
            cut = min(places, key=lambda place: abs(place - middle))
            break
    return _parts(text, start, cut, count, limit) + _parts(text, cut, end, count, limit)


def _cut(atoms: Sequence[_Atom], limit: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the atoms of each passage, by the cheapest way through (a shortest path)."""
    best = [0.0] + [float("inf")] * len(atoms)
    came = [0] * (len(atoms) + 1)
    for last in range(1, len(atoms) + 1):
        tokens, crossed, led = 0, 0, False
        lone = COST_LONE_HEADING if atoms[last - 1].heading and last < len(atoms) else 0.0
        for first in range(last - 1, -1, -1):
            atom = atoms[first]
            tokens += atom.tokens
            if tokens > limit and first < last - 1:
                break
            if led and not atom.heading:
                crossed += 1  # text of an earlier section, before a heading that is now inside the passage
            led = atom.heading
            cost = best[first] + 1.0 + lone + COST_SECTION * crossed
            if tokens < TINY_TOKENS:
                cost += COST_TINY * (1.0 - tokens / TINY_TOKENS)
            if first:
                cost += _CUT_COST[atom.before]
            if cost < best[last]:
                best[last], came[last] = cost, first
    cuts: list[tuple[int, int]] = []
    last = len(atoms)
    while last:
        cuts.append((came[last], last))
        last = came[last]
    return cuts[::-1]


def _paths(page: Page, above: Sequence[Heading]) -> tuple[list[int], list[tuple[str, ...]]]:
    """Offsets, ascending, and the heading path from each of them on."""
    open_headings = tuple(above)
    offsets, paths = [0], [tuple(each.text for each in open_headings)]
    for heading in sorted(page.headings, key=lambda each: each.start):
        open_headings = _under(open_headings, heading)
        offsets.append(heading.start)
        paths.append(tuple(each.text for each in open_headings))
    return offsets, paths


def _under(above: tuple[Heading, ...], heading: Heading) -> tuple[Heading, ...]:
    return (*(each for each in above if each.level < heading.level), heading)


def _section(offsets: Sequence[int], paths: Sequence[tuple[str, ...]], atoms: Sequence[_Atom]) -> tuple[str, ...]:
    """The heading path that all text of a passage shares; where it shares none, that of its first text."""
    touched = [paths[bisect_right(offsets, atom.start) - 1] for atom in atoms if not atom.heading]
    if not touched:
        return paths[bisect_right(offsets, atoms[-1].start) - 1]
    shared = touched[0]
    for path in touched[1:]:
        while shared and path[: len(shared)] != shared:
            shared = shared[:-1]
    return shared or touched[0]


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
