"""A sentence and the passages it was written from → the citation that supports it, or None: what no source supports is not shown.

The check is deterministic. A sentence is supported by a span of one passage when every number, name, negation and condition of the
sentence stands in the span and the other way round for negations and conditions, when its other content words, or a listed synonym,
stand there too, and when the order of the words keeps their relations: the sentence's words are aligned with the span's, in order,
clause by clause, so "20 days part-time, 10 full-time" does not pass on "10 days part-time, 20 full-time".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ingest.sentences import sentences
from rag.types import Citation, Hit
from rag.words import Word, stem, words

CLAUSE = re.compile(r"[,;:()–—]|\b(?:and|but|while|whereas|und|aber|sondern)\b")
MARKER = re.compile(r"\s*\[\d+(?:\s*,\s*\d+)*\]")  # what a model writes as a citation: never believed, the check finds its own
# Words a model adds without claiming anything about the world.
HARMLESS = frozenset(
    "according document passage stat say provid information follow answer question mention includ additionally furthermor moreover "
    "therefor thu yes bas".split()  # as stems
)
# Pairs that say the same whoever does it to whom. Any other word of its own may be the one that makes a sentence false: "the finest
# mannerist houses" has all words but one of "the finest Renaissance houses".
SYNONYMS = tuple(
    frozenset(stem(word) for word in group.split())
    for group in (
        "get receive obtain",
        "start begin commence",
        "end finish",
        "buy purchase",
        "employee staff",
        "allow permit",
        "forbid prohibit",
        "keep retain",
        "large big",
        "approximately about roughly",
        "locate situate",
        "help assist",
        "choose select",
        "show display",
        "build construct",
        "quick fast",
        "annual yearly",
    )
)
LEAST_WORDS = 3  # "The answer is 2 days" says too little to know what it is about: any "2 days" would support it
CRITICAL_WEIGHT = 100  # in the alignment one critical word outweighs any run of ordinary ones


@dataclass(frozen=True, slots=True)
class Support:
    """Where a sentence stands: text[start:end] of hit `number`; `how` is quoted, shortened or written."""

    number: int  # of the hit, from 1
    start: int  # offsets in the passage's text
    end: int
    how: str


def cite(sentence: str, hits: Sequence[Hit], level: str) -> Citation | None:
    """The citation of the first hit that supports `sentence` best at `level` (verbatim, compressed, free), or None."""
    found = support(sentence, [each.passage.text for each in hits], level, [each.passage.context for each in hits])
    return None if found is None else citation(hits[found.number - 1], found.number, found.start, found.end)


def citation(hit: Hit, number: int, start: int, end: int) -> Citation:
    """The citation of passage.text[start:end]; the quote is cut from the stored text, so it cannot differ from it."""
    passage = hit.passage
    return Citation(number, passage, passage.text[start:end], passage.start + start, passage.start + end)


def support(sentence: str, texts: Sequence[str], level: str, contexts: Sequence[str] = ()) -> Support | None:
    """Where `sentence` is supported in `texts`, or None. Exact quotes are tried first, then single sentences, then pairs.

    Args:
        sentence: one sentence, with or without [n] markers.
        texts: passages' texts.
        level: verbatim (the source's words only), compressed (the source's words in order, some left out) or free.
        contexts: a passage's title and headings; they may supply ordinary words, never numbers or negations.
    """
    plain = strip_markers(sentence)
    claim = [each for each in words(plain) if each.kind != "function"]
    if not claim or plain.endswith("?"):  # a question claims nothing, and answers nothing
        return None
    for number, text in enumerate(texts, 1):
        exact = _exact(plain, text)
        if exact is not None:
            return Support(number, *exact, "quoted")
    if level == "verbatim":
        return None
    forms = {each.form for each in claim}
    for width in (1, 2):
        best: tuple[int, Support] | None = None
        for number, text in enumerate(texts, 1):
            spans = sentences(text)
            for first in range(len(spans) - width + 1):
                start, end = spans[first][0], spans[first + width - 1][1]
                source = [each for each in words(text[start:end]) if each.kind != "function"]
                if len(forms & {each.form for each in source}) * 2 < len(forms):
                    continue
                context = contexts[number - 1] if contexts else ""
                how = _supported(plain, claim, source, {each.form for each in words(context)}, level)
                if how and (best is None or len(source) < best[0]):
                    best = (len(source), Support(number, start, end, how))
        if best is not None:
            return best[1]
    return None


def strip_markers(text: str) -> str:
    """`text` without the [n] that a model wrote."""
    return MARKER.sub("", text).strip()


def _exact(sentence: str, text: str) -> tuple[int, int] | None:
    """The span of `text` that is `sentence` up to white space, only where it begins and ends at sentence borders."""
    pattern = r"\s+".join(re.escape(part) for part in sentence.split())
    match = re.search(pattern, text) if pattern else None
    if match is None:
        return None
    spans = sentences(text)
    starts, ends = {start for start, _ in spans}, {end for _, end in spans}
    return match.span() if match.start() in starts and match.end() in ends else None


def _supported(sentence: str, claim: list[Word], source: list[Word], context: set[str], level: str) -> str | None:
    there = {each.form for each in source}
    if not _same_turns(claim, source):
        return None
    if any(each.critical and each.form not in there for each in claim if each.kind != "name"):
        return None
    missing = [each for each in claim if each.form not in there and each.form not in context and each.form not in HARMLESS]
    if missing and (level == "compressed" or not all(_same_thing(each, there) for each in missing)):
        return None
    anchored = [each for each in claim if each.form in there]
    if len(anchored) * 2 < len(claim) or len({each.form for each in anchored} - HARMLESS) < LEAST_WORDS:
        return None
    matched = align(anchored, source)
    if len(matched) == len(anchored) and not _leaps(matched, anchored, source):
        return "shortened" if not missing and len(anchored) == len(claim) else "written"
    if level == "compressed":
        return None
    return "written" if _clauses_hold(sentence, anchored, source) else None


def _same_thing(word: Word, there: set[str]) -> bool:
    return word.kind == "content" and any(word.form in group and group & there for group in SYNONYMS)


def _same_turns(claim: list[Word], source: list[Word]) -> bool:
    """Negations and conditions of the source's aligned stretch stand in the claim, and none is new.

    The whole source sentence counts, not only the stretch: leaving out "unless a manager agrees" changes the rule.
    """

    def turns(some: list[Word]) -> list[str]:
        return sorted(each.form for each in some if each.kind in ("negation", "condition"))

    return turns(claim) == turns(source)


def _clauses_hold(sentence: str, anchored: list[Word], source: list[Word]) -> bool:
    """Each clause's words stand in the source in the clause's order and close together; clauses may change places."""
    cuts = [0, *(match.start() for match in CLAUSE.finditer(sentence)), len(sentence) + 1]
    clauses: list[list[Word]] = []
    for left, right in zip(cuts, cuts[1:], strict=False):
        clause = [each for each in anchored if left <= each.start < right]
        if clauses and all(_figure(each) for each in clause):
            clauses[-1] += clause  # "(1632)" says something only of what stands before it
        else:
            clauses.append(clause)
    for clause in filter(None, clauses):
        matched = align(clause, source)
        critical = any(each.critical for each in clause)
        if len(matched) < len(clause) and (critical or len(matched) * 4 < len(clause) * 3):
            return False  # with a number or a name in it, every word of the clause must stand in its place
        if _leaps(matched, anchored, source):
            return False
        if critical and matched[-1][1] - matched[0][1] > 2 * len(clause) + 4:
            return False  # the number stands in the source, but far from what the clause says about it
    return True


def _leaps(matched: Sequence[tuple[int, int]], claim: Sequence[Word], source: Sequence[Word]) -> bool:
    """The match jumps over a fact of the same shape, and so may have bound one fact's words to the other's.

    A number jumped over counts when it has the unit of a number matched ("10 days …, 20 days"); names count when two or more stand
    between two matched words ("Alice manages Berlin, Bob Paris"), or one before a matched number ("the mill, the Long house (1632)").
    """
    taken, said = [at for _, at in matched], {each.form for each in claim}
    units = {unit for at in taken if _figure(source[at]) for unit in _units(source, at)}
    for left, right in zip(taken, taken[1:], strict=False):
        between = range(left + 1, right)
        if any(_figure(source[at]) and units & _units(source, at) for at in between):
            return True
        names = [source[at].form for at in between if source[at].kind == "name"]
        if len(names) > 1 or (_figure(source[right]) and not said.issuperset(names)):
            return True
    return False


def _figure(word: Word) -> bool:
    return word.kind == "number" and word.form[0].isdigit()


def _units(source: Sequence[Word], at: int) -> set[str]:
    """What a number counts: the word after it, or the currency before it."""
    after = {source[at + 1].form} if at + 1 < len(source) else set()
    before = {source[at - 1].form} if at and source[at - 1].kind == "number" and not _figure(source[at - 1]) else set()
    return after | before


def align(claim: Sequence[Word], source: Sequence[Word]) -> list[tuple[int, int]]:
    """Index pairs of the heaviest order-keeping match of two word lists (longest common subsequence, critical words heavier)."""
    rows, columns = len(claim), len(source)
    weight = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        value = CRITICAL_WEIGHT if claim[i].critical else 1
        for j in range(columns - 1, -1, -1):
            skip = max(weight[i + 1][j], weight[i][j + 1])
            weight[i][j] = max(skip, weight[i + 1][j + 1] + value) if claim[i].form == source[j].form else skip
    pairs, i, j = [], 0, 0
    while i < rows and j < columns:
        if claim[i].form == source[j].form and weight[i][j] > max(weight[i + 1][j], weight[i][j + 1]):
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif weight[i + 1][j] >= weight[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
