"""A sequence's state as llama.cpp writes it ↔ rows: for each layer the keys, for each the values, of one token after the other.

llama.cpp writes and reads whole sequences. Rows can be cut, shared and joined, so that what two prompts have in common is kept once; they
are an array (keys or values of a layer, tokens, bytes), so that cutting and joining copies long runs of bytes. The order of bytes in a
state is that of llama_kv_cache::state_write of llama.cpp 0c1e570; a state in any other order is refused, never guessed at.
"""

from __future__ import annotations

import struct
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

    def state(self, rows: Bytes, sequence: int, streams: int) -> Bytes:
        """The state of a sequence that holds these rows, (keys or values of a layer, tokens, bytes)."""
        count = rows.shape[1]
        cells = numpy.zeros(count, dtype=CELL)
        cells["position"], cells["sequences"], cells["sequence"] = numpy.arange(count), 1, sequence
        parts: list[bytes | memoryview] = [HEAD.pack(MAGIC, sequence, streams)]
        for stream in range(streams):
            if stream != sequence or not count:
                parts.append(COUNT.pack(0))
                continue
            parts += [COUNT.pack(count), cells.tobytes(), DATA.pack(self.transposed, self.layers)]
            for run, block in zip(self.runs, rows, strict=True):
                block = block[:, : run.row]
                if run.element:
                    parts.append(COLUMN.pack(run.type, run.element, run.row // run.element))
                    block = block.reshape(count, -1, run.element).transpose(1, 0, 2)
                else:
                    parts.append(RUN.pack(run.type, run.row))
                parts.append(numpy.ascontiguousarray(block).data)
        return numpy.frombuffer(b"".join(parts), dtype=numpy.uint8)


def read(state: Bytes) -> tuple[Layout, Bytes]:
    """Layout and rows of a state, in the order of their positions. Raises ValueError for a state of another form."""
    try:
        return _read(state)
    except struct.error:
        raise ValueError("the state ends too soon") from None


def _read(state: Bytes) -> tuple[Layout, Bytes]:
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
            *found, at = _stream(state, view, at, count)  # type: ignore[assignment]
    if found is None or at != len(state):
        raise ValueError("bytes are left over")
    return found[0], found[1]


def _stream(state: Bytes, view: memoryview, at: int, count: int) -> tuple[Layout, Bytes, int]:
    cells = state[at : at + count * CELL.itemsize].view(CELL)
    at += count * CELL.itemsize
    order = numpy.argsort(cells["position"])
    if not (cells["position"][order] == numpy.arange(count)).all() or (cells["sequences"] != 1).any():
        raise ValueError("positions with gaps")
    transposed, layers = DATA.unpack_from(view, at)
    at += DATA.size
    if not 0 < layers < 10_000 or transposed > 1:
        raise ValueError("an impossible number of layers")
    runs, blocks = list[Layer](), list[Bytes]()
    for number in range(2 * layers):
        if number >= layers and transposed:
            kind, element, width = COLUMN.unpack_from(view, at)
            at += COLUMN.size
            size = count * width * element
            block = state[at : at + size].reshape(width, count, element).transpose(1, 0, 2).reshape(count, width * element)
            runs.append(Layer(kind, width * element, element))
        else:
            kind, row = RUN.unpack_from(view, at)
            at += RUN.size
            size = count * row
            block = state[at : at + size].reshape(count, row)
            runs.append(Layer(kind, row))
        blocks.append(block)
        at += size
    straight = (order == numpy.arange(count)).all()
    rows = numpy.zeros((len(runs), count, max(each.row for each in runs)), dtype=numpy.uint8)
    for to, block in zip(rows, blocks, strict=True):
        to[:, : block.shape[1]] = block if straight else block[order]
    return Layout(layers, bool(transposed), tuple(runs)), rows, at
