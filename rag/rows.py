"""A table row of a passage → the line a person reads, each value with its column's name; and whether a row is the header itself."""

from __future__ import annotations

import re

from ingest.sentences import is_row

YEAR = re.compile(r"\b(?:19|20)\d\d\b")


def header_of(text: str, start: int, context: str) -> str:
    """The header row of the table that the row at text[start:] belongs to; "" where the row is that header, or none is known.

    `context` holds the header of a table that began in an earlier passage, as a line of its own.
    """
    first = line = text.rfind("\n", 0, start) + 1
    while first:
        above = text.rfind("\n", 0, first - 1) + 1
        if not text.startswith("|", above):
            break
        first = above
    if first == 0 and not text[:start].strip("| \n"):
        carried = [each for each in context.splitlines() if each.startswith("|")]
        return carried[-1] if carried else ""
    if first == line:
        return ""
    if first == 0:
        carried = [each for each in context.splitlines() if each.startswith("|")]
        if carried:
            return carried[-1]
    return text[first : text.find("\n", first)]


def is_header(text: str, start: int, end: int, context: str) -> bool:
    """The row names columns: it opens a table of bars."""
    return text.startswith("|", start) and is_row(text, start, end) and not header_of(text, start, context)


def readable(text: str, start: int, end: int, context: str) -> str:
    """`| Berlin | 120 |` under `| City | Limit |` → "City: Berlin; Limit: 120"; other rows with their bars taken off.

    Under `| Operating activities | 2023 | 2022 |` a row is not called by the first cell: beside years that is the title of the first rows
    more often than the name of the column, and "Net increase in cash" is none of the operating activities.
    """
    row = text[start:end]
    if not row.startswith("|"):
        return "; ".join(cell.strip() for cell in row.split(" | ") if cell.strip())
    cells, names = _cells(row), _cells(header_of(text, start, context))
    if len(names) != len(cells):
        return "; ".join(cell for cell in cells if cell)
    if any(YEAR.search(name) for name in names[1:]):
        names[0] = ""
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=True) if cell)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")] if row else []
