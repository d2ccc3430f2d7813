"""Questions → answers, several at once, people in turn; what was said is kept for an hour so that readers can resume.

Searching and reading keep every core busy, so one question at a time does that, in the order of the queue; when its answer is being
written the next one begins. A reader who leaves does not stop an answer. A fault in one answer is told to its reader alone.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import statistics
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from config import Settings
from errors import Busy, EngineUnavailable, FootnoteError, UsageError
from rag.cost import share
from rag.heap import Heap
from rag.types import Answer, Turn
from rag.visible import LOCAL

if TYPE_CHECKING:
    from rag.answer import Answerer
    from rag.held import HeldIndexes
    from records.store import Records

KEPT_S = 3600.0  # seconds that a finished answer can be read again; a reload of the page after lunch finds it
KEPT_ANSWERS = 256  # finished answers kept, 20 to 40 KB each; older ones are in their conversation
FIRST_ESTIMATE_S = 8.0  # seconds from one answer's end to the next before any was measured
REMEMBERED = 20  # of these times, whose median the estimate is made of
TURNS_OF_OTHERS = 16  # that a person waits for at most, however many come who were never served
PEOPLE = 1000  # whose last turn is remembered; whoever is forgotten counts as never served
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

    @property
    def person(self) -> str:
        """Who takes turns with others: the user; as long as all are one user, the conversation."""
        return self.user if self.user != LOCAL else f"{LOCAL}/{self.conversation}"


@dataclass(slots=True, eq=False)
class Asked:
    """One question on its way: its events so far, and who is to be told of the next."""

    id: str
    question: Question
    number: int  # counts questions as they come
    position: int = 0  # in the queue, as the reader was told; 0: not told
    told: float = 0.0  # when that was
    passed: int = 0  # turns that others had since this person's last one
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
        if state["state"] == "queued" and "estimate_s" in state:
            state["estimate_s"] = round(max(0.0, state["estimate_s"] - (time.monotonic() - self.told)), 1)
        return state


class Desk:
    """The queue in front of the models. `start` begins to answer; questions may be put in before. Threads may share it."""

    def __init__(self, settings: Settings, mark: str, held: HeldIndexes, records: Records) -> None:
        self._settings = settings
        self._mark = mark  # begins every answer's id, so that answers of this index folder's engines are known in the records
        self._held = held
        self._records = records
        self._changed = threading.Condition()  # guards what follows
        self._coming: list[Asked] = []  # being written into their conversation
        self._waiting: list[Asked] = []  # as they came
        self._running: list[Asked] = []
        self._searching: Asked | None = None  # of the running ones, the one that keeps the cores busy
        self._kept: dict[str, Asked] = {}
        self._numbers = itertools.count(1)
        self._turns: OrderedDict[str, int] = OrderedDict()  # person → number of their last turn, the latest last
        self._between: deque[float] = deque(maxlen=REMEMBERED)  # seconds from one end to the next while there was work
        self._since = 0.0  # the last end, or the moment work began
        self._closing = False
        self._failure: FootnoteError | None = None
        self._answerer: Answerer | None = None
        self._threads: list[threading.Thread] = []
        self._heap = Heap()
        self.touched = time.monotonic()

    def start(self, answerer: Answerer) -> None:
        """Begin to answer, in threads of the desk's own: `answers_at_once` of the settings."""
        self._answerer = answerer
        for number in range(max(1, self._settings.answers_at_once)):
            thread = threading.Thread(target=self._work, name=f"answers {number + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def fail(self, failure: FootnoteError) -> None:
        """The model cannot be loaded: everyone who waits or comes is told why."""
        with self._changed:
            self._failure = failure
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._fail(each, failure)

    def ask(self, question: Question) -> Asked:
        """Put a question in; it has its place in the queue at once.

        Raises Busy when too many wait, of all or of this person, and UsageError for an empty question.
        """
        if not question.question.strip():
            raise UsageError("The question is empty.", "Type a question.")
        with self._changed:
            self._refuse(question)
            self._sweep()
            asked = Asked(f"{self._mark}-{secrets.token_urlsafe(9)}", question, next(self._numbers))
            self._coming.append(asked)
            self._kept[asked.id] = asked  # before it stands in the records: a page that finds it there asks for it here
        try:
            self._remember(asked)
        except BaseException:
            with self._changed:
                self._coming.remove(asked)
                del self._kept[asked.id]
            raise
        with self._changed:
            self._coming.remove(asked)
            ended = self._failure or (EngineUnavailable(INTERRUPTED, "Ask again.") if self._closing else None)
            if ended is None:
                self._waiting.append(asked)
                self.touched = time.monotonic()
                self._tell_positions()
                self._changed.notify_all()
        if ended is not None:
            self._fail(asked, ended)
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
                self._tell_positions()
        if waited:
            self._stopped(asked, None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def busy(self) -> bool:
        with self._changed:
            return bool(self._coming or self._waiting or self._running)

    def close(self, wait_s: float = 5.0) -> bool:
        """Stop what runs, tell who waits, and end the threads; says whether they ended in time."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = self._waiting, []
            for each in self._running:
                each.stop.set()
            self._changed.notify_all()
        for each in waiting:
            self._fail(each, EngineUnavailable(INTERRUPTED, "Ask again."))
        deadline = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # ---- whose turn it is

    def _refuse(self, question: Question) -> None:
        """Raises what keeps a question from being taken."""
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise Busy("The engine is ending.", "Ask again in a few seconds.")
        waiting = [*self._waiting, *self._coming]
        if len(waiting) >= self._settings.queue_limit:
            raise Busy(f"{len(waiting)} questions are waiting already.", "Ask again in a minute.")
        own = sum(each.question.person == question.person for each in waiting)
        if own >= self._settings.queue_limit_person:
            raise Busy(f"{own} questions of yours are waiting already.", "Wait for their answers, or stop one of them.")

    def _order(self) -> list[Asked]:
        """Those who wait, in the order in which they are taken if nobody else comes.

        First, as they came, those past whom TURNS_OF_OTHERS went; then those whose person's last turn is longest ago, or never was.
        """
        turns, left, order = dict(self._turns), {each: each.passed for each in self._waiting}, []
        number = max(turns.values(), default=0)
        while left:
            long = [each for each, passed in left.items() if passed >= TURNS_OF_OTHERS]
            following = long[0] if long else min(left, key=lambda each: (turns.get(each.question.person, 0), each.number))
            person = following.question.person
            left = {each: 0 if each.question.person == person else passed + 1 for each, passed in left.items() if each is not following}
            order.append(following)
            number += 1
            turns[person] = number
        return order

    def _next(self) -> Asked | None:
        """The question whose turn it is, as soon as the one before has been searched for; None when the desk is closed."""
        with self._changed:
            while not self._closing and (self._searching is not None or not self._waiting):
                self._changed.wait()
            if self._closing:
                return None
            asked = self._order()[0]
            person = asked.question.person
            self._waiting.remove(asked)
            for each in self._waiting:
                each.passed = 0 if each.question.person == person else each.passed + 1
            self._turns[person] = max(self._turns.values(), default=0) + 1
            self._turns.move_to_end(person)
            while len(self._turns) > PEOPLE:
                self._turns.popitem(last=False)
            if not self._running:
                self._since = time.monotonic()
            self._running.append(asked)
            self._searching = asked
            self._tell_positions()
            return asked

    def _searched(self, asked: Asked) -> None:
        """Its answer is being written, or it has ended: the next one may search."""
        with self._changed:
            if self._searching is asked:
                self._searching = None
                self._changed.notify_all()

    def _ended(self, asked: Asked) -> None:
        with self._changed:
            self._searched(asked)
            self._running.remove(asked)
            self.touched = time.monotonic()
            self._between.append(self.touched - self._since)
            self._since = self.touched
            self._tell_positions()

    def _tell_positions(self) -> None:
        """Tell everyone whose place has changed; called by whoever holds `_changed`, so that no older place is told after a newer."""
        usual = statistics.median(self._between) if self._between else FIRST_ESTIMATE_S
        ahead, passed = (1, time.monotonic() - self._since) if self._running else (int(self._answerer is None), 0.0)
        for position, asked in enumerate(self._order(), 1):
            if asked.position != position:
                asked.position, asked.told = position, time.monotonic()
                estimate = max(0.0, usual * (position - 1 + ahead) - passed)
                asked.say({"event": "queued", "position": position, "estimate_s": round(estimate, 1)})

    # ---- the threads that answer

    def _work(self) -> None:
        while (asked := self._next()) is not None:
            try:
                self._answer(asked)
            finally:
                self._ended(asked)
            self._heap.give_back()

    def _answer(self, asked: Asked) -> None:
        question = asked.question
        if self._answerer is None:
            raise TypeError("start() was not called")
        if asked.stop.is_set():
            self._stopped(asked, None)
            return

        def emit(event: dict[str, Any]) -> None:
            if event.get("stage") == "writing":
                self._searched(asked)
            asked.say(event)

        try:
            with self._held.use(question.collection) as index, share():
                answer = self._answerer.answer(
                    question.question,
                    index,
                    history=asked.history,
                    document=question.document,
                    user=question.user,
                    keep=question.keep,
                    emit=emit,
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
                now = self._records.message(asked.message, asked.question.user)
                if now is None or now.answer_id == asked.id:  # it may have been asked for once more meanwhile
                    self._records.update_message(asked.message, text=text, status=status, answer=body)
            except FootnoteError as error:
                log.error("answer %s could not be kept: %s", asked.id, error)
            except Exception as error:  # noqa: BLE001 - the reader must get the answer even when the records cannot be written
                report(error, asked.question.question)
        asked.say(event)
        seconds = time.monotonic() - asked.since
        log.info("answer %s %s after %.2f s, %d waiting", asked.id, event["event"], seconds, self.waiting)

    def _sweep(self) -> None:
        now = time.monotonic()
        finished = [each for each in self._kept.values() if each.finished]
        for each in finished[:-KEPT_ANSWERS] + [each for each in finished[-KEPT_ANSWERS:] if now - each.since > KEPT_S]:
            del self._kept[each.id]


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
