"""Question and hits → the sentences that could answer it, best first, and whether they suffice.

What a sentence is worth is a sum of measured signs: its nearness in meaning to the question, the question's words it and its passage
cover, and what the reader (a small trained model, where one is there) says. Weights are fitted: see `python -m tune evidence`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from errors import ModelMissing
from ingest.sentences import is_row, sentences
from rag.rows import is_header, readable
from rag.types import Hit
from rag.words import words

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from rag.reader import Reader

CLIP = 12.0  # logits beyond which the reader is as sure as it gets
MOST_SENTENCES = 80  # scored for one question; about 0.2 s of embedding on two cores
SHORT_WORDS = 3  # a unit with fewer words says nothing on its own: a label, a page number
LABEL_WORDS = 9  # a longer line without a full stop may still be a statement
LIST_WORDS = 60  # words a list may add to the line that opens it
LEAD = re.compile(r"[:：]\s*$")
ITEM = re.compile(r"\s*(?:[-•*▪◦‣]|\d{1,2}[.)])\s")
LEANING = re.compile(r"^(it|they|this|these|that|those|he|she|such|es|sie|dies\w*|er)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Signs:
    """What speaks for one candidate, or the weights of these signs.

    Of the sentence: `similarity`, its cosine with the question; `coverage`, the share of the question's weight that its words hold.
    Of its passage: `named`, the share of the question's names and numbers that it holds (1 where there are none); `passage`, its
    cosine with the question; `found`, its score in retrieval, from 0 to 1; `rank`, 1, 1/2, 1/3, … by its place there.
    Of the reader, in logits: `sentence`, the best span inside the sentence less "this passage does not answer"; `lead`, that span
    less the best span of all passages, so 0 for the best and negative for the others.
    """

    similarity: float = 0.0
    coverage: float = 0.0
    named: float = 0.0
    passage: float = 0.0
    found: float = 0.0
    rank: float = 0.0
    sentence: float = 0.0
    lead: float = 0.0
    bias: float = 1.0

    def times(self, weights: Signs) -> float:
        """Σ sign × weight: log-odds."""
        return float(sum(getattr(self, name) * getattr(weights, name) for name in SIGNS))


SIGNS = tuple(each.name for each in fields(Signs))


@dataclass(frozen=True, slots=True)
class Weights:
    """`pick` orders candidates; `answer` says from the best one's signs whether it answers at all, shown from `threshold` on.

    The defaults are for an embedder alone ("without reader" of `python -m tune evidence`). A reader's folder brings its own.
    """

    pick: Signs = Signs(similarity=3.65, coverage=3.80, named=0.85, found=4.27, rank=1.29, bias=-10.56)
    answer: Signs = Signs(coverage=2.74, named=0.34, passage=3.57, bias=-4.33)
    threshold: float = 0.20  # probability that the best candidate answers; below it nothing is shown


@dataclass(frozen=True, slots=True)
class Candidate:
    """Sentence text[start:end] of the passage of hit `number`; `score` compares candidates of one question (a log-odds).

    `key` is where in the passage's text the reader sees the short answer, inside the sentence; None without a reader.
    """

    number: int  # hit, from 1
    start: int  # offsets in the passage's text
    end: int
    text: str
    score: float
    signs: Signs
    key: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Candidates, best first; `probability` that the passages answer the question; `enough` by the threshold in force."""

    candidates: tuple[Candidate, ...]
    probability: float
    enough: bool


WEIGHTS = Weights()
WEIGHTS_FILE = "evidence.json"  # in a reader's folder


