"""A Word file (docx, docm) → blocks. Footnotes, comments and text boxes follow the paragraph that carries them.

Deleted text (tracked changes) and text marked as hidden are left out. Page headers and footers come last, once, labelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, lay_out, likely_header, spread
from ingest.parse.office import Container, attribute, chart_rows, child, children, damaged, local, math_text
from ingest.types import ParsedDocument

_HEADING_NAME = re.compile(r"^(?:heading|überschrift|titre|título|titolo|kop|rubrik|overskrift)\s*([1-9])$", re.I)
_TITLE_NAMES = frozenset(("title", "titel", "titre", "título", "titolo"))
_ON = frozenset(("", "1", "true", "on"))
_ALT_NOISE = re.compile(r"\s*description automatically generated( with \w+ confidence)?\.?\s*$", re.I)
_BOXES = {ord("☒"): "[x]", ord("☑"): "[x]", ord("☐"): "[ ]"}
MAX_DEPTH = 40  # tables and boxes inside each other


@dataclass(slots=True)
class _Style:
    name: str = ""
    parent: str = ""
    outline: int | None = None  # 0 is the highest
    number: tuple[str, int] | None = None  # list id, level
    hidden: bool = False


@dataclass(slots=True)
class _Word:
    """What paragraphs refer to, and counters of numbered lists."""

    styles: dict[str, _Style]
    default: str
    levels: dict[tuple[str, int], tuple[str, str, int]]  # (list id, level) → format, text, start
    lists: dict[str, str]  # list id → its shared definition, whose counters it continues
    notes: dict[tuple[str, str], str]
    comments: dict[str, tuple[str, str]]
    charts: dict[str, list[list[str]]]
    counters: dict[str, list[int]] = field(default_factory=dict)
    hidden: int = 0
    fresh: set[str] = field(default_factory=set)


def read_word(path: Path) -> ParsedDocument:
    """The document at `path`; raises DocumentUnreadable("damaged")."""
    with Container(path) as container:
        main = container.main("word/document.xml")
        tree = container.tree(main)
        body = child(tree, "body")
        if tree is None or body is None:
            raise damaged("it has no document part")
        relations = container.relations(main)
        parts = dict(relations.values())
        word = _Word(*_styles(container.tree(parts.get("styles", ""))), *_numbering(container.tree(parts.get("numbering", ""))), {}, {}, {})
        for kind, label in (("footnotes", "footnote"), ("endnotes", "endnote")):
            notes = container.tree(parts.get(kind, ""))
            for note in children(notes, label) if notes is not None else ():
                if attribute(note, "type") not in ("separator", "continuationSeparator", "continuationNotice"):
                    word.notes[(label, attribute(note, "id"))] = _flat(note, word)
        comments = container.tree(parts.get("comments", ""))
        for comment in children(comments, "comment") if comments is not None else ():
            who = ", ".join(filter(None, (clean_line(attribute(comment, "author")), iso_date(attribute(comment, "date")))))
            word.comments[attribute(comment, "id")] = (who, _flat(comment, word))
        for identity, (kind, name) in relations.items():
            if kind == "chart":
                chart = container.tree(name)
                if chart is not None:
                    word.charts[identity] = chart_rows(chart)
        blocks = list(_blocks(body, word))
        seen: set[str] = set()
        for kind, name in sorted(relations.values()):
            if kind in ("header", "footer"):
                part = container.tree(name)
                text = _flat(part, word) if part is not None else ""
                if text and text not in seen and re.search(r"[^\W\d_]{2}", re.sub(r"(?i)\bpage\b|\bof\b", "", text)):
                    seen.add(text)
                    blocks.append(Block("paragraph", f"Page {kind}: {text}"))
        title, people, date = container.properties()
        warnings = [f"{word.hidden} hidden {'passage was' if word.hidden == 1 else 'passages were'} left out"] if word.hidden else []
        embedded = sum(1 for name in container.names() if "/embeddings/" in name and not name.endswith((".xlsx", ".xlsb")))
        if embedded:
            warnings.append(f"{embedded} embedded {'file was' if embedded == 1 else 'files were'} not read")
        if any(name.endswith("vbaproject.bin") for name in container.names()):
            warnings.append("macros were not read")
    return ParsedDocument("docx", title, (lay_out(blocks),), date, people, tuple(warnings))


def _flat(element: etree._Element, word: _Word) -> str:
    """All text under `element` in one line."""
    parts = []
    for block in _blocks(element, word):
        if block.kind == "table":
            parts.append("; ".join(", ".join(filter(None, map(clean_line, row))) for row in block.rows))
        else:
            parts.append(clean_line(block.text))
    return " ".join(filter(None, parts))


def _blocks(parent: etree._Element, word: _Word, depth: int = 0) -> Iterator[Block]:
    if depth > MAX_DEPTH:
        return
    for element in parent:
        name = local(element)
        if name == "p":
            yield from _paragraph(element, word, depth)
        elif name == "tbl":
            yield from _table(element, word, depth)
        elif name == "sdt":
            content = child(element, "sdtContent")
            if content is not None:
                yield from _blocks(content, word, depth + 1)
        elif name == "AlternateContent":
            choice = next(children(element, "Choice"), None)
            yield from _blocks(choice if choice is not None else element, word, depth + 1)
        elif name in ("customXml", "ins", "moveTo", "smartTag", "Fallback", "txbxContent", "body"):
            yield from _blocks(element, word, depth + 1)


def _paragraph(element: etree._Element, word: _Word, depth: int) -> Iterator[Block]:
    properties = child(element, "pPr")
    style = _value(properties, "pStyle") or word.default
    parts: list[str] = []
    after: list[Block] = []
    _inline(element, word, parts, after, depth)
    text = "".join(parts).translate(_BOXES)
    if text.strip():
        level = _heading_level(style, properties, word)
        number = _number(style, properties, word)
        if level:
            yield Block("heading", f"{number} {text}" if number and number != "-" else text, level)
        elif number:
            yield Block("item", text if number == "-" else f"{number} {text}")
        else:
            yield Block("paragraph", text)
    yield from after


def _inline(element: etree._Element, word: _Word, parts: list[str], after: list[Block], depth: int) -> None:
    """Text of a paragraph or run into `parts`; what hangs on it (notes, comments, boxes) into `after`."""
    for each in element:
        name = local(each)
        if name == "r":
            look = child(each, "rPr")
            if look is not None and any(_is_on(mark) for mark in children(look, "vanish")):
                word.hidden += any(local(text) == "t" and (text.text or "").strip() for text in each.iter())
                continue
            _inline(each, word, parts, after, depth)
        elif name == "t":
            parts.append(each.text or "")
        elif name in ("tab", "ptab"):
            parts.append(" ")
        elif name in ("br", "cr"):
            parts.append("\n" if attribute(each, "type") in ("", "textWrapping") else " ")
        elif name == "noBreakHyphen":
            parts.append("-")
        elif name == "sym":
            parts.append(_symbol(attribute(each, "char")))
        elif name in ("footnoteReference", "endnoteReference"):
            kind = name.removesuffix("Reference")
            note = word.notes.get((kind, attribute(each, "id")))
            if note:
                after.append(Block("paragraph", f"{kind.capitalize()}: {note}"))
        elif name == "commentReference":
            author, comment = word.comments.get(attribute(each, "id"), ("", ""))
            if comment:
                after.append(Block("paragraph", f"Comment ({author}): {comment}" if author else f"Comment: {comment}"))
        elif name in ("oMath", "oMathPara"):
            parts.append(f" {math_text(each)} ")
        elif name == "AlternateContent":
            choice = next(children(each, "Choice"), None)
            _inline(choice if choice is not None else each, word, parts, after, depth)
        elif name in ("drawing", "pict", "object"):
            _drawing(each, word, after, depth)
        elif name in (
            "hyperlink",
            "ins",
            "moveTo",
            "smartTag",
            "sdt",
            "sdtContent",
            "fldSimple",
            "customXml",
            "dir",
            "bdo",
            "Fallback",
            "ruby",
            "rubyBase",
        ):
            _inline(each, word, parts, after, depth)


def _drawing(element: etree._Element, word: _Word, after: list[Block], depth: int) -> None:
    """Text boxes, charts and the alternative texts of pictures."""
    if depth > MAX_DEPTH:
        return
    stack = [element]
    while stack:
        each = stack.pop()
        name = local(each)
        if name == "txbxContent":
            after.extend(_blocks(each, word, depth + 1))
            continue
        if name == "chart" and attribute(each, "id") in word.charts:
            rows = word.charts[attribute(each, "id")]
            if rows:
                after.append(Block("table", rows=rows))
        if name == "docPr":
            text = _ALT_NOISE.sub("", clean_line(attribute(each, "descr")))
            if len(text.split()) > 2:
                after.append(Block("paragraph", f"Image: {text}"))
        if name == "AlternateContent":
            choice = next(children(each, "Choice"), None)
            stack.append(choice if choice is not None else each[0] if len(each) else etree.Element("none"))
            continue
        stack.extend(reversed(each))


def _table(element: etree._Element, word: _Word, depth: int) -> Iterator[Block]:
    rows: list[list[str]] = []
    inside: list[Block] = []
    open_cells: dict[int, str] = {}
    header = False
    trs = list(_rows(element))
    for index, tr in enumerate(trs):
        cells: list[tuple[str, int]] = []
        column = 0
        properties = child(tr, "trPr")
        if index == 0 and properties is not None:
            header = any(_is_on(mark) for mark in children(properties, "tblHeader"))
        skipped = _value(properties, "gridBefore")
        if skipped.isdigit() and int(skipped) > 0:
            column = min(int(skipped), 100)
            cells.append(("", column))
        for tc in _cells(tr):
            look = child(tc, "tcPr")
            span = _value(look, "gridSpan")
            merge = child(look, "vMerge")
            found = list(_blocks(tc, word, depth + 1))
            if merge is not None and attribute(merge, "val") != "restart":
                text = open_cells.get(column, "")
            else:
                inside = found
                text = _cell_text(found)
                open_cells.pop(column, None)
                if merge is not None:
                    open_cells[column] = text
            width = min(int(span), 100) if span.isdigit() and int(span) > 1 else 1
            cells.append((text, width))
            column += width
        rows.append(spread(cells))
    if len(trs) == 1 and sum(1 for _ in _cells(trs[0])) == 1:
        yield from inside  # a frame around text
        return
    yield Block("table", rows=rows, header=header or likely_header(rows))


def _cell_text(blocks: list[Block]) -> str:
    parts = []
    for block in blocks:
        if block.kind == "table":
            parts.append("; ".join(", ".join(filter(None, map(clean_line, row))) for row in block.rows))
        else:
            parts.append(clean_line(block.text))
    return " ".join(filter(None, parts))


def _rows(table: etree._Element) -> Iterator[etree._Element]:
    for each in table:
        name = local(each)
        if name == "tr":
            yield each
        elif name in ("sdt", "sdtContent", "customXml", "ins", "moveTo"):
            yield from _rows(each)


def _cells(row: etree._Element) -> Iterator[etree._Element]:
    for each in row:
        name = local(each)
        if name == "tc":
            yield each
        elif name in ("sdt", "sdtContent", "customXml"):
            yield from _cells(each)


# -- styles and numbering --------------------------------------------------------------------------------------------


def _value(parent: etree._Element | None, name: str) -> str:
    found = child(parent, name)
    return attribute(found, "val") if found is not None else ""


def _is_on(mark: etree._Element) -> bool:
    return attribute(mark, "val") in _ON


def _styles(tree: etree._Element | None) -> tuple[dict[str, _Style], str]:
    styles: dict[str, _Style] = {}
    default = ""
    for each in children(tree, "style") if tree is not None else ():
        if attribute(each, "type") not in ("paragraph", ""):
            continue
        properties = child(each, "pPr")
        outline = _value(properties, "outlineLvl")
        identity = attribute(each, "styleId")
        styles[identity] = _Style(
            clean_line(_value(each, "name")),
            _value(each, "basedOn"),
            int(outline) if outline.isdigit() else None,
            _list_of(properties),
        )
        if attribute(each, "default") in ("1", "true"):
            default = identity
    return styles, default


def _list_of(properties: etree._Element | None) -> tuple[str, int] | None:
    numbering = child(properties, "numPr")
    if numbering is None:
        return None
    level = _value(numbering, "ilvl")
    return _value(numbering, "numId"), int(level) if level.isdigit() else 0


def _chain(style: str, word: _Word) -> Iterator[_Style]:
    seen: set[str] = set()
    while style in word.styles and style not in seen:
        seen.add(style)
        yield word.styles[style]
        style = word.styles[style].parent


def _heading_level(style: str, properties: etree._Element | None, word: _Word) -> int:
    own = _value(properties, "outlineLvl")
    if own.isdigit():
        return int(own) + 1 if int(own) < 9 else 0
    for each in _chain(style, word):
        if each.name.lower() in _TITLE_NAMES:
            return 1
        found = _HEADING_NAME.match(each.name)
        if found:
            return int(found.group(1))
        if each.outline is not None:
            return each.outline + 1 if each.outline < 9 else 0
    found = _HEADING_NAME.match(style) if style not in word.styles else None
    return int(found.group(1)) if found else 0


def _numbering(tree: etree._Element | None) -> tuple[dict[tuple[str, int], tuple[str, str, int]], dict[str, str]]:
    levels: dict[tuple[str, int], tuple[str, str, int]] = {}
    lists: dict[str, str] = {}
    if tree is None:
        return levels, lists
    shared: dict[str, dict[int, tuple[str, str, int]]] = {}
    for each in children(tree, "abstractNum"):
        shared[attribute(each, "abstractNumId")] = dict(_level(level) for level in children(each, "lvl"))
    for each in children(tree, "num"):
        identity, definition = attribute(each, "numId"), _value(each, "abstractNumId")
        found = dict(shared.get(definition, {}))
        own = False
        for override in children(each, "lvlOverride"):
            for level in children(override, "lvl"):
                found.update([_level(level)])
            start, at = _value(override, "startOverride"), attribute(override, "ilvl")
            if start.isdigit() and at.isdigit():
                own = True
                kind, text, _ = found.get(int(at), ("decimal", f"%{int(at) + 1}.", 1))
                found[int(at)] = (kind, text, int(start))
        lists[identity] = f"n{identity}" if own else f"a{definition}"
        for at_level, what in found.items():
            levels[(identity, at_level)] = what
    return levels, lists


def _level(level: etree._Element) -> tuple[int, tuple[str, str, int]]:
    start, at = _value(level, "start"), attribute(level, "ilvl")
    return int(at) if at.isdigit() else 0, (
        _value(level, "numFmt") or "decimal",
        _value(level, "lvlText"),
        int(start) if start.isdigit() else 1,
    )


def _number(style: str, properties: etree._Element | None, word: _Word) -> str:
    """The mark in front of a paragraph: "-" for a bullet, "2.1." for a number, "" for none. Counts."""
    found = _list_of(properties)
    if found is None or not found[0]:
        inherited = next((each.number for each in _chain(style, word) if each.number is not None), None)
        if inherited is not None:
            found = (inherited[0], found[1] if found else inherited[1])
    if found is None or found[0] in ("0", ""):
        names = [each.name.lower() for each in _chain(style, word)]
        return "-" if found is None and any(name.startswith("list bullet") for name in names) else ""
    identity, at = found
    kind, text, _ = word.levels.get((identity, at), ("bullet", "", 1))
    if kind in ("bullet", "none") or not text or "%" not in text:
        return "-" if kind != "none" or not text else text
    counters = word.counters.setdefault(word.lists.get(identity, identity), [])
    while len(counters) <= at:
        counters.append(word.levels.get((identity, len(counters)), ("", "", 1))[2] - 1)
    counters[at] += 1
    for deeper in range(at + 1, len(counters)):
        counters[deeper] = word.levels.get((identity, deeper), ("", "", 1))[2] - 1

    def shown(match: re.Match[str]) -> str:
        which = int(match.group(1)) - 1
        value = counters[which] if 0 <= which < len(counters) else 1
        return _figure(max(value, 1 if which < at else 0), word.levels.get((identity, which), ("decimal", "", 1))[0])

    return re.sub(r"%([1-9])", shown, text).strip()


def _figure(value: int, kind: str) -> str:
    if kind in ("lowerLetter", "upperLetter") and value > 0:
        letter = chr(ord("a") + (value - 1) % 26) * min((value - 1) // 26 + 1, 5)
        return letter if kind == "lowerLetter" else letter.upper()
    if kind in ("lowerRoman", "upperRoman") and 0 < value < 4000:
        roman = ""
        for size, sign in zip(
            (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "M CM D CD C XC L XL X IX V IV I".split(), strict=True
        ):
            while value >= size:
                roman += sign
                value -= size
        return roman.lower() if kind == "lowerRoman" else roman
    return str(value)


def _symbol(code: str) -> str:
    """A character of a symbol font; only those that mean something as text."""
    known = {"F0FE": "☒", "F0A8": "☐", "F0FC": "✓", "F0FB": "✗", "F06F": "☐", "F0E0": "→", "F0E8": "→"}
    return known.get(code.upper(), " ")
