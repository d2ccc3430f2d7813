"""A sequence's state as llama.cpp writes it ↔ rows: for each layer the keys, for each the values, of one token after the other.

llama.cpp writes and reads whole sequences. Rows can be cut, shared and joined, so that what two prompts have in common is kept once; they
are an array (keys or values of a layer, tokens, bytes), so that cutting and joining copies long runs of bytes. The order of bytes in a
state is that of llama_kv_cache::state_write of llama.cpp 0c1e570; a state in any other order is refused, never guessed at.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

Bytes = numpy.ndarray[Any, numpy.dtype[numpy.uint8]]

MAGIC = 0xAF143CD8
HEAD = struct.Struct("<IiI")  # magic, sequence, streams
COUNT = struct.Struct("<I")
CELL = numpy.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
DATA = struct.Struct("<II")  # whether values are transposed, layers
RUN = struct.Struct("<iQ")  # type and bytes of a token's row
COLUMN = struct.Struct("<iII")  # transposed values: type, bytes of an element, elements of a token


@dataclass(frozen=True, slots=True)
class Layer:
    """Keys or values of a layer: llama.cpp's number of their type, bytes of a token, of one element where they lie transposed."""

    type: int
    row: int
    element: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a model lie in a state."""

    layers: int
    transposed: bool
    runs: tuple[Layer, ...]  # the keys of all layers, then the values

    def size(self, tokens: int, streams: int) -> int:
        """Bytes of the state of a sequence with as many tokens."""
        head = HEAD.size + streams * COUNT.size
        described = sum(COLUMN.size if each.element else RUN.size for each in self.runs)
        return head + (tokens * (CELL.itemsize + sum(each.row for each in self.runs)) + DATA.size + described if tokens else 0)

    def write(self, into: Bytes, pieces: Sequence[Bytes], sequence: int, streams: int) -> int:
        """Write the state of a sequence that holds these rows, piece after piece, as llama.cpp would; returns its size."""
        count = sum(each.shape[1] for each in pieces)
        view = into.data
        HEAD.pack_into(view, 0, MAGIC, sequence, streams)
        at = HEAD.size
        for stream in range(streams):
            here = count if stream == sequence else 0
            COUNT.pack_into(view, at, here)
            at += COUNT.size
            if here:
                at = self._stream(into, at, pieces, sequence, count)
        return at

    def _stream(self, into: Bytes, at: int, pieces: Sequence[Bytes], sequence: int, count: int) -> int:
        cells = into[at : at + count * CELL.itemsize].view(CELL)
        cells["position"], cells["sequences"], cells["sequence"] = numpy.arange(count), 1, sequence
        at += cells.nbytes
        DATA.pack_into(into.data, at, self.transposed, self.layers)
        at += DATA.size
        for number, run in enumerate(self.runs):
            if run.element:
                COLUMN.pack_into(into.data, at, run.type, run.element, run.row // run.element)
                at += COLUMN.size
                block = into[at : at + count * run.row].reshape(-1, count, run.element).transpose(1, 0, 2)
            else:
                RUN.pack_into(into.data, at, run.type, run.row)
                at += RUN.size
                block = into[at : at + count * run.row].reshape(count, 1, run.row)
            done = 0
            for piece in pieces:
                block[done : done + piece.shape[1]] = piece[number, :, : run.row].reshape(piece.shape[1], *block.shape[1:])
                done += piece.shape[1]
            at += count * run.row
        return at


def pages(*shape: int) -> Bytes:
    """Bytes, all 0, in pages of their own: let go, they are the system's at once.

    What is kept comes and goes in pieces of all sizes; among everybody's small things in malloc's heap each would leave a hole. Pages are
    of 2 MB where Linux has them: to touch new ones of 4 KB takes several times as long as to copy a prompt.
    """
    size = math.prod(shape)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    mapped = mmap.mmap(-1, max(1, size), **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a Linux that was built without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return numpy.frombuffer(mapped, dtype=numpy.uint8, count=size).reshape(shape)


def read(state: Bytes, start: int = 0) -> tuple[Layout, Bytes]:
    """Layout of a state, and its rows from the position `start` on. Raises ValueError for a state of another form."""
    try:
        return _read(state, start)
    except struct.error:
        raise ValueError("the state ends too soon") from None


def _read(state: Bytes, start: int) -> tuple[Layout, Bytes]:
    view = state.data
    magic, _, streams = HEAD.unpack_from(view, 0)
    at = HEAD.size
    if magic != MAGIC or streams > 256:
        raise ValueError("not a sequence's state")
    found: tuple[Layout, Bytes] | None = None
    for _ in range(streams):
        (count,) = COUNT.unpack_from(view, at)
        at += COUNT.size
        if count:
            if found is not None:
                raise ValueError("a sequence in two streams")
            layout, rows, at = _rows(state, at, count, start)
            found = layout, rows
    if found is None or at != len(state):
        raise ValueError("bytes are left over")
    return found


def _rows(state: Bytes, at: int, count: int, start: int) -> tuple[Layout, Bytes, int]:
    cells = state[at : at + count * CELL.itemsize].view(CELL)
    at += count * CELL.itemsize
    order = numpy.argsort(cells["position"])
    if not (cells["position"][order] == numpy.arange(count)).all() or (cells["sequences"] != 1).any():
        raise ValueError("positions with gaps")
    wanted: Any = slice(start, None) if (order == numpy.arange(count)).all() else order[start:]
    transposed, layers = DATA.unpack_from(state.data, at)
    at += DATA.size
    if not 0 < layers < 10_000 or transposed > 1:
        raise ValueError("an impossible number of layers")
    runs, blocks = list[Layer](), list[Bytes]()
    for number in range(2 * layers):
        if number >= layers and transposed:
            kind, element, width = COLUMN.unpack_from(state.data, at)
            at += COLUMN.size
            runs.append(Layer(kind, width * element, element))
            blocks.append(state[at : at + count * width * element].reshape(width, count, element).transpose(1, 0, 2))
        else:
            kind, row = RUN.unpack_from(state.data, at)
            at += RUN.size
            runs.append(Layer(kind, row))
            blocks.append(state[at : at + count * row].reshape(count, 1, row))
        at += count * runs[-1].row
    width = max(each.row for each in runs)
    rows = pages(len(runs), count - start, width)
    for into, run, block in zip(rows, runs, blocks, strict=True):
        into[:, : run.row] = block[wanted].reshape(len(into), run.row)
    return Layout(layers, bool(transposed), tuple(runs)), rows, at
