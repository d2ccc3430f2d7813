"""Prompt and evidence → checked sentences, one by one as they stand. Nothing leaves here that the check has not passed.

verbatim: the model weighs the evidence's sentences against each other and the best are quoted.
compressed: the model writes the best sentences, whole or with clauses left out; a grammar allows it nothing else.
free: the model writes. Of both each sentence is checked when it ends; what fails gives way to the best quote, or is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.sentences import is_row, sentences
from rag.cite import citation, strip_markers, support
from rag.evidence import Candidate, Evidence, leans_back
from rag.prompt import NOT_FOUND
from rag.rows import readable
from rag.spans import spans
from rag.types import Hit, Prompt, Sentence
from rag.words import content

if TYPE_CHECKING:
    from rag.engine import Model

UNDECIDED = 0.5  # log-odds within which candidates are as good as equal, and the model's opinion is asked
WEIGHED = 4  # sentences that the model weighs; each costs one short reading
OPINION = 1.0  # weight of the model's mean log-probability beside the evidence's log-odds; see docs/decisions.md
MODEL_PASSAGES = 3  # that a model reads before it writes; with five the adapter refused what it answers from one
NEXT_MARGIN = 0.8  # log-odds by which a second quote may fall behind the first
ROW_MARGIN = 0.3  # the same for a second row of a table: rows resemble each other, and mostly one is meant
OFF_TOPIC_MARGIN = 1.0  # log-odds by which a written sentence's source may fall behind the best candidate
QUOTES = 2  # most quotes of an answer; a third held what the first two did not in 1 of 100 questions
QUOTED_WORDS = 50  # an answer of quotes stops before this many words, after its first sentence
SAME_CONTENT = 0.7  # share of a quote's content words that earlier ones hold, above which it says nothing new
FAILURES = 2  # sentences in a row that may fail before the model is stopped: it has lost the thread


@dataclass(frozen=True, slots=True)
class Writing:
    """What one answer may be written from and how far it may go.

    `hits` are all passages, numbered from 1 as sources and candidates are. `prompt` is what the model reads of them: the promising
    ones, or at the level verbatim those of the candidates it is to weigh, None where there is nothing to weigh.
    """

    question: str
    hits: tuple[Hit, ...]
    prompt: Prompt | None
    evidence: Evidence
    level: str
    most_sentences: int
    most_tokens: int


def write(writing: Writing, model: Model, should_stop: Callable[[], bool]) -> Iterator[Sentence]:
    """Checked sentences in the order in which they are to be shown. Stops early when `should_stop()` is true."""
    if writing.level == "verbatim":
        yield from _quotes(_weighed(writing, model, should_stop), writing.hits, writing.most_sentences)
    else:
        yield from _written(writing, model, should_stop)


def undecided(evidence: Evidence, hits: Sequence[Hit]) -> list[Hit]:
    """The passages between whose sentences the model is to choose; none where one sentence is clearly the best."""
    near = _near(evidence)
    numbers = sorted({each.number for each in near}) if len(near) > 1 else []
    return [hits[number - 1] for number in numbers]


def promising(evidence: Evidence, hits: Sequence[Hit]) -> list[Hit]:
    """The passages a model is to write from: those that hold a sentence good enough to be shown, at most MODEL_PASSAGES."""
    best = evidence.candidates[0].score
    good = [each.number for each in evidence.candidates if each.score >= best - OFF_TOPIC_MARGIN]
    return [hits[number - 1] for number in sorted(list(dict.fromkeys(good))[:MODEL_PASSAGES])]


def _near(evidence: Evidence) -> list[Candidate]:
    candidates = evidence.candidates
    return [each for each in candidates if each.score >= candidates[0].score - UNDECIDED][:WEIGHED]


def _weighed(writing: Writing, model: Model, should_stop: Callable[[], bool]) -> list[Candidate]:
    """Candidates; where the first ones are as good as equal, the model's opinion decides their order."""
    candidates, near = list(writing.evidence.candidates), _near(writing.evidence)
    if len(near) < 2 or writing.prompt is None:
        return candidates
    opinions = model.score(writing.prompt.tokens, [model.tokenize(each.text) for each in near], should_stop)
    order = sorted(range(len(near)), key=lambda at: -(near[at].score + OPINION * opinions[at]))
    return [near[at] for at in order] + candidates[len(near) :]


