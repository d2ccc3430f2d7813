"""Files sent by a browser → originals kept by the hash of their content. A client's file name is a label, never a path."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import time
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from config import Settings
from errors import UsageError
from ingest.publish import collection_folder, told_of_space
from ingest.types import SourceFile

SOURCE = "uploads"
CHUNK_BYTES = 1 << 20
LABEL_CHARACTERS = 400
PART_CHARACTERS = 150
_DRIVE = re.compile(r"^[A-Za-z]:")


def clean_label(name: str) -> str:
    """A client's file name as a relative path that is safe to show: no "..", no drive, no invisible characters."""
    text = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8")).replace("\\", "/")
    text = "".join(
        "" if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn") else each for each in _DRIVE.sub("", text)
    )
    parts = [part.strip()[-PART_CHARACTERS:] for part in text.split("/")]
    return "/".join(part for part in parts if part not in ("", ".", ".."))[-LABEL_CHARACTERS:].lstrip("/") or "unnamed"


def add(collection: str, label: str, stream: IO[bytes], settings: Settings) -> SourceFile:
    """Keeps the bytes of `stream` under `label`, replacing what had that label. Raises UsageError where it is too large."""
    shown = clean_label(label)
    folder = _folder(collection, settings)
    limit = settings.upload_mb * 1_000_000
    with told_of_space(folder):
        (folder / "blobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        arriving = folder / "blobs" / f".tmp-{uuid.uuid4().hex}"
        try:
            digest, size = hashlib.sha256(), 0
            with arriving.open("xb") as file:
                while part := stream.read(CHUNK_BYTES):
                    size += len(part)
                    if size > limit:
                        raise UsageError(
                            f"{shown} is larger than {settings.upload_mb} MB.",
                            "Raise upload_mb in footnote.toml, or ingest its folder.",
                        )
                    digest.update(part)
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            sha256 = digest.hexdigest()
            arriving.chmod(0o600)
            arriving.rename(folder / "blobs" / sha256)
        finally:
            arriving.unlink(missing_ok=True)
        with _labels(folder) as labels:
            before = labels.execute("SELECT sha256 FROM labels WHERE label = ?", (shown,)).fetchone()
            labels.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", (shown, sha256, size, time.time_ns()))
            if before is not None and before[0] != sha256:
                _drop_blob(folder, labels, before[0])
    return next(each for each in files(collection, settings) if each.path == shown)


def remove(collection: str, label: str, settings: Settings) -> bool:
    """Forgets an upload and erases its bytes unless another label has the same; says whether there was one."""
    folder = _folder(collection, settings)
    if not (folder / "uploads.sqlite").exists():
        return False
    with _labels(folder) as labels:
        row = labels.execute("SELECT sha256 FROM labels WHERE label = ?", (label,)).fetchone()
        if row is None:
            return False
        labels.execute("DELETE FROM labels WHERE label = ?", (label,))
        _drop_blob(folder, labels, row[0])
    return True


def files(collection: str, settings: Settings) -> list[SourceFile]:
    """All uploads of a collection, by label."""
    folder = _folder(collection, settings)
    if not (folder / "uploads.sqlite").exists():
        return []
    with _labels(folder) as labels:
        rows = labels.execute("SELECT label, sha256, size, added_ns FROM labels ORDER BY label").fetchall()
    return [SourceFile(SOURCE, label, folder / "blobs" / sha256, size, added, sha256) for label, sha256, size, added in rows]


def _folder(collection: str, settings: Settings) -> Path:
    return collection_folder(settings.uploads, collection)


@contextlib.contextmanager
def _labels(folder: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(folder / "uploads.sqlite", timeout=30)
    try:
        with database:
            database.execute("PRAGMA secure_delete = ON")
            database.execute(
                "CREATE TABLE IF NOT EXISTS labels "
                "(label TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, added_ns INTEGER NOT NULL)"
            )
            yield database
    finally:
        database.close()


def _drop_blob(folder: Path, labels: sqlite3.Connection, sha256: str) -> None:
    (used,) = labels.execute("SELECT count(*) FROM labels WHERE sha256 = ?", (sha256,)).fetchone()
    if not used:
        (folder / "blobs" / sha256).unlink(missing_ok=True)
