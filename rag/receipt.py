"""Everything needed to replay an answer → one receipt in the records. `rag/replay.py` reads it again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from rag.place import code_version
from rag.types import Answer, Prompt, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.publish import Manifest
    from rag.evidence import Weights
    from records.store import Records

SECRET = ("server_key",)  # settings that never enter a receipt


@dataclass(frozen=True, slots=True)
class MadeWith:
    """What an answer was made with, beside its question: settings, index version, reader ("" without one), weights, passages kept."""

    settings: Settings
    manifest: Manifest
    reader: str
    weights: Weights
    keep: int


def receipt(
    answer: Answer, asked: str, history: Sequence[Turn], prompt: Prompt | None, document: str | None, made_with: MadeWith,
    records: Records, user: str, conversation: str = "",
) -> str:
    """Keep what the answer was made of; returns the receipt's id."""
    body: dict[str, Any] = {
        "question": asked,
        "searched": answer.question,
        "history": [{"role": turn.role, "content": turn.content} for turn in history],
        "collection": made_with.manifest.collection,
        "document": document,
        "keep": made_with.keep,
        "index_version": answer.index_version,
        "index_sha256": made_with.manifest.files["catalog.sqlite"]["sha256"],
        "passages": [each.as_json() for each in answer.hits],
        "prompt": {
            "name": prompt.name,
            "wording": prompt.wording,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            "tokens": len(prompt.tokens),
        }
        if prompt
        else None,
        "model": answer.model,
        "reader": made_with.reader,
        "weights": dataclasses.asdict(made_with.weights),
        "code": code_version(),
        "answer": answer.text,
        "found": answer.found,
        "stopped": answer.stopped,
        "notes": list(answer.notes),
        "sentences": [each.as_json() for each in answer.sentences],
        "citations": [each.as_json() for each in answer.citations],
        "settings": settings_json(made_with.settings),
        "timings": answer.timings,
        "usage": answer.usage,
        "currency": answer.currency,
    }
    return records.add_receipt(body, user, conversation)


def settings_json(settings: Settings) -> dict[str, Any]:
    """All settings but secrets; paths as text."""
    return {
        field.name: str(value) if isinstance(value, Path) else value
        for field in dataclasses.fields(settings)
        if field.name not in SECRET
        for value in [getattr(settings, field.name)]
    }
