"""An index folder and a collection → its published version, ready to search. What every reader calls."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from errors import IndexDamaged, IndexMismatch, IndexMissing
from ingest.catalog import Catalog
from ingest.embed import model_of
from ingest.publish import Lease, Manifest, Version, collection_folder, collections, current, faults, read_version, versions
from ingest.vectors import Vectors

__all__ = ["Index", "collections", "newest", "open_index"]


@dataclass(frozen=True, slots=True)
class Index:
    """A version held open; it stays on disk until `close`. `warnings` says where an older version had to be taken."""

    catalog: Catalog
    vectors: Vectors
    version: str
    manifest: Manifest
    folder: Path
    lease: Lease
    warnings: tuple[str, ...] = ()

    def close(self) -> None:
        self.catalog.close()
        self.lease.close()


def newest(index: Path, collection: str) -> str:
    """Name of the version that is published now; cheap, for noticing a new one. Raises IndexMissing, IndexDamaged."""
    return current(index, collection).name


def open_index(
    index: Path, collection: str, embedder_name: str | None = None, check: bool = True, version: str | None = None
) -> Index:
    """Opens the published version of `collection`, or the one named, if it is still kept. `check` compares every file with its hash.

    Where the newest version is damaged, the newest whole one before it is opened, and `warnings` says so.
    Raises IndexMissing, IndexDamaged, IndexTooNew, and IndexMismatch where `embedder_name` is not the one it was built with.
    """
    if version is not None:
        folder = collection_folder(index, collection) / "versions" / version
        if folder not in versions(index, collection):
            raise IndexMissing(f"Version {version} of {collection!r} is no longer kept.", "The setting keep_versions says how many are.")
        return _open(read_version(folder), embedder_name, check, ())
    try:
        return _open(current(index, collection), embedder_name, check, ())
    except IndexDamaged as damage:
        with contextlib.suppress(IndexDamaged):
            moved_on = current(index, collection)  # published, and the one before cleared away, since the pointer was read
            return _open(moved_on, embedder_name, check, ())
        for folder in reversed(versions(index, collection)):
            try:
                warning = f"{damage} Version {folder.name} is used meanwhile."
                return _open(read_version(folder), embedder_name, True, (warning,))
            except (IndexDamaged, IndexMissing):
                continue
        raise


def _open(version: Version, embedder_name: str | None, check: bool, warnings: tuple[str, ...]) -> Index:
    manifest = version.manifest
    if embedder_name is not None and manifest.embedder != embedder_name:
        raise IndexMismatch(
            f"The collection {manifest.collection!r} was built with {manifest.embedder}, but the settings name {embedder_name}.",
            f"Run: python -m ingest --collection {manifest.collection}"
            + ("" if model_of(manifest.embedder) == model_of(embedder_name) else " --force"),
        )
    lease = Lease(version)
    try:
        wrong = faults(version) if check else []
        if wrong:
            raise IndexDamaged(
                f"The index is damaged: {'; '.join(wrong)}.", f"Run: python -m ingest rollback --collection {manifest.collection}"
            )
        return Index(
            catalog=Catalog.open(version.folder / "catalog.sqlite"),
            vectors=Vectors.open(version.folder),
            version=version.name,
            manifest=manifest,
            folder=version.folder,
            lease=lease,
            warnings=warnings,
        )
    except BaseException:
        lease.close()
        raise
