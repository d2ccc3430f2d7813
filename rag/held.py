"""A collection's name → its published version, kept open between questions and swapped when a newer one is published."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from errors import FootnoteError, IndexMissing
from ingest.open import open_index
from ingest.publish import collection_folder

if TYPE_CHECKING:
    from ingest.open import Index

log = logging.getLogger("footnote.engine")


@dataclass(slots=True)
class _Held:
    index: Index
    stamp: tuple[int, int]  # of CURRENT when it was opened
    readers: int = 0
    replaced: bool = False


class HeldIndexes:
    """Open versions, at most one a collection besides those still being read. Threads may share it."""

    def __init__(self, folder: Path, embedder_name: Callable[[], str]) -> None:
        self._folder = folder
        self._embedder_name = embedder_name
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}

    @contextmanager
    def use(self, collection: str) -> Iterator[Index]:
        """The newest published version, for as long as the block runs. Raises IndexMissing, IndexDamaged, IndexMismatch."""
        held = self._newest(collection)
        try:
            yield held.index
        finally:
            self._done(held)

    def close(self) -> None:
        """Close every version that nobody reads; the others close with their last reader."""
        with self._lock:
            everyone, self._held = list(self._held.values()), {}
            for held in everyone:
                held.replaced = True
            idle = [held for held in everyone if held.readers == 0]
        for held in idle:
            held.index.close()

    def _newest(self, collection: str) -> _Held:
        pointer = collection_folder(self._folder, collection) / "CURRENT"
        with self._lock:
            opening = self._opening.setdefault(collection, threading.Lock())
        with opening:
            stamp = _stamp(pointer)
            with self._lock:
                held = self._held.get(collection)
                if held is not None and held.stamp == stamp:
                    held.readers += 1
                    return held
            index = self._open(collection, held)
            if index is None:
                with self._lock:
                    held = self._held[collection]
                    held.stamp = stamp  # the damaged version is not tried again at each question
                    held.readers += 1
                return held
            fresh = _Held(index, stamp, readers=1)
            with self._lock:
                self._held[collection] = fresh
                idle = held is not None and held.readers == 0
                if held is not None:
                    held.replaced = True
            if idle and held is not None:
                held.index.close()
            return fresh

    def _open(self, collection: str, held: _Held | None) -> Index | None:
        """The version that is published now; None where it cannot be opened but an older one still is."""
        try:
            return open_index(self._folder, collection, self._embedder_name())
        except IndexMissing:
            self._drop(collection)
            raise
        except FootnoteError as error:
            if held is None:
                raise
            log.error("the new version of %s cannot be used, %s goes on: %s", collection, held.index.version, error)
            return None

    def _drop(self, collection: str) -> None:
        with self._lock:
            held = self._held.pop(collection, None)
            if held is not None:
                held.replaced = True
            idle = held is not None and held.readers == 0
        if idle and held is not None:
            held.index.close()

    def _done(self, held: _Held) -> None:
        with self._lock:
            held.readers -= 1
            last = held.replaced and held.readers == 0
        if last:
            held.index.close()


def _stamp(pointer: Path) -> tuple[int, int]:
    try:
        facts = pointer.stat()
    except FileNotFoundError:
        return (0, 0)
    return (facts.st_mtime_ns, facts.st_ino)
