"""A PDF file → pages of text. pdfium reads text and places; pypdf reads outline, properties, locks and attachments.

Lines that repeat at the top or bottom of pages are dropped; pages without text are read by OCR where it is installed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypdf
import pypdf.errors
import pypdfium2
import pypdfium2.raw as pdfium
from pypdf.generic import DictionaryObject

from config import Settings
from errors import DocumentUnreadable
from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import lay_out
from ingest.parse.lines import (
    COLUMN_GAP,
    MAX_RULES,
    SOFT_HYPHEN,
    Line,
    Look,
    Rules,
    Run,
    heading_key,
    lines_of,
    look_of,
    read_lines,
    rule_tables,
)
from ingest.parse.ocr import OCR_PAGE_S, ocr_available, ocr_runs
from ingest.types import Page, ParsedDocument

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every small fault of a file; they are not news
OUTLINE_ENTRIES = 2000  # read of an outline; a longer one is a machine's
PICTURE_SHARE = 0.05  # of the page; smaller pictures are logos
MANY_PATHS = 150  # text turned into outlines has a path a letter
MIN_PAGE_CHARS = 12  # fewer visible characters on a page that shows pictures: it is a scan with a stamp
OCR_SCALE = 200 / 72  # 200 dots an inch: the recogniser was trained on lines of about 30 dots
THIN, SHORT = 3.0, 8.0  # points: a rule is thinner and longer than these
MAX_OBJECTS = 6000  # of one page; more is a drawing, and looking at each costs more than its table is worth
LETTER_GAP = 1.5  # gap between two letters, in text heights, that no spaced-out word has
FIGURE_GAP = 0.5  # gap between two figures, in text heights, that divides columns of numbers set tight
ZONE = 0.13  # share of the page height in which running headers and footers stand
EDGE = 60.0  # points of the first and last text of a page that are looked at
REPEATS = 3  # pages that must share a line at one place before it is a running header
_SYMBOL_BULLETS = {
    0xF0B7: "•",
    0xF0A7: "▪",
    0xF0D8: "➢",
    0xF0FC: "✓",
    0xF076: "❖",
    0xF0A8: "▪",
    0xF06C: "●",
    0xF06E: "■",
    0xF071: "□",
}
_TOKEN = re.compile("[^\\s\ufffe\x02\u00ad]+")
_CUTS = "\ufffe\x02\u00ad"  # how pdfium marks a word that goes on in the next line
_FIGURE = re.compile(r"^[($€£-]*\d[\d.,]*[)%]*$")
_PAGE_NUMBER = re.compile(r"(?:page )?[-–—|\s]*#[-–—|\s]*(?:(?:of|/) ?#)?")
_LAM_ALEF = re.compile("[آأإا]ل")
_SCRIPT_CHANGE = re.compile("(?<=[\u0621-\u064a\u0671-\u06d3])(?=[A-Za-z])|(?<=[A-Za-z])(?=[\u0621-\u064a\u0671-\u06d3])")
_BOLD = re.compile(r"bold|black|heavy|semibold|demi", re.I)
_POOR_TITLE = re.compile(
    r"^(microsoft (word|powerpoint|excel)|untitled|slide ?1|document ?\d*|powerpoint presentation|presentation)\b"
    r"|\.(docx?|pdf|xlsx?|pptx?|indd|tex|rtf|qxd|od[tps])$",
    re.I,
)


# From page space (left, bottom, right, top; y upwards) to display space (x0, top, x1, bottom; y downwards).
_Place = Callable[[float, float, float, float], tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What pypdf knows of a file."""

    title: str = ""
    author: str = ""
    date: str | None = None
    outline: tuple[tuple[int, str], ...] = ()  # level, title
    attachments: tuple[str, ...] = ()
    forms: tuple[tuple[str, str], ...] = ()


