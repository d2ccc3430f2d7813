"""Many people who ask, read and ask again, through the engine's socket as the app does → failures, waits, answers a minute, memory."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measures import Bench, Measured
from errors import Busy, FootnoteError
from evals.prepare import opened
from evals.questions import read
from rag.client import Client
from records.store import Records

READS_S = (5.0, 15.0)  # that a person reads an answer before the next question; drawn evenly
WARM = 0.25  # share of the time after which memory is taken to be what it will stay
STOPS = 0.1  # share of the questions whose answer is stopped, within STOPS_S of asking
STOPS_S = 3.0
LAST_S = 180.0  # for the answers that are on the way when the time is up
SEED = 20  # of what people ask and how long they read
LOOK_S = 1.0  # between two looks at the engine's memory
LOOKS = 30  # whose median is what it holds about a moment: prompts that run come and go, 60 MB in one look and not in the next


@dataclass(slots=True)
class Heard:
    """What all people met. Seconds count from the question."""

    asked: int = 0
    answered: int = 0  # while the time ran
    busy: int = 0  # told so at once, which is no failure
    failures: list[str] = field(default_factory=list)
    told: list[float] = field(default_factory=list)  # a place in the queue
    sentence: list[float] = field(default_factory=list)  # the first
    whole: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)  # from the wish to stop to the answer's end
    lock: threading.Lock = field(default_factory=threading.Lock)


def people(bench: Bench) -> Measured:
    """`bench.people` people ask for `bench.minutes` minutes: each a conversation of its own, questions drawn from the sets in turn."""
    for each in bench.sets:
        bench.say(f"index of {each.name}")
        with opened(bench.settings, each.name, bench.docs(each), bench.embedder):
            pass
    questions = [(each.name, [one.question for one in read(each.questions)]) for each in bench.sets]
    client = Client(bench.settings)
    client.shutdown()
    client.start(300)
    try:
        with Records(bench.settings.records) as records:
            talks = [records.create_conversation("local", questions[number % len(questions)][0], "Bench") for number in range(bench.people)]
        heard, memory = _ask(bench, client, questions, talks)
        model = client.health()["model"]
    finally:
        client.shutdown()
    start, warm, half, end = memory[0], _usual(memory, WARM), _usual(memory, 0.5), _usual(memory, 1.0)
    body: dict[str, Any] = {
        "people": bench.people, "minutes": bench.minutes, "answers_at_once": bench.settings.answers_at_once, "model": model, "seed": SEED,
        "reads_s": READS_S, "asked": heard.asked, "answered": heard.answered, "busy": heard.busy, "failures": heard.failures,
        "answers_a_minute": round(heard.answered / bench.minutes, 2),
        **{name: _shares(getattr(heard, name)) for name in ("told", "sentence", "whole", "stopped")},
        "memory_mb": {
            "start": start, "warm": warm, "half": half, "end": end, "most": max(memory), "growth_after_warm": round(end / warm - 1, 4),
        },
        "every_second_mb": [round(each) for each in memory],
    }  # fmt: skip
    rows = (
        ("questions, answered in time", f"{heard.asked}, {heard.answered}"),
        ("failures", len(heard.failures)),
        ("told that the engine is busy", heard.busy),
        ("answers a minute", body["answers_a_minute"]),
        ("told a place in the queue, p50, p95, most", _line(heard.told)),
        ("first sentence, p50, p95, most", _line(heard.sentence)),
        ("whole answer, p50, p95, most", _line(heard.whole)),
        ("from a stop to the answer's end, p50, p95, most", _line(heard.stopped)),
        ("memory of the engine at the start, warm, at the end", f"{start:.0f}, {warm:.0f}, {end:.0f} MB ({100 * (end / warm - 1):+.1f} %)"),
        ("… from half of the time to the end", f"{half:.0f}, {end:.0f} MB ({100 * (end / half - 1):+.1f} %)"),
        *((f"failure {number}", each) for number, each in enumerate(heard.failures[:5], 1)),
    )
    return Measured(f"{bench.people} people asking for {bench.minutes:g} minutes ({model})", ("", "measured"), rows, body)


def _ask(bench: Bench, client: Client, questions: Sequence[tuple[str, list[str]]], talks: Sequence[str]) -> tuple[Heard, list[float]]:
    """What was heard, and the engine's resident megabytes each second."""
    heard, memory = Heard(), [_resident_mb(client)]
    until = time.monotonic() + 60 * bench.minutes

    def live(number: int) -> None:
        chance = random.Random(SEED + number)
        collection, known = questions[number % len(questions)]
        time.sleep(chance.uniform(0, READS_S[0]))
        while time.monotonic() < until:
            stop_s = chance.uniform(0, STOPS_S) if chance.random() < STOPS else None
            _one(client, chance.choice(known), collection, talks[number], heard, until, stop_s)
            time.sleep(min(chance.uniform(*READS_S), max(0.0, until - time.monotonic())))

    threads = [threading.Thread(target=live, args=(number,), daemon=True) for number in range(bench.people)]
    for each in threads:
        each.start()
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        memory.append(_resident_mb(client))
        bench.say(f"{bench.people} people, {max(0.0, until - time.monotonic()):.0f} s left, {heard.answered} answers")
    for each in threads:
        each.join(max(0.0, until + LAST_S - time.monotonic()))
    heard.failures += ["A person still waits for an answer."] * sum(each.is_alive() for each in threads)
    memory.append(_resident_mb(client))
    return heard, memory


