"""The queue with several answers at once: turns, bounds, places told, stops, faults, its end; and everything at random at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rag.cost
from errors import Busy, EngineUnavailable
from rag.answer import Answerer
from rag.client import Client
from rag.desk import KEPT_ANSWERS, TURNS_OF_OTHERS, Asked, Desk, Question
from rag.heap import Heap
from rag.held import HeldIndexes
from rag.serve import Engine
from rag.types import Answer, Turn
from records.store import Records
from tests.engine_room import LEAVE, TRAVEL, build, running, settings_in, together, until
from tests.fakes import WordEmbedder
from tests.scripted_model import ScriptedModel

ENDS = ("done", "stopped", "error")
SCRIPT = "Meals on a journey are paid up to 40 euros a day. Every employee has 27 days of annual leave a year."
ASKED = ("How many days of annual leave?", "What is paid for meals on a journey?", "Must the receipt be kept?", "zebra crossing")


class Hand:
    """An answerer moved by hand: "search" questions search, "write" questions write, both until `go`; others are answered at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: list[str] = []
        self.searching = self.writing = 0
        self.most_searching = self.most_at_once = 0
        self._lock = threading.Lock()

    def answer(
        self, question: str, index: Any, *, history: Sequence[Turn], document: str | None, user: str, keep: int | None,
        emit: Callable[[dict[str, Any]], None], should_stop: Callable[[], bool], conversation: str,
    ) -> Answer:  # fmt: skip
        self._count(searching=1)
        with self._lock:
            self.began.append(question)
        emit({"event": "stage", "stage": "searching"})
        self._wait("search" in question, should_stop)
        if "fail" in question:
            self._count(searching=-1)
            raise RuntimeError("a fault")
        self._count(searching=-1, writing=1)
        emit({"event": "stage", "stage": "writing"})
        self._wait("write" in question, should_stop)
        self._count(writing=-1)
        return Answer(f"Said of {question}", (), True, (), "by hand", index.version, question=question, stopped=should_stop())

    def _wait(self, wanted: bool, should_stop: Callable[[], bool]) -> None:
        while wanted and not self.go.is_set() and not should_stop():
            time.sleep(0.002)

    def _count(self, searching: int = 0, writing: int = 0) -> None:
        with self._lock:
            self.searching, self.writing = self.searching + searching, self.writing + writing
            self.most_searching = max(self.most_searching, self.searching)
            self.most_at_once = max(self.most_at_once, self.searching + self.writing)


@contextmanager
def desk_of(folder: Path, **more: Any) -> Iterator[tuple[Desk, Hand]]:
    """A desk with its index and records, answering by hand."""
    settings = settings_in(folder, **more)
    build(settings, {"leave.md": LEAVE, "travel.md": TRAVEL})
    held, records, hand = HeldIndexes(settings.index, lambda: WordEmbedder.name), Records(settings.records), Hand()
    desk = Desk(settings, "test", held, records)
    desk.start(hand)  # type: ignore[arg-type]
    try:
        yield desk, hand
    finally:
        hand.go.set()
        assert desk.close()
        held.close()
        records.close()


def of(person: str, question: str) -> Question:
    """A question of a person: of a conversation, as long as there is one user. What it said is given, so nothing is read of it."""
    return Question(question, "default", "local", history=(), conversation=person)


def asked(desk: Desk, person: str, question: str) -> Asked:
    desk._records._connection.execute(
        "INSERT OR IGNORE INTO conversations (id, user, collection, title, document, created, updated)"
        " VALUES (?, 'local', 'default', '', '', '', '')",
        (person,),
    )
    return desk.ask(of(person, question))


def kinds(one: Asked) -> list[str]:
    return [each["event"] for each in one.events]


def places(one: Asked) -> list[int]:
    return [each["position"] for each in one.events if each["event"] == "queued"]


# ---- turns