def read_pdf(path: Path, settings: Settings, ask_time: Callable[[float], None] | None = None) -> ParsedDocument:
    """The document at `path`. `ask_time(seconds)` is told before slow work (OCR) that it needs so much more.

    Raises DocumentUnreadable: encrypted, damaged, scanned, empty.
    """
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        return _without_pdfium(path, settings, str(error))
    try:
        return _read(document, path, settings, ask_time)
    finally:
        document.close()


def _read(document: pypdfium2.PdfDocument, path: Path, settings: Settings, ask_time: Callable[[float], None] | None) -> ParsedDocument:
    warnings: list[str] = []
    facts = _facts(path, document, warnings)
    total = len(document)
    count = min(total, settings.max_pages)
    if count < total:
        warnings.append(f"only the first {count:,} of {total:,} pages were read")
    runs: list[list[Run]] = []
    sizes: list[tuple[float, float]] = []
    scans: list[int] = []
    broken = 0
    chars = 0
    for number in range(count):
        try:
            page = document[number]
        except pypdfium2.PdfiumError:
            broken += 1
            runs.append([])
            sizes.append((612.0, 792.0))
            continue
        found = page_runs(page)
        sizes.append((page.get_width(), page.get_height()))
        visible = sum(len(run.text) for run in found)
        chars += visible
        if visible < MIN_PAGE_CHARS and _has_picture(page):
            scans.append(number)
        runs.append(found)
        page.close()
        if chars > settings.max_chars:
            warnings.append(f"only the first {number + 1:,} of {total:,} pages were read: over {settings.max_chars:,} characters")
            break
    if broken:
        warnings.append(f"{_pages(broken)} could not be read: damaged")
    read_by_ocr = _read_scans(document, runs, scans, settings, warnings, ask_time)
    if not any(runs) and not facts.forms:
        _refuse(total, scans, broken)
    dropped = _running_lines(runs, sizes)
    if all(run.order in gone for found, gone in zip(runs, dropped, strict=True) for run in found):
        dropped = [set() for _ in runs]  # pages of one line each: it is what they say
    outline = {heading_key(title): level for level, title in reversed(facts.outline)}
    look = look_of(runs, outline)
    pages: list[Page] = []
    for number, found in enumerate(runs):
        kept = _without(found, dropped[number])
        pages.append(lay_out(read_lines(kept, look), number + 1))
    if facts.forms and pages:
        pages[-1] = _with_forms(pages[-1], facts.forms)
    empty = sum(1 for page in pages if not page.text) - broken
    if empty > 0:
        warnings.append(f"{_pages(empty)} {'has' if empty == 1 else 'have'} no text")
    warnings.extend(f"attachment {name} was not read" for name in facts.attachments)
    title = facts.title or _first_heading(pages)
    people = (facts.author,) if facts.author else ()
    return ParsedDocument("pdf", title, tuple(pages), facts.date, people, tuple(warnings), read_by_ocr)


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count:,} pages"


def _refuse(total: int, scans: Sequence[int], broken: int) -> None:
    if broken and broken == total:
        raise DocumentUnreadable("damaged", "None of its pages can be read.", "Open it and print it to a new PDF.")
    if scans:
        cure = "Run it through OCR and add the result." if ocr_available() else "Install rapidocr-onnxruntime, or run it through OCR."
        raise DocumentUnreadable("scanned", "Its pages are pictures and no text was recognised in them.", cure)
    raise DocumentUnreadable("empty", "Its pages hold no text.", "Leave it out, or replace it.")


# -- text and places -------------------------------------------------------------------------------------------------


def page_runs(page: pypdfium2.PdfPage) -> list[Run]:
    """Runs of a page as a reader sees it, rotation undone. Two pdfium calls a word; nothing per character."""
    textpage = page.get_textpage()
    try:
        text = page_text(textpage)
        if not text:
            return []
        words = _words(textpage.raw, text)
    finally:
        textpage.close()
    if not words:
        return []
    place = _turn(words, page)
    for word in words:
        word.x0, word.top, word.x1, word.bottom = place(word.x0, word.bottom, word.x1, word.top)
    wide, high = page.get_size()
    words = [  # outside the page; a box is as high as its font, which on a banner may be more than the page
        word for word in words if -wide < word.x0 < 2 * wide and -high < word.top < 2 * high and word.bottom - word.top < 2 * high
    ]
    runs = _runs(words)
    if sum(1 for line in lines_of(runs) if len(line.runs) > 1) < 2:
        return runs
    rules = _rules(page, place)
    if len(rules.down) > 1 and rules.across:
        runs = rule_tables(_runs(words, sorted(rules.down)), rules)
    return runs


