"""Question–passage–answer triples → training examples for the reader, with made questions and hard passages that do not answer.

About a third of what is drawn has no answer. A model that sees more of those learns only to refuse.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from errors import UsageError
from tune.cloze import cloze, loosened, perturb

SENTENCE_END = re.compile(r"(?<=[.!?])[\"”')\]]*\s+(?=[\"“'(\[]?[A-Z0-9])|\n+")
WORD = re.compile(r"\w+")
CANDIDATES = 40  # passages looked at for one that shares words with the question but does not answer it
CLOZES_A_PASSAGE = 5
REWORDED = 0.5  # share of questions written by people that are drawn with some words exchanged

# Share of each kind among the examples drawn. What is written by people and close to what is asked of Footnote comes most often.
SHARES: dict[str, float] = {
    "squad2": 0.20,
    "covidqa": 0.14,
    "policyqa": 0.08,  # long spans to vague questions: enough to know the kind
    "pubmedqa": 0.02,
    "cloze": 0.23,
    "null written": 0.13,  # unanswerable questions written by people against this very passage
    "null neighbour": 0.05,  # another passage of the same document, as close to the question as there is
    "null removed": 0.04,  # the passage without the sentence that answers
    "null other": 0.02,  # the closest passage of another document
    "null perturbed": 0.05,  # the question with another name, number or the opposite word
    "null cloze": 0.04,  # the same for a made question
}


@dataclass(frozen=True, slots=True)
class Triple:
    """One line of a training file. `answer` None: the passage does not answer. `start` None: the answer is in other words."""

    source: str
    group: str
    question: str
    passage: str
    answer: str | None
    start: int | None


@dataclass(frozen=True, slots=True)
class Example:
    """What the reader learns from: passage[start:end] answers the question, or nothing does where `end` is 0."""

    kind: str
    group: str
    question: str
    passage: str
    start: int
    end: int

    @property
    def answered(self) -> bool:
        return self.end > 0


def load_triples(path: Path) -> list[Triple]:
    """The lines of a JSONL file with `group`, `question`, `passage`, `answer`, `start`. Raises UsageError."""
    triples = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: passages hold other line separators
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSONL file of triples.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            triple = Triple(
                str(row.get("source", "")), str(row["group"]), str(row["question"]).strip(), str(row["passage"]),
                row["answer"], row.get("start"),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: {error!r}.", "Each line needs group, question, passage, answer.") from None
        if triple.answer is not None and triple.start is not None:
            end = triple.start + len(triple.answer)
            if triple.passage[triple.start : end] != triple.answer:
                raise UsageError(f"{path}, line {number}: the answer does not stand at `start`.", "Mend or drop the line.")
        triples.append(triple)
    return triples


def bucket(name: str, buckets: int) -> int:
    """A stable number below `buckets` for a document's name, the same on every machine."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % buckets


