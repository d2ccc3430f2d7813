"""Plain text and its relatives (txt, json, xml, subtitles, AsciiDoc) → blocks.

Paragraphs of a plain text are typed by `unstructured` (titles, list items, prose), which reads no file and sends nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lxml import etree

from ingest.parse.clean import clean, clean_line
from ingest.parse.layout import Block

MAX_TYPED_CHARS = 2_000_000  # typing costs about 1 s a million characters; longer texts are paragraphs
_UNDERLINE = re.compile(r"^([=\-~#*^])\1{2,}$")
_LINE_ITEM = re.compile(r"^\s*(?:[-*•‣◦]|\(?[0-9]{1,3}[.)]|\(?[a-z][.)])\s+\S")
_SENTENCE_END = re.compile(r"[.!?:;,。！？…]['\")\]”’]*$")


def read_text(text: str, titles: bool = True) -> list[Block]:
    """Blocks of a plain text: an empty line ends a paragraph; underlined and (where `titles`) typed titles are headings."""
    text = clean(text)
    blocks: list[Block] = []
    typed = titles and len(text) <= MAX_TYPED_CHARS
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        if not lines:
            continue
        if len(lines) >= 2 and _UNDERLINE.match(lines[1].strip()) and len(lines[0]) <= 120:
            blocks.append(Block("heading", lines[0], 1 if lines[1].strip()[0] in "=#*" else 2))
            lines = lines[2:]
        if not lines:
            continue
        if all(_UNDERLINE.match(line.strip()) for line in lines):
            continue
        if _is_listing(lines):
            blocks.extend(_items(lines))
        elif len(lines) == 1:
            blocks.append(_single(lines[0], typed))
        elif _is_wrapped(lines):
            blocks.append(Block("paragraph", " ".join(line.strip() for line in lines)))
        else:
            blocks.append(Block("code", "\n".join(lines)))
    return _plausible(blocks)


def _is_listing(lines: list[str]) -> bool:
    marks = sum(bool(_LINE_ITEM.match(line)) for line in lines)
    return marks >= 1 and bool(_LINE_ITEM.match(lines[0])) and (marks > 1 or len(lines) == 1)


def _items(lines: list[str]) -> list[Block]:
    items: list[str] = []
    for line in lines:
        if _LINE_ITEM.match(line) or not items:
            items.append(line.strip())
        else:
            items[-1] += " " + line.strip()
    return [Block("item", re.sub(r"^[-*•‣◦]\s+", "", item)) for item in items]


def _is_wrapped(lines: list[str]) -> bool:
    """Lines broken by an editor at its margin, so that they are one paragraph: about as long as each other."""
    longest = max(len(line) for line in lines)
    if longest < 50:
        return False
    return all(len(line) >= 0.6 * longest for line in lines[:-1])


def _single(line: str, typed: bool) -> Block:
    line = line.strip()
    if typed and len(line) <= 100 and not _SENTENCE_END.search(line) and _is_title(line):
        return Block("heading", line, 2)
    return Block("paragraph", line)


def _is_title(line: str) -> bool:
    from ingest.parse.elements import paragraph_kind

    return len(line.split()) <= 12 and paragraph_kind(line) == "title"


def _plausible(blocks: list[Block]) -> list[Block]:
    """A text in which most paragraphs look like titles has none: it is a list of short lines."""
    headings = sum(block.kind == "heading" and block.level == 2 for block in blocks)
    if headings > 0.5 * len(blocks) or headings > 400:
        return [Block("paragraph", block.text) if block.kind == "heading" and block.level == 2 else block for block in blocks]
    return [
        Block("paragraph", block.text)
        if block.kind == "heading"
        and block.level == 2
        and (index + 1 == len(blocks) or (blocks[index + 1].kind == "heading" and index > 0))
        else block
        for index, block in enumerate(blocks)
    ]


def read_json(text: str) -> list[Block]:
    """JSON or JSON lines → one line a value, `path: value`; text that is no JSON stays as it is."""
    values: list[Any] = []
    try:
        values.append(json.loads(text))
    except (ValueError, RecursionError):
        for line in text.splitlines():
            if line.strip():
                try:
                    values.append(json.loads(line))
                except (ValueError, RecursionError):
                    return [Block("code", text)]
    blocks: list[Block] = []
    for value in values:
        lines: list[str] = []
        _flatten(value, lines)
        blocks.append(Block("code", "\n".join(lines)))
    return blocks


def _flatten(value: Any, lines: list[str]) -> None:
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, each = stack.pop()
        if isinstance(each, dict):
            stack.extend((f"{path}.{key}" if path else str(key), inner) for key, inner in reversed(each.items()))
        elif isinstance(each, list):
            stack.extend((path, inner) for inner in reversed(each))
        elif each is not None and str(each).strip():
            lines.append(f"{path}: {clean_line(str(each))}" if path else clean_line(str(each)))


def read_xml(data: bytes) -> list[Block]:
    """Text of an XML document, a line an element that has any. Entities are not resolved."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        return []
    lines = []
    for element in root.iter() if root is not None else ():
        for text in (element.text, element.tail):
            if isinstance(element.tag, str) and text and text.strip():
                lines.append(clean_line(text))
    return [Block("code", "\n".join(lines))]