def _one(client: Client, question: str, collection: str, talk: str, heard: Heard, until: float, stop_s: float | None) -> None:
    """One question, from asking to the end of its answer, which is stopped after `stop_s` seconds where that is given."""
    began = time.monotonic()
    told = sentence = wished = 0.0
    last, timer = "", None

    def stop(answer: str) -> None:
        nonlocal wished
        wished = time.monotonic()
        with contextlib.suppress(FootnoteError):  # the reader of the events is told, too
            client.stop(answer)

    try:
        answer = client.ask(question, collection, conversation=talk, history=())
        if stop_s is not None:
            timer = threading.Timer(stop_s, stop, (answer,))
            timer.start()
        for event in client.events(answer):
            now = time.monotonic() - began
            told = told or now  # the first event is the place, or that the search has begun
            if event["event"] == "sentence":
                sentence = sentence or now
            elif event["event"] == "error" or (event["event"] == "stopped" and not wished):
                raise FootnoteError(str(event.get("message", "The answer was stopped by itself.")))
            last = event["event"]
    except Busy:
        with heard.lock:
            heard.asked, heard.busy = heard.asked + 1, heard.busy + 1
        return
    except FootnoteError as error:
        with heard.lock:
            heard.asked += 1
            heard.failures.append(str(error))
        return
    finally:
        if timer is not None:
            timer.cancel()
    with heard.lock:
        heard.asked += 1
        heard.told.append(told)
        if last == "stopped":
            heard.stopped.append(time.monotonic() - wished)
            return
        heard.answered += time.monotonic() < until
        heard.whole.append(time.monotonic() - began)
        if sentence:
            heard.sentence.append(sentence)


def _resident_mb(client: Client) -> float:
    """Of the engine process, shared files included; 0 where the system does not say."""
    status = Path(f"/proc/{client.health()['pid']}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _usual(memory: Sequence[float], share: float) -> float:
    """What the engine held when that share of the time had passed: the median of the LOOKS around it."""
    first = max(0, min(int(len(memory) * share) - LOOKS // 2, len(memory) - LOOKS))
    return statistics.median(memory[first : first + LOOKS])


def _shares(seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"n": len(seconds)}
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"n": len(seconds), "p50_s": round(cuts[9], 3), "p95_s": round(cuts[18], 3), "most_s": round(max(seconds), 3)}


def _line(seconds: Sequence[float]) -> str:
    found = _shares(seconds)
    return f"{found['p50_s']:.2f}, {found['p95_s']:.2f}, {found['most_s']:.2f} s" if "p50_s" in found else "–"
