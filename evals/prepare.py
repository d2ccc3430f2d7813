"""Folder of documents or name of a collection → an open index and the answerer of the app, the same that people are served by."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import Settings
from evals.units import StoredPage
from ingest.embed import Embedder
from ingest.open import Index, open_index
from ingest.refresh import refresh

GENERIC = ("docs", "documents", "files", "data")  # a folder so called takes its parent's name


def folder_name(docs: Path) -> str:
    """A collection's name from a folder: its own name, or its parent's where it is called "docs"."""
    docs = docs.resolve()
    name = docs.parent.name if docs.name.lower() in GENERIC and docs.parent.name else docs.name
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name).strip("-") or "evaluation"


def place(settings: Settings, docs: Path | None, index: Path | None, collection: str | None) -> tuple[Settings, str]:
    """Where the index of an evaluation lies, and its collection. A folder given with --docs stays apart from the app's."""
    if docs is None:
        where = index or settings.index
        return dataclasses.replace(settings, index=where), collection or settings.collection
    where = index or settings.home / "evals" / "indexes"
    where.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(settings, index=where), collection or folder_name(docs)


@contextmanager
def opened(settings: Settings, collection: str, docs: Path | None, embedder: Embedder) -> Iterator[Index]:
    """The collection's index, brought up to date with `docs` first where a folder is given."""
    if docs is not None:
        report = refresh([(folder_name(docs), docs)], collection, settings, embedder=lambda: embedder)
        failed = [each for each in report.files if each.status == "failed"]
        if failed:
            first = f"{failed[0].document} – {failed[0].reason}"
            print(f"{len(failed)} of {len(report.files)} files could not be read, the first: {first}", file=sys.stderr)
    index = open_index(settings.index, collection, embedder.name)
    try:
        yield index
    finally:
        index.close()


def stored_pages(index: Index) -> list[StoredPage]:
    """Every page of every readable document, as stored."""
    pages = []
    for document in index.catalog.documents():
        if document.status != "ready":
            continue
        for page in index.catalog.pages(document.id):
            pages.append(StoredPage(document.document, page.number, page.text))
    return pages
