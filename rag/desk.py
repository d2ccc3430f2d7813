"""Questions → answers, one at a time, first come first served; what was said is kept for an hour so that readers can resume.

A reader who leaves does not stop an answer. A fault in one answer is reported to its reader and the next one goes on.
"""

from __future__ import annotations

import logging
import secrets
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from errors import Busy, EngineUnavailable, FootnoteError, UsageError
from rag.types import Answer, Turn

if TYPE_CHECKING:
    from rag.answer import Answerer
    from rag.held import HeldIndexes
    from records.store import Records

KEPT_S = 3600.0  # seconds that a finished answer can be read again; a reload of the page after lunch finds it
FIRST_ESTIMATE_S = 8.0  # seconds of an answer before any was measured
REMEMBERED = 20  # durations that the estimate is the median of
HISTORY_TURNS = 6  # lines of a conversation that the next question is read with
INTERRUPTED = "The engine ended before this answer was complete."

log = logging.getLogger("footnote.engine")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by whom, of what. `message` names an assistant message that is to be answered again, in place."""

    question: str
    collection: str
    user: str
    document: str | None = None
    history: tuple[Turn, ...] | None = None  # None: what the conversation said before
    conversation: str = ""
    message: int | None = None
    keep: int | None = None


@dataclass(slots=True)
class Asked:
    """One question on its way: its events so far, and who is to be told of the next."""

    id: str
    question: Question
    history: tuple[Turn, ...] = ()
    message: int | None = None  # the assistant message in the records
    events: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    since: float = field(default_factory=time.monotonic)
    listeners: set[Callable[[], None]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, event: dict[str, Any]) -> None:
        """Append an event and tell the readers."""
        with self.lock:
            if self.finished:
                return
            self.events.append({"seq": len(self.events), **event})
            self.finished = event["event"] in ("done", "stopped", "error")
            listeners = list(self.listeners)
        for each in listeners:
            each()
        if listeners and event["event"] in ("sources", "sentence"):
            time.sleep(0.002)  # lets the thread that sends go first: generation holds Python's lock for longer than that

    def state(self) -> dict[str, Any]:
        """What a page draws: how far it is, the passages and sentences so far, the answer or the error at the end."""
        with self.lock:
            events = list(self.events)
        state: dict[str, Any] = {"id": self.id, "state": "queued", "passages": [], "sentences": []}
        for event in events:
            kind = event["event"]
            rest = {name: value for name, value in event.items() if name not in ("seq", "event")}
            if kind == "stage":
                state["state"] = event["stage"]
            elif kind == "sentence":
                state["sentences"].append(rest)
            elif kind in ("done", "stopped", "error"):
                state |= {**rest, "state": {"error": "failed"}.get(kind, kind)}
            else:
                state |= rest
        return state


class Desk:
    """The queue in front of the one model. `start` begins to answer; questions may be put in before."""

    def __init__(self, limit: int, mark: str, held: HeldIndexes, records: Records) -> None:
        self._limit = limit
        self._mark = mark  # begins every answer's id, so that answers of this index folder's engines are known in the records
        self._held = held
        self._records = records
        self._waiting: deque[Asked] = deque()
        self._kept: dict[str, Asked] = {}
        self._current: Asked | None = None
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._changed = threading.Condition()
        self._closing = False
        self._failure: FootnoteError | None = None
        self._answerer: Answerer | None = None
        self._thread: threading.Thread | None = None
        self.touched = time.monotonic()

    def start(self, answerer: Answerer) -> None:
        """Begin to answer, in the calling thread's stead: a thread of the desk's own is the only one that uses the model."""
        self._answerer = answerer
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def fail(self, failure: FootnoteError) -> None:
        """The model cannot be loaded: everyone who waits or comes is told why."""
        with self._changed:
            self._failure = failure
            waiting, self._waiting = list(self._waiting), deque()
        for each in waiting:
            self._fail(each, failure)

    def ask(self, question: Question) -> Asked:
        """Put a question in; it has its number at once. Raises Busy when too many wait, UsageError for an empty question."""
        if self._failure is not None:
            raise self._failure
        if not question.question.strip():
            raise UsageError("The question is empty.", "Type a question.")
        self._sweep()
        asked = Asked(f"{self._mark}-{secrets.token_urlsafe(9)}", question)
        if len(self._waiting) >= self._limit:
            raise Busy(f"{len(self._waiting)} questions are waiting already.", "Ask again in a minute.")
        if self._closing:
            raise Busy("The engine is ending.", "Ask again in a few seconds.")
        self._kept[asked.id] = asked
        try:
            self._remember(asked)
        except BaseException:
            del self._kept[asked.id]
            raise
        with self._changed:
            self._waiting.append(asked)
            self.touched = time.monotonic()
            self._changed.notify_all()
        self._tell_positions()
        return asked

    def find(self, answer: str) -> Asked:
        """Raises UsageError for an answer that is not kept (any longer)."""
        found = self._kept.get(answer)
        if found is None:
            raise UsageError("The engine does not keep this answer any longer.", "Ask again.")
        return found

    def end(self, answer: str) -> None:
        """Stop an answer, running or waiting; one that is finished stays as it is."""
        asked = self.find(answer)
        asked.stop.set()
        with self._changed:
            waited = asked in self._waiting
            if waited:
                self._waiting.remove(asked)
        if waited:
            self._stopped(asked, None)
            self._tell_positions()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return self._current is not None or bool(self._waiting)

    def close(self, wait_s: float = 5.0) -> bool:
        """Stop what runs, tell who waits, and end the thread; says whether it ended in time."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = list(self._waiting), deque()
            current = self._current
            self._changed.notify_all()
        if current is not None:
            current.stop.set()
        for each in waiting:
            self._fail(each, EngineUnavailable(INTERRUPTED, "Ask again."))
        if self._thread is None:
            return True
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    # ---- the thread that answers

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                asked = self._current = self._waiting.popleft()
            self._tell_positions()
            started = time.monotonic()
            try:
                self._answer(asked)
            finally:
                self._durations.append(time.monotonic() - started)
                self.touched = time.monotonic()
                self._current = None
                self._tell_positions()

    def _answer(self, asked: Asked) -> None:
        question = asked.question
        if self._answerer is None:
            raise TypeError("start() was not called")
        try:
            with self._held.use(question.collection) as index:
                answer = self._answerer.answer(
                    question.question,
                    index,
                    history=asked.history,
                    document=question.document,
                    user=question.user,
                    keep=question.keep,
                    emit=asked.say,
                    should_stop=asked.stop.is_set,
                    conversation=question.conversation,
                )
        except FootnoteError as error:
            self._fail(asked, error)
        except Exception as error:  # noqa: BLE001 - the edge: one question's fault must not end the others
            number = report(error, question.question)
            cure = f"Ask again; the engine's log has the reason under number {number}."
            self._fail(asked, FootnoteError("Something went wrong while this was answered.", cure))
        else:
            if answer.stopped:
                self._stopped(asked, answer)
            else:
                self._finish(asked, {"event": "done", "answer": answer.as_json()}, "done", answer.text, answer)

    # ---- what happens around an answer

    def _remember(self, asked: Asked) -> None:
        """Write the question and a place for its answer into the conversation, so that a reload finds both."""
        question = asked.question
        asked.history = question.history or ()
        if not question.conversation:
            return
        if question.history is None:
            said = [
                each
                for each in self._records.messages(question.conversation, question.user)
                if each.status == "done" and each.text and (question.message is None or each.id < question.message)
            ]
            if question.message is not None and said and said[-1].role == "user":
                said = said[:-1]
            asked.history = tuple(Turn(each.role, each.text) for each in said[-HISTORY_TURNS:])
        if question.message is None:
            self._records.add_message(question.conversation, "user", question.question, question.user)
            asked.message = self._records.add_message(
                question.conversation, "assistant", "", question.user, status="writing", answer_id=asked.id
            )
            return
        message = self._records.message(question.message, question.user)
        if message is None or message.conversation != question.conversation:
            raise UsageError("This answer is no longer there.", "Start a new conversation.")
        asked.message = message.id
        self._records.update_message(message.id, text="", status="writing", answer_id=asked.id)

    def _fail(self, asked: Asked, error: FootnoteError) -> None:
        event = {"event": "error", "error": type(error).__name__, "message": error.message, "cure": error.cure}
        self._finish(asked, event, "failed", str(error), None)

    def _stopped(self, asked: Asked, answer: Answer | None) -> None:
        body = answer.as_json() if answer is not None else None
        self._finish(asked, {"event": "stopped", "answer": body}, "stopped", answer.text if answer is not None else "", answer)

    def _finish(self, asked: Asked, event: dict[str, Any], status: str, text: str, answer: Answer | None) -> None:
        """The records first, then the reader: a page that reloads on "done" finds it there."""
        if asked.message is not None:
            try:
                body = answer.as_json() if answer is not None else None
                self._records.update_message(asked.message, text=text, status=status, answer=body)
            except FootnoteError as error:
                log.error("answer %s could not be kept: %s", asked.id, error)
            except Exception as error:  # noqa: BLE001 - the reader must get the answer even when the records cannot be written
                report(error, asked.question.question)
        asked.say(event)
        seconds = time.monotonic() - asked.since
        log.info("answer %s %s after %.2f s, %d waiting", asked.id, event["event"], seconds, len(self._waiting))

    def _tell_positions(self) -> None:
        with self._changed:
            waiting, running = list(self._waiting), self._current is not None
        usual = statistics.median(self._durations) if self._durations else FIRST_ESTIMATE_S
        for position, asked in enumerate(waiting, 1):
            estimate = round(usual * (position - 1 + (1 if running or self._answerer is None else 0)), 1)
            last = next((each for each in reversed(asked.events) if each["event"] == "queued"), None)
            if last is None or last["position"] != position:
                asked.say({"event": "queued", "position": position, "estimate_s": estimate})

    def _sweep(self) -> None:
        now = time.monotonic()
        for number in [number for number, each in list(self._kept.items()) if each.finished and now - each.since > KEPT_S]:
            self._kept.pop(number, None)


def report(error: BaseException, secret: str = "") -> str:
    """Write a fault to the log without the text of a question; returns the short number that a person is given."""
    number = secrets.token_hex(3)
    text = "".join(traceback.format_exception(error))
    log.error("fault %s\n%s", number, text.replace(secret, "…") if secret else text)
    return number


def turns(history: Sequence[dict[str, Any]] | None) -> tuple[Turn, ...] | None:
    """A conversation as it comes over the wire. Raises UsageError where it is none."""
    if history is None:
        return None
    try:
        found = tuple(Turn(str(each["role"]), str(each["content"])) for each in history)
    except (KeyError, TypeError):
        raise UsageError("The history is not a conversation.", 'It is a list of {"role", "content"}.') from None
    return found
