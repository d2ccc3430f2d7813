"""The stored text of a page and the quoted spans → blocks to draw: headings, paragraphs, list items, table rows.

Offsets are cut here and not in the browser, because a browser counts some characters twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WINDOW_CHARS = 12_000  # drawn around the quote of a long document; more makes the page slow to scroll and to send


def blocks(
    text: str, headings: Sequence[dict[str, Any]], spans: Sequence[tuple[int, int]], window: int = WINDOW_CHARS
) -> tuple[list[dict[str, Any]], int, int]:
    """Blocks of the part of `text` around the spans, and how many characters before and after it are left out.

    A block is {"kind": "heading", "level", "pieces"}, {"kind": "para"|"item", "pieces"} or {"kind": "row", "cells", "header",
    "marked"}; pieces are [text, marked] and joined they are the line.
    """
    first, last = _window(text, spans, window)
    levels = {int(each["start"]): int(each.get("level", 2)) for each in headings}
    found: list[dict[str, Any]] = []
    start, in_table = first, False
    for line in text[first:last].split("\n"):
        end = start + len(line)
        if not line.strip():
            in_table = False
        elif start in levels:
            found.append({"kind": "heading", "level": min(6, max(1, levels[start])), "pieces": _pieces(text, start, end, spans)})
            in_table = False
        elif line.startswith("|") and line.rstrip().endswith("|") and len(line) > 1:
            cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
            if not all(cell and not cell.strip("-: ") for cell in cells):
                marked = any(begin < end and stop > start for begin, stop in spans)
                found.append({"kind": "row", "cells": cells, "header": not in_table, "marked": marked})
            in_table = True
        else:
            kind = "item" if line.startswith("- ") else "para"
            found.append({"kind": kind, "pieces": _pieces(text, start, end, spans)})
            in_table = False
        start = end + 1
    return found, first, len(text) - last


def _pieces(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> list[list[Any]]:
    cuts = sorted({start, end, *(cut for span in spans for cut in span if start < cut < end)})
    return [[text[a:b], any(begin <= a and b <= stop for begin, stop in spans)] for a, b in zip(cuts, cuts[1:], strict=False)]


def _window(text: str, spans: Sequence[tuple[int, int]], window: int) -> tuple[int, int]:
    if len(text) <= window:
        return 0, len(text)
    begin = min((span[0] for span in spans), default=0)
    stop = max((span[1] for span in spans), default=0)
    first, last = max(0, begin - window // 3), min(len(text), max(stop, begin) + 2 * window // 3)
    # whole lines only, so that a heading stays a heading
    first = text.rfind("\n", 0, first) + 1
    end = text.find("\n", last)
    return first, len(text) if end < 0 else end
