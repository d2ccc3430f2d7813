"""A document's name → nothing of it left: no version, cache, upload or receipt. A file in a folder is not ours to delete."""

from __future__ import annotations

from typing import Any

from config import Settings
from errors import UsageError
from ingest import publish, uploads
from ingest.catalog import Catalog
from ingest.refresh import refresh


def purge(name: str, collection: str, settings: Settings) -> dict[str, Any]:
    """Erases one document and everything made of it; returns what was erased. Earlier versions go too, and with them rollback.

    `name` is the name shown or source/path. The same bytes are not read again while they lie in a folder.
    """
    version = publish.current(settings.index, collection)
    catalog = Catalog.open(version.folder / "catalog.sqlite")
    try:
        found = [each for each in catalog.documents() if name in (each.document, f"{each.source}/{each.path}")]
    finally:
        catalog.close()
    if len(found) != 1:
        what = "There is no document" if not found else f"There are {len(found)} documents"
        raise UsageError(
            f"{what} named {name!r} in {collection!r}.", "Name one as python -m ingest show or the library page does."
        )
    document = found[0]
    refresh([], collection, settings, purge=[f"{document.source}/{document.path}"])
    if document.source == uploads.SOURCE:
        uploads.remove(collection, document.path, settings)
    receipts = 0
    if settings.records.exists():
        from records.store import Records

        with Records(settings.records) as records:
            receipts = records.erase_document(collection, document.document)
    return {
        "document": document.document,
        "passages": document.passages,
        "receipts": receipts,
        "file": str(document.absolute) if document.source != uploads.SOURCE and document.absolute.exists() else None,
    }
