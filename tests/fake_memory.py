"""A memory that keeps tokens instead of keys and values: what a scheduler may and may not do with llama.cpp's, checked at every call.

Its logits are a function of all the tokens that a sequence holds, so a token that is lost, doubled or taken from another prompt changes
what is written.
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy

from rag.engine.context import BATCH_TOKENS, OUTPUTS, Broken, GivenUp, Logits, NoRoom, Part
from rag.engine.state import Bytes

WORDS = 97  # of its vocabulary; the last one ends an answer
END = WORDS - 1

_adapters: list[Path | None] = [None]  # by their number in saved rows


def logits(tokens: Sequence[int], adapter: Path | None) -> Logits:
    """One row for a prompt: the next token depends on every token and on the adapter."""
    seed = zlib.crc32(numpy.asarray([*tokens, len(str(adapter))], dtype=numpy.int32).tobytes())
    return numpy.random.default_rng(seed).random(WORDS, dtype=numpy.float32)


@dataclass(frozen=True)
class FakeShape:
    sequences: int
    window: int


class FakeMemory:
    """What `Context` is to the scheduler. `fails` is asked before each call and may raise."""

    def __init__(
        self, sequences: int = 8, window: int = 3000, fails: Callable[[Sequence[Part]], None] = lambda _: None, cuts: bool = True
    ) -> None:
        self.shape = FakeShape(sequences, window)
        self.cuts = cuts
        self.closed = False
        self._fails = fails
        self._held: dict[int, list[tuple[int, Path | None]]] = {each: [] for each in range(sequences)}  # (token, read with what adapter)
        self._adapter: Path | None = None
        self._inside = threading.Lock()
        self._stop = threading.Event()

    @property
    def used(self) -> int:
        return sum(map(len, self._held.values()))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._inside.acquire(blocking=False), "two threads in llama.cpp"
        try:
            yield
        finally:
            self._inside.release()

    def wear(self, adapter: Path | None) -> None:
        self._adapter = adapter
        if adapter not in _adapters:
            _adapters.append(adapter)

    def decode(self, parts: Sequence[Part]) -> list[Logits]:
        with self._alone():
            return self._decode(parts)

    def _decode(self, parts: Sequence[Part]) -> list[Logits]:
        count = sum(len(each.tokens) for each in parts)
        assert not self.closed and 0 < count <= BATCH_TOKENS and sum(each.rows for each in parts) <= OUTPUTS
        assert len({each.sequence for each in parts}) == len(parts)
        for each in parts:
            held = self._held[each.sequence]
            assert each.start == len(held), "positions must continue"
            assert all(adapter == self._adapter for _, adapter in held), "read with another adapter"
            assert 0 <= each.rows <= len(each.tokens) > 0
        self._fails(parts)
        if self._stop.is_set():
            raise GivenUp
        if any(each.start + len(each.tokens) > self.shape.window for each in parts):
            raise NoRoom
        found = []
        for each in parts:
            held, rows = self._held[each.sequence], []
            for number, token in enumerate(each.tokens):
                held.append((token, self._adapter))
                if number >= len(each.tokens) - each.rows:
                    rows.append(logits([token for token, _ in held], self._adapter))
            found.append(numpy.stack(rows) if rows else numpy.empty((0, WORDS), dtype=numpy.float32))
        return found

    def copy(self, source: int, target: int, length: int) -> None:
        with self._alone():
            assert self._held[target] == [] and length <= len(self._held[source]) and self.cuts
            self._held[target] = self._held[source][:length]

    def cut(self, sequence: int, length: int) -> int:
        with self._alone():
            left = length if self.cuts or length == len(self._held[sequence]) else 0
            del self._held[sequence][left:]
            return left

    def save(self, sequence: int, start: int) -> Bytes:
        with self._alone():
            held = [(token, _adapters.index(adapter)) for token, adapter in self._held[sequence][start:]]
            return numpy.array(held, dtype=numpy.uint8).reshape(1, -1, 2)

    def load(self, sequence: int, pieces: Sequence[Bytes]) -> None:
        with self._alone():
            assert self._held[sequence] == [] and self.cuts
            self._held[sequence] = [(int(token), _adapters[adapter]) for token, adapter in numpy.concatenate(pieces, axis=1)[0]]

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