def split(triples: Sequence[Triple], hold_out: float) -> tuple[list[Triple], list[Triple]]:
    """(for training, held out): about `hold_out` of the documents, chosen by a hash of their names."""
    limit = round(hold_out * 1000)
    kept = [each for each in triples if bucket(each.group, 1000) >= limit]
    held = [each for each in triples if bucket(each.group, 1000) < limit]
    return kept, held


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of sentences; rough, for training only."""
    spans, start = [], 0
    for found in SENTENCE_END.finditer(text):
        if text[start : found.start()].strip():
            spans.append((start, found.start()))
        start = found.end()
    if text[start:].strip():
        spans.append((start, len(text)))
    return spans


@cache
def words_of(text: str) -> frozenset[str]:
    return frozenset(each.lower() for each in WORD.findall(text) if len(each) > 3)


@cache
def normalised(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


class Passages:
    """The passages of a training file, to pick from those that look right and are not."""

    def __init__(self, triples: Sequence[Triple]) -> None:
        self.by_source: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.by_group: dict[str, list[str]] = defaultdict(list)
        self.answering: dict[tuple[str, str], set[str]] = defaultdict(set)  # passages marked for this question in this document
        for passage, source, group in dict.fromkeys((each.passage, each.source, each.group) for each in triples):
            self.by_source[source].append((group, passage))
            self.by_group[group].append(passage)
        for each in triples:
            if each.answer is not None:
                self.answering[each.group, each.question].add(each.passage)

    def neighbour(self, triple: Triple, chance: random.Random) -> str | None:
        """The passage of the same document that shares most words with the question and does not hold the answer."""
        answer = normalised(triple.answer or "")
        marked = self.answering[triple.group, triple.question]
        found = [
            each
            for each in self.by_group[triple.group]
            if each != triple.passage and each not in marked and not (answer and answer in normalised(each))
            and triple.passage[:80] not in each and each[:80] not in triple.passage
        ]  # fmt: skip
        return closest(triple.question, found, chance)

    def other(self, triple: Triple, chance: random.Random) -> str | None:
        """The passage of another document that shares most words with the question and does not hold the answer.

        Privacy policies answer the same questions as each other, so theirs are taken from another source.
        """
        if triple.source == "policyqa":
            found = [each for source, group in self.by_source.items() if source != "policyqa" for _, each in group]
        else:
            found = [passage for group, passage in self.by_source[triple.source] if group != triple.group]
        answer = normalised(triple.answer or "")
        found = chance.sample(found, min(len(found), 3 * CANDIDATES))
        return closest(triple.question, [each for each in found if not (answer and answer in normalised(each))], chance)


def closest(question: str, passages: Sequence[str], chance: random.Random) -> str | None:
    """Of a sample of passages, one of the three that share most words with the question."""
    some = chance.sample(passages, min(len(passages), CANDIDATES))
    asked = words_of(question)
    some.sort(key=lambda each: -len(asked & words_of(each)))
    return chance.choice(some[:3]) if some else None


def without_answer(triple: Triple) -> str | None:
    """The passage less the sentences that hold the answer; None where too little would be left."""
    if triple.answer is None or triple.start is None or len(triple.answer) < 2:
        return None
    answer = normalised(triple.answer)
    end = triple.start + len(triple.answer)
    kept = [
        triple.passage[left:right]
        for left, right in sentence_spans(triple.passage)
        if not (left < end and triple.start < right) and answer not in normalised(triple.passage[left:right])
    ]
    text = " ".join(kept)
    return text if len(text) >= 150 else None


def supporting_sentence(triple: Triple) -> tuple[int, int] | None:
    """For an answer in other words: the sentence of the passage that shares most of its words, where it shares enough."""
    wanted = words_of(triple.answer or "")
    best: tuple[float, tuple[int, int]] | None = None
    for left, right in sentence_spans(triple.passage):
        words = words_of(triple.passage[left:right])
        shared = len(wanted & words)
        if len(words) >= 4 and shared >= 4:
            score = 2 * shared / (len(wanted) + len(words))
            if best is None or score > best[0]:
                best = (score, (left, right))
    return best[1] if best is not None and best[0] >= 0.4 else None


def pools(triples: Sequence[Triple], seed: int) -> dict[str, list[Example]]:
    """Every example that may be drawn, by kind (the keys of SHARES)."""
    chance = random.Random(seed)
    passages = Passages(triples)
    found: dict[str, list[Example]] = {kind: [] for kind in SHARES}

    def add(kind: str, triple: Triple, question: str, passage: str | None, start: int = 0, end: int = 0) -> None:
        if passage is not None and question:
            found[kind].append(Example(kind, triple.group, question, passage, start, end))

    for each in triples:
        if each.answer is None:
            add("null written", each, each.question, each.passage)
            continue
        if each.start is None:
            span = supporting_sentence(each)
            if span is not None:
                add("pubmedqa", each, each.question, each.passage, *span)
        else:
            kind = each.source if each.source in SHARES else "squad2"
            add(kind, each, each.question, each.passage, each.start, each.start + len(each.answer))
        if each.source == "policyqa" and chance.random() > 0.15:  # its questions repeat: a sample is enough
            continue
        for _ in range(2):
            add("null neighbour", each, each.question, passages.neighbour(each, chance))
        add("null other", each, each.question, passages.other(each, chance))
        if each.source in ("squad2", "covidqa"):
            add("null removed", each, each.question, without_answer(each))
            names = " ".join(chance.sample(passages.by_group[each.group], min(6, len(passages.by_group[each.group]))))
            for _ in range(3):
                add("null perturbed", each, perturb(each.question, names, chance) or "", each.passage)
    for source, texts in passages.by_source.items():
        for group, passage in texts:
            home = Triple(source, group, "", passage, None, None)
            for question, start, end in cloze(passage, sentence_spans(passage), CLOZES_A_PASSAGE, chance):
                add("cloze", home, question, passage, start, end)
                near = passages.by_group[group]
                names = chance.choice(near) if len(near) > 1 else chance.choice(texts)[1]
                add("null cloze", home, perturb(question, names, chance) or "", passage)
    return found


def draw(pools: dict[str, list[Example]], number: int, chance: random.Random, letters: tuple[int, int]) -> list[Example]:
    """`number` examples by SHARES, each passage cut to a stretch of a random length between `letters` that keeps the answer."""
    kinds = [kind for kind in SHARES if pools[kind]]
    weights = [SHARES[kind] for kind in kinds]
    drawn = [chance.choice(pools[kind]) for kind in chance.choices(kinds, weights, k=number)]
    usual = letters[0] + (letters[1] - letters[0]) * 0.4
    return [reworded(cut(each, chance.triangular(*letters, usual), chance), chance) for each in drawn]


def reworded(example: Example, chance: random.Random) -> Example:
    """The example, at times with near words in its question, so that a question seen again is not quite the same."""
    if "cloze" in example.kind or chance.random() > REWORDED:
        return example
    words = loosened(example.question.rstrip("? ").split(), chance)
    return replace(example, question=" ".join(words) + "?" * example.question.rstrip().endswith("?"))


def cut(example: Example, letters: float, chance: random.Random) -> Example:
    """The example with a stretch of whole sentences of about `letters` characters, placed at random around the answer."""
    spans = sentence_spans(example.passage)
    if len(example.passage) <= letters or len(spans) < 2:
        return example
    if example.answered:
        inside = [number for number, (left, right) in enumerate(spans) if left < example.end and example.start < right]
        first, last = inside[0], inside[-1]
    else:
        first = last = chance.randrange(len(spans))
    while True:
        options = [side for side, open_ in ((-1, first > 0), (1, last + 1 < len(spans))) if open_]
        if not options:
            break
        side = chance.choice(options)
        left, right = (spans[first - 1][0], spans[last][1]) if side < 0 else (spans[first][0], spans[last + 1][1])
        if right - left > letters:
            break
        first, last = (first - 1, last) if side < 0 else (first, last + 1)
    left, right = spans[first][0], max(spans[last][1], example.end)
    left = min(left, example.start) if example.answered else left
    if not example.answered:
        return replace(example, passage=example.passage[left:right])
    return replace(example, passage=example.passage[left:right], start=example.start - left, end=example.end - left)