def page_text(textpage: pypdfium2.PdfTextpage) -> str:
    """Characters of a page, one for each index pdfium knows; right-to-left ligatures put in order."""
    count = textpage.count_chars()
    if count <= 0:
        return ""
    text: str = textpage.get_text_range()
    if len(text) != count:
        text = "".join(chr(pdfium.FPDFText_GetUnicode(textpage.raw, index) or 32) for index in range(count))
    if _LAM_ALEF.search(text):
        box_of, one, two = pdfium.FPDFText_GetLooseCharBox, pdfium.FS_RECTF(), pdfium.FS_RECTF()
        chars = list(text)
        for match in _LAM_ALEF.finditer(text):
            at = match.start()
            # One glyph stands for both letters, and pdfium has turned them round with the line.
            if box_of(textpage.raw, at, one) and box_of(textpage.raw, at + 1, two) and one.left == two.left and one.right == two.right:
                chars[at], chars[at + 1] = chars[at + 1], chars[at]
        text = "".join(chars)
    return text


@dataclass(slots=True)
class _Word:
    x0: float
    top: float
    x1: float
    bottom: float
    text: str
    bold: bool
    vertical: bool  # more up or down than across
    upward: bool
    backward: bool = False  # its last letter stands left of its first
    cut: bool = False  # goes on in the next line


def _words(raw: Any, text: str) -> list[_Word]:
    """Words with boxes in page space (y upwards). The font is asked for at the ends of lines only."""
    box_of, flags = pdfium.FPDFText_GetLooseCharBox, ctypes.c_int()
    first, last = pdfium.FS_RECTF(), pdfium.FS_RECTF()
    first_at, last_at, flags_at = ctypes.byref(first), ctypes.byref(last), ctypes.byref(flags)
    name = ctypes.create_string_buffer(128)
    font_of, size = pdfium.FPDFText_GetFontInfo, len(name)
    weights: dict[bytes, bool] = {}
    words: list[_Word] = []
    bold = False
    fresh = True
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if not box_of(raw, start, first_at):
            continue
        left, right, top, bottom = first.left, first.right, first.top, first.bottom
        vertical = upward = backward = False
        if end - start > 1:
            if not box_of(raw, end - 1, last_at):
                continue
            end_left, end_right, end_top, end_bottom = last.left, last.right, last.top, last.bottom
            rise = abs(top + bottom - end_top - end_bottom)
            if rise > top - bottom and rise > abs(left + right - end_left - end_right):
                vertical, upward = True, end_top > top
            if end_left < left:
                left, backward = end_left, True
            if end_right > right:
                right = end_right
            if end_top > top:
                top = end_top
            if end_bottom < bottom:
                bottom = end_bottom
        after = text[end : end + 1]
        if fresh or after in "\r\n":
            font_of(raw, start, name, size, flags_at)
            found = weights.get(name.value)
            if found is None:
                found = weights[name.value] = bool(_BOLD.search(name.value.decode("latin-1")))
            if not fresh and bold and not found:
                _unembolden(words)
            bold = found
        fresh = after in "\r\n"
        word = _Word(left, top, right, bottom, match.group(), bold, vertical, upward, backward, after in _CUTS and after != "")
        if right - left > (end - start) * (top - bottom) and not vertical and not backward:
            words.extend(_apart(raw, start, word))
        else:
            words.append(word)
    return words


