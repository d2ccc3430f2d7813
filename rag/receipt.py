"""Everything needed to replay an answer → one receipt in the records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from rag.types import Answer, Prompt, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from records.store import Records

SECRET = ("server_key",)  # settings that never enter a receipt


def receipt(
    answer: Answer, asked: str, history: Sequence[Turn], prompt: Prompt | None, collection: str, document: str | None,
    settings: Settings, records: Records, user: str, conversation: str = "",
) -> str:
    """Keep what the answer was made of; returns the receipt's id."""
    body: dict[str, Any] = {
        "question": asked,
        "searched": answer.question,
        "history": [{"role": turn.role, "content": turn.content} for turn in history],
        "collection": collection,
        "document": document,
        "index_version": answer.index_version,
        "passages": [each.as_json() for each in answer.hits],
        "prompt": {
            "name": prompt.name,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            "tokens": len(prompt.tokens),
        }
        if prompt
        else None,
        "model": answer.model,
        "answer": answer.text,
        "found": answer.found,
        "sentences": [each.as_json() for each in answer.sentences],
        "citations": [each.as_json() for each in answer.citations],
        "settings": {
            field.name: str(value) if isinstance(value, Path) else value
            for field in dataclasses.fields(settings)
            if field.name not in SECRET
            for value in [getattr(settings, field.name)]
        },
        "timings": answer.timings,
        "usage": answer.usage,
    }
    return records.add_receipt(body, user, conversation)
