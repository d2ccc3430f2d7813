"""Memory that was freed → the system's again: GNU's malloc keeps what lies between things that are still used, until it is told."""

from __future__ import annotations

import contextlib
import ctypes
import time
from threading import Lock

EVERY_S = 10.0  # between two times: soon enough that a day of questions takes no more than the first minutes, too rare to be felt


class Heap:
    """`give_back` may be called after every piece of work, by any thread."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._trim = None
        with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
            self._trim = ctypes.CDLL(None).malloc_trim
        self._lock = Lock()
        self._last = time.monotonic()

    def give_back(self) -> None:
        """Hand free pages back, if that is `every_s` ago and no other thread is at it."""
        if self._trim is None or not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._last >= self._every_s:
                self._trim(ctypes.c_size_t(0))
                self._last = time.monotonic()
        finally:
            self._lock.release()
