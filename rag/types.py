"""The values that flow from a question to its answer, all frozen. `as_json` in each gives the contract's shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingest.types import Passage


@dataclass(frozen=True, slots=True)
class Turn:
    """One line of a conversation; role is "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found; a higher score is better, and scores of one list compare. `found_by`: keywords, meaning, both, tables."""

    passage: Passage
    score: float
    found_by: str
    similarity: float = 0.0  # cosine of question and passage, where the embedder saw it
    also: tuple[Passage, ...] = ()  # near-duplicates folded into this hit

    def as_json(self) -> dict[str, Any]:
        p = self.passage
        return {
            "document": p.document, "page": p.page, "section": p.section, "score": round(self.score, 6), "text": p.text,
            "title": p.title, "date": p.date, "newer": p.newer, "start": p.start, "end": p.end,
            "document_id": p.document_id, "passage_id": p.id, "found_by": self.found_by, "also": [each.location for each in self.also],
        }


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages for the chat template, the hits in numbered order (passage [1] is hits[0]), and the prompt's tokens."""

    messages: tuple[Turn, ...]
    hits: tuple[Hit, ...]
    tokens: tuple[int, ...]
    name: str  # prompt file and version, for the receipt
    wording: str = ""  # what the prompt file said, for the receipt


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote` stands at [start:end] of the stored text of that page of that document, always."""

    n: int
    passage: Passage
    quote: str
    start: int  # offset in the page's text
    end: int

    def as_json(self) -> dict[str, Any]:
        p = self.passage
        return {
            "n": self.n, "document": p.document, "page": p.page, "section": p.section, "quote": self.quote,
            "start": self.start, "end": self.end,
            "title": p.title, "date": p.date, "newer": p.newer, "document_id": p.document_id, "passage_id": p.id,
        }


@dataclass(frozen=True, slots=True)
class Sentence:
    """A checked sentence as shown. `how`: "quoted" (the source's words), "shortened", "written" (own words, supported), or "computed"
    (an amount from the table rows that it cites, with the calculation).

    `key` is the short answer, words of `text` that a reader marked; "" where there is none.
    """

    text: str
    citations: tuple[Citation, ...]
    how: str
    key: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "how": self.how, "key": self.key, "citations": [each.n for each in self.citations]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is shown and kept. `text` carries [n] after each sentence; not `found` means the documents do not say."""

    text: str
    sentences: tuple[Sentence, ...]
    found: bool
    hits: tuple[Hit, ...]
    model: str
    index_version: str
    timings: dict[str, float] = field(default_factory=dict)  # seconds by step
    usage: dict[str, float] = field(default_factory=dict)  # prompt_tokens, answer_tokens, cpu_seconds, cost (an estimate, in `currency`)
    currency: str = ""
    receipt: str = ""
    question: str = ""  # as searched, after condensing
    stopped: bool = False
    notes: tuple[str, ...] = ()  # "A newer version of this document exists: …"

    @property
    def citations(self) -> tuple[Citation, ...]:
        return tuple(each for sentence in self.sentences for each in sentence.citations)

    @property
    def how(self) -> str:
        """"quoted", "shortened", "written", "computed", "mixed", or "" where nothing was found."""
        kinds = {each.how for each in self.sentences}
        return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "answer": self.text, "found": self.found, "how": self.how,
            "citations": [each.as_json() for each in self.citations],
            "sentences": [each.as_json() for each in self.sentences],
            "passages": [each.as_json() for each in self.hits],
            "model": self.model, "index_version": self.index_version, "question": self.question,
            "timings": self.timings, "usage": self.usage, "currency": self.currency, "receipt": self.receipt, "notes": list(self.notes),
            "stopped": self.stopped,
        }
