"""A picture → runs of text with their places, by an OCR engine that works offline. Optional: without it there are none."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

from ingest.parse.lines import Run

MIN_CONFIDENCE = 0.5  # below it the recogniser guesses


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