def _quotes(candidates: Sequence[Candidate], hits: Sequence[Hit], most: int) -> Iterator[Sentence]:
    said: set[str] = set()
    count = shown = 0
    rows = False
    best = max(each.score for each in candidates)
    taken: set[tuple[int, int]] = set()
    for candidate in candidates:
        if shown == min(most, QUOTES) or candidate.score < best - NEXT_MARGIN:
            return
        row = is_row(hits[candidate.number - 1].passage.text, candidate.start, candidate.end)
        if shown and row and rows and candidate.score < best - ROW_MARGIN:
            continue
        start, end = _with_antecedent(candidate, hits[candidate.number - 1])
        text = hits[candidate.number - 1].passage.text[start:end]
        own = set(content(text))
        if (candidate.number, end) in taken or len(own & said) >= SAME_CONTENT * max(1, len(own)):
            continue
        if shown and count + len(text.split()) > QUOTED_WORDS:
            return
        shown, count, rows = shown + 1, count + len(text.split()), rows or row
        said |= own
        taken.add((candidate.number, end))
        yield quoted(hits[candidate.number - 1], candidate.number, start, end, candidate.key)


def quoted(hit: Hit, number: int, start: int, end: int, key: tuple[int, int] | None = None) -> Sentence:
    """The sentence text[start:end] of a passage as an answer: its own words; a table row with its column names.

    `key` is where in the passage the short answer stands.
    """
    cited = citation(hit, number, start, end)
    text = hit.passage.text
    shown = readable(text, start, end, hit.passage.context) if is_row(text, start, end) else " ".join(cited.quote.split())
    short = " ".join(text[slice(*key)].split()).strip(" |") if key else ""
    return Sentence(shown, (cited,), "quoted", short if short in shown else "")


def _with_antecedent(candidate: Candidate, hit: Hit) -> tuple[int, int]:
    """The candidate's span, with the sentence before it where it opens with a word that points back ("It also …")."""
    if leans_back(candidate.text):
        text = hit.passage.text
        before = [span for span in sentences(text) if span[1] <= candidate.start]
        if before and "\n\n" not in text[before[-1][1] : candidate.start] and not is_row(text, *before[-1]):
            return before[-1][0], candidate.end
    return candidate.start, candidate.end


def _written(writing: Writing, model: Model, should_stop: Callable[[], bool]) -> Iterator[Sentence]:
    if writing.prompt is None:
        raise TypeError("a model that writes needs a prompt")
    hits, shown, failed = writing.hits, 0, 0
    said: set[str] = set()
    grammar = None
    if writing.level == "compressed":
        grammar = spans(_shortenable(writing.evidence, hits))
        if not grammar:
            yield from _quotes(writing.evidence.candidates, hits, writing.most_sentences)
            return
    written = model.generate(writing.prompt.tokens, max_tokens=writing.most_tokens, should_stop=should_stop, grammar=grammar)
    for text in _ended(written):
        plain = strip_markers(text)
        if not plain or plain.casefold() in said:
            failed += 1
        elif plain.startswith(NOT_FOUND.rstrip(".")):
            if writing.level == "free" and not shown:
                return  # a model trusted to write is trusted to see that nothing answers
            failed += 1
        else:
            said.add(plain.casefold())
            sentence = _checked(plain, hits, writing.level, writing.evidence.candidates)
            failed = 0 if sentence else failed + 1
            if sentence:
                shown += 1
                yield sentence
        if shown == writing.most_sentences or failed == FAILURES or should_stop():
            break
    if not shown and not should_stop():
        yield from _quotes(writing.evidence.candidates, hits, writing.most_sentences)


def _shortenable(evidence: Evidence, hits: Sequence[Hit]) -> list[str]:
    """The sentences that the evidence finds about equally good; none where the best is a table's row or points to the one before."""
    near = _near(evidence)
    whole = [each for each in near if not is_row(hits[each.number - 1].passage.text, each.start, each.end) and not leans_back(each.text)]
    return [each.text for each in whole] if whole and whole[0] is near[0] else []


def _checked(text: str, hits: Sequence[Hit], level: str, candidates: Sequence[Candidate]) -> Sentence | None:
    """The sentence with its citation, if a source supports it and that source bears on the question."""
    found = support(text, [each.passage.text for each in hits], level, [each.passage.context for each in hits])
    if found is None:
        return None
    said = next((each for each in candidates if each.number == found.number and found.start <= each.start < found.end), None)
    if said is None or said.score < candidates[0].score - OFF_TOPIC_MARGIN:
        return None
    hit = hits[found.number - 1]
    if found.how == "quoted":
        return quoted(hit, found.number, found.start, found.end, said.key)
    short = " ".join(hit.passage.text[slice(*said.key)].split()) if said.key else ""
    return Sentence(text, (citation(hit, found.number, found.start, found.end),), found.how, short if short in text else "")


def _ended(pieces: Iterator[str]) -> Iterator[str]:
    """Pieces of text → sentences, each as soon as the next one begins (only then is it sure to have ended)."""
    held = ""
    for piece in pieces:
        held += piece
        spans = sentences(held)
        while len(spans) > 1:
            yield held[slice(*spans[0])]
            held = held[spans[0][1] :]
            spans = sentences(held)
    for span in sentences(held):
        yield held[slice(*span)]
