"""Thumbs in the records → lines of a question set: up gives a question with its answer and place, down one for a person to look at.

Personal data is covered in everything that is written out. A line with "review": true is not measured with until somebody has looked.
"""

from __future__ import annotations

from typing import Any

from evals.private import covered
from records import Feedback, Message, Records

KIND = "feedback"  # of the questions; refusals are reported by it


def feedback(records: Records, collection: str) -> list[dict[str, Any]]:
    """A question line for each thumb on an answer from `collection`, the oldest first; a thumb down without a word is left out."""
    lines = []
    for thumb in records.feedback():
        message = records.message(thumb.message, thumb.user)
        conversation = records.conversation(message.conversation, thumb.user) if message else None
        if message is None or message.answer is None or conversation is None or conversation.collection != collection:
            continue
        said = [each for each in records.messages(message.conversation, thumb.user) if each.id < message.id]
        if said and said[-1].role == "user" and (thumb.verdict == "up" or thumb.reason or thumb.note):
            lines.append(_line(thumb, message.answer, said, conversation.document))
    return lines


def _line(thumb: Feedback, answer: dict[str, Any], said: list[Message], document: str) -> dict[str, Any]:
    """`said` ends with the question."""
    *history, question = said
    plain: dict[str, Any] = {
        "question": question.text,
        "history": [{"role": each.role, "content": each.text} for each in history],
        **(_confirmed(answer) if thumb.verdict == "up" else _doubted(thumb, answer)),
    }
    line: dict[str, Any] = _covered(plain)
    if plain.get("gold") != line.get("gold") or plain.get("answers") != line.get("answers"):
        line["review"] = True  # what is covered is no longer what the document says
    return {
        "id": f"{KIND}-{thumb.message}", "kind": KIND, **{name: value for name, value in line.items() if value != []},
        **({"document": document} if document else {}),
    }


def _confirmed(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer's quotes as gold; for "the documents do not say", that this is right."""
    quotes = [" ".join(each["quote"].split()) for each in answer["citations"]]
    short = [each["key"] for each in answer["sentences"] if each.get("key")]
    return {
        "answers": list(dict.fromkeys([*short, *quotes])),
        "answerable": bool(answer["found"]),
        "gold": [{"doc": each["document"], "page": each["page"], "text": each["quote"]} for each in answer["citations"]],
    }


def _doubted(thumb: Feedback, answer: dict[str, Any]) -> dict[str, Any]:
    """What was answered and why it was not liked: no gold, before a person gives it one."""
    return {
        "review": True,
        "answered": answer["answer"],
        "cited": [{"doc": each["document"], "page": each["page"], "text": each["quote"]} for each in answer["citations"]],
        "reason": thumb.reason,
        "note": thumb.note,
    }


def _covered(value: Any) -> Any:
    """Personal data in any text inside is covered; names of documents stay, they are how a place is found."""
    if isinstance(value, str):
        return covered(value)
    if isinstance(value, list):
        return [_covered(each) for each in value]
    if isinstance(value, dict):
        return {name: each if name == "doc" else _covered(each) for name, each in value.items()}
    return value