def _apart(raw: Any, start: int, word: _Word) -> list[_Word]:
    """`word`, which begins at character `start` and is too wide for its letters, cut where they stand apart.

    The crosses in a row of a table may be one string with wide letter spacing, in which pdfium sees no spaces.
    """
    box = pdfium.FS_RECTF()
    pieces: list[_Word] = []
    for at, char in enumerate(word.text):
        if not pdfium.FPDFText_GetLooseCharBox(raw, start + at, ctypes.byref(box)):
            return [word]
        if pieces and box.left - pieces[-1].x1 < LETTER_GAP * (word.top - word.bottom):
            pieces[-1].text += char
            pieces[-1].x1 = max(pieces[-1].x1, box.right)
        else:
            pieces.append(dataclasses.replace(word, x0=box.left, x1=box.right, text=char, cut=False))
    pieces[-1].cut = word.cut
    return pieces


def _unembolden(words: list[_Word]) -> None:
    """The line begins in bold and does not end in it: its words up to here count as mixed."""
    for word in reversed(words):
        if not word.bold:
            break
        word.bold = False


def _turn(words: Sequence[_Word], page: pypdfium2.PdfPage) -> _Place:
    """The way to display space in which most of the text runs left to right."""
    left, bottom, right, top = page.get_bbox()
    turn = 0  # the page's own rotation says how it is shown; the words say how they are read
    vertical = sum(len(word.text) for word in words if word.vertical)
    if vertical > 0.5 * sum(len(word.text) for word in words if len(word.text) > 1):
        upward = sum(word.upward for word in words if word.vertical)
        turn = 1 if 2 * upward > sum(word.vertical for word in words) else 3
    elif page.get_rotation() == 180 and 2 * sum(word.backward for word in words) > len(words):
        turn = 2
    if turn == 0:
        return lambda x0, y0, x1, y1: (x0 - left, top - y1, x1 - left, top - y0)
    if turn == 1:
        return lambda x0, y0, x1, y1: (y0 - bottom, x0 - left, y1 - bottom, x1 - left)
    if turn == 2:
        return lambda x0, y0, x1, y1: (right - x1, y0 - bottom, right - x0, y1 - bottom)
    return lambda x0, y0, x1, y1: (top - y1, right - x1, top - y0, right - x0)


def _rules(page: pypdfium2.PdfPage, place: _Place) -> Rules:
    """Straight lines drawn on a page: thin boxes, strokes, and the sides of stroked boxes."""
    count = pdfium.FPDFPage_CountObjects(page.raw)
    if count > MAX_OBJECTS:
        return Rules()
    across: list[tuple[float, float, float]] = []
    down: list[tuple[float, float, float]] = []
    sides = [ctypes.c_float() for _ in range(4)]
    pointers = [ctypes.byref(side) for side in sides]
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    for index in range(count):
        each = pdfium.FPDFPage_GetObject(page.raw, index)
        if pdfium.FPDFPageObj_GetType(each) != pdfium.FPDF_PAGEOBJ_PATH or not pdfium.FPDFPageObj_GetBounds(each, *pointers):
            continue
        x0, y0, x1, y1 = place(*(side.value for side in sides))
        if y1 - y0 < THIN and x1 - x0 > SHORT:
            across.append((x0, x1, (y0 + y1) / 2))
        elif x1 - x0 < THIN and y1 - y0 > SHORT:
            down.append(((x0 + x1) / 2, y0, y1))
        elif x1 - x0 > SHORT and y1 - y0 > SHORT:
            pdfium.FPDFPath_GetDrawMode(each, fill, stroke)
            if stroke.value:
                _sides(each, place, (x0, y0, x1, y1), across, down)
        if len(across) + len(down) > 4 * MAX_RULES:
            return Rules()
    return Rules(tuple(across), tuple(down))


