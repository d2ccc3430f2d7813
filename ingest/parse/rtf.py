"""Rich text (rtf) → blocks, without a converter: for files that pandoc refuses and for bodies of Outlook messages.

Knows paragraphs, tables, characters and code pages; styles, pictures and fields' instructions are left out.
"""

from __future__ import annotations

import re

from ingest.parse.clean import clean
from ingest.parse.layout import Block, likely_header

_TOKEN = re.compile(rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|([^\\{}\r\n]+)|[\r\n]+")
_SKIPPED = frozenset(
    b"fonttbl colortbl stylesheet info pict object objdata themedata colorschememapping datastore latentstyles listtable "
    b"listoverridetable revtbl rsidtbl generator xmlnstbl fldinst bkmkstart bkmkend header footer headerl headerr headerf "
    b"footerl footerr footerf pgdsctbl filetbl template operator author company mmathPr wgrffmtfilter private nonshppict "
    b"shpinst".split()
)
_CHARACTERS = {
    b"emdash": "—", b"endash": "–", b"bullet": "•", b"lquote": "‘", b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”",
    b"emspace": " ", b"enspace": " ", b"qmspace": " ", b"tab": " ", b"line": "\n", b"softline": "\n",
}  # fmt: skip
_CHARSETS = {
    0: "cp1252", 128: "cp932", 129: "cp949", 134: "gb2312", 136: "big5", 161: "cp1253", 162: "cp1254", 177: "cp1255",
    178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
}  # fmt: skip
MAX_DEPTH = 1000  # groups inside groups


def read_rtf(data: bytes) -> list[Block]:
    """Blocks of `data`; what is no rich text gives none. Never raises."""
    blocks: list[Block] = []
    text: list[str] = []
    waiting = bytearray()  # bytes of a code page not decoded yet
    cells: list[str] = []
    rows: list[list[str]] = []
    page = "cp1252"
    fonts = _fonts(data)
    stack: list[tuple[bool, str, int]] = []
    skipping, encoding, after_unicode = False, page, 1
    to_skip = 0

    def settle() -> None:
        if waiting:
            text.append(bytes(waiting).decode(encoding, "replace"))
            waiting.clear()

    def end_paragraph() -> None:
        settle()
        said = clean("".join(text)).strip()
        text.clear()
        if said:
            end_table()
            blocks.append(Block("paragraph", said))

    def end_table() -> None:
        if rows:
            blocks.append(Block("table", rows=[*rows], header=likely_header(rows)))
            rows.clear()

    for match in _TOKEN.finditer(data):
        word, number, code, symbol, brace, plain = match.groups()
        if brace == b"{":
            settle()
            if len(stack) < MAX_DEPTH:
                stack.append((skipping, encoding, after_unicode))
        elif brace == b"}":
            settle()
            if stack:
                skipping, encoding, after_unicode = stack.pop()
        elif symbol == b"*":
            skipping = True
        elif skipping:
            continue
        elif word in _SKIPPED:
            skipping = True
        elif word == b"ansicpg" and number:
            page = encoding = _known(f"cp{int(number)}")
        elif word == b"f" and number:
            settle()
            encoding = fonts.get(int(number), page)
        elif word == b"uc" and number:
            after_unicode = max(int(number), 0)
        elif word == b"u" and number:
            settle()
            value = int(number) % 65536
            text.append(chr(value))
            to_skip = after_unicode
        elif word in (b"par", b"sect", b"page"):
            if cells and word == b"par":
                text.append("\n")
            else:
                end_paragraph()
        elif word in (b"cell", b"nestcell"):
            settle()
            cells.append(clean("".join(text)).strip())
            text.clear()
        elif word in (b"row", b"nestrow"):
            if cells:
                rows.append(cells)
            cells = []
        elif word in _CHARACTERS:
            settle()
            text.append(_CHARACTERS[word])
        elif code is not None:
            if to_skip:
                to_skip -= 1
            else:
                waiting.append(int(code, 16))
        elif symbol is not None:
            settle()
            text.append({b"~": " ", b"_": "-", b"-": "", b"\\": "\\", b"{": "{", b"}": "}"}.get(symbol, ""))
        elif plain is not None:
            if to_skip:
                plain, to_skip = plain[to_skip:], max(to_skip - len(plain), 0)
            waiting.extend(plain)
    if cells:
        rows.append(cells)
    end_paragraph()
    end_table()
    # Characters outside the first plane are written as two halves.
    return [
        Block(
            block.kind,
            block.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
            block.level,
            block.rows,
            block.header,
        )
        for block in blocks
    ]


def _fonts(data: bytes) -> dict[int, str]:
    """Font number → encoding, out of the font table."""
    return {
        int(number): _CHARSETS[int(charset)]
        for number, charset in re.findall(
            rb"\\f(\d{1,5})[^{}\\]*(?:\\(?!fcharset)[a-z]+-?\d* ?)*\\fcharset(\d{1,3})", data[:200_000]
        )
        if int(charset) in _CHARSETS
    }


def _known(encoding: str) -> str:
    try:
        b"".decode(encoding)
    except LookupError:
        return "cp1252"
    return encoding
