"""Question and hits → the sentences that could answer it, best first, and whether they suffice.

What a sentence is worth is a sum of measured signs: its nearness in meaning to the question, the question's words it and its passage
cover, and what the reader (a small trained model, where one is there) says. Weights come from `WEIGHTS`; see `python -m tune evidence`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.sentences import is_row, sentences
from rag.rows import is_header, readable
from rag.types import Hit
from rag.words import words

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike

MOST_SENTENCES = 80  # scored for one question; about 0.2 s of embedding on two cores
SHORT_WORDS = 3  # a unit with fewer words says nothing on its own: a label, a page number
LABEL_WORDS = 9  # a longer line without a full stop may still be a statement
LIST_WORDS = 60  # words a list may add to the line that opens it
LEAD = re.compile(r"[:：]\s*$")
ITEM = re.compile(r"\s*(?:[-•*▪◦‣]|\d{1,2}[.)])\s")
LEANING = re.compile(r"^(it|they|this|these|that|those|he|she|such|es|sie|dies\w*|er)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Sentence text[start:end] of the passage of hit `number`; `score` compares candidates of one question (a log-odds)."""

    number: int  # hit, from 1
    start: int  # offsets in the passage's text
    end: int
    text: str
    score: float
    similarity: float  # cosine with the question
    coverage: float  # 0…1: weight of the question's words found in the sentence and its passage


@dataclass(frozen=True, slots=True)
class Evidence:
    """Candidates, best first; `probability` that the passages answer the question; `enough` by the threshold in force."""

    candidates: tuple[Candidate, ...]
    probability: float
    enough: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """Log-odds = bias + Σ weight × sign. Set by hand on the sample company's questions; a later fit replaces them."""

    bias: float = -7.0
    similarity: float = 7.0
    coverage: float = 4.5
    rank: float = 0.6  # times 1 for the first hit, 1/2 for the second, …
    threshold: float = 0.5  # probability from which an answer is given


WEIGHTS = Weights()


def evidence(question: str, hits: Sequence[Hit], embedder: EmbedderLike, weights: Weights = WEIGHTS) -> Evidence:
    """What in `hits` could answer `question`, and whether it is enough."""
    units = [(number, start, end) for number, hit in enumerate(hits, 1) for start, end in units_of(hit)][:MOST_SENTENCES]
    if not units:
        return Evidence((), 0.0, False)
    asked = _weights_of(question, hits)
    vectors = embedder.passages([_with_topic(hits[number - 1], start, end) for number, start, end in units])
    similarities = vectors @ embedder.questions([question])[0]
    around = [{each.form for each in words(f"{hit.passage.context} {hit.passage.text}")} for hit in hits]
    candidates = []
    for (number, start, end), similarity in zip(units, similarities, strict=True):
        text = hits[number - 1].passage.text[start:end]
        covered = 0.6 * _coverage(asked, {each.form for each in words(text)}) + 0.4 * _coverage(asked, around[number - 1])
        score = weights.bias + weights.similarity * float(similarity) + weights.coverage * covered + weights.rank / number
        candidates.append(Candidate(number, start, end, text, score, float(similarity), covered))
    candidates.sort(key=lambda each: (-each.score, each.number, each.start))
    probability = 1 / (1 + math.exp(-candidates[0].score))
    return Evidence(tuple(candidates), probability, probability >= weights.threshold)


def units_of(hit: Hit) -> list[tuple[int, int]]:
    """Spans of a passage that could be shown as an answer: sentences, table rows, list items, and a line ending in ":" with its list.

    Headings are left out: they name an answer's place, they are none.
    """
    passage = hit.passage
    headings = {part.strip().casefold() for part in passage.section.split("›")} | {passage.title.strip().casefold()}
    spans = sentences(passage.text)
    units = []
    for at, (start, end) in enumerate(spans):
        text = passage.text[start:end]
        if text.strip("# *").casefold() in headings or _is_label(passage.text, start, end):
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
    text = hit.passage.text
    said = readable(text, start, end, hit.passage.context) if is_row(text, start, end) else text[start:end]
    return f"{topic}: {said}"


def _weights_of(question: str, hits: Sequence[Hit]) -> dict[str, float]:
    """The question's words with their weight: rarer among the hits counts more, names and numbers twice."""
    forms = {each.form: each for each in words(question) if each.kind not in ("function",)}
    texts = [{each.form for each in words(hit.passage.text)} for hit in hits]
    return {
        form: (2.0 if word.kind in ("name", "number") else 1.0)
        * math.log(1 + (len(texts) + 1) / (1 + sum(form in text for text in texts)))
        for form, word in forms.items()
    }


def _coverage(asked: dict[str, float], there: set[str]) -> float:
    total = sum(asked.values())
    return sum(weight for form, weight in asked.items() if form in there) / total if total else 0.0