def load_weights(folder: Path) -> Weights:
    """The fitted weights that come with the reader in `folder`. Raises ModelMissing."""
    path = folder / WEIGHTS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pick, answer = ({name: float(value) for name, value in found[part].items()} for part in ("pick", "answer"))
        return Weights(Signs(**pick), Signs(**answer), float(found["threshold"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cure = "Restore it from the release, or take reader out of footnote.toml."
        raise ModelMissing(f"{path} cannot be read ({error}).", cure) from None


def evidence(
    question: str, hits: Sequence[Hit], embedder: EmbedderLike, reader: Reader | None = None, weights: Weights = WEIGHTS
) -> Evidence:
    """What in `hits` could answer `question`, and whether it is enough. `weights` are those that were fitted for `reader`."""
    units = [(number, start, end) for number, hit in enumerate(hits, 1) for start, end in units_of(hit)][:MOST_SENTENCES]
    if not units:
        return Evidence((), 0.0, False)
    asked = _weights_of(question, hits)
    names = {form: weight for form, (weight, critical) in asked.items() if critical}
    every = {form: weight for form, (weight, _) in asked.items()}
    vectors = embedder.passages([_with_topic(hits[number - 1], start, end) for number, start, end in units])
    similarities = vectors @ embedder.questions([question])[0]
    around = [{each.form for each in words(f"{hit.passage.context} {hit.passage.text}")} for hit in hits]
    read = _read(question, hits, units, reader)
    candidates = []
    for (number, start, end), similarity, reading in zip(units, similarities, read, strict=True):
        hit = hits[number - 1]
        signs = Signs(
            similarity=float(similarity),
            coverage=_coverage(every, {each.form for each in words(_said(hit, start, end))}),
            named=_coverage(names, around[number - 1]) if names else 1.0,
            passage=hit.similarity,
            found=hit.score,
            rank=1 / number,
            sentence=max(-CLIP, min(CLIP, reading.sentence)),
            lead=max(-CLIP, reading.lead),
        )
        candidates.append(Candidate(number, start, end, hit.passage.text[start:end], signs.times(weights.pick), signs, reading.key))
    candidates.sort(key=lambda each: (-each.score, each.number, each.start))
    probability = 1 / (1 + math.exp(-max(-60.0, min(60.0, candidates[0].signs.times(weights.answer)))))
    return Evidence(tuple(candidates), probability, probability >= weights.threshold)


@dataclass(frozen=True, slots=True)
class _Read:
    """What the reader says of one unit: see Signs and Candidate."""

    sentence: float = 0.0
    lead: float = 0.0
    key: tuple[int, int] | None = None


def _read(
    question: str, hits: Sequence[Hit], units: Sequence[tuple[int, int, int]], reader: Reader | None
) -> list[_Read]:
    """The reader's word on each unit; nothing without a reader."""
    if reader is None:
        return [_Read()] * len(units)
    spans = [[(start, end) for hit, start, end in units if hit == number] for number in range(1, len(hits) + 1)]
    readings = reader.read(question, [hit.passage.text for hit in hits], spans)
    raw = [
        (score, score + each.null_score, span)
        for each in readings for score, span in zip(each.sentences, each.spans, strict=True)
    ]
    best = max(span_score for _, span_score, _ in raw)
    read = [_Read(score, span_score - best, key) for score, span_score, key in raw]
    rows: dict[int, list[int]] = {}
    for at, (number, start, end) in enumerate(units):
        if is_row(hits[number - 1].passage.text, start, end):
            rows.setdefault(number, []).append(at)
    for some in rows.values():  # it tells that a table answers, but often not which row: that is for the words to say
        sentence, lead = max(read[at].sentence for at in some), max(read[at].lead for at in some)
        for at in some:
            read[at] = _Read(sentence, lead, read[at].key)
    return read


def only(found: Evidence, hits: Sequence[Hit], may: Callable[[str, str, bool], bool]) -> Evidence:
    """The evidence without candidates that `may` not be shown: it is asked with each as read, what stands above it, and if it is a row."""
    kept = []
    for each in found.candidates:
        hit = hits[each.number - 1]
        row = is_row(hit.passage.text, each.start, each.end)
        if may(_said(hit, each.start, each.end), hit.passage.context, row):
            kept.append(each)
    return Evidence(tuple(kept), found.probability, found.enough and bool(kept))


def units_of(hit: Hit) -> list[tuple[int, int]]:
    """Spans of a passage that could be shown as an answer: sentences, table rows, list items, and a line ending in ":" with its list.

    Headings and questions are left out: they name an answer's place, they are none.
    """
    passage = hit.passage
    headings = {part.strip().casefold() for part in passage.section.split("›")} | {passage.title.strip().casefold()}
    spans = sentences(passage.text)
    units = []
    for at, (start, end) in enumerate(spans):
        text = passage.text[start:end]
        if text.strip("# *").casefold() in headings or text.rstrip("\"'”’ *").endswith(("?", "？")) or _is_label(passage.text, start, end):
            continue
        if is_header(passage.text, start, end, passage.context):
            continue
        if LEAD.search(text):
            stop, count = end, 0
            for item_start, item_end in spans[at + 1 :]:
                count += len(passage.text[item_start:item_end].split())
                if not _is_item(passage.text, item_start) or count > LIST_WORDS:
                    break
                stop = item_end
            if stop > end:
                units.append((start, stop))
            continue
        if len(text.split()) >= SHORT_WORDS or any(character.isdigit() for character in text):
            units.append((start, end))
    return units


def leans_back(text: str) -> bool:
    """The sentence opens with a word that points to the sentence before it."""
    return LEANING.match(text) is not None


def _is_item(text: str, start: int) -> bool:
    """The sentence at `start` is an item of a list; its marker stands before it on the line, or opens it ("1. ")."""
    return ITEM.match(text, text.rfind("\n", 0, start) + 1) is not None


def _is_label(text: str, start: int, end: int) -> bool:
    """A rule, or a short paragraph without a full stop, a number or a colon: a heading that the page does not mark as one."""
    unit = text[start:end]
    if not any(character.isalnum() for character in unit):
        return True
    alone = text[:start].rstrip(" ").endswith("\n\n") or not text[:start].strip()
    alone = alone and (text[end:].lstrip(" ").startswith("\n\n") or not text[end:].strip())
    return alone and len(unit.split()) <= LABEL_WORDS and not any(each.isdigit() or each in ".!?:;。！？：" for each in unit)


def _with_topic(hit: Hit, start: int, end: int) -> str:
    """The sentence with the last heading above it, which often names what "it" is."""
    topic = hit.passage.section.rpartition("›")[2].strip() or hit.passage.title
    return f"{topic}: {_said(hit, start, end)}"


def _said(hit: Hit, start: int, end: int) -> str:
    """The unit's words; a table row with the names of its columns, which say what its numbers are."""
    text = hit.passage.text
    return readable(text, start, end, hit.passage.context) if is_row(text, start, end) else text[start:end]


def _weights_of(question: str, hits: Sequence[Hit]) -> dict[str, tuple[float, bool]]:
    """The question's words: weight (rarer among the hits counts more, names and numbers twice), and whether it is a name or number."""
    forms = {each.form: each.kind in ("name", "number") for each in words(question) if each.kind != "function"}
    texts = [{each.form for each in words(hit.passage.text)} for hit in hits]
    return {
        form: (
            (2.0 if critical else 1.0) * math.log(1 + (len(texts) + 1) / (1 + sum(form in text for text in texts))),
            critical,
        )
        for form, critical in forms.items()
    }


def _coverage(asked: dict[str, float], there: set[str]) -> float:
    total = sum(asked.values())
    return sum(weight for form, weight in asked.items() if form in there) / total if total else 0.0