def test_people_take_turns_however_many_questions_one_has(tmp_path: Path) -> None:
    """Four questions of one person, then one each of two others: the others do not wait for all four."""
    with desk_of(tmp_path, answers_at_once=1) as (desk, hand):
        first = asked(desk, "ann", "write 0")
        until(lambda: hand.began)
        late = [asked(desk, "ann", f"a{number}") for number in (1, 2, 3)]
        ben, eve = asked(desk, "ben", "b1"), asked(desk, "eve", "e1")
        assert places(ben)[-1] == 1 and places(eve)[-1] == 2 and places(late[0])[-1] == 3
        hand.go.set()
        until(lambda: late[-1].finished)
        assert hand.began == ["write 0", "b1", "e1", "a1", "a2", "a3"]
        assert first.finished and places(late[0]) == [1, 2, 3, 2, 1], "each change of place was told, backwards too"


def test_nobody_waits_for_ever_behind_newcomers(tmp_path: Path) -> None:
    """One newcomer takes the place of each who is served; the person who was served before still has a turn."""
    with desk_of(tmp_path, answers_at_once=1) as (desk, hand):
        asked(desk, "old", "search 0")
        until(lambda: hand.began)
        waits = asked(desk, "old", "again")
        for number in range(TURNS_OF_OTHERS + 5):
            asked(desk, f"new{number}", f"n{number}")
        hand.go.set()
        until(lambda: waits.finished)
        until(lambda: len(hand.began) == TURNS_OF_OTHERS + 7)
        assert hand.began.index("again") == TURNS_OF_OTHERS + 1


def test_the_queue_is_bounded_in_all_and_for_each_person(tmp_path: Path) -> None:
    """Who has too many waiting is told so, while others may still ask; then nobody may."""
    with desk_of(tmp_path, answers_at_once=1, queue_limit=4, queue_limit_person=2) as (desk, hand):
        asked(desk, "ann", "search")
        until(lambda: hand.began)
        asked(desk, "ann", "1")
        asked(desk, "ann", "2")
        with pytest.raises(Busy, match="yours") as caught:
            asked(desk, "ann", "3")
        assert caught.value.cure
        asked(desk, "ben", "1")
        asked(desk, "eve", "1")
        with pytest.raises(Busy, match="4 questions") as full:
            asked(desk, "kim", "1")
        assert full.value.cure and desk.waiting == 4


def test_many_who_ask_at_the_same_moment_do_not_get_past_the_bound(tmp_path: Path) -> None:
    """The place is taken before the question is written down, which takes a while."""
    with desk_of(tmp_path, answers_at_once=1, queue_limit=5) as (desk, hand):
        asked(desk, "ann", "search")
        until(lambda: hand.began)
        told: list[str] = []

        def ask(number: int) -> None:
            try:
                desk.ask(of("", f"q{number}") if number % 2 else Question(f"q{number}", "default", "local"))
            except Busy:
                told.append("busy")

        together([partial(ask, number) for number in range(12)])
        assert desk.waiting == 5 and len(told) == 7


# ---- several at once


def test_one_searches_while_others_are_written(tmp_path: Path) -> None:
    """As many answers as the setting says are on the way, and of these never two are searched for at once."""
    with desk_of(tmp_path, answers_at_once=3) as (desk, hand):
        everyone = [asked(desk, f"p{number}", f"write {number}") for number in range(5)]
        until(lambda: hand.writing == 3)
        assert desk.running == 3 and desk.waiting == 2
        assert [places(each)[-1] for each in everyone[3:]] == [1, 2]
        hand.go.set()
        until(lambda: all(each.finished for each in everyone))
        assert hand.most_searching == 1 and hand.most_at_once == 3
        assert hand.began == [f"write {number}" for number in range(5)]


def test_the_wait_told_is_what_answers_take_when_several_are_written_at_once(tmp_path: Path) -> None:
    """Not the place times the length of one answer: what counts is how often one ends."""
    with desk_of(tmp_path, answers_at_once=4) as (desk, hand):
        desk._between.extend([2.0] * 20)
        everyone = [asked(desk, f"p{number}", f"write {number}") for number in range(8)]
        until(lambda: hand.writing == 4)
        told = [each.events[-1]["estimate_s"] for each in everyone[4:]]
        assert all(2.0 * place - 1.0 <= seconds <= 2.0 * place for place, seconds in enumerate(told, 1)), told


