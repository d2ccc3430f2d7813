"""A picture → runs of text with their places, by an OCR engine that works offline. Optional: without it there are none."""

from __future__ import annotations

import importlib.util
import os
import re
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
OCR_PAGE_S = 45.0  # a page of dense text on one busy core; 5 s on a free one
CROWDED = re.compile(r"(?<=[^\W\d_]{2})([,;:!?](?=[^\W\d_])|\.(?=[A-Z][a-z]))")
ADDRESS = re.compile(r"@|://|^www\.|\.(?:com|org|net|[a-z]{2})\b")
SAMPLE_LINES = 7  # lines asked which way up the page is


def ocr_available() -> bool:
    """Whether rapidocr-onnxruntime is installed (it needs Python below 3.13)."""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


@lru_cache(maxsize=1)
def _engine() -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime 1.29 and later report each session to their makers otherwise
    from rapidocr_onnxruntime import RapidOCR

    # One thread: the sandbox runs one child a core.
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)


def ocr_runs(image: Any, scale: float) -> list[Run]:
    """Runs found in `image` (rows × columns × 3, blue-green-red); `scale` is its dots a point.

    A picture lying on its side or upside down is turned first, so that its lines are read in order.
    """
    import numpy

    engine = _engine()
    boxes = _boxes(engine, image)
    if 2 * sum(1 for box in boxes if _tall(box)) > len(boxes):
        image = numpy.ascontiguousarray(numpy.rot90(image))
        boxes = _boxes(engine, image)
    if not boxes:
        return []
    crops = engine.get_crop_img_list(image, [numpy.array(box, dtype=numpy.float32) for box in boxes])
    if _upside_down(engine, crops):
        height, width = image.shape[:2]
        boxes = [[[width - x, height - y] for x, y in box] for box in boxes]
        crops = [numpy.ascontiguousarray(numpy.rot90(crop, 2)) for crop in crops]
    found, _ = engine.text_rec(crops, False)
    runs = []
    for order, (corners, (text, confidence, *_)) in enumerate(zip(boxes, found, strict=True)):
        if float(confidence) < MIN_CONFIDENCE or not text.strip():
            continue
        xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
        runs.append(Run(min(xs) / scale, min(ys) / scale, max(xs) / scale, max(ys) / scale, spaced(text.strip()), order=order))
    return runs


def spaced(text: str) -> str:
    """Puts back the space after a comma or full stop, which the engine tends to lose; addresses of the web and mail stay whole."""
    return " ".join(part if ADDRESS.search(part) else CROWDED.sub(r"\1 ", part) for part in text.split(" "))


def _boxes(engine: Any, image: Any) -> list[Any]:
    """Corners of the lines of text in `image`, without reading them."""
    found, _ = engine(image, use_det=True, use_cls=False, use_rec=False)
    return list(found or ())


def _tall(box: Any) -> bool:
    wide, high = max(x for x, _ in box) - min(x for x, _ in box), max(y for _, y in box) - min(y for _, y in box)
    return bool(high > 1.5 * wide)


def _upside_down(engine: Any, crops: list[Any]) -> bool:
    """What the engine's own classifier says of the longest lines."""
    longest = sorted(crops, key=lambda crop: crop.shape[1], reverse=True)[:SAMPLE_LINES]
    _, verdicts, _ = engine.text_cls([crop.copy() for crop in longest])
    turned = sum(1 for label, confidence in verdicts if str(label) == "180" and float(confidence) > 0.8)
    return 2 * turned > len(longest)


def read_image(path: Path, settings: Settings, ask_time: Callable[[float], None] | None = None) -> ParsedDocument:
    """A picture of text (png, jpeg, webp, bmp, gif, tiff with pages) → what it says. Raises DocumentUnreadable."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    if not settings.ocr or not ocr_available():
        raise DocumentUnreadable(
            "scanned", "It is a picture, and OCR is not available.", "Install rapidocr-onnxruntime, or set ocr = true."
        )
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