_CUE = re.compile(r"^(?:\d+:)?\d{1,2}:\d{2}[.,]\d{3}\s*-->")
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")


def read_subtitles(text: str) -> list[Block]:
    """WebVTT or SubRip → what is said, a paragraph a speaker; times and styles are left out."""
    blocks: list[Block] = []
    speaker = ""
    said: list[str] = []

    def end() -> None:
        if said:
            blocks.append(Block("paragraph", f"{speaker}: {' '.join(said)}" if speaker else " ".join(said)))
            said.clear()

    for cue in re.split(r"\n\s*\n", clean(text)):
        lines = cue.split("\n")
        at = next((index for index, line in enumerate(lines) if _CUE.match(line.strip())), None)
        if at is None:
            if lines[0].startswith("NOTE"):
                end()
                blocks.append(Block("paragraph", clean_line(cue)))
            continue
        for line in lines[at + 1 :]:
            voice = _VOICE.search(line)
            if voice and voice.group(1) != speaker:
                end()
                speaker = clean_line(voice.group(1))
            line = clean_line(re.sub(r"<[^>]*>", "", line))
            if line:
                said.append(line)
        if len(said) > 8 and _SENTENCE_END.search(said[-1]):
            end()
    end()
    return blocks


def read_asciidoc(text: str) -> list[Block]:
    """AsciiDoc's commonest marks: headings, lists, tables, delimited blocks. Includes and macros are left as text."""
    blocks: list[Block] = []
    paragraph: list[str] = []
    table: list[str] | None = None
    fence = ""

    def end() -> None:
        if paragraph:
            blocks.append(Block("paragraph", " ".join(paragraph)))
            paragraph.clear()

    for line in clean(text).split("\n"):
        stripped = line.strip()
        if table is not None:
            if stripped.startswith("|==="):
                rows = _asciidoc_rows(table)
                blocks.append(Block("table", rows=rows))
                table = None
            else:
                table.append(stripped)
            continue
        if fence:
            if stripped == fence:
                blocks.append(Block("code", "\n".join(paragraph)))
                paragraph.clear()
                fence = ""
            else:
                paragraph.append(line)
            continue
        heading = re.match(r"^(={1,6})\s+(\S.*)$", line)
        item = re.match(r"^\s*(?:[*\-.]{1,5})\s+(\S.*)$", line)
        if stripped.startswith("|==="):
            end()
            table = []
        elif stripped in ("----", "....", "====", "****", "____", "++++") and stripped in ("----", "...."):
            end()
            fence = stripped
        elif heading:
            end()
            blocks.append(Block("heading", heading.group(2), len(heading.group(1))))
        elif item:
            end()
            blocks.append(Block("item", item.group(1)))
        elif not stripped or stripped in ("====", "****", "____", "++++", "+") or re.match(r"^\[[^\]]*\]$|^//", stripped):
            end()
        elif re.match(r"^:[\w-]+:", stripped):
            continue
        else:
            title = re.match(r"^\.(\S.*)$", line)
            paragraph.append(title.group(1) if title else stripped)
    end()
    return blocks


def _asciidoc_rows(lines: list[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    width = 0
    cells: list[str] = []
    for line in lines:
        if not line:
            continue
        found = [cell.strip() for cell in re.split(r"(?:\d+\+)?[aemshldv]?\|", line)[1:]]
        if not width and len(found) > 1:
            width = len(found)
        cells.extend(found)
        while width and len(cells) >= width:
            rows.append(cells[:width])
            cells = cells[width:]
    if cells:
        rows.append(cells)
    return rows
