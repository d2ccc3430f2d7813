"""An e-book (epub) → title, date, authors and blocks of its chapters in reading order."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from errors import DocumentUnreadable
from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.decode import decode
from ingest.parse.layout import Block, lay_out
from ingest.parse.office import Container, attribute, damaged, local
from ingest.parse.web import read_html
from ingest.types import ParsedDocument

MAX_CHAPTERS = 5000  # files of one book


def read_epub(path: Path) -> ParsedDocument:
    """The book at `path`; raises DocumentUnreadable: damaged, encrypted."""
    with Container(path) as container:
        package = next(
            (attribute(each, "full-path") for each in _elements(container, "META-INF/container.xml", "rootfile")),
            next((name for name in container.names() if name.endswith(".opf")), ""),
        )
        if not container.has(package):
            raise damaged("it has no list of its chapters")
        folder = posixpath.dirname(package)
        items: dict[str, tuple[str, str]] = {}  # id → file, properties
        title, people, date = "", [], None
        spine: list[str] = []
        for each in _elements(container, package, "item", "itemref", "title", "creator", "date", "meta"):
            name = local(each)
            text = clean_line(each.text or "")
            if name == "item":
                target = posixpath.normpath(posixpath.join(folder, unquote(attribute(each, "href"))))
                items[attribute(each, "id")] = (target, attribute(each, "properties"))
            elif name == "itemref" and attribute(each, "linear") != "no":
                spine.append(attribute(each, "idref"))
            elif name == "title":
                title = title or text
            elif name == "creator" and text:
                people.append(text)
            elif name == "date" or (name == "meta" and attribute(each, "property") == "dcterms:modified"):
                date = date or iso_date(text)
        blocks: list[Block] = []
        for identity in spine[:MAX_CHAPTERS]:
            target, properties = items.get(identity, ("", ""))
            if container.has(target) and "nav" not in properties.split():
                blocks.extend(read_html(decode(container.read(target), declared=True)).blocks)
        if not blocks and container.has("META-INF/encryption.xml"):
            raise DocumentUnreadable("encrypted", "The book is locked by its publisher.", "Add an edition without copy protection.")
    return ParsedDocument("epub", title, (lay_out(blocks),), date, tuple(people))


def _elements(container: Container, part: str, *names: str) -> list:  # type: ignore[type-arg]
    tree = container.tree(part) if container.has(part) else None
    return [each for each in tree.iter() if local(each) in names] if tree is not None else []
