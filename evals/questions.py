"""A JSONL file of questions with known answers → Questions, and the halves that choosing and reporting are kept apart by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UsageError

HALVES = ("tune", "report", "all")
FIELDS = "docs/measuring.md says which fields a question has."


@dataclass(frozen=True, slots=True)
class Gold:
    """A place that answers a question: a document and, where the set names them, its page (from 1), section or text."""

    document: str
    page: int | None = None
    section: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One line of a question set. `answers` are the accepted wordings, empty where "the documents do not say" is right."""

    id: str
    question: str
    answers: tuple[str, ...]
    answerable: bool
    gold: tuple[Gold, ...]
    kind: str = ""
    history: tuple[tuple[str, str], ...] = ()  # (role, content)
    document: str | None = None  # a glob: asked of these documents only
    related: str = ""  # document an unanswerable question is about, for the halves
    conversation: str = ""  # of a follow-up: the halves go by it
    rewrite: str = ""  # of a follow-up: the same question, asked so that it stands alone


def read(path: Path, where: Sequence[str] = ()) -> list[Question]:
    """The questions of `path`, in order, without those that wait for review. `where` keeps lines whose field holds a text.

    Raises UsageError naming the line that cannot be used.
    """
    wanted = [_condition(each) for each in where]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSONL file of questions, one object a line.") from None
    questions: list[Question] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if fields.get("review"):
                continue  # nobody has confirmed it yet
            if all(value in str(fields.get(name, "")) for name, value in wanted):
                questions.append(_question(fields, f"line {number}"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{path}, line {number} is no question: {error!r}.", FIELDS) from None
    if not questions:
        raise UsageError(f"{path} holds no question{' that fits --where' if where else ''}.", FIELDS)
    return questions


def from_lines(lines: Iterable[dict[str, Any]]) -> list[Question]:
    """Questions from objects as `evals make` gives them."""
    return [_question(each, f"line {number}") for number, each in enumerate(lines, 1)]


def half(questions: Iterable[Question], which: str) -> list[Question]:
    """The questions of one half: "tune" to choose settings with, "report" to say how good they are, or "all".

    A question goes with the hash of its document's name, so no document is on both sides and adding questions moves none.
    """
    if which not in HALVES:
        raise UsageError(f"There is no half named {which!r}.", f"Use one of: {', '.join(HALVES)}.")
    return [each for each in questions if which == "all" or half_of(each) == which]


def half_of(question: Question) -> str:
    """"tune" or "report". Questions about no document go by their id, those of one conversation by its name."""
    name = question.conversation or (question.gold[0].document if question.gold else question.related or question.id)
    return "tune" if hashlib.sha256(name.encode()).digest()[0] % 2 == 0 else "report"


def spread(questions: Sequence[Question], count: int | None) -> list[Question]:
    """`count` questions at even steps through the set, in order; all where there are no more, or `count` is None."""
    if count is None or count >= len(questions):
        return list(questions)
    return [questions[at * len(questions) // count] for at in range(count)]


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--where {text!r} has no '='.", "Write it as FIELD=TEXT.")
    return name, value


def _question(fields: dict[str, Any], fallback: str) -> Question:
    answers = fields.get("answers") or ([fields["answer"]] if fields.get("answer") else [])
    gold = tuple(
        Gold(
            str(each["doc"]),
            None if each.get("page") is None else int(each["page"]),
            str(each.get("section") or ""),
            str(each.get("text") or ""),
        )
        for each in fields.get("gold") or ()
    )
    scope = fields.get("document") or (gold[0].document if fields.get("scoped") and gold else None)
    return Question(
        id=str(fields.get("id", fallback)),
        question=str(fields["question"]),
        answers=tuple(str(each) for each in answers),
        answerable=bool(fields.get("answerable", True)),
        gold=gold,
        kind=str(fields.get("kind") or ""),
        history=tuple((str(each["role"]), str(each["content"])) for each in fields.get("history") or ()),
        document=None if scope is None else str(scope),
        related=str(fields.get("related_doc") or ""),
        conversation=str(fields.get("conversation") or ""),
        rewrite=str(fields.get("rewrite") or ""),
    )