def _sides(
    path: Any, place: _Place, box: tuple[float, float, float, float],
    across: list[tuple[float, float, float]], down: list[tuple[float, float, float]],
) -> None:  # fmt: skip
    """Horizontal and vertical parts of a stroked path: a box, or a grid drawn in one go."""
    count = pdfium.FPDFPath_CountSegments(path)
    if count > 4 * MAX_RULES:
        return
    matrix = pdfium.FS_MATRIX()
    pdfium.FPDFPageObj_GetMatrix(path, matrix)
    x, y = ctypes.c_float(), ctypes.c_float()
    before = start = (0.0, 0.0)
    for index in range(count):
        segment = pdfium.FPDFPath_GetPathSegment(path, index)
        pdfium.FPDFPathSegment_GetPoint(segment, x, y)
        point = (matrix.a * x.value + matrix.c * y.value + matrix.e, matrix.b * x.value + matrix.d * y.value + matrix.f)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            start = point
        elif kind == pdfium.FPDF_SEGMENT_LINETO:
            _add_rule(before, point, place, across, down)
        if pdfium.FPDFPathSegment_GetClose(segment):
            _add_rule(point, start, place, across, down)
        before = point


def _add_rule(
    one: tuple[float, float], two: tuple[float, float], place: _Place,
    across: list[tuple[float, float, float]], down: list[tuple[float, float, float]],
) -> None:  # fmt: skip
    x0, y0, x1, y1 = place(min(one[0], two[0]), min(one[1], two[1]), max(one[0], two[0]), max(one[1], two[1]))
    if y1 - y0 < THIN and x1 - x0 > SHORT:
        across.append((x0, x1, (y0 + y1) / 2))
    elif x1 - x0 < THIN and y1 - y0 > SHORT:
        down.append(((x0 + x1) / 2, y0, y1))


def _runs(words: Sequence[_Word], dividers: Sequence[tuple[float, float, float]] = ()) -> list[Run]:
    """Neighbouring words of a line as one run; a wide gap or one of the vertical `dividers` ends it."""
    runs: list[Run] = []
    parts: list[str] = []
    bold = True
    x0 = top = x1 = bottom = 0.0
    cut = False
    for word in words:
        height = word.bottom - word.top
        if parts and not cut:
            gap = word.x0 - x1
            tall = bottom - top
            limit = height if height < tall else tall
            apart = word.top + word.bottom - top - bottom
            level = -0.8 * tall < apart < 0.8 * tall or -0.8 * height < apart < 0.8 * height
            near = -0.5 * limit < gap < COLUMN_GAP * limit
            if near and gap > FIGURE_GAP * limit and _FIGURE.match(word.text) and _FIGURE.match(parts[-1]):
                near = False
            if not near and -COLUMN_GAP * limit < word.x1 - x0 < 0.5 * limit and gap < 0:
                near = _reads_left(word, parts)
            if near and level and dividers:
                near = not any(x1 - 1 <= x <= word.x0 + 1 and y0 <= (top + bottom) / 2 <= y1 for x, y0, y1 in dividers)
            if near and level:
                parts.append(word.text)
                x0, x1 = min(x0, word.x0), max(x1, word.x1)
                top, bottom = min(top, word.top), max(bottom, word.bottom)
                bold = bold and word.bold
                cut = word.cut
                continue
        if parts:
            runs.append(_run(x0, top, x1, bottom, parts, cut, bold, len(runs)))
        parts = [word.text]
        x0, top, x1, bottom, bold, cut = word.x0, word.top, word.x1, word.bottom, word.bold, word.cut
    if parts:
        runs.append(_run(x0, top, x1, bottom, parts, cut, bold, len(runs)))
    return runs


def _run(x0: float, top: float, x1: float, bottom: float, parts: Sequence[str], cut: bool, bold: bool, order: int) -> Run:
    text = " ".join(parts)
    if not text.isascii():
        text = _SCRIPT_CHANGE.sub(" ", text.translate(_SYMBOL_BULLETS))
    return Run(x0, top, x1, bottom, text + SOFT_HYPHEN if cut else text, bold, order)


def _reads_left(word: _Word, parts: Sequence[str]) -> bool:
    """Whether the text is written from right to left, so that the next word stands to the left."""
    return any("\u0590" <= char <= "\u08ff" or "\ufb1d" <= char <= "\ufeff" for char in word.text + parts[-1])


