"""A refresh's report → the file that remembers the last one of a collection, whoever ran it, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.publish import collection_folder
from ingest.types import Report

NAME = "REFRESHED.json"  # beside CURRENT; may be deleted at any time
MOST_FILES = 1000  # listed by name; the counts are always whole
STATES = ("added", "changed", "moved", "removed", "failed", "unchanged")


def keep(report: Report, index: Path) -> None:
    """Remember `report` as the last one of its collection. A disk that cannot take it loses nothing but the memory of this run."""
    listed = [dataclasses.asdict(each) for each in report.files if each.status != "unchanged"][:MOST_FILES]
    body = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": report.version,
        "seconds": report.seconds,
        "passages": report.passages,
        "warnings": list(report.warnings),
        **{state: report.count(state) for state in STATES},
        "related": [dataclasses.asdict(each) for each in report.related[:MOST_FILES]],
        "files": listed,
    }
    path = collection_folder(index, report.collection) / NAME
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{NAME}.part")
        part.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
        part.replace(path)


def last(index: Path, collection: str) -> dict[str, Any] | None:
    """What the last refresh did: counts by state, `files` without the unchanged, `finished` (ISO, UTC); None where none is known."""
    try:
        body = json.loads((collection_folder(index, collection) / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) and isinstance(body.get("files"), list) else None


def forget(index: Path, collection: str) -> None:
    """Remove it: after a purge it must not name what was erased."""
    (collection_folder(index, collection) / NAME).unlink(missing_ok=True)
