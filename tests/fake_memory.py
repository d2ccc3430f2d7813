"""A memory that keeps tokens instead of keys and values: what a scheduler may and may not do with llama.cpp's, checked at every call.

Its logits are a function of all the tokens that a sequence holds, so a token that is lost, doubled or taken from another prompt changes
what is written.
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy

from rag.engine.context import BATCH_TOKENS, OUTPUTS, SEQUENCES, Broken, GivenUp, Logits, NoRoom, Part

WORDS = 97  # of its vocabulary; the last one ends an answer
END = WORDS - 1


def logits(tokens: Sequence[int], adapter: Path | None) -> Logits:
    """One row for a prompt: the next token depends on every token and on the adapter."""
    seed = zlib.crc32(numpy.asarray([*tokens, len(str(adapter))], dtype=numpy.int32).tobytes())
    return numpy.random.default_rng(seed).random(WORDS, dtype=numpy.float32)


class FakeMemory:
    """What `Context` is to the scheduler. `fails` is asked before each call and may raise."""

    def __init__(self, cells: int, fails: Callable[[Sequence[Part]], None] = lambda _: None, cuts: bool = True) -> None:
        self.cells = cells
        self.cuts = cuts
        self.closed = False
        self.most_used = 0
        self._fails = fails
        self._held: dict[int, list[tuple[int, int]]] = {each: [] for each in range(SEQUENCES)}  # (cell, token)
        self._kind: dict[int, Path | None] = {}  # cell → the adapter that it was read with
        self._next = 0
        self._adapter: Path | None = None
        self._inside = threading.Lock()
        self._stop = threading.Event()

    @property
    def used(self) -> int:
        return len({cell for held in self._held.values() for cell, _ in held})

    def wear(self, adapter: Path | None) -> None:
        self._adapter = adapter

    def decode(self, parts: Sequence[Part]) -> list[Logits]:
        assert self._inside.acquire(blocking=False), "two threads in llama.cpp"
        try:
            return self._decode(parts)
        finally:
            self._inside.release()

    def _decode(self, parts: Sequence[Part]) -> list[Logits]:
        count = sum(len(each.tokens) for each in parts)
        assert not self.closed and 0 < count <= BATCH_TOKENS and sum(each.rows for each in parts) <= OUTPUTS
        assert len({each.sequence for each in parts}) == len(parts)
        for each in parts:
            assert each.start == len(self._held[each.sequence]), "positions must continue"
            assert all(self._kind[cell] == self._adapter for cell, _ in self._held[each.sequence]), "read with another adapter"
            assert 0 <= each.rows <= len(each.tokens) > 0
        self._fails(parts)
        if self._stop.is_set():
            raise GivenUp
        if self.used + count > self.cells:
            raise NoRoom
        found = []
        for each in parts:
            held, rows = self._held[each.sequence], []
            for number, token in enumerate(each.tokens):
                held.append((self._next, token))
                self._kind[self._next] = self._adapter
                self._next += 1
                if number >= len(each.tokens) - each.rows:
                    rows.append(logits([token for _, token in held], self._adapter))
            found.append(numpy.stack(rows) if rows else numpy.empty((0, WORDS), dtype=numpy.float32))
        self.most_used = max(self.most_used, self.used)
        return found

    def share(self, source: int, target: int, length: int) -> None:
        assert self._held[target] == [] and length <= len(self._held[source]) and self.cuts
        self._held[target] = self._held[source][:length]

    def cut(self, sequence: int, length: int) -> int:
        assert self._inside.acquire(blocking=False), "memory is changed while llama.cpp reads"
        try:
            left = length if self.cuts or length == len(self._held[sequence]) else 0
            del self._held[sequence][left:]
            return left
        finally:
            self._inside.release()

    def give_up(self) -> None:
        self._stop.set()

    def go_on(self) -> None:
        self._stop.clear()

    def close(self) -> None:
        self.closed = True


def failing(chance: float, seed: int) -> Callable[[Sequence[Part]], None]:
    """Calls fail by chance: no room, given up, broken."""
    draw = random.Random(seed)

    def fails(_: Sequence[Part]) -> None:
        if draw.random() < chance:
            raise draw.choice([NoRoom(), GivenUp(), Broken("on purpose")])

    return fails
