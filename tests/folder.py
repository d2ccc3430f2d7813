"""A folder of text files, a collection made of it with quick stand-ins, and what that collection holds in comparable form."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import config
from ingest.open import Index, open_index
from ingest.refresh import refresh
from ingest.types import Report
from tests.fakes import TextReader, WordEmbedder

QUESTIONS = ("how many days of leave", "who pays for travel", "parental leave part-time", "pizza")


class Folder:
    """Files under `root`, indexed under `settings.index`. `reader.read` and `embedder.embedded` show what work was done."""

    KEPT = frozenset(  # what a finished run leaves in a collection's folder
        ("CURRENT", "LOCK", "embeddings.sqlite", "embeddings.sqlite-wal", "embeddings.sqlite-shm", "versions", "REFRESHED.json")
    )

    def __init__(self, place: Path, **settings: Any) -> None:
        self.root = place / "docs"
        self.root.mkdir(parents=True, exist_ok=True)
        self.settings = dataclasses.replace(config.Settings(), index=place / "indexes", home=place / "home", **settings)
        self.embedder = WordEmbedder()
        self.reader = TextReader()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def refresh(self, **options: Any) -> Report:
        """A run over the folder, named "docs"; `folders=[]` refreshes all that is known."""
        folders = options.pop("folders", [("docs", self.root)])
        collection = options.pop("collection", "default")
        settings = options.pop("settings", self.settings)
        return refresh(folders, collection, settings, embedder=lambda: self.embedder, reader=lambda: self.reader, **options)

    def open(self, collection: str = "default") -> Index:
        return open_index(self.settings.index, collection, self.embedder.name)

    def names(self) -> list[str]:
        index = self.open()
        try:
            return [each.document for each in index.catalog.documents()]
        finally:
            index.close()

    def litter(self) -> list[str]:
        """Files of the collection that no finished run leaves behind."""
        root = self.settings.index / "default"
        left = [each.name for each in root.iterdir() if each.name not in self.KEPT]
        return left + [each.name for each in (root / "versions").iterdir() if not each.name.startswith("v")]


def contents(index: Index, embedder: WordEmbedder) -> dict[str, Any]:
    """What a person would see of a collection: no numbers of rows, no times."""
    catalog, vectors = index.catalog, index.vectors
    documents, places = {}, {}
    for each in catalog.documents():
        documents[each.document] = (
            each.source,
            each.path,
            each.status,
            each.kind,
            each.title,
            each.pages,
            each.passages,
            each.tables,
            each.sha256,
            each.reason,
            [dataclasses.asdict(page) for page in catalog.pages(each.id)],
            [(p.page, p.section, p.context, p.start, p.end, p.text) for p in catalog.passages_of(each.id)],
        )
        places.update({p.id: (p.document, p.page, p.start) for p in catalog.passages_of(each.id)})
    found = {}
    for question in QUESTIONS:
        vector = embedder.questions([question])[0]
        found[question] = (
            sorted((places[number], round(score, 9)) for number, score in catalog.search_keywords(question, 1000)),
            sorted((places[number], round(score, 4)) for number, score in vectors.search(vector, 1000)),
        )
    return {"documents": documents, "found": found}
