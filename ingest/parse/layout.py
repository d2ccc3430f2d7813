"""Blocks of any format (headings, paragraphs, items, tables) → one page of text with the offsets of its headings and tables.

Every format goes through here, so the same content gives the same text whatever file it came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingest.parse.clean import clean, clean_line
from ingest.types import Heading, Page, Table

_SPACES = re.compile(" {2,}")
MAX_HEADING_CHARS = 300  # a "heading" longer than this is a paragraph that somebody styled


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a document.

    `kind`: heading (with `level`), paragraph, item (of a list), code (lines kept), table (`rows`; the first names the
    columns when `header`), record (one row of a sheet: `rows` is names and values).
    """

    kind: str
    text: str = ""
    level: int = 0
    rows: Sequence[Sequence[str]] = ()
    header: bool = True


def lay_out(blocks: Iterable[Block], number: int | None = None) -> Page:
    """The page that `blocks` make. Empty blocks vanish; items, records and table rows take a line each."""
    parts: list[str] = []
    headings: list[Heading] = []
    tables: list[Table] = []
    length = 0
    last = ""
    for block in blocks:
        kind = block.kind
        if kind == "heading" and len(block.text) > MAX_HEADING_CHARS:
            kind = "paragraph"
        if kind == "table":
            text = table_text(block.rows)
            if text and " | " not in text:  # one column is a list of lines, not a table
                kind, text = "code", "\n".join(line[2:-2] for line in text.split("\n"))
        elif kind == "record":
            text = record_text(block.rows[0], block.rows[1])
        elif kind in ("heading", "item"):
            text = clean_line(block.text)
        else:
            text = clean(block.text).strip()
            if kind == "paragraph":
                text = _SPACES.sub(" ", text)
        if not text:
            continue
        if kind == "item":
            text = f"- {text}"
        if parts:
            joint = "\n" if kind == last and kind in ("item", "record") else "\n\n"
            parts.append(joint)
            length += len(joint)
        if kind == "heading":
            headings.append(Heading(length, min(max(block.level, 1), 9), text))
        elif kind == "table":
            header = text.split("\n", 1)[0] if block.header and "\n" in text else ""
            tables.append(Table(length, length + len(text), header))
        elif kind == "record":
            if last == "record":
                tables[-1] = Table(tables[-1].start, length + len(text))
            else:
                tables.append(Table(length, length + len(text)))
        parts.append(text)
        length += len(text)
        last = kind
    return Page(number, "".join(parts), tuple(headings), tuple(tables))


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as `| a | b |` lines; empty rows vanish, short rows are filled up."""
    cells = [[clean_line(cell).replace("|", "/") for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return ""
    width = max(len(row) for row in cells)
    used = [column for column in range(width) if any(column < len(row) and row[column] for row in cells)]
    return "\n".join("| " + " | ".join(row[column] if column < len(row) else "" for column in used) + " |" for row in cells)


def record_text(names: Sequence[str], values: Sequence[str]) -> str:
    """One row of a sheet: `Name: value | Name: value`; empty cells vanish, cells without a name stand alone."""
    parts = []
    for column, value in enumerate(values):
        value = clean_line(value)
        if value:
            name = clean_line(names[column]) if column < len(names) else ""
            parts.append(f"{name}: {value}" if name else value)
    return " | ".join(parts)


def likely_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table without marked headers names the columns: filled, and without figures."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    first = [clean_line(cell) for cell in rows[0]]
    filled = [cell for cell in first if cell]
    return len(filled) >= max(2, len(first) - 1) and not any(cell[:1].isdigit() and not cell.isalpha() and len(cell) > 4 for cell in filled)


def spread(cells: Sequence[tuple[str, int]]) -> list[str]:
    """A row of (text, columns it covers) with wide cells repeated, so that columns keep their names; a cell alone is not."""
    row: list[str] = []
    for text, width in cells:
        row.append(text)
        row.extend([text if len(cells) > 1 else ""] * (width - 1))
    return row
