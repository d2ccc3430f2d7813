"""Requests of many people → one step of reading or writing after the other, through one memory, on one thread.

Continuous batching: requests join and leave at every step. A step either continues every answer that is being written by a word, or reads
a piece of the prompts; the two take turns, and the pieces are so small that nobody's words stall while a long prompt is read. What a new
prompt shares with anything that was read before, or is being read for another person now, is not read again: what a request leaves stays
in its sequence, where the same prompt or the conversation's next question goes on without a copy, and is kept in store.py when nobody asks
or another prompt needs the sequence. A request is a generator: it yields how many of its last tokens it wants the logits of, gets them, and
appends tokens to its `tokens` or cuts them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import EngineUnavailable, FootnoteError
from rag.engine.context import BATCH_TOKENS, OUTPUTS, Broken, Context, GivenUp, Logits, NoRoom, Part
from rag.engine.store import Store, common

GAP_S = 0.2  # seconds between two tokens of an answer while a prompt is read: about as fast as people read
MOST_GAPS = 5  # times as long while as many people wait for their first word: they have nothing to read yet
READING_SHARE = 8.0  # times as long as everybody's next word takes, prompts may be read before it even where that makes the gap longer, …
LARGER_SHARE, READING_S = 20.0, 1.0  # … and so many where that takes no longer than so many seconds: who waits has nothing to read
STEP_S = 1.0  # seconds of reading in one go while nobody's answer is written: as long a new arrival waits. A stop ends it at once
LEAST_READ = 64  # tokens that are read in one go at least: llama.cpp's attention is slow on fewer, and 48 take as long
WORTH_WAITING = 32  # tokens that another person's prompt must share for it to be waited for; fewer are read sooner than waited for
WORTH_COPYING = 16  # tokens that must be there for them to be copied, or kept; fewer are read again in the time that the copy takes
QUIET_S = 0.25  # seconds without a request after which what the last ones left is kept, one by one
WARM_S, WARM_SHARE = 10.0, 0.01  # seconds after which a resting memory is read once, and the share of the time that this may take, …
WARM_FOR_S = 600.0  # … for so long after the last request: where the machine is a virtual one, what nobody touches soon becomes slow
SMALL_SHARE = 8  # less than one in so many tokens is read again sooner than all before it are copied
STEPS_BETWEEN = 8  # steps that what a request left may part those who write; keeping it and bringing it back takes about as long
SMOOTHING = 0.3  # of the newest step in the measured speed of reading
FIRST_RATE = 256.0  # tokens a second that reading is thought to take before any was measured
ALONE_FAILURES = 2  # failures of a request by itself after which it is given up

Steps = Generator[int, Logits, None]

log = logging.getLogger("footnote.engine")


class Request:
    """What one caller wants read and written. Made by the caller's thread; from `submit` on its state belongs to the engine's thread."""

    def __init__(
        self,
        tokens: Sequence[int],
        steps: Callable[[Request], Steps],
        adapter: Path | None = None,
        *,
        patient: bool = False,
        pinned: bool = False,
    ) -> None:
        self.tokens = list(tokens)
        self.adapter = adapter
        self.patient = patient  # read only while nobody waits
        self.pinned = pinned  # what it read stays for good
        self.out: queue.SimpleQueue[Any] = queue.SimpleQueue()  # pieces; then None or an exception
        self.stopping = False  # set by any thread
        self.counts = {"prompt_tokens": 0.0, "reused_tokens": 0.0, "answer_tokens": 0.0, "prompt_s": 0.0, "answer_s": 0.0, "compute_s": 0.0}
        self.steps = steps(self)
        self.rows = 0  # logits that it waits for
        self.read = 0  # of its tokens that the memory holds
        self.sequence = -1
        self.told = False  # it got its first logits: its prompt was read
        self.over = False  # its caller was told that nothing more comes
        self.since = 0.0
        self.failures = 0
        self.behind: Request | None = None  # whose reading it waits for,
        self.shared = 0  # because that one's prompt begins with as many of its tokens

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.read

    @property
    def writes(self) -> bool:
        """Its prompt is read: each step may continue it."""
        return self.told and self.remaining <= self.rows

    @property
    def joins(self) -> bool:
        """It can be continued together with those that write: all of its prompt that is left is what its first word comes from."""
        return self.remaining <= self.rows and (self.told or not self.patient)

    def say(self, piece: Any) -> None:
        """Hand something to the caller."""
        self.out.put(piece)


@dataclass(slots=True)
class Left:
    """What a sequence still holds of a request that is over."""

    tokens: list[int]
    adapter: Path | None
    last: int  # the step after which it was over
    kept: bool = False  # in the store, too
    between: int = 0  # steps of writing that it stood between


class Scheduler:
    """The thread that alone uses a memory. `submit` and `stop` may be called from any thread."""

    def __init__(self, make: Callable[[], Context], store_bytes: int) -> None:
        """`make` opens the memory, again after a failure of llama.cpp; `store_bytes` is for what earlier prompts leave."""
        self._make = make
        self._context = make()
        self._store = Store(store_bytes)
        self._keeps = self._context.cuts  # whether prompts can be kept: not with every model
        self._free = set(range(self._context.shape.sequences))
        self._left: dict[int, Left] = {}  # by free sequence
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._arrived: queue.SimpleQueue[Request | Future[None] | None] = queue.SimpleQueue()
        self._rate = FIRST_RATE
        self._wrote = False  # in the last step
        self._written_s = 0.0  # that the last word of everybody took
        self._limit = BATCH_TOKENS  # tokens of a step; halved while the memory has no room for more
        self._suspects: list[Request] = []  # requests of a step that failed, tried one by one
        self._interruptible: frozenset[Request] = frozenset()
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
        """How many of the first tokens are kept and would not be read again."""
        with self._state:
            left = (common(tokens, each.tokens) for each in self._left.values() if each.adapter == adapter)
            return max(self._store.match(tokens, adapter), *left, 0)

    def state(self) -> dict[str, int]:
        """Requests that run and wait, what is kept of earlier ones, and steps since the start."""
        with self._state:
            return {
                "running": len(self._running),
                "waiting": len(self._waiting),
                "kept_tokens": self._store.tokens,
                "kept_bytes": self._store.bytes,
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
                arrived = [self._rest()] if idle else []
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

    def _rest(self) -> Request | Future[None] | None:
        """What comes next; until then what requests left is kept, the oldest first, and then stays warm."""
        began, wait = time.monotonic(), WARM_S
        while True:
            unkept = [sequence for sequence, each in self._left.items() if not each.kept] if self._keeps else []
            warms = bool(self._left) and time.monotonic() - began < WARM_FOR_S
            try:
                return self._arrived.get(timeout=QUIET_S if unkept else wait if warms else None)
            except queue.Empty:
                if not unkept:
                    wait = max(WARM_S, self._warm() / WARM_SHARE)
                    continue
                with self._state:
                    self._keep_left(min(unkept, key=lambda each: self._left[each].last))

    def _warm(self) -> float:
        """Read what lies in the memory, and the weights, as a step of writing would, and forget its words; the seconds that it took."""
        began = time.monotonic()
        with self._state:
            newest = max(self._left.values(), key=lambda each: each.last)
            parts = [
                Part(sequence, len(each.tokens), each.tokens[-1:], 0)
                for sequence, each in self._left.items()
                if each.adapter == newest.adapter and 0 < len(each.tokens) < self._context.shape.window
            ]
        with self._guard:
            if self._closing or not parts:
                return 0.0
            self._context.go_on()
        try:
            self._context.wear(newest.adapter)
            self._context.decode(parts)
        except (NoRoom, GivenUp):
            return 0.0  # the sequences hold what they held
        except Broken as failure:
            with self._state:
                self._rebuild([], failure)
            return 0.0
        with self._state:
            for part in parts:
                self._context.cut(part.sequence, part.start)
        return time.monotonic() - began

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
                self._store.clear()
                for sequence in list(self._left):
                    self._empty(sequence)
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
        self._free.add(request.sequence)
        self._left[request.sequence] = Left(request.tokens[: request.read], request.adapter, self.steps)
        if request.pinned:
            self._keep_left(request.sequence, pinned=True)
        if not self._context.cuts or not request.read:
            self._empty(request.sequence)
        request.sequence = -1

    def _keep_left(self, sequence: int, *, pinned: bool = False) -> None:
        """Copy what a sequence holds of an earlier request into the store."""
        left = self._left[sequence]
        left.kept = True
        start = self._store.match(left.tokens, left.adapter)
        if not self._keeps or (len(left.tokens) - start < WORTH_COPYING and not pinned):
            return
        try:
            if start < len(left.tokens):
                self._store.save(left.tokens, start, self._context.save(sequence, start), left.adapter)
        except ValueError as failure:
            self._keep_nothing(failure)
            return
        if pinned:
            self._store.pin(left.tokens, left.adapter)

    def _empty(self, sequence: int) -> None:
        del self._left[sequence]
        self._context.cut(sequence, 0)

    def _keep_nothing(self, failure: Exception) -> None:
        log.warning("This model's prompts cannot be kept (%s): each is read from its start.", failure)
        self._keeps = False

    # ---- who takes part

    def _admit(self) -> None:
        """Waiting requests, in their order, as long as there is a sequence for each."""
        while self._waiting and self._free:
            request = min(self._waiting, key=lambda each: (each.patient, each.since))
            if request.patient and self._running:
                return
            self._waiting.remove(request)
            self._settle(request)
            self._running.append(request)
            self._catch_up(request)

    def _settle(self, request: Request) -> None:
        """A sequence for a request: the one that holds most of its prompt, or one whose loss hurts least, which is kept before."""
        best, same = self._same(request)
        kept = self._store.match(request.tokens, request.adapter)
        if same < WORTH_COPYING or not (same > kept + WORTH_COPYING or 2 * same > len(self._left[best].tokens)):
            best, same = min(self._free, key=self._worth), 0
        self._take_over(request, best, same)

    def _same(self, request: Request) -> tuple[int, int]:
        """Of the sequences that nobody uses the one that begins with most of a request's tokens, and how many these are."""
        most = len(request.tokens) - request.rows
        found = [
            (min(common(request.tokens, left.tokens), most), sequence)
            for sequence, left in self._left.items() if left.adapter == request.adapter
        ]  # fmt: skip
        same, best = max(found, default=(0, -1))
        return best, same

    def _take_over(self, request: Request, sequence: int, same: int) -> None:
        """A free sequence is a request's, with the first `same` tokens that it holds."""
        left = self._left.get(sequence)
        if left is not None:
            if not left.kept and SMALL_SHARE * (len(left.tokens) - same) > len(left.tokens):
                self._keep_left(sequence)
            del self._left[sequence]
            same = self._context.cut(sequence, same)  # what is really left of it
        self._free.remove(sequence)
        request.sequence = sequence
        request.counts["reused_tokens"] += same - request.read
        request.read = same

    def _worth(self, sequence: int) -> tuple[bool, int, int, int]:
        """What goes first: what is kept anyway, or nothing; what lies beside those that run, since a gap between those who write costs
        nearly as much as one of them; what is oldest."""
        left = self._left.get(sequence)
        taken = [each.sequence for each in self._running] or [sequence]
        beside = max(0, min(taken) - sequence, sequence - max(taken))
        return left is not None and not left.kept, beside, left.last if left else 0, sequence

    def _catch_up(self, request: Request) -> None:
        """Have a request hold what is there of its tokens: kept from before, or read for another; or wait while another reads it."""
        if not self._context.cuts:
            return
        most = len(request.tokens) - request.rows
        kept = min(self._store.match(request.tokens, request.adapter), most) if self._keeps else 0
        best, left = self._same(request)  # of one whom it waited for
        ready, source = 0, request
        ahead, shared = None, 0
        for other in self._running:
            if other is request or other.adapter != request.adapter:
                continue
            same = min(common(request.tokens, other.tokens), most)
            if min(same, other.read) > ready:
                ready, source = min(same, other.read), other
            if same > shared and not other.writes and not _waits_for(other, request):
                ahead, shared = other, same
        left = left if left >= max(kept, ready) + WORTH_COPYING else 0
        now = max(kept, ready, left, request.read)
        if ahead is not None and shared >= now + WORTH_WAITING:
            request.behind, request.shared = ahead, shared
            ahead.patient = ahead.patient and request.patient  # what it reads is needed now
            return
        if now < request.read + WORTH_COPYING:
            return
        self._context.cut(request.sequence, 0)
        if left:
            self._free.add(request.sequence)
            self._take_over(request, best, left)
            return
        if kept + WORTH_COPYING > ready:  # it is copied alone, the other with all that its sequence has room for
            now = kept
            try:
                self._context.load(request.sequence, self._store.load(request.tokens, kept, request.adapter))
            except Broken as failure:
                self._keep_nothing(failure)
                now = 0
        else:
            self._context.copy(source.sequence, request.sequence, ready)
        request.counts["reused_tokens"] += now - request.read
        request.read = now

    def _follow(self, request: Request) -> bool:
        """True while a request waits for another that reads what both need; afterwards it holds that, too."""
        ahead = request.behind
        if ahead is None:
            return False
        if ahead in self._running and not ahead.writes and ahead.read < request.shared:
            return True
        request.behind = None
        self._catch_up(request)
        return request.behind is not None

    # ---- what a step does

    def _plan(self) -> list[tuple[Request, Part]]:
        """The next word of all who write, or prompts as far as the time allows; in turns where there are both."""
        adapter = self._running[self.steps % len(self._running)].adapter if self._running else None
        if self._suspects:
            self._suspects = [each for each in self._suspects if each in self._running]
        able = self._suspects[:1] or [each for each in self._running if each.adapter == adapter]
        able = [each for each in able if not self._follow(each)]
        writing = [each for each in able if each.joins]
        reading = [each for each in able if not each.joins]
        if any(not each.patient for each in able):
            reading = [each for each in reading if not each.patient]
        now = time.monotonic()
        reading.sort(key=lambda each: each.remaining - self._rate * (now - each.since))  # the shortest, but waiting counts
        if writing and not (reading and self._wrote):
            self._wrote = True
            self._close_up([each.sequence for each in writing])
            turn = self.steps % len(writing)
            return self._parts(writing[turn:] + writing[:turn], self._limit)
        self._wrote = False
        people = len(self._waiting) + sum(not each.writes and not each.patient for each in self._running)
        gap = GAP_S * min(MOST_GAPS, max(1, people))
        longer = max(READING_SHARE * self._written_s, min(LARGER_SHARE * self._written_s, READING_S))
        seconds = max(gap - self._written_s, longer) if writing else STEP_S
        return self._piece(reading, int(self._rate * seconds))

    def _close_up(self, writing: Sequence[int]) -> None:
        """Empty sequences between those who write cost little (context.py), others part them: they are computed one after the other."""
        between = [each for each in self._left if min(writing) < each < max(writing)]
        if len(between) >= len(writing):
            return
        for sequence in between:
            self._left[sequence].between += 1
            if self._left[sequence].between > STEPS_BETWEEN:
                if not self._left[sequence].kept:
                    self._keep_left(sequence)
                self._empty(sequence)

    def _piece(self, reading: Sequence[Request], room: int) -> list[tuple[Request, Part]]:
        """A piece of one prompt: llama.cpp reads two of different lengths one after the other anyway, and some of it slowly."""
        for request in reading[:1]:
            room = min(self._limit, max(LEAST_READ, room // LEAST_READ * LEAST_READ))
            if room < request.remaining < room + LEAST_READ <= self._limit:
                room = request.remaining  # what would be left over takes as long as LEAST_READ
            return self._parts([request], room)
        return []

    def _parts(self, able: Sequence[Request], room: int) -> list[tuple[Request, Part]]:
        rows, parts = OUTPUTS, list[tuple[Request, Part]]()
        for request in able:
            part = self._part(request, room, rows)
            if part is not None:
                parts.append((request, part))
                room, rows = room - len(part.tokens), rows - part.rows
        if not parts and able:  # logits of more tokens are wanted at once than there is time for
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
        self._suspects = self._suspects[1:]
        self._count(planned, seconds)
        for request, part in planned:
            request.read += len(part.tokens)
        for (request, part), rows in zip(planned, found, strict=True):
            if part.rows and request.rows:
                self._advance(request, rows)
        for request, _ in planned:
            if request.over:  # everybody has heard by now what this step brought: keeping a prompt takes a while
                self._end(request)

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
        request.rows, request.over = 0, True
        request.say(last)

    def cut(self, request: Request, length: int) -> None:
        """Keep only the first `length` tokens of a request; for its generator."""
        del request.tokens[length:]
        if request.read > length:
            request.read = self._context.cut(request.sequence, length)

    def _count(self, planned: Sequence[tuple[Request, Part]], seconds: float) -> None:
        tokens = sum(len(part.tokens) for _, part in planned)
        if self._wrote:
            self._written_s = seconds
        elif tokens >= LEAST_READ:
            self._rate += SMOOTHING * (tokens / max(seconds, 1e-6) - self._rate)
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
        """No cells: read less at once; where not even a token finds room, its request is given up."""
        count = sum(len(part.tokens) for _, part in planned)
        if count > 1:
            self._limit = max(1, min(self._limit, count) // 2)
            return
        request = planned[0][0]
        request.failures += 1
        if request.failures >= ALONE_FAILURES:
            cure = "Raise FOOTNOTE_CONTEXT_TOKENS."
            self._fail(request, EngineUnavailable("The language model's memory is too small for this prompt.", cure))

    def _rebuild(self, requests: Sequence[Request], failure: Broken) -> None:
        """A new memory; what is kept stays. Who took part in the step is tried alone, and given up where it fails alone, too."""
        self._context.close()
        try:
            self._context = self._make()
        except FootnoteError as error:
            for request in [*self._running, *self._waiting]:
                request.steps.close()
                request.say(error)
            self._running, self._closing = [], True
            return
        self._left = {}
        for request in self._running:
            request.read, request.behind = 0, None
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


def _waits_for(one: Request, other: Request) -> bool:
    at: Request | None = one
    while at is not None:
        if at is other:
            return True
        at = at.behind
    return False
