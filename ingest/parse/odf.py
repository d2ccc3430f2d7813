"""An OpenDocument file → blocks (odt), sheets of records (ods) or a page a slide (odp).

Notes and comments follow their paragraph, labelled; deleted text of tracked changes is left out; charts give their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lxml import etree

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, lay_out, likely_header
from ingest.parse.office import Container, attribute, child, children, damaged, local
from ingest.parse.sheets import MAX_COLUMNS, MAX_REPEATS, sheet_blocks
from ingest.types import Page, ParsedDocument

MAX_DEPTH = 60  # lists, sections and tables inside each other
_FURNITURE = frozenset(("page-number", "date-time", "footer", "header"))


def read_odf(path: Path, kind: str) -> ParsedDocument:
    """The document at `path` (`kind`: odt, ods or odp); raises DocumentUnreadable("damaged")."""
    with Container(path) as container:
        tree = container.tree("content.xml")
        body = child(tree, "body")
        if tree is None or body is None:
            raise damaged("it has no content part")
        reader = _Reader(container, tree)
        pages: list[Page]
        if kind == "odp":
            pages = []
            for slide in body.iter():
                if local(slide) == "page":
                    pages.append(lay_out(reader.slide(slide), len(pages) + 1))
        elif kind == "ods":
            pages = [lay_out(reader.sheets(body))]
        else:
            main = child(body, "text")
            pages = [lay_out([*reader.blocks(main if main is not None else body), *reader.page_furniture()])]
        title, people, date = container.open_properties()
    return ParsedDocument(kind, title, tuple(pages), date, people)


class _Reader:
    """One open document; counts its notes."""

    def __init__(self, container: Container, tree: etree._Element) -> None:
        self._container = container
        self._titles = {"Title"}  # names of styles that are, or come from, the title style
        self._ordered: set[tuple[str, int]] = set()  # list style and level that is numbered
        for each in tree.iter():
            if local(each) == "style" and attribute(each, "parent-style-name") == "Title":
                self._titles.add(attribute(each, "name"))
        for root in (tree, container.tree("styles.xml") if container.has("styles.xml") else None):
            for each in root.iter() if root is not None else ():
                if local(each) == "list-style":
                    for level in children(each, "list-level-style-number"):
                        if attribute(level, "num-format") and attribute(level, "level").isdigit():
                            self._ordered.add((attribute(each, "name"), int(attribute(level, "level"))))

    def blocks(self, parent: Iterable[etree._Element], depth: int = 0) -> Iterator[Block]:
        if depth > MAX_DEPTH:
            return
        for each in parent:
            name = local(each)
            if name == "h":
                level = attribute(each, "outline-level")
                yield from self._paragraph(each, "heading", int(level) if level.isdigit() else 1, depth)
            elif name == "p":
                if attribute(each, "style-name") in self._titles:
                    yield from self._paragraph(each, "heading", 1, depth)
                else:
                    yield from self._paragraph(each, "paragraph", 0, depth)
            elif name == "list":
                yield from self._list(each, attribute(each, "style-name"), 1, depth)
            elif name == "table":
                yield from self._table(each, depth)
            elif name in (
                "section",
                "index-body",
                "table-of-content",
                "text-box",
                "frame",
                "custom-shape",
                "g",
                "bibliography",
                "illustration-index",
            ):
                yield from self.blocks(each, depth + 1)
            elif name == "object":
                yield from self._object(each)

    def _list(self, element: etree._Element, style: str, level: int, depth: int) -> Iterator[Block]:
        start = attribute(element, "start-value")
        number = int(start) - 1 if start.isdigit() else 0
        for item in children(element, "list-item", "list-header"):
            number += local(item) == "list-item"
            first = local(item) == "list-item"
            for part in item:
                if local(part) == "list":
                    if depth < MAX_DEPTH:
                        yield from self._list(part, attribute(part, "style-name") or style, level + 1, depth + 1)
                    continue
                for block in self.blocks(_alone(part), depth + 1):
                    if first and block.kind == "paragraph":
                        yield Block("item", f"{number}. {block.text}" if (style, level) in self._ordered else block.text)
                        first = False
                    else:
                        yield block

    def _paragraph(self, element: etree._Element, kind: str, level: int, depth: int) -> Iterator[Block]:
        parts: list[str] = []
        after: list[Block] = []
        self._inline(element, parts, after, depth)
        yield Block(kind, "".join(parts).strip(), level)
        yield from after

    def _inline(self, element: etree._Element, parts: list[str], after: list[Block], depth: int) -> None:
        parts.append(" ".join((element.text or "").split("\n")))
        for each in element:
            name = local(each)
            if name == "s":
                count = attribute(each, "c")
                parts.append(" " * min(int(count) if count.isdigit() else 1, 20))
            elif name == "tab":
                parts.append(" ")
            elif name == "line-break":
                parts.append("\n")
            elif name == "note":
                label = "Endnote" if attribute(each, "note-class") == "endnote" else "Footnote"
                after.append(Block("paragraph", f"{label}: {self.flat(child(each, 'note-body'), depth)}"))
            elif name == "annotation":
                facts = {local(part): clean_line(part.text or "") for part in children(each, "creator", "date")}
                author = ", ".join(filter(None, (facts.get("creator", ""), iso_date(facts.get("date")))))
                said = " ".join(filter(None, (self.flat(_alone(part), depth) for part in children(each, "p", "list"))))
                if said:
                    after.append(Block("paragraph", f"Comment ({author}): {said}" if author else f"Comment: {said}"))
            elif name in ("frame", "custom-shape", "g", "text-box", "rect", "object"):
                after.extend(self.blocks(_alone(each), depth + 1))
            elif name in ("annotation-end", "bookmark", "tracked-changes", "title", "desc"):
                pass
            elif depth < MAX_DEPTH:
                self._inline(each, parts, after, depth + 1)
            parts.append(" ".join((each.tail or "").split("\n")))

    def flat(self, element: Iterable[etree._Element] | None, depth: int = 0) -> str:
        """All text under `element` in one line."""
        said = []
        for block in self.blocks(element, depth + 1) if element is not None else ():
            if block.kind == "table":
                said.append("; ".join(", ".join(filter(None, map(clean_line, row))) for row in block.rows))
            else:
                said.append(clean_line(block.text))
        return " ".join(filter(None, said))

    def _table(self, table: etree._Element, depth: int) -> Iterator[Block]:
        rows = self.rows(table, spread=True, depth=depth)
        if len(rows) == 1 and len(rows[0]) == 1:
            for cell in table.iter():
                if local(cell) == "table-cell":
                    yield from self.blocks(cell, depth + 1)
                    return
        marked = any(local(part) == "table-header-rows" for part in table)
        yield Block("table", rows=rows, header=marked or likely_header(rows))

    def rows(self, table: etree._Element, spread: bool, depth: int = 0) -> list[list[str]]:
        """Texts of a table's cells. `spread` repeats a cell in the rows and columns it covers."""
        rows: list[list[str]] = []
        covered: dict[tuple[int, int], str] = {}
        for row in _table_rows(table):
            cells: list[str] = []
            for cell in children(row, "table-cell", "covered-table-cell"):
                repeat = attribute(cell, "number-columns-repeated")
                times = min(int(repeat), MAX_REPEATS) if repeat.isdigit() else 1
                text = self.flat(cell, depth)
                for note in children(cell, "annotation"):
                    said = " ".join(filter(None, (self.flat(_alone(part), depth) for part in children(note, "p"))))
                    if said:
                        text = f"{text} (comment: {said})".strip()
                if local(cell) == "covered-table-cell":
                    text = covered.get((len(rows), len(cells)), text)
                elif spread and text:
                    down, across = attribute(cell, "number-rows-spanned"), attribute(cell, "number-columns-spanned")
                    for y in range(min(int(down), 200) if down.isdigit() else 1):
                        for x in range(min(int(across), 50) if across.isdigit() else 1):
                            covered[(len(rows) + y, len(cells) + x)] = text
                if not text:
                    times = min(times, max(MAX_COLUMNS - len(cells), 1))
                cells.extend([text] * min(times, MAX_COLUMNS))
            while cells and not cells[-1] and not spread:
                cells.pop()
            repeat = attribute(row, "number-rows-repeated")
            times = min(int(repeat), MAX_REPEATS) if repeat.isdigit() and any(cells) else 1
            rows.extend([cells] * times)
        return rows

    def sheets(self, body: etree._Element) -> Iterator[Block]:
        for table in body.iter():
            if local(table) == "table" and local(table.getparent()) == "spreadsheet":
                found = list(sheet_blocks(self.rows(table, spread=False)))
                for shape in table.iter():
                    if local(shape) == "object":
                        found.extend(self._object(shape))
                if found:
                    yield Block("heading", clean_line(attribute(table, "name")), 1)
                    yield from found

    def slide(self, slide: etree._Element) -> Iterator[Block]:
        titles: list[Block] = []
        body: list[Block] = []
        notes: list[Block] = []
        for each in slide:
            kind = attribute(each, "class")
            if local(each) == "notes":
                said = " ".join(
                    filter(
                        None,
                        (self.flat(_alone(frame)) for frame in each if attribute(frame, "class") not in ("page", *_FURNITURE)),
                    )
                )
                if said:
                    notes.append(Block("paragraph", f"Notes: {said}"))
            elif local(each) == "annotation":
                said = " ".join(filter(None, (self.flat(_alone(part)) for part in children(each, "p"))))
                notes.append(Block("paragraph", f"Comment: {said}"))
            elif kind == "title":
                titles.append(Block("heading", self.flat(_alone(each)), 1))
            elif kind not in _FURNITURE:
                body.extend(self.blocks(_alone(each)))
                body.extend(Block("paragraph", part.text) for part in self._shape_text(each))
        yield from titles
        yield from body
        yield from notes

    def _shape_text(self, shape: etree._Element) -> Iterator[Block]:
        """Text written straight into a drawn shape."""
        if local(shape) not in ("frame", "custom-shape", "g"):
            yield from self.blocks(shape)

    def _object(self, element: etree._Element) -> Iterator[Block]:
        """An embedded chart's numbers."""
        target = attribute(element, "href").removeprefix("./").strip("/")
        tree = self._container.tree(f"{target}/content.xml") if target and self._container.has(f"{target}/content.xml") else None
        for table in tree.iter() if tree is not None else ():
            if local(table) == "table":
                yield Block("table", rows=self.rows(table, spread=False))

    def page_furniture(self) -> Iterator[Block]:
        """Headers and footers of pages, once each."""
        tree = self._container.tree("styles.xml") if self._container.has("styles.xml") else None
        seen: set[str] = set()
        for each in tree.iter() if tree is not None else ():
            if local(each) in ("header", "footer") and local(each.getparent()) == "master-page":
                said = self.flat(each)
                if sum(char.isalpha() for char in said) > 5 and said not in seen:
                    seen.add(said)
                    yield Block("paragraph", f"Page {local(each)}: {said}")


def _alone(element: etree._Element) -> list[etree._Element]:
    """One element as if it were the only child of its parent."""
    return [element]


def _table_rows(table: etree._Element) -> Iterator[etree._Element]:
    for each in table:
        if local(each) == "table-row":
            yield each
        elif local(each) in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _table_rows(each)
