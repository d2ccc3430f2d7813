"""HTML → title, date and blocks: headings, paragraphs, list items, code and tables in reading order.

Scripts, styles, navigation bars and hidden elements are left out; nothing is fetched and nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree, html

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, likely_header, spread

_DROPPED = frozenset("script style template noscript head iframe object embed applet svg canvas audio video select datalist nav".split())
_BLOCKS = frozenset(
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer form "
    "header hgroup html legend main menu ol p pre search section summary ul li h1 h2 h3 h4 h5 h6 hr option table tr td th "
    "caption thead tbody tfoot optgroup textarea".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_DATE_NAMES = frozenset(
    "date dc.date dcterms.date dcterms.modified dcterms.created article:published_time article:modified_time last-modified pubdate".split()
)
_AUTHOR_NAMES = frozenset("author dc.creator dcterms.creator".split())
_BREAK = "\x00"  # stands for <br> until lines are joined; never in a text that was read
MAX_SPAN = 100  # columns a cell may claim; a page can say colspan=1000000


@dataclass(frozen=True, slots=True)
class WebPage:
    """What one HTML text says."""

    blocks: list[Block]
    title: str
    date: str | None
    authors: tuple[str, ...]
    hidden: int  # elements left out because the page hides them


def read_html(text: str) -> WebPage:
    """Blocks of `text`; a page too deep for the parser gives none."""
    # A declared encoding contradicts a str that is already decoded; lxml refuses it.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text).replace("\x00", "")
    parser = html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(text, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):
        return WebPage([], "", None, (), 0)
    title, date, authors = "", None, []
    for element in root.iter("title"):
        title = clean_line(_inline(element))
        if title:
            break
    for element in root.iter("meta"):
        name = (element.get("name") or element.get("property") or element.get("itemprop") or "").lower()
        content = element.get("content") or ""
        if name in _DATE_NAMES and date is None:
            date = iso_date(content)
        elif name in _AUTHOR_NAMES and content.strip():
            authors.append(clean_line(content))
    walk = _Walk()
    walk.read(root)
    return WebPage(walk.blocks, title, date, tuple(authors), walk.hidden)


class _Walk:
    """One pass over a tree; `blocks` grows, `pending` is the inline text since the last block boundary."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.hidden = 0
        self.pending: list[str] = []
        self.lists: list[int | None] = []  # open lists: next number of an ordered one, None of an unordered one
        self.item = ""  # marker of the item whose text comes next
        self.items = 0  # open items
        self.marked = False  # the open item has not shown its marker yet
        self.heading = 0

    def read(self, root: etree._Element) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        skipped = None
        for event, element in walker:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "end":
                if element is not skipped:
                    self._close(tag)
                skipped = None
                if element is not root:
                    self.pending.append(_spaced(element.tail))
                continue
            hidden = _is_hidden(element)
            if hidden or tag in _DROPPED or not tag or element.get("role") == "navigation":
                self.hidden += hidden and any(text.strip() for text in element.itertext())
                if tag in _BLOCKS:
                    self._flush()
            elif tag == "table":
                self._flush()
                self._table(element)
            elif tag == "pre":
                self._flush()
                self.blocks.append(Block("code", _inline(element, keep_lines=True).strip("\n")))
            elif tag == "math":
                self.pending.append(_math(element))
            else:
                self._open(element, tag)
                continue
            skipped = element
            walker.skip_subtree()
        self._flush()

    def _open(self, element: etree._Element, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush()
        if tag in _HEADINGS:
            self.heading = _HEADINGS[tag]
        elif tag in ("ul", "menu", "dir"):
            self.lists.append(None)
        elif tag == "ol":
            start = element.get("start") or "1"
            self.lists.append(int(start) if start.lstrip("-").isdigit() and len(start) < 9 else 1)
        elif tag == "li":
            self.items += 1
            number = self.lists[-1] if self.lists else None
            self.item = "" if number is None else f"{number}. "
            self.marked = True
            if number is not None:
                self.lists[-1] = number + 1
        elif tag == "br":
            self.pending.append(_BREAK)
        elif tag == "img":
            text = clean_line(element.get("alt") or "")
            if text:
                self.pending.append(f" {text} ")
        elif tag == "input":
            if (element.get("type") or "").lower() == "checkbox":
                self.pending.append("[x] " if element.get("checked") is not None else "[ ] ")
            elif (element.get("type") or "text").lower() in ("text", "email", "number", "date"):
                self.pending.append(element.get("value") or "")
        elif tag == "q":
            self.pending.append('"')
        elif tag in ("sup", "sub"):
            inner = "".join(element.itertext()).strip()
            if tag == "sup" and re.fullmatch(r"[0-9]{1,3}", inner) and self.pending and self.pending[-1][-1:].isdigit():
                self.pending.append("^")  # 10² must not become 102
        self.pending.append(_spaced(element.text))

    def _close(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush()
        if tag in _HEADINGS:
            self.heading = 0
        elif tag in ("ul", "ol", "menu", "dir") and self.lists:
            self.lists.pop()
        elif tag == "li":
            self.items = max(0, self.items - 1)
            self.marked = False
        elif tag == "q":
            self.pending.append('"')

    def _flush(self) -> None:
        text = _lines("".join(self.pending))
        self.pending.clear()
        if text:
            if self.heading:
                self.blocks.append(Block("heading", text, self.heading))
            elif self.items and self.marked:
                self.marked = False
                self.blocks.append(Block("item", self.item + text, len(self.lists)))
            else:
                self.blocks.append(Block("paragraph", text))

    def _table(self, table: etree._Element) -> None:
        rows, header = table_rows(table)
        for caption in table.iterchildren("caption"):
            self.blocks.append(Block("paragraph", _inline(caption)))
        if not rows:
            return
        if max(len(row) for row in rows) == 1 or (len(rows) == 1 and not header):
            # One column or one row without a header is layout, not data: read what is inside as running text.
            for cell in _cells(table):
                inner = _Walk()
                inner.read(cell)
                self.blocks.extend(inner.blocks)
                self.hidden += inner.hidden
            return
        self.blocks.append(Block("table", rows=rows, header=header))


def table_rows(table: etree._Element) -> tuple[list[list[str]], bool]:
    """Rows of cells with row and column spans filled in, and whether the first row names the columns."""
    rows: list[list[str]] = []
    header = False
    open_spans: dict[int, tuple[int, str]] = {}  # column → rows still covered, text
    for index, row in enumerate(_rows(table)):
        cells: list[tuple[str, int]] = []
        column = 0
        all_heads = True
        waiting = list(row.iterchildren("td", "th"))
        while waiting or any(each >= column for each in open_spans):
            if column in open_spans:
                left, text = open_spans.pop(column)
                if left > 1:
                    open_spans[column] = (left - 1, text)
                cells.append((text, 1))
                column += 1
                continue
            if not waiting:
                cells.append(("", 1))
                column += 1
                continue
            cell = waiting.pop(0)
            all_heads = all_heads and cell.tag == "th"
            text = cell_text(cell)
            across, down = _span(cell, "colspan"), _span(cell, "rowspan")
            cells.append((text, across))
            for _ in range(across):
                if down > 1:
                    open_spans[column] = (down - 1, text)
                column += 1
        if index == 0:
            parent = row.getparent()
            header = (all_heads and bool(cells)) or (parent is not None and parent.tag == "thead")
        rows.append(spread(cells))
    return rows, header or likely_header(rows)


def cell_text(cell: etree._Element) -> str:
    """A cell as one line; a table inside it is read row by row."""
    walk = _Walk()
    walk.read(cell)
    parts = []
    for block in walk.blocks:
        if block.kind == "table":
            parts.append("; ".join(", ".join(filter(None, map(clean_line, row))) for row in block.rows))
        else:
            parts.append(clean_line(block.text))
    return " ".join(filter(None, parts))


def _rows(table: etree._Element) -> Iterator[etree._Element]:
    for child in table.iterchildren():
        if child.tag == "tr":
            yield child
        elif child.tag in ("thead", "tbody", "tfoot"):
            yield from child.iterchildren("tr")


def _cells(table: etree._Element) -> Iterator[etree._Element]:
    for row in _rows(table):
        yield from row.iterchildren("td", "th")


def _span(cell: etree._Element, name: str) -> int:
    text = cell.get(name) or "1"
    return min(max(int(text), 1), MAX_SPAN) if text.isdigit() and len(text) < 6 else 1


def _is_hidden(element: etree._Element) -> bool:
    return element.get("hidden") is not None or bool(_HIDDEN_STYLE.search(element.get("style") or ""))


def _inline(element: etree._Element, keep_lines: bool = False) -> str:
    parts = []
    for event, each in etree.iterwalk(element, events=("start", "end")):
        if event == "start":
            parts.append("\n" if each.tag == "br" else each.text or "")
        elif each is not element:
            parts.append(each.tail or "")
    text = "".join(parts)
    return text if keep_lines else " ".join(text.split())


def _math(element: etree._Element) -> str:
    """The formula's own source where it carries one, else its symbols in order."""
    for note in element.iter("annotation"):
        if "tex" in (note.get("encoding") or ""):
            return f" {_inline(note)} "
    return f" {_inline(element)} "


def _spaced(text: str | None) -> str:
    """Source text, whose line breaks mean no more than spaces."""
    return text.replace(_BREAK, " ") if text else ""


def _lines(text: str) -> str:
    """Spaces collapsed; the line breaks that remain are those the page asked for."""
    return "\n".join(" ".join(line.split()) for line in text.split(_BREAK)).strip()