def test_stopping_one_leaves_the_others(tmp_path: Path) -> None:
    """One that is written, one that searches and one that waits end; the rest are answered."""
    with desk_of(tmp_path, answers_at_once=2) as (desk, hand):
        written, searched, waits, last = (
            asked(desk, f"p{number}", text) for number, text in enumerate(("write", "search", "never heard", "fine"))
        )
        until(lambda: hand.writing == 1 and hand.searching == 1)
        for each in (waits, searched, written):
            desk.end(each.id)
        until(lambda: last.finished)
        until(lambda: desk.running == 0)
        assert [kinds(each)[-1] for each in (written, searched, waits, last)] == ["stopped", "stopped", "stopped", "done"]
        assert "never heard" not in hand.began


def test_a_fault_in_one_answer_does_not_touch_those_beside_it(tmp_path: Path) -> None:
    """It ends with a number; who was written meanwhile, and who waited, get their answers."""
    with desk_of(tmp_path, answers_at_once=2) as (desk, hand):
        beside, broken, after = asked(desk, "a", "write"), asked(desk, "b", "fail"), asked(desk, "c", "fine")
        until(lambda: broken.finished and after.finished)
        assert "number" in broken.events[-1]["cure"] and not beside.finished
        hand.go.set()
        until(lambda: beside.finished)
        assert kinds(beside)[-1] == kinds(after)[-1] == "done"


def test_freed_memory_goes_back_after_each_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that was answered as after one that failed; how often the system is really told is the heap's to decide."""
    given: list[str] = []
    monkeypatch.setattr(Heap, "give_back", lambda _: given.append(threading.current_thread().name))
    with desk_of(tmp_path, answers_at_once=1) as (desk, _):
        for number, text in enumerate(("fine", "fail"), 1):
            one = asked(desk, "a", text)
            until(lambda one=one, number=number: one.finished and len(given) == number)  # type: ignore[misc]
    assert given == ["answers 1"] * 2


def test_closing_tells_everyone(tmp_path: Path) -> None:
    """Those who are answered end as stopped, those who wait hear that the engine ended, and so does who comes too late."""
    with desk_of(tmp_path, answers_at_once=2) as (desk, hand):
        everyone = [asked(desk, f"p{number}", f"write {number}") for number in range(4)]
        until(lambda: hand.writing == 2)
        assert desk.close()
        assert [kinds(each)[-1] for each in everyone] == ["stopped", "stopped", "error", "error"]
        assert everyone[3].events[-1]["error"] == EngineUnavailable.__name__ and everyone[3].events[-1]["cure"]
        with pytest.raises(Busy):
            desk.ask(of("", "too late"))
        assert not desk.busy


def test_an_answer_that_was_asked_for_once_more_is_not_overwritten_by_the_first(tmp_path: Path) -> None:
    """The first may end after the second when both are written at once; what stands is the second."""
    with desk_of(tmp_path, answers_at_once=2) as (desk, hand):
        first = asked(desk, "ann", "write slowly")
        until(lambda: hand.writing == 1)
        again = desk.ask(Question("quick", "default", "local", history=(), conversation="ann", message=first.message))
        until(lambda: again.finished)
        hand.go.set()
        until(lambda: first.finished)
        assert first.message is not None
        kept = desk._records.message(first.message, "local")
        assert kept is not None and (kept.text, kept.answer_id) == ("Said of quick", again.id)


def test_only_the_last_finished_answers_are_kept(tmp_path: Path) -> None:
    """A busy hour must not fill the memory; what runs is never forgotten."""
    with desk_of(tmp_path, queue_limit=500, queue_limit_person=500) as (desk, _):
        slow = desk.ask(Question("write slowly", "default", "local"))
        for number in range(KEPT_ANSWERS + 40):
            last = desk.ask(Question(f"q{number}", "default", "local"))
        until(lambda: last.finished)
        until(lambda: desk.running == 1)
        desk.ask(Question("one more", "default", "local"))
        assert len(desk._kept) <= KEPT_ANSWERS + 2 and desk.find(slow.id) is slow


# ---- what an answer took


