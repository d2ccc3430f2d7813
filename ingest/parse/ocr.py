"""A picture → runs of text with their places, by an OCR engine that works offline. Optional: without it there are none."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from config import Settings
from errors import DocumentUnreadable
from ingest.parse.layout import lay_out
from ingest.parse.lines import Run, look_of, read_lines
from ingest.types import Page, ParsedDocument

MIN_CONFIDENCE = 0.5  # below it the recogniser guesses
MAX_SIDE = 3000  # dots of the longer side; larger pictures are made smaller
MAX_PIXELS = 150_000_000  # a picture with more is a bomb or a map
MAX_FRAMES = 200  # pages of a TIFF
OCR_PAGE_S = 20.0  # a page of dense text on one slow core


def ocr_available() -> bool:
    """Whether rapidocr-onnxruntime is installed (it needs Python below 3.13)."""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


@lru_cache(maxsize=1)
def _engine() -> Any:
    from rapidocr_onnxruntime import RapidOCR

    # One thread: the sandbox runs one child a core.
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)


def ocr_runs(image: Any, scale: float) -> list[Run]:
    """Runs found in `image` (rows × columns × 3, blue-green-red); `scale` is its dots a point."""
    found, _ = _engine()(image)
    runs = []
    for order, (corners, text, confidence) in enumerate(found or ()):
        if float(confidence) < MIN_CONFIDENCE or not text.strip():
            continue
        xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
        runs.append(Run(min(xs) / scale, min(ys) / scale, max(xs) / scale, max(ys) / scale, text.strip(), order=order))
    return runs


def read_image(path: Path, settings: Settings, ask_time: Callable[[float], None] | None = None) -> ParsedDocument:
    """A picture of text (png, jpeg, webp, bmp, gif, tiff with pages) → what it says. Raises DocumentUnreadable."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    if not settings.ocr or not ocr_available():
        raise DocumentUnreadable("scanned", "It is a picture, and OCR is not available.", "Install rapidocr-onnxruntime, or set ocr = true.")
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    found: list[list[Run]] = []
    try:
        with Image.open(path) as picture:
            for number, frame in enumerate(ImageSequence.Iterator(picture)):
                if number >= MAX_FRAMES or (number and picture.format not in ("TIFF", "MPO")):
                    break
                if ask_time is not None:
                    ask_time(OCR_PAGE_S)
                image = ImageOps.exif_transpose(frame).convert("RGB")
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                import numpy

                found.append(ocr_runs(numpy.ascontiguousarray(numpy.asarray(image)[:, :, ::-1]), 200 / 72))
    except Image.DecompressionBombError:
        raise DocumentUnreadable("bomb", "The picture would unpack to an enormous size.", "Leave it out, or make it smaller.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DocumentUnreadable("damaged", f"The picture cannot be opened ({type(error).__name__}).", "Save it again.") from None
    look = look_of(found, {})
    many = len(found) > 1
    pages = tuple(
        Page(number, page.text, page.headings, page.tables) if many else page
        for number, page in enumerate((lay_out(read_lines(runs, look)) for runs in found), 1)
    )
    if not any(page.text for page in pages):
        raise DocumentUnreadable("scanned", "It is a picture in which no text was recognised.", "Leave it out.")
    return ParsedDocument("image", "", pages, ocr_pages=sum(1 for page in pages if page.text))
