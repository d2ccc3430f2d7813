"""Requests of many people → one step of reading and writing after the other, through one memory, on one thread.

Continuous batching: requests join and leave at every step. A step continues every answer that is being written by a word, and fills what
time is left with the reading of prompts, so nobody's words stall while a long prompt is read. What a new prompt shares with anything that
was read before, or is being read for another person now, is not read again. A request is a generator: it yields how many of its last
tokens it wants the logits of, gets them, and appends tokens to its `tokens` or cuts them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy

from errors import EngineUnavailable, FootnoteError
from rag.engine.context import BATCH_TOKENS, OUTPUTS, SEQUENCES, Broken, Context, GivenUp, Logits, NoRoom, Part
from rag.engine.tree import Tree

GAP_S = 0.1  # seconds that a step may take while somebody's answer is being written: ten words a second are read with ease
STEP_S = 0.5  # seconds that a step may take otherwise: as long a stop, or a new arrival, waits for a slow model
LEAST_READ = 16  # tokens of a prompt that a step reads at least, so that reading always goes on
WORTH_WAITING = 32  # tokens that another person's prompt must share for it to be waited for; fewer are read sooner than waited for
SMOOTHING = 0.3  # of the newest step in the measured speed of reading
FIRST_RATE = 256.0  # tokens a second that reading is thought to take before any was measured
ALONE_FAILURES = 2  # failures of a request by itself after which it is given up
Steps = Generator[int, Logits, None]


class Request:
    """What one caller wants read and written. Made by the caller's thread; from `submit` on its state belongs to the engine's thread."""

    def __init__(
        self, tokens: Sequence[int], most: int, steps: Callable[[Request], Steps], adapter: Path | None = None, patient: bool = False
    ) -> None:
        self.tokens = list(tokens)
        self.adapter = adapter
        self.patient = patient  # read only while nobody waits
        self.out: queue.SimpleQueue[Any] = queue.SimpleQueue()  # pieces; then None or an exception
        self.stopping = False  # set by any thread
        self.most = most  # tokens that it will hold at most
        self.counts = {"prompt_tokens": 0.0, "reused_tokens": 0.0, "answer_tokens": 0.0, "prompt_s": 0.0, "answer_s": 0.0, "compute_s": 0.0}
        self.steps = steps(self)
        self.rows = 0  # logits that it waits for
        self.read = 0  # of its tokens that the memory holds
        self.sequence = -1
        self.told = False  # it got its first logits: its prompt was read
        self.since = 0.0
        self.failures = 0
        self.behind: Request | None = None  # whose reading it waits for

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.read

    @property
    def writes(self) -> bool:
        """Its prompt is read: each step may continue it."""
        return self.told and self.remaining <= self.rows

    def say(self, piece: Any) -> None:
        """Hand something to the caller."""
        self.out.put(piece)


class Scheduler:
    """The thread that alone uses a memory. `submit` and `stop` may be called from any thread."""

    def __init__(self, make: Callable[[], Context]) -> None:
        """`make` opens the memory, again after a failure of llama.cpp."""
        self._make = make
        self._context = make()
        self._tree = Tree()
        self._free = list(range(SEQUENCES))
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._arrived: queue.SimpleQueue[Request | Future[None] | None] = queue.SimpleQueue()
        self._rate = FIRST_RATE
        self._limit = BATCH_TOKENS  # tokens of a step; halved while the memory has no room for more
        self._suspects: list[Request] = []  # requests of a step that failed, tried one by one
        self._interruptible: frozenset[Request] = frozenset()
        self._pinned: set[int] = set()
        self._guard = threading.Lock()  # of what says whether the running call of llama.cpp may be given up
        self._state = threading.RLock()  # of everything else; not held while llama.cpp works
        self._closing = False
        self.steps = 0  # since the start
        self._thread = threading.Thread(target=self._run, name="language model", daemon=True)
        self._thread.start()

    # ---- for every thread

    def submit(self, request: Request) -> None:
        """Have a request done. Its pieces come through `request.out`."""
        if self._closing:
            raise closed()
        request.since = time.monotonic()
        self._arrived.put(request)

    def stop(self, request: Request) -> None:
        """End a request; what is being read for it alone is given up at once."""
        with self._guard:
            request.stopping = True
            if request in self._interruptible and all(each.stopping for each in self._interruptible):
                self._context.give_up()
        self._arrived.put(None)

    def clear(self) -> None:
        """Forget what no running request needs and nobody pinned."""
        if self._closing:
            raise closed()
        done: Future[None] = Future()
        self._arrived.put(done)
        done.result()

    def resident(self, tokens: Sequence[int], adapter: Path | None = None) -> int:
        """How many of the first tokens the memory holds."""
        with self._state:
            return self._tree.match(tokens, adapter)[0]

    def state(self) -> dict[str, int]:
        """Requests that run and wait, and the memory's cells: used and in all."""
        with self._state:
            return {
                "running": len(self._running),
                "waiting": len(self._waiting),
                "cells_used": self._tree.cells,
                "cells": self._context.cells,
                "sequences": len(self._tree.sequences()),
                "steps": self.steps,
            }

    def close(self) -> None:
        """End all requests and the thread, and free the memory."""
        with self._guard:
            if self._closing:
                return
            self._closing = True
            self._context.give_up()
        self._arrived.put(None)
        self._thread.join()
        self._context.close()

    # ---- the thread

    def _run(self) -> None:
        failure: FootnoteError | None = None
        try:
            while not self._closing:
                idle = not self._running and not self._waiting
                arrived = [self._arrived.get()] if idle else []
                with self._state:
                    self._take(arrived)
                    self._admit()
                    planned = self._plan()
                if planned and not self._closing:
                    self._step(planned)
        except Exception as error:  # the thread's edge: nobody may wait for an answer that cannot come
            failure = EngineUnavailable(f"The language model stopped working ({error!r}).", "Start Footnote again.")
            self._closing = True
            raise
        finally:
            with self._state:
                for request in [*self._running, *self._waiting]:
                    request.steps.close()
                    request.say(failure or closed())
                self._running, self._waiting = [], deque()
                while not self._arrived.empty():
                    late = self._arrived.get()
                    if isinstance(late, Request):
                        late.say(failure or closed())
                    elif late is not None:
                        late.set_result(None)

    def _take(self, arrived: list[Request | Future[None] | None]) -> None:
        """What came since the last step: requests, those who leave, wishes that everything be forgotten."""
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        for request in arrived:
            if isinstance(request, Request):
                self._advance(request, None)
                if request.rows:
                    self._waiting.append(request)
        self._leave()
        for wish in arrived:
            if isinstance(wish, Future):
                for sequence in set(self._tree.sequences()) - self._busy():
                    self._drop(sequence)
                wish.set_result(None)

    def _leave(self) -> None:
        for request in [each for each in [*self._running, *self._waiting] if each.stopping]:
            request.steps.close()
            self._end(request)
            request.say(None)

    def _end(self, request: Request) -> None:
        """A request is over; what was read for it stays for the next."""
        if request in self._waiting:
            self._waiting.remove(request)
            return
        self._running.remove(request)
        sequence, request.sequence = request.sequence, -1
        if sequence not in self._pinned and (not self._context.cuts or self._tree.redundant(sequence)):
            self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        self._context.cut(sequence, 0)
        self._tree.remove(sequence)
        self._free.append(sequence)

    def _busy(self) -> set[int]:
        return {each.sequence for each in self._running} | self._pinned

    # ---- who takes part

    def _admit(self) -> None:
        """Waiting requests, in their order, as long as there is a sequence and room for what each may grow to."""
        while self._waiting:
            request = min(self._waiting, key=lambda each: (each.patient, each.since))
            if request.patient and len(self._running) > 0:
                return
            shared, source = self._shared(request)
            growing = sum(each.most - each.read for each in self._running)
            while self._tree.cells + growing + request.most - shared > self._context.cells or not self._free:
                if not self._evict(keep=source):
                    break
            if (self._running and self._tree.cells + growing + request.most - shared > self._context.cells) or not self._free:
                return
            self._waiting.remove(request)
            self._running.append(request)
            self._sit(request)

    def _shared(self, request: Request) -> tuple[int, int]:
        if not self._context.cuts:
            return 0, -1
        shared, source = self._tree.match(request.tokens, request.adapter)
        return min(shared, len(request.tokens) - request.rows), source

    def _sit(self, request: Request) -> None:
        """Give a request a sequence that holds what is already in memory of its tokens."""
        shared, source = self._shared(request)
        request.sequence = self._free.pop()
        if shared > 0:
            self._tree.branch(request.sequence, source, shared)
            self._context.share(source, request.sequence, shared)
        else:
            self._tree.begin(request.sequence, request.adapter)
        shared = max(0, shared)
        request.counts["reused_tokens"] += shared - request.read
        request.read = shared
        request.behind = self._ahead(request)

    def _ahead(self, request: Request) -> Request | None:
        """The request that is reading what this one needs, too."""
        if not self._context.cuts:
            return None
        most, found = request.read + WORTH_WAITING - 1, None
        for other in self._running:
            if other is request or other.writes or other.adapter != request.adapter or (other.patient and not request.patient):
                continue
            common = min(_common(request.tokens, other.tokens), len(request.tokens) - request.rows)
            if common > most and not self._waits_for(other, request):
                most, found = common, other
        return found

    def _waits_for(self, one: Request, other: Request) -> bool:
        at: Request | None = one
        while at is not None:
            if at is other:
                return True
            at = at.behind
        return False

    def _follow(self, request: Request) -> bool:
        """True while a request waits for another that reads what both need; afterwards it holds that, too."""
        ahead = request.behind
        if ahead is None:
            return False
        if ahead in self._running and not ahead.writes and ahead.read < _common(request.tokens, ahead.tokens):
            return True
        if self._shared(request)[0] > request.read:
            self._drop(request.sequence)
            self._sit(request)
            return request.behind is not None
        request.behind = None
        return False

    def _evict(self, keep: int = -1) -> bool:
        """Let the least useful go; False where nothing may."""
        for sequence in set(self._tree.sequences()) - self._busy() - {keep}:
            if self._tree.redundant(sequence):
                self._drop(sequence)
                return True
        found = self._tree.least(self._busy() | {keep})
        if found is None:
            return False
        sequence, length = found
        if length:
            self._context.cut(sequence, length)
            self._tree.cut(sequence, length)
        if not length or self._tree.redundant(sequence):
            self._drop(sequence)
        return True

    # ---- what a step does

    def _plan(self) -> list[tuple[Request, Part]]:
        """The next words of all who write, then prompts as far as the time allows."""
        adapter = self._running[self.steps % len(self._running)].adapter if self._running else None
        if self._suspects:
            self._suspects = [each for each in self._suspects if each in self._running]
        able = self._suspects[:1] or [each for each in self._running if each.adapter == adapter]
        able = [each for each in able if not self._follow(each)]
        writing = [each for each in able if each.writes]
        reading = [each for each in able if not each.writes]
        if any(not each.patient for each in able):
            reading = [each for each in reading if not each.patient]
        now = time.monotonic()
        reading.sort(key=lambda each: each.remaining - self._rate * (now - each.since))  # the shortest, but waiting counts
        room, rows, parts = self._limit, OUTPUTS, list[tuple[Request, Part]]()
        for request in writing[self.steps % max(1, len(writing)) :] + writing[: self.steps % max(1, len(writing))]:
            part = self._part(request, room, rows)
            if part is not None:
                parts.append((request, part))
                room, rows = room - len(part.tokens), rows - part.rows
        time_left = max(LEAST_READ, int(self._rate * (GAP_S if writing else STEP_S)))
        room = min(room, time_left)
        for request in reading:
            part = self._part(request, room, rows)
            if part is not None:
                parts.append((request, part))
                room, rows = room - len(part.tokens), rows - part.rows
        if not parts and able:  # logits of many tokens are wanted at once, and the time is short
            part = self._part(able[0], BATCH_TOKENS, OUTPUTS)
            parts = [(able[0], part)] if part is not None else []
        return parts

    def _part(self, request: Request, room: int, rows: int) -> Part | None:
        """As much of what a request wants read as there is room for; its logits come in one go with its last tokens."""
        before = request.remaining - request.rows  # tokens whose logits nobody wants
        count, wanted = min(before, room), 0
        if room - before >= request.rows <= rows:
            count, wanted = request.remaining, request.rows
        if count <= 0:
            return None
        return Part(request.sequence, request.read, request.tokens[request.read : request.read + count], wanted)

    def _step(self, planned: list[tuple[Request, Part]]) -> None:
        started = time.monotonic()
        reads = [request for request, _ in planned if not request.writes]
        with self._guard:
            self._context.go_on()
            if len(reads) == len(planned):
                self._interruptible = frozenset(reads)
                if self._closing or all(each.stopping for each in reads):
                    return
        try:
            self._context.wear(planned[0][0].adapter)
            found = self._context.decode([part for _, part in planned])
        except (NoRoom, GivenUp, Broken) as failure:
            with self._state:
                self._failed(planned, failure)
            return
        finally:
            with self._guard:
                self._interruptible = frozenset()
        with self._state:
            self._went(planned, found, time.monotonic() - started)

    def _went(self, planned: Sequence[tuple[Request, Part]], found: Sequence[Logits], seconds: float) -> None:
        """A step was done: its tokens are in memory, and who waits for logits gets them."""
        self.steps += 1
        self._limit = min(BATCH_TOKENS, self._limit * 2)
        if self._suspects:
            self._suspects = self._suspects[1:]
        self._count(planned, seconds)
        for request, part in planned:
            self._tree.extend(request.sequence, part.tokens)
            request.read += len(part.tokens)
        for (request, part), rows in zip(planned, found, strict=True):
            if part.rows and request.rows:
                self._advance(request, rows)

    def _advance(self, request: Request, rows: Logits | None) -> None:
        """Hand a request its logits and hear what it wants next; None begins it."""
        request.told = rows is not None
        try:
            request.rows = next(request.steps) if rows is None else request.steps.send(rows)
        except StopIteration:
            last: Any = None
        except Exception as error:  # noqa: BLE001 - one request's fault ends that request; its caller raises it
            last = error
        else:
            return
        request.rows = 0
        if request.sequence >= 0:
            self._end(request)
        request.say(last)

    def pin(self, request: Request) -> None:
        """What a running request holds stays until the memory is made anew; for its generator."""
        self._pinned.add(request.sequence)

    def cut(self, request: Request, length: int) -> None:
        """Keep only the first `length` tokens of a request; for its generator."""
        del request.tokens[length:]
        if request.read > length:
            request.read = self._context.cut(request.sequence, length)
            self._tree.cut(request.sequence, request.read)

    def _count(self, planned: Sequence[tuple[Request, Part]], seconds: float) -> None:
        tokens = sum(len(part.tokens) for _, part in planned)
        read = sum(len(part.tokens) for request, part in planned if not request.writes)
        if read >= LEAST_READ:
            self._rate += SMOOTHING * (read / max(seconds, 1e-6) - self._rate)
        for request, part in planned:
            if not request.writes:
                request.counts["prompt_tokens"] += len(part.tokens)
            request.counts["compute_s"] += seconds * len(part.tokens) / tokens
            request.counts["answer_s" if request.writes else "prompt_s"] += seconds

    # ---- when llama.cpp cannot

    def _failed(self, planned: Sequence[tuple[Request, Part]], failure: NoRoom | GivenUp | Broken) -> None:
        if isinstance(failure, NoRoom):
            self._make_room(planned)
        elif isinstance(failure, Broken):
            self._rebuild([request for request, _ in planned], failure)

    def _make_room(self, planned: Sequence[tuple[Request, Part]]) -> None:
        """No cells: let what is kept go, then read less at once, then send the one who came last back to wait."""
        if self._evict():
            return
        if self._limit > 1 and sum(len(part.tokens) for _, part in planned) > 1:
            self._limit = max(1, min(self._limit, sum(len(part.tokens) for _, part in planned)) // 2)
            return
        last = max(self._running, key=lambda each: each.since)
        if len(self._running) == 1:
            last.failures += 1
            if last.failures >= ALONE_FAILURES:
                self._fail(
                    last, EngineUnavailable("The language model's memory is too small for this prompt.", "Raise FOOTNOTE_MEMORY_MB.")
                )
            return
        self._send_back(last)

    def _send_back(self, request: Request) -> None:
        """Its tokens, those written too, are read again when there is room."""
        self._running.remove(request)
        self._drop(request.sequence)
        request.sequence, request.read, request.behind = -1, 0, None
        self._waiting.appendleft(request)

    def _rebuild(self, requests: Sequence[Request], failure: Broken) -> None:
        """A new memory; everything is read again. Who took part in the step is tried alone, and given up where it fails alone, too."""
        self._context.close()
        try:
            self._context = self._make()
        except FootnoteError as error:
            for request in [*self._running, *self._waiting]:
                request.steps.close()
                request.say(error)
            self._closing = True
            return
        self._tree, self._free, self._pinned = Tree(), list(range(SEQUENCES)), set()
        for request in list(self._running):
            request.sequence, request.read, request.behind = self._free.pop(), 0, None
            self._tree.begin(request.sequence, request.adapter)
        if len(requests) == 1:
            requests[0].failures += 1
            if requests[0].failures >= ALONE_FAILURES:
                cure = "Ask again; if it happens again, use a smaller model or a smaller FOOTNOTE_CONTEXT_TOKENS."
                self._fail(requests[0], EngineUnavailable(f"The language model failed ({failure}).", cure))
        self._suspects = [each for each in requests if each in self._running]

    def _fail(self, request: Request, error: FootnoteError) -> None:
        request.steps.close()
        self._end(request)
        request.say(error)


def closed() -> EngineUnavailable:
    """What whoever asks a closed model is told."""
    return EngineUnavailable("The language model was closed.", "Start Footnote again.")


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts share at their start."""
    count = min(len(one), len(other))
    left, right = numpy.asarray(one[:count]), numpy.asarray(other[:count])
    differ = numpy.flatnonzero(left != right)
    return int(differ[0]) if len(differ) else count
