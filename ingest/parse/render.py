"""A page of a PDF and sentences quoted from it → a picture with the sentences marked.

The stored text and the file differ in spaces, hyphens, ligatures and dropped headers, so a quote is looked for by its
letters and digits alone; where it is cut by something that is no part of it, the pieces that are found are marked.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pypdfium2
from PIL import Image, ImageDraw

from errors import DocumentUnreadable
from ingest.parse.pdf import page_text

MARK = (255, 214, 51)  # highlighter yellow, multiplied with the page so that text stays black
MAX_WIDTH = 4000  # pixels; a picture four times this takes a gigabyte
PIECE_WORDS = 5  # shortest run of words that is looked for when the whole quote is not found
_UNSEEN = frozenset(("\ufffe", "\uffff", "\u00ad", "\x02"))


def render_page(path: Path, number: int, quotes: Sequence[str], width: int) -> bytes:
    """PNG of page `number` (from 1), `width` pixels wide, with `quotes` marked where they are found.

    Raises DocumentUnreadable where the file or the page cannot be opened.
    """
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError:
        raise DocumentUnreadable("damaged", "The file cannot be opened any more.", "Refresh the collection.") from None
    try:
        if not 1 <= number <= len(document):
            raise DocumentUnreadable("damaged", f"The file has no page {number} any more.", "Refresh the collection.")
        page = document[number - 1]
        scale = min(max(width, 100), MAX_WIDTH) / max(page.get_width(), 1.0)
        if page.get_height() * scale > 4 * MAX_WIDTH:
            scale = 4 * MAX_WIDTH / page.get_height()
        bitmap = page.render(scale=scale, may_draw_forms=False)
        image = bitmap.to_pil().convert("RGB")
        boxes = find_quotes(page, quotes)
        if boxes:
            image = _marked(image, [_on_picture(page, box, image.size) for box in boxes])
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=1)
        return out.getvalue()
    except pypdfium2.PdfiumError:
        raise DocumentUnreadable("damaged", f"Page {number} cannot be drawn.", "Open the original instead.") from None
    finally:
        document.close()


def find_quotes(page: pypdfium2.PdfPage, quotes: Sequence[str]) -> list[tuple[float, float, float, float]]:
    """Boxes (left, bottom, right, top in page space) of the places where `quotes` stand on `page`."""
    textpage = page.get_textpage()
    try:
        chars = page_text(textpage)
        letters, places = _letters(chars)
        boxes: list[tuple[float, float, float, float]] = []
        for quote in quotes:
            for start, end in _spans(letters, quote):
                first, last = places[start], places[end - 1]
                for index in range(textpage.count_rects(first, last - first + 1)):
                    boxes.append(textpage.get_rect(index))
        return boxes
    finally:
        textpage.close()


def _letters(text: str) -> tuple[str, list[int]]:
    """Letters and digits of `text`, folded, and for each the index it came from."""
    letters: list[str] = []
    places: list[int] = []
    for index, char in enumerate(text):
        if char.isascii():
            if char.isalnum():
                letters.append(char.lower())
                places.append(index)
        elif char not in _UNSEEN:
            for part in unicodedata.normalize("NFKD", char).casefold():
                if part.isalnum():
                    letters.append(part)
                    places.append(index)
    return "".join(letters), places


def _spans(letters: str, quote: str) -> list[tuple[int, int]]:
    """Where `quote` stands in `letters`: once as a whole, else its longest pieces in order."""
    wanted, _ = _letters(quote)
    if not wanted:
        return []
    at = letters.find(wanted)
    if at >= 0:
        return [(at, at + len(wanted))]
    words = [folded for folded in (_letters(word)[0] for word in re.split(r"[\s|]+", quote)) if folded]
    spans: list[tuple[int, int]] = []
    start = after = 0
    while start < len(words):
        found = None
        for end in range(len(words), start, -1):
            piece = "".join(words[start:end])
            if end - start < PIECE_WORDS and (len(piece) < 4 or end - start < min(2, len(words)) or not spans):
                break
            at = letters.find(piece, after)
            if at < 0:
                at = letters.find(piece)
            if at >= 0:
                found = (at, at + len(piece), end)
                break
        if found is None:
            start += 1
            continue
        spans.append(found[:2])
        after, start = found[1], found[2]
    return spans


def _on_picture(
    page: pypdfium2.PdfPage, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box in page space as pixels (left, top, right, bottom), whatever the page's rotation."""
    left, bottom, right, top = page.get_bbox()
    wide, high = max(right - left, 1e-6), max(top - bottom, 1e-6)
    corners = []
    for x, y in ((box[0], box[1]), (box[2], box[3])):
        across, down = (x - left) / wide, (top - y) / high
        turn = page.get_rotation() // 90
        if turn == 1:
            across, down = 1 - down, across
        elif turn == 2:
            across, down = 1 - across, 1 - down
        elif turn == 3:
            across, down = down, 1 - across
        corners.append((across * size[0], down * size[1]))
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _marked(image: Image.Image, boxes: Sequence[tuple[float, float, float, float]]) -> Image.Image:
    from PIL import ImageChops

    ink = Image.new("RGB", image.size, (255, 255, 255))
    draw = ImageDraw.Draw(ink)
    for left, top, right, bottom in boxes:
        pad = max((bottom - top) * 0.12, 1.0)
        draw.rounded_rectangle((left - pad, top - pad, right + pad, bottom + pad), radius=pad * 2, fill=MARK)
    return ImageChops.multiply(image, ink)