def test_what_the_process_took_is_shared_by_those_at_work() -> None:
    """Two who work side by side are each told of less than both took, and of no more than that together."""
    told: dict[str, float] = {}
    ready, done = threading.Barrier(2), threading.Barrier(2)

    def work(name: str) -> None:
        with rag.cost.share():
            ready.wait(10)
            before = rag.cost.cpu_seconds()
            end = time.thread_time() + 0.2
            while time.thread_time() < end:
                pass
            done.wait(10)
            told[name] = rag.cost.cpu_seconds() - before

    before = time.process_time()
    together([lambda: work("a"), lambda: work("b")])
    whole = time.process_time() - before
    assert 0.35 < sum(told.values()) <= whole + 0.01 and abs(told["a"] - told["b"]) < 0.1
    assert not rag.cost._shares and rag.cost.cpu_seconds() >= whole


# ---- everything at once


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do_every_question_ends_once_and_as_if_it_were_alone(tmp_path: Path, seed: int) -> None:
    """Eight people ask, read, leave, come back, stop and never look, at random, over the socket.

    Each question that was taken ends in exactly one way, events have no gaps, a finished answer is the one that is given when nobody
    else asks, what it says it took is its own, and nothing is left in memory but what readers may come back to.
    """
    settings = settings_in(tmp_path, answers_at_once=3, queue_limit=12, queue_limit_person=3)
    build(settings, {"leave.md": LEAVE, "travel.md": TRAVEL})
    answerer = Answerer(settings, WordEmbedder(), ScriptedModel(SCRIPT, "free", pause_s=0.001))
    with running(settings, answerer) as (client, engine, _):
        alone = {question: same(client.ask_and_wait(question, "default")) for question in ASKED}
        taken: list[str] = []
        people = [Person(client, engine, random.Random(seed * 100 + number), taken) for number in range(8)]
        together([each.live for each in people])
        until(lambda: not engine.desk.busy)
        assert len(taken) > 40 and sum(each.refused for each in people) < len(taken)
        for answer in taken:
            events = list(client.events(answer))
            assert [each["seq"] for each in events] == list(range(len(events)))
            assert [each["event"] in ENDS for each in events].count(True) == 1 and events[-1]["event"] in ("done", "stopped")
            assert events[0]["event"] == "queued", "the place is the first that is told"
            if events[-1]["event"] == "done" and not events[-1]["answer"]["stopped"]:
                assert same(events[-1]["answer"]) == alone[engine.desk.find(answer).question.question]
        desk = engine.desk
        assert (desk._coming, desk._waiting, desk._running, desk._searching) == ([], [], [], None)
        until(lambda: not any(each.listeners for each in desk._kept.values()))
        assert all(each.finished for each in desk._kept.values()) and not rag.cost._shares
        assert all(held.readers == 0 for held in engine.held._held.values())


class Person:
    """Asks a dozen questions and behaves as people do."""

    def __init__(self, client: Client, engine: Engine, chance: random.Random, taken: list[str]) -> None:
        self.client, self.chance, self.taken, self.refused = client, chance, taken, 0
        self.conversation = engine.records.create_conversation("local", "default", "Random")

    def live(self) -> None:
        for _ in range(12):
            conversation = self.conversation if self.chance.random() < 0.7 else ""
            try:
                answer = self.client.ask(self.chance.choice(ASKED), "default", conversation=conversation, history=())
            except Busy:
                self.refused += 1
                time.sleep(0.02)
                continue
            self.taken.append(answer)
            self.chance.choice((self.read, self.leave_and_come_back, self.stop, self.look_away))(answer)

    def read(self, answer: str) -> None:
        assert list(self.client.events(answer))[-1]["event"] in ENDS

    def leave_and_come_back(self, answer: str) -> None:
        reader, seen = self.client.events(answer), []
        for event in reader:
            seen.append(event)
            if self.chance.random() < 0.3:
                break
        reader.close()  # type: ignore[attr-defined]
        if seen[-1]["event"] not in ENDS:
            seen += self.client.events(answer, after=len(seen))
        assert [each["seq"] for each in seen] == list(range(len(seen)))

    def stop(self, answer: str) -> None:
        time.sleep(self.chance.random() * 0.05)
        self.client.stop(answer)
        assert list(self.client.events(answer))[-1]["event"] in ("done", "stopped")

    def look_away(self, answer: str) -> None:
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.05)


def same(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer says, and what it took of the model; not when, nor in how many seconds."""
    return {**{name: answer[name] for name in answer if name not in ("timings", "usage", "receipt")},
            "tokens": answer["usage"]["answer_tokens"]}  # fmt: skip