def _has_picture(page: pypdfium2.PdfPage) -> bool:
    """Whether the page shows a picture large enough to hold text, or so many drawn lines that they may be letters."""
    area = max(page.get_width() * page.get_height(), 1.0)
    paths = 0
    for each in page.get_objects(filter=(pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_PATH), max_depth=3):
        if each.type == pdfium.FPDF_PAGEOBJ_PATH:
            paths += 1
            if paths >= MANY_PATHS:
                return True
            continue
        left, bottom, right, top = each.get_bounds()
        if abs((right - left) * (top - bottom)) >= PICTURE_SHARE * area:
            return True
    return False


def _read_scans(
    document: pypdfium2.PdfDocument, runs: list[list[Run]], scans: Sequence[int], settings: Settings, warnings: list[str],
    ask_time: Callable[[float], None] | None,
) -> int:  # fmt: skip
    """Reads the pages `scans` by OCR into `runs`; how many gave text."""
    if not scans:
        return 0
    if not settings.ocr or not ocr_available():
        why = "without OCR" if not settings.ocr else "rapidocr-onnxruntime is not installed"
        warnings.append(f"{_pages(len(scans))} of pictures not read: {why}")
        return 0
    read = 0
    for number in scans:
        page = document[number]
        longest = max(page.get_width(), page.get_height(), 1.0)
        scale = min(OCR_SCALE, 3000 / longest)
        if ask_time is not None:
            ask_time(OCR_PAGE_S)
        image = page.render(scale=scale, grayscale=False).to_numpy()
        found = ocr_runs(image, scale)
        if found:
            runs[number] = found
            read += 1
        page.close()
    return read


# -- running headers and footers -------------------------------------------------------------------------------------


