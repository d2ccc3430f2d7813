"""Several people at once over a real engine process with the bundled models: the same answers, and what a crash leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.measures import Bench
from bench.people import people
from bench.sets import question_sets
from config import Settings
from errors import EngineUnavailable
from ingest.embed import Embedder
from ingest.refresh import refresh
from rag.client import Client
from rag.desk import INTERRUPTED
from records.store import Records
from tests.engine_room import LEAVE, TRAVEL, settings_in, together, until
from tests.fakes import TextReader

pytestmark = pytest.mark.real

ASKED = (
    "How many days of annual leave does an employee have?", "What is paid for meals on a journey?", "Must a receipt be kept for meals?",
    "How must leave be asked for?", "Who won the football match?",
)  # fmt: skip
ENDS = ("done", "stopped", "error")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = dataclasses.replace(settings_in(tmp_path_factory.mktemp("people")), reader="models/reader")
    folder = made.home / "files"
    folder.mkdir(parents=True)
    (folder / "leave.md").write_text(LEAVE)
    (folder / "travel.md").write_text(TRAVEL)
    refresh([("files", folder)], "default", made, embedder=lambda: Embedder(made), reader=TextReader)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    made = Client(settings)
    made.start(180)
    yield made
    made.shutdown()


def said(answer: dict[str, Any]) -> tuple[str, list[tuple[Any, ...]]]:
    return answer["answer"], [(each["document"], each["start"], each["end"]) for each in answer["citations"]]


def test_each_of_many_gets_the_answer_that_one_alone_gets(client: Client, settings: Settings) -> None:
    """Six people ask at once; some leave and come back, some stop. Every question ends once, without a gap, and nothing is left."""
    alone = {question: said(client.ask_and_wait(question, "default")) for question in ASKED}
    assert sum(bool(text) for text, _ in alone.values()) >= 4
    ended: list[str] = []

    def live(number: int) -> None:
        chance = random.Random(number)
        with Records(settings.records) as records:
            conversation = records.create_conversation("local", "default", "People")
        for _ in range(4):
            question = chance.choice(ASKED)
            answer = client.ask(question, "default", conversation=conversation, history=())
            events = []
            leaves, stops = chance.random() < 0.3, chance.random() < 0.2
            if stops:
                time.sleep(chance.random())
                client.stop(answer)
            reader = client.events(answer)
            for event in reader:
                events.append(event)
                if leaves and event["event"] == "sources":
                    reader.close()  # type: ignore[attr-defined]
                    events += client.events(answer, after=len(events))
                    break
            assert [each["seq"] for each in events] == list(range(len(events)))
            assert [each["event"] in ENDS for each in events].count(True) == 1 and events[-1]["event"] != "error", events[-1]
            if events[-1]["event"] == "done":
                assert said(events[-1]["answer"]) == alone[question]
            ended.append(events[-1]["event"])

    together([partial(live, number) for number in range(6)])
    assert len(ended) == 24 and ended.count("done") >= 12
    health = client.health()
    assert (health["waiting"], health["running"]) == (0, 0)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGABRT], ids=lambda end: end.name)
def test_a_crash_is_told_to_everyone_and_the_next_question_is_answered(settings: Settings, end: signal.Signals) -> None:
    """The process dies as a fault in native code would end it, while several answers are written and more wait.

    All readers hear of it with what to do; the records say so; a question asked afterwards starts the process again.
    """
    writing = dataclasses.replace(settings, model_level="free", answers_at_once=3)  # a model that writes takes its time
    client = Client(writing)
    client.start(180)
    try:
        with Records(writing.records) as records:
            talks = [records.create_conversation("local", "default", "Crash") for _ in range(7)]
            answers = [client.ask(ASKED[at % len(ASKED)], "default", conversation=talk, history=()) for at, talk in enumerate(talks)]
            told: dict[str, str] = {}

            def read(answer: str) -> None:
                try:
                    told[answer] = list(client.events(answer))[-1]["event"]
                except EngineUnavailable as error:
                    assert error.cure
                    told[answer] = "unavailable"

            readers = [threading.Thread(target=read, args=(each,)) for each in answers]
            for each in readers:
                each.start()
            until(lambda: client.health()["running"] >= 2)
            pid = client.health()["pid"]
            os.kill(pid, end)
            for each in readers:
                each.join(60)
            assert list(told.values()).count("unavailable") >= 3 and set(told) == set(answers)
            assert client.ask_and_wait(ASKED[0], "default")["found"] and client.health()["pid"] != pid
            for talk, answer in zip(talks, answers, strict=True):
                kept = records.messages(talk, "local")[-1]
                failed = told[answer] == "unavailable"
                assert (kept.status, kept.text) == ("failed", INTERRUPTED) if failed else kept.status == "done"
    finally:
        client.shutdown()


def test_a_stop_reaches_an_answer_at_once(client: Client) -> None:
    """However many others ask: the request that stops is answered, and the next event of the answer is its end."""
    answers = [client.ask(question, "default", history=()) for question in ASKED[:4] * 2]
    for each in reversed(answers):
        client.stop(each)
        assert list(client.events(each))[-1]["event"] in ("done", "stopped")
    assert client.health()["waiting"] == 0


def test_the_bench_counts_what_people_met(settings: Settings, tmp_path: Path) -> None:
    """Three people for six seconds over a set of two questions: nobody fails, each was told a place, memory was read."""
    (tmp_path / "default" / "docs").mkdir(parents=True)
    lines = [json.dumps({"question": each, "answer": "27 days", "gold": []}) for each in ASKED[:2]]
    (tmp_path / "default" / "questions.jsonl").write_text("\n".join(lines))
    bench = Bench(tuple(question_sets(tmp_path)), settings, Embedder(settings), built=True, people=3, minutes=0.1)
    body = people(bench).body
    assert body["failures"] == [] and body["busy"] == 0 and body["asked"] >= 3
    assert body["told"]["n"] == body["asked"] and body["memory_mb"]["most"] >= body["memory_mb"]["start"] > 100
    assert not Client(settings).running()
