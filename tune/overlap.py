"""Training triples + measured question sets → what they share: questions, documents by name, and long runs of words.

Nothing shared is the only good result: a score on questions that were trained on says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import DocumentUnreadable, UsageError
from tune.data import Triple

WORD = re.compile(r"\w+")
RUN_WORDS = 13  # words in a row that two texts hardly share by chance; the length used for language-model contamination reports
QUESTION_WORDS = 5  # shorter questions ("What is X?") are equal by chance


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one question set shares with the training file. All empty: nothing."""

    questions: tuple[str, ...]  # the same words in the same order
    documents: tuple[str, ...]  # a training group named like a document that the questions are about
    passages: tuple[str, ...]  # openings of training passages with RUN_WORDS words in a row of a measured text
    texts: int  # measured texts compared

    @property
    def clean(self) -> bool:
        return not (self.questions or self.documents or self.passages)

    def as_json(self) -> dict[str, Any]:
        return {
            "questions": list(self.questions), "documents": list(self.documents), "passages": list(self.passages),
            "texts": self.texts, "clean": self.clean,
        }  # fmt: skip


def overlap(
    triples: Sequence[Triple], questions: Iterable[dict[str, Any]], read: Callable[[str], Iterable[str]] | None = None
) -> Overlap:
    """Compares `triples` with question lines (fields as in every question set: question, gold, related_doc).

    `read`: document name → its texts; without it only the gold texts that the questions carry are compared.
    """
    asked: set[str] = set()
    names: set[str] = set()
    texts: list[str] = []
    for row in questions:
        asked.add(plain(str(row["question"])))
        golds = [each for each in row.get("gold") or [] if isinstance(each, dict)]
        names.update(str(each["doc"]) for each in golds if each.get("doc"))
        if row.get("related_doc"):
            names.add(str(row["related_doc"]))
        texts.extend(str(each["text"]) for each in golds if each.get("text"))
    if read is not None:
        for name in sorted(names):
            texts.extend(read(name))
    runs = {run for text in texts for run in runs_of(text)}
    stems = {re.sub(r"[\W_]+", "", Path(name).stem).lower() for name in names}
    long_enough = {each.question for each in triples if len(plain(each.question).split()) >= QUESTION_WORDS}
    same_questions = sorted(each for each in long_enough if plain(each) in asked)
    groups = {each.group for each in triples}
    passages = [each for each in dict.fromkeys(each.passage for each in triples) if any(run in runs for run in runs_of(each))]
    return Overlap(
        tuple(same_questions),
        tuple(sorted(each for each in groups if re.sub(r"[\W_]+", "", each).lower() in stems)),
        tuple(" ".join(each.split())[:100] for each in passages),
        len(texts),
    )


def plain(text: str) -> str:
    """Lower-case words only."""
    return " ".join(WORD.findall(text.lower()))


def runs_of(text: str) -> Iterator[int]:
    """A hash of every run of RUN_WORDS words."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - RUN_WORDS + 1):
        yield hash(tuple(words[start : start + RUN_WORDS]))


def load_questions(path: Path) -> list[dict[str, Any]]:
    """The lines of a question set. Raises UsageError."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSONL file of questions.") from None
    if any("question" not in row for row in rows):
        raise UsageError(f"{path} has lines without a question.", "Give a JSONL file of questions.")
    return rows


def texts_in(folder: Path) -> Callable[[str], Iterable[str]]:
    """Document name → the text of its pages, for documents in `folder`; those that are absent or unreadable give nothing."""

    def read(name: str) -> Iterable[str]:
        from config import load
        from ingest.parse import parse

        path = folder / name
        if not path.is_file():
            return []
        try:
            return [page.text for page in parse(path, name, load()).pages]
        except DocumentUnreadable:
            return []

    return read
