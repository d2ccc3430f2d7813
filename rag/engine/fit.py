"""A model and this machine → how its memory is made: threads, flash attention, cells. Measured on first use, then remembered."""

from __future__ import annotations

from collections.abc import Callable

from config import Settings
from rag.engine.context import Shape, Weights, cores
from rag.engine.files import ModelFile

CELLS_STEP = 256  # llama.cpp pads a memory to this


def shape(weights: Weights, file: ModelFile, settings: Settings, say: Callable[[str], None]) -> Shape:
    """How the memory is made."""
    threads = settings.threads or cores()
    return Shape(cells(weights, settings), threads, threads, True)


def cells(weights: Weights, settings: Settings) -> int:
    """As many as `memory_mb` holds, at least one window and the instructions that all prompts begin with."""
    window = min(settings.context_tokens, weights.trained_tokens)
    most = int(settings.memory_mb * 1_000_000 / weights.cell_bytes)
    return max(window + 2 * CELLS_STEP, most) // CELLS_STEP * CELLS_STEP
