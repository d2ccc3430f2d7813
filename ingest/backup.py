"""A collection → one tar file, and back. It holds the served version and the uploads, not the folders read."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import IO

from config import Settings
from errors import IndexDamaged, IndexTooNew, UsageError
from ingest import publish, uploads
from ingest.refresh import probe

MEMBERS = ("MANIFEST.json", *publish.FILES)
LARGEST_MANIFEST_BYTES = 1_000_000


def backup(target: Path, collection: str, settings: Settings) -> tuple[str, int]:
    """Writes the served version of `collection` and its uploads to `target`; returns the version's name and the file's bytes."""
    if target.exists():
        raise UsageError(f"{target} is already there.", "Choose another name; a backup never overwrites one.")
    version = publish.current(settings.index, collection)
    lease = publish.Lease(version)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        wrong = publish.faults(version)
        if wrong:
            raise IndexDamaged(
                f"The index is damaged: {'; '.join(wrong)}.", f"Run: python -m ingest rollback --collection {collection}"
            )
        with publish.told_of_space(target), tarfile.open(part, "x") as tar:
            for name in MEMBERS:
                tar.add(version.folder / name, f"index/{name}")
            sent = uploads.files(collection, settings)
            labels = json.dumps([[file.path, file.sha256] for file in sent], ensure_ascii=False).encode()
            entry = tarfile.TarInfo("uploads/labels.json")
            entry.size = len(labels)
            tar.addfile(entry, io.BytesIO(labels))
            for sha256, path in sorted({file.sha256: file.absolute for file in sent}.items()):
                tar.add(path, f"uploads/{sha256}")
        part.chmod(0o600)
        part.rename(target)
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename} is not there.", "Choose a folder that exists for the backup.") from None
    finally:
        part.unlink(missing_ok=True)
        lease.close()
    return version.name, target.stat().st_size


def restore(origin: Path, collection: str | None, settings: Settings) -> publish.Version:
    """Publishes what `origin` holds, as a new version of `collection` or of the one it was made from, and adds its uploads."""
    with contextlib.ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(origin, "r:"))
            body = _member(tar, "index/MANIFEST.json").read(LARGEST_MANIFEST_BYTES)
            manifest = publish.manifest_of(body)
        except IndexTooNew:
            raise IndexTooNew(f"{origin} was written by a newer Footnote.", "Update Footnote first.") from None
        except (tarfile.TarError, OSError, ValueError, KeyError) as error:
            raise UsageError(f"{origin} is not a backup that can be read ({error}).", "Name a file that backup wrote.") from None
        name = collection or manifest.collection
        stack.enter_context(publish.lock(settings.index, name))
        publish.sweep(settings.index, name)
        folder = publish.drafts(settings.index, name)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            with publish.told_of_space(folder):
                for each in publish.FILES:
                    with _member(tar, f"index/{each}") as content, (folder / each).open("xb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    if publish.file_sha256(folder / each) != manifest.files[each]["sha256"]:
                        raise IndexDamaged(f"{each} in {origin} is damaged.", "Use another backup.")
                labels = json.loads(_member(tar, "uploads/labels.json").read())
                for label, sha256 in labels:
                    uploads.add(name, label, _member(tar, f"uploads/{sha256}"), settings)
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise IndexDamaged(f"{origin} is damaged ({error}).", "Use another backup.") from None
        return publish.publish(
            settings.index, name, folder, dataclasses.replace(manifest, collection=name), keep=settings.keep_versions, probe=probe
        )


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """The content of a plain file of the archive; its own names and modes are never used."""
    content = tar.extractfile(tar.getmember(name))
    if content is None:
        raise KeyError(name)
    return content
