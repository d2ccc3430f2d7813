"""An engine in a process of its own, asked over its standard input and output: it shares no thread, lock or memory with another one.

Imports nothing of this project, so that a peer's process has the threads' defaults that it has elsewhere; `rag` sets its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

END_S = 30.0  # a process may take to end by itself

Piece = str | None  # of an answer; None ends it


class Failed(Exception):
    """The process ended, or said why it could not answer."""


class Apart:
    """The parent's side: `write` may be called from many threads at once."""

    def __init__(self, command: Sequence[str], options: Mapping[str, Any], **process: Any) -> None:
        """Start the process and wait until its engine is ready. `process`: more for subprocess.Popen. Raises Failed."""
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1, **process
        )
        self._asked: dict[int, queue.SimpleQueue[Piece | Failed]] = {}
        self._guard = threading.Lock()
        self._number = 0
        ready = self._open()
        self._listening = threading.Thread(target=self._listen, name="engine apart", daemon=True)
        self._listening.start()
        try:
            self._say({"options": dict(options)})
            for _ in self._pieces(ready):
                pass
        except Failed:
            self.close()
            raise

    def write(self, messages: Sequence[Mapping[str, str]], most: int) -> Iterator[str]:
        """An answer's pieces as they come. Raises Failed."""
        number = self._open()
        self._say({"number": number, "messages": list(messages), "most": most})
        return self._pieces(number)

    def close(self) -> None:
        """End the process: its input ends, and, where that is not enough, by its number."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone already, with a line unread
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        self._listening.join(END_S)

    def _open(self) -> int:
        with self._guard:
            number, self._number = self._number, self._number + 1
            self._asked[number] = queue.SimpleQueue()
            return number

    def _say(self, what: Mapping[str, Any]) -> None:
        line = json.dumps(what) + "\n"
        try:
            with self._guard:
                if self._process.stdin is not None:
                    self._process.stdin.write(line)
                    self._process.stdin.flush()
        except OSError as error:
            raise Failed(f"the process is gone: {error!r}") from None

    def _pieces(self, number: int) -> Iterator[str]:
        asked = self._asked[number]
        try:
            while (piece := asked.get()) is not None:
                if isinstance(piece, Failed):
                    raise piece
                yield piece
        finally:
            del self._asked[number]

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            asked = self._asked.get(said["number"])
            if asked is not None:
                asked.put(Failed(said["failed"]) if "failed" in said else said["piece"])
        for asked in list(self._asked.values()):
            asked.put(Failed(f"the process ended with code {self._process.wait()}"))


def serve(make: Callable[[dict[str, Any]], Callable[[Sequence[Mapping[str, str]], int], Iterator[str]]]) -> None:
    """The process's side, until its input ends. `make` gives, for the parent's options, what writes an answer to messages."""
    guard = threading.Lock()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer

    def say(what: Mapping[str, Any]) -> None:
        with guard:
            out.write(json.dumps(what) + "\n")
            out.flush()

    def answer(asked: dict[str, Any]) -> None:
        number = asked["number"]
        try:
            for piece in write(asked["messages"], asked["most"]):
                if piece:
                    say({"number": number, "piece": piece})
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent hears it
            say({"number": number, "failed": repr(error)})
        else:
            say({"number": number, "piece": None})

    try:
        write = make(json.loads(sys.stdin.readline())["options"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent hears it
        say({"number": 0, "failed": repr(error)})
        return
    say({"number": 0, "piece": None})
    for line in sys.stdin:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
