"""A document's name → nothing of it left: no version, cache, upload or receipt. A file in a folder is not ours to delete."""

from __future__ import annotations

from typing import Any

from config import Settings
from errors import UsageError
from ingest import publish, uploads
from ingest.catalog import Catalog
from ingest.refresh import refresh


def purge(name: str, collection: str, settings: Settings) -> dict[str, Any]:
    """Erases one document, what was unpacked from it, and everything made of them; returns what was erased. Earlier versions go too,
    and with them rollback.

    `name` is the name shown or source/path. The same bytes are not read again while they lie in a folder.
    """
    version = publish.current(settings.index, collection)
    catalog = Catalog.open(version.folder / "catalog.sqlite")
    try:
        documents = catalog.documents()
    finally:
        catalog.close()
    found = [each for each in documents if name in (each.document, f"{each.source}/{each.path}")]
    if len(found) != 1:
        what = "There is no document" if not found else f"There are {len(found)} documents"
        raise UsageError(
            f"{what} named {name!r} in {collection!r}.", "Name one as python -m ingest show or the library page does."
        )
    document = found[0]
    erased = [document, *(each for each in documents if each.source == document.source and document.absolute in each.absolute.parents)]
    refresh([], collection, settings, purge=[f"{each.source}/{each.path}" for each in erased])
    if document.source == uploads.SOURCE:
        uploads.remove(collection, document.path, settings)
    receipts = 0
    if settings.records.exists():
        from records.store import Records

        with Records(settings.records) as records:
            receipts = sum(records.erase_document(collection, each.document) for each in erased)
    place = next((each for each in (document.absolute, *document.absolute.parents) if each.is_file()), None)
    return {
        "document": document.document,
        "passages": sum(each.passages for each in erased),
        "receipts": receipts,
        "file": str(place) if document.source != uploads.SOURCE and place else None,
    }