def _running_lines(runs: Sequence[Sequence[Run]], sizes: Sequence[tuple[float, float]]) -> list[set[int]]:
    """For each page, the `order` of runs that belong to running headers, footers and page numbers.

    Lines are taken from the edge inwards and only as long as each of them repeats: the head of a table that stands at one
    place on several pages, below titles that differ, is no running header.
    """
    placed: Counter[tuple[str, int, bool]] = Counter()  # text, place, top or foot
    anywhere: Counter[tuple[str, bool]] = Counter()
    edges: list[list[list[tuple[str, int, Line]]]] = []
    for found, (_, height) in zip(runs, sizes, strict=False):
        mine: list[list[tuple[str, int, Line]]] = []
        for is_top in (True, False):
            first, last = min((run.top for run in found), default=0.0), max((run.bottom for run in found), default=0.0)
            zone = [run for run in found if (run.top < first + EDGE if is_top else run.bottom > last - EDGE)]
            lines = lines_of(zone)
            inwards = [(_mark(line.text), round(line.top / 6), line) for line in (lines[:4] if is_top else lines[:-5:-1])]
            mine.append(inwards)
            for mark, place, line in inwards:
                anywhere[(mark, is_top)] += 1
                if line.bottom < ZONE * height if is_top else line.top > (1 - ZONE) * height:
                    for near in (-1, 0, 1):
                        placed[(mark, place + near, is_top)] += 1
        edges.append(mine)
    often = max(5, len(runs) // 4)
    dropped: list[set[int]] = []
    for found, mine in zip(runs, edges, strict=True):
        orders: set[int] = set()
        for is_top, inwards in zip((True, False), mine, strict=True):
            for mark, place, line in inwards:
                need = 2 if _PAGE_NUMBER.fullmatch(mark) else REPEATS
                if placed[(mark, place, is_top)] < need and anywhere[(mark, is_top)] < often:
                    break
                orders.update(_orders(line, found))
        dropped.append(orders)
    for number, order in _page_numbers(runs):
        dropped[number].add(order)
    return dropped


def _mark(text: str) -> str:
    """What the same running line has in common from page to page."""
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", text.lower())[:80]


def _page_numbers(runs: Sequence[Sequence[Run]]) -> list[tuple[int, int]]:
    """Page and `order` of figures alone in the last line, wherever that is, that count with the pages."""
    lone: list[tuple[int, int, int]] = []
    for number, found in enumerate(runs):
        lowest = max((run.bottom for run in found), default=0.0)
        last = [run for run in found if run.bottom > lowest - 3]
        if len(last) == 1 and len(found) > 1 and re.fullmatch(r"[-–— ]*\d{1,4}[-–— ]*", last[0].text):
            lone.append((number, last[0].order, int(re.sub(r"\D", "", last[0].text)) - number))
    offsets = Counter(offset for _, _, offset in lone)
    return [(number, order) for number, order, offset in lone if offsets[offset] >= REPEATS]


def _orders(line: Line, runs: Sequence[Run]) -> set[int]:
    """The runs of the page that make up `line` (some may have been joined)."""
    return {
        run.order
        for run in runs
        if run.top >= line.top - 0.5 and run.bottom <= line.bottom + 0.5 and run.x0 >= line.x0 - 0.5 and run.x1 <= line.x1 + 0.5
    }


def _without(runs: Sequence[Run], orders: set[int]) -> list[Run]:
    return [run for run in runs if run.order not in orders]


# -- what pypdf knows ------------------------------------------------------------------------------------------------


def _facts(path: Path, document: pypdfium2.PdfDocument, warnings: list[str]) -> _Facts:
    """Title, author, date, outline and attachments; a file that pypdf cannot follow has none."""
    try:
        with path.open("rb") as file:
            reader = pypdf.PdfReader(file, strict=False)
            if reader.is_encrypted:
                return _facts_by_pdfium(document)
            return _Facts(
                *_properties(reader),
                outline=tuple(_outline(reader)),
                attachments=tuple(_attachments(reader)),
                forms=tuple(_forms(reader)),
            )
    except pypdf.errors.DependencyError:  # AES needs a package that nothing else here needs
        return _facts_by_pdfium(document)
    except Exception as error:  # noqa: BLE001 - pypdf raises many types on mangled files; pdfium has read the text already
        warnings.append(f"outline and properties could not be read ({type(error).__name__})")
        return _Facts()


def _properties(reader: pypdf.PdfReader) -> tuple[str, str, str | None]:
    found = reader.metadata
    return _sensible({str(key).lstrip("/"): str(value) for key, value in found.items()}) if found is not None else ("", "", None)


def _sensible(found: dict[str, str]) -> tuple[str, str, str | None]:
    """Title, author and date; a title that a program made up is none."""
    title = clean_line(found.get("Title", ""))
    if _POOR_TITLE.search(title) or sum(char.isalpha() for char in title) < 0.5 * len(title) or len(title) > 200:
        title = ""
    author = clean_line(found.get("Author", ""))[:200]
    if author in ("python-docx", "anonymous", "(anonymous)", "unspecified"):
        author = ""
    return title, author, iso_date(found.get("ModDate")) or iso_date(found.get("CreationDate"))


def _facts_by_pdfium(document: pypdfium2.PdfDocument) -> _Facts:
    """For files locked with an empty password, which pdfium has already opened."""
    return _Facts(*_sensible(document.get_metadata_dict(skip_empty=True)), outline=tuple(_pdfium_outline(document)))


def _pdfium_outline(document: pypdfium2.PdfDocument) -> Iterator[tuple[int, str]]:
    for number, entry in enumerate(document.get_toc(max_depth=6)):
        title = clean_line(entry.get_title())
        if title:
            yield entry.level + 1, title
        if number >= OUTLINE_ENTRIES:
            return


def _outline(reader: pypdf.PdfReader) -> Iterator[tuple[int, str]]:
    """Level and title of outline entries, walked without recursion and without resolving where they point."""
    root: Any = reader.trailer["/Root"].get_object()
    outlines = root.get("/Outlines") if isinstance(root, dict) else None
    outlines = outlines.get_object() if outlines is not None else None
    if not isinstance(outlines, dict) or "/First" not in outlines:
        return
    stack = [(1, outlines["/First"])]
    count = 0
    while stack and count < OUTLINE_ENTRIES:
        level, reference = stack.pop()
        node = reference.get_object()
        if not isinstance(node, DictionaryObject):
            continue
        count += 1
        title = clean_line(str(node.get("/Title") or ""))
        if title:
            yield level, title
        if "/Next" in node:
            stack.append((level, node.raw_get("/Next")))
        if "/First" in node and level < 6:
            stack.append((level + 1, node.raw_get("/First")))


def _attachments(reader: pypdf.PdfReader) -> list[str]:
    root: Any = reader.trailer["/Root"].get_object()
    if not isinstance(root, dict) or "/Names" not in root or "/EmbeddedFiles" not in root["/Names"]:
        return []
    return [clean_line(name)[:200] for name in list(reader.attachments)[:50]]


def embedded(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file embedded in a PDF; nothing where pypdf cannot follow it."""
    try:
        with path.open("rb") as file:
            reader = pypdf.PdfReader(file, strict=False)
            if not reader.is_encrypted:
                for name in _attachments(reader):
                    for content in reader.attachments.get(name, ()):
                        yield name, bytes(content)
    except Exception:  # noqa: BLE001 - pypdf raises many types on mangled files; the reader of pages says what is wrong with them
        return


def _forms(reader: pypdf.PdfReader) -> list[tuple[str, str]]:
    """Names and values of filled-in form fields, which are no part of a page's own text."""
    root: Any = reader.trailer["/Root"].get_object()
    if not isinstance(root, dict) or "/AcroForm" not in root:
        return []
    filled = []
    for name, value in list((reader.get_form_text_fields() or {}).items())[:1000]:
        if value:
            filled.append((clean_line(str(name)), clean_line(str(value))))
    return filled


def _with_forms(page: Page, forms: Sequence[tuple[str, str]]) -> Page:
    lines = "\n".join(f"{name}: {value}" for name, value in forms)
    text = f"{page.text}\n\nForm fields\n\n{lines}" if page.text else f"Form fields\n\n{lines}"
    return Page(page.number, text, page.headings, page.tables)


def _first_heading(pages: Sequence[Page]) -> str:
    for page in pages[:2]:
        if page.headings:
            highest = min(page.headings, key=lambda heading: (heading.level, heading.start))
            first = page.headings[0]
            return (first if first.start == 0 and first.level <= highest.level + 1 else highest).text[:200]
    return ""


def _without_pdfium(path: Path, settings: Settings, reason: str) -> ParsedDocument:
    """pdfium refused the file: locked, or so damaged that only pypdf's repair may still find text."""
    try:
        with path.open("rb") as file:
            reader = pypdf.PdfReader(file, strict=False)
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save a copy without a password.")
            pages = []
            for number, page in enumerate(reader.pages[: settings.max_pages]):
                text = page.extract_text() or ""
                blocks = read_lines(_plain_runs(text), Look())
                pages.append(lay_out(blocks, number + 1))
    except DocumentUnreadable:
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: whatever pypdf raises, the file is reported as damaged
        locked = "password" in reason.lower()
        if locked:
            raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save a copy without a password.") from None
        raise DocumentUnreadable(
            "damaged", f"The file is not a readable PDF ({type(error).__name__}).", "Open it and print it to a new PDF."
        ) from None
    if not any(page.text for page in pages):
        if "password" in reason.lower():
            raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save a copy without a password.")
        raise DocumentUnreadable("damaged", "The file is damaged and no text could be recovered.", "Open it and print it to a new PDF.")
    return ParsedDocument("pdf", _first_heading(pages), tuple(pages), warnings=("the file is damaged; what could be recovered was read",))


def _plain_runs(text: str) -> list[Run]:
    """Lines of text without places, as runs below each other."""
    return [
        Run(0, 12.0 * row, 6.0 * len(line), 12.0 * row + 10, line.strip(), order=row)
        for row, line in enumerate(text.splitlines())
        if line.strip()
    ]
