"""Rich text (rtf) → title, date, authors and blocks: headings by style, lists, tables, footnotes, characters of any code page.

Pictures, objects and the instructions of fields are left out; so are page headers and footers, where there is other text. pandoc's
reader was measured against this one: it reads every code page as Western European and loses the character after an escape, so it is
not used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ingest.parse.clean import clean, clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, likely_header
from ingest.parse.web import WebPage

_TOKEN = re.compile(rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|([^\\{}\r\n]+)|[\r\n]+")
_SKIPPED = frozenset(
    b"fonttbl colortbl pict object objdata themedata colorschememapping datastore latentstyles listtable listoverridetable "
    b"revtbl rsidtbl generator xmlnstbl fldinst bkmkstart bkmkend pgdsctbl filetbl template operator mmathPr wgrffmtfilter "
    b"private nonshppict shpinst atnid atntime atnref atrfstart atrfend annotation atnauthor sp footnotesep ftnsep aftnsep".split()
)
_MARGINS = {  # the last letter says on which pages
    **dict.fromkeys((b"header", b"headerl", b"headerr", b"headerf"), "header"),
    **dict.fromkeys((b"footer", b"footerl", b"footerr", b"footerf"), "footer"),
}
_BREAKS = frozenset(b"par sect page cell nestcell row nestrow".split())
_CHARACTER_WORDS = frozenset((b"f", b"u", b"uc"))
_READ = frozenset((b"shptxt", b"fldrslt"))  # readable parts of what is otherwise left out
_CHARACTERS = {
    b"emdash": "—", b"endash": "–", b"bullet": "•", b"lquote": "‘", b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”",
    b"emspace": " ", b"enspace": " ", b"qmspace": " ", b"tab": "\t", b"line": "\n", b"softline": "\n",
}  # fmt: skip
_SYMBOLS = {b"~": " ", b"_": "-", b"-": "", b"\\": "\\", b"{": "{", b"}": "}", b"\t": "\t"}
_CHARSETS = {
    0: "cp1252", 77: "mac-roman", 128: "cp932", 129: "cp949", 134: "gbk", 136: "big5", 161: "cp1253", 162: "cp1254",
    163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
}  # fmt: skip
_HEADING = re.compile(r"^(?:heading|überschrift|titre|título|titolo|kop|rubrik|nadpis|nagłówek|заголовок)\s*([1-9])", re.I)
_TITLE = re.compile(r"^(?:title|titel|titre|título)$", re.I)
_MARK = re.compile("^(?:[^\\w\\s]|o)$")
MAX_DEPTH = 1000  # groups inside groups


@dataclass(slots=True)
class _Group:
    """What a `{` saves and a `}` restores."""

    skipping: bool = False
    encoding: str = "cp1252"
    after_unicode: int = 1  # characters to leave out after \u, for programs that know no Unicode
    destination: str = ""  # "mark", "footnote", "style", "title", "author", "date", "header", "footer"


@dataclass(slots=True)
class _State:
    """Where the reader is. `blocks` grows."""

    blocks: list[Block] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    mark: str = ""  # bullet or number of the paragraph
    notes: list[str] = field(default_factory=list)
    note: list[str] = field(default_factory=list)
    in_table: bool = False  # the paragraph stands in a cell
    cells: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    style: int = -1
    outline: int = 0
    levels: dict[int, int] = field(default_factory=dict)  # style number → level of heading
    name: list[str] = field(default_factory=list)  # of the style being defined
    info: dict[str, str] = field(default_factory=dict)
    margins: dict[str, list[str]] = field(default_factory=dict)  # "header" and "footer" → what pages say there
    date: dict[bytes, int] = field(default_factory=dict)

    def end_paragraph(self) -> None:
        said = clean(_whole("".join(self.text))).strip()
        self.text.clear()
        if said:
            self.end_table()
            level = self.outline or self.levels.get(self.style, 0)
            mark = clean_line(self.mark)
            if level:
                self.blocks.append(Block("heading", f"{mark} {said}" if mark and not _MARK.match(mark) else said, level))
            elif mark:
                self.blocks.append(Block("item", said if _MARK.match(mark) else f"{mark} {said}"))
            else:
                self.blocks.append(Block("paragraph", said))
        self.mark = ""
        for note in self.notes:
            if clean_line(note):
                self.blocks.append(Block("paragraph", f"Footnote: {clean_line(note)}"))
        self.notes.clear()

    def end_table(self) -> None:
        if self.rows:
            self.blocks.append(Block("table", rows=[*self.rows], header=likely_header(self.rows)))
            self.rows.clear()


def read_rtf(data: bytes) -> WebPage:
    """What `data` says; text that is no rich text gives no blocks. Never raises."""
    state = _State()
    fonts, page = _fonts(data), "cp1252"
    stack: list[_Group] = []
    group = _Group()
    waiting = bytearray()  # bytes of a code page not decoded yet
    to_skip = 0

    def add(text: str) -> None:
        if group.destination == "mark":
            state.mark += text
        elif group.destination == "footnote":
            state.note.append(text)
        elif group.destination == "style":
            state.name.append(text)
        elif group.destination in ("title", "author"):
            state.info[group.destination] = state.info.get(group.destination, "") + text
        elif group.destination in ("header", "footer"):
            state.margins.setdefault(group.destination, []).append(text)
        elif group.destination != "date":
            state.text.append(text)

    def settle() -> None:
        if waiting:
            add(bytes(waiting).decode(group.encoding, "replace"))
            waiting.clear()

    for match in _TOKEN.finditer(data):
        word, number, code, symbol, brace, plain = match.groups()
        value = int(number) if number else None
        if brace == b"{":
            settle()
            if len(stack) < MAX_DEPTH:
                stack.append(_Group(group.skipping, group.encoding, group.after_unicode, group.destination))
        elif brace == b"}":
            settle()
            if stack:
                before, group = group, stack.pop()
                if before.destination == "footnote" and group.destination != "footnote":
                    state.notes.append("".join(state.note))
                    state.note.clear()
                elif before.destination == "style":
                    _define_style(state)
        elif word in _READ:
            group.skipping = False
        elif symbol == b"*":
            group.skipping = group.skipping or data[match.start() - 1 : match.start()] == b"{"  # elsewhere it means nothing
        elif group.skipping:
            continue
        elif word in _SKIPPED:
            group.skipping = True
        elif word in _MARGINS:
            settle()
            group.destination = _MARGINS[word]
        elif group.destination in ("header", "footer") and word in _BREAKS:
            settle()
            add(" ")
        elif group.destination in ("header", "footer") and word and word not in _CHARACTERS and word not in _CHARACTER_WORDS:
            continue  # how a header is set says nothing of the text after it
        elif word == b"ansicpg" and value is not None:
            page = group.encoding = _known(f"cp{value}")
        elif word == b"f" and value is not None:
            settle()
            group.encoding = fonts.get(value, page)
        elif word == b"uc" and value is not None:
            group.after_unicode = max(value, 0)
        elif word == b"u" and value is not None:
            settle()
            add(chr(value % 65536))
            to_skip = group.after_unicode
        elif word == b"stylesheet":
            group.destination = "style"
        elif word == b"info":
            group.destination = "date"  # nothing in it is text, but for what is named below
        elif word in (b"title", b"author") and group.destination == "date":
            group.destination = word.decode()
        elif word in (b"creatim", b"revtim") and group.destination == "date":
            state.date = {}
        elif word in (b"yr", b"mo", b"dy") and group.destination == "date" and value is not None:
            state.date.setdefault(word, value)
        elif word in (b"listtext", b"pntext"):
            group.destination = "mark"
        elif word == b"footnote":
            settle()
            group.destination = "footnote"
        elif word == b"pard":
            settle()
            state.style, state.outline, state.in_table = -1, 0, False
        elif word == b"intbl":
            settle()
            state.in_table = True
        elif word == b"s" and value is not None:
            state.style = value
        elif word == b"outlinelevel" and value is not None and group.destination != "style":
            state.outline = value + 1 if 0 <= value < 9 else 0
        elif word in (b"par", b"sect", b"page") and not group.destination:
            settle()
            if state.cells or state.in_table or word == b"page":
                add("\n")  # a paragraph's end inside a cell, the row's first one too
            else:
                state.end_paragraph()
        elif word in (b"cell", b"nestcell"):
            settle()
            state.cells.append(clean_line(" ".join(filter(None, (state.mark, _whole("".join(state.text)), *state.notes)))))
            state.text.clear()
            state.notes.clear()
            state.mark = ""
        elif word in (b"row", b"nestrow"):
            if state.cells:
                state.rows.append(state.cells)
            state.cells = []
        elif word in _CHARACTERS:
            settle()
            add(_CHARACTERS[word])
        elif code is not None:
            if to_skip:
                to_skip -= 1
            else:
                waiting.append(int(code, 16))
        elif symbol is not None:
            settle()
            add(_SYMBOLS.get(symbol, ""))
        elif plain is not None:
            if to_skip:
                plain, to_skip = plain[to_skip:], max(to_skip - len(plain), 0)
            waiting.extend(plain)
    settle()
    if state.cells:
        state.rows.append(state.cells)
    state.end_paragraph()
    state.end_table()
    if not any(block.text or any(map(any, block.rows)) for block in state.blocks):
        said = ((kind, clean_line(_whole("".join(parts)))) for kind, parts in state.margins.items())
        state.blocks.extend(Block("paragraph", f"Page {kind}: {text}") for kind, text in said if text)
    when = state.date
    date = iso_date(f"{when.get(b'yr', 0):04d}-{when.get(b'mo', 0):02d}-{when.get(b'dy', 0):02d}") if when else None
    author = clean_line(_whole(state.info.get("author", "")))
    return WebPage(state.blocks, clean_line(_whole(state.info.get("title", ""))), date, (author,) if author else (), 0)


def _define_style(state: _State) -> None:
    """One entry of the style sheet: its number was read as if a paragraph had it, its name as text."""
    name = clean_line("".join(state.name)).strip(" ;")
    state.name.clear()
    found = _HEADING.match(name)
    if state.style >= 0 and (found or _TITLE.match(name)):
        state.levels[state.style] = int(found.group(1)) if found else 1
    state.style = -1


def _whole(text: str) -> str:
    """Characters outside the first plane are written as two halves; here they become one."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _fonts(data: bytes) -> dict[int, str]:
    """Font number → encoding, out of the font table."""
    found: Any = re.findall(rb"\\f(\d{1,5})(?![a-z0-9])[^{}]{0,80}?\\fcharset(\d{1,3})", data[:200_000])
    return {int(number): _CHARSETS[int(charset)] for number, charset in found if int(charset) in _CHARSETS and int(charset) != 0}


def _known(encoding: str) -> str:
    try:
        b"".decode(encoding)
    except LookupError:
        return "cp1252"
    return encoding
