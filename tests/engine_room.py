"""An engine in the test's own process: real socket, queue, records and index, but words for vectors and a scripted answerer."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

import config
from config import Settings
from ingest.open import Index
from ingest.refresh import refresh
from rag.answer import Answerer
from rag.client import Client
from rag.place import place, prepare
from rag.serve import Engine, _listen, application
from rag.types import Answer, Hit, Turn
from tests.fakes import TextReader, WordEmbedder

LEAVE = "# Leave policy\n\n## Annual leave\n\nEvery employee has 27 days of annual leave a year, and the days must be asked for.\n"
TRAVEL = "# Travel policy\n\n## Meals\n\nMeals on a journey are paid up to 40 euros a day when the receipt is kept.\n"


class ScriptedAnswerer:
    """Searches for real; answers as the question says: "wait" waits for `go`, "fail" raises, others are answered at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.embedder = WordEmbedder()
        self.go = threading.Event()
        self.began = threading.Event()
        self.heard: list[tuple[str, tuple[Turn, ...]]] = []

    def search(self, question: str, index: Index, **options: Any) -> list[Hit]:
        return Answerer(self.settings, self.embedder).search(question, index, **options)

    def answer(
        self,
        question: str,
        index: Index,
        *,
        history: Sequence[Turn],
        document: str | None,
        user: str,
        keep: int | None,
        emit: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
        conversation: str,
    ) -> Answer:
        self.heard.append((question, tuple(history)))
        emit({"event": "stage", "stage": "searching"})
        hits = self.search(question, index, document=document, user=user, keep=keep)
        emit({"event": "sources", "passages": [each.as_json() for each in hits]})
        self.began.set()
        emit({"event": "stage", "stage": "writing"})
        if "fail" in question:
            raise RuntimeError(f"cannot answer {question}")
        while "wait" in question and not self.go.is_set() and not should_stop():
            time.sleep(0.01)
        text = "" if should_stop() else f"Said of {question}"
        if text:
            emit({"event": "sentence", "text": text, "how": "quoted", "citations": []})
        return Answer(text, (), bool(text), tuple(hits), "scripted", index.version, question=question, stopped=should_stop())


def settings_in(folder: Path, **more: Any) -> Settings:
    """Settings whose index and data lie in `folder`."""
    return dataclasses.replace(config.Settings(), index=folder / "indexes", home=folder / "home", reader="", **more)


def build(settings: Settings, files: dict[str, str], collection: str = "default") -> str:
    """Publish an index of these texts; returns the version's name."""
    folder = settings.home / "files" / collection
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return refresh([("files", folder)], collection, settings, embedder=WordEmbedder, reader=TextReader).version


@contextmanager
def running(settings: Settings, answerer: Answerer | None = None) -> Iterator[tuple[Client, Engine, ScriptedAnswerer]]:
    """A served engine, and a client of it. It answers by `answerer`, by a script where there is none."""
    found = place(settings)
    prepare(found)
    engine = Engine(settings)
    scripted = ScriptedAnswerer(settings)
    engine.answerer = answerer or scripted  # type: ignore[assignment]
    engine._loaded.set()
    engine.desk.start(answerer or scripted)  # type: ignore[arg-type]
    engine.stage = "ready"
    server = uvicorn.Server(uvicorn.Config(application(engine), log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [_listen(found)]}, daemon=True)
    thread.start()
    client = Client(settings)
    while client._probe() is None:
        time.sleep(0.02)
    try:
        yield client, engine, scripted
    finally:
        scripted.go.set()
        engine.closing.set()
        server.should_exit = True
        thread.join(10)
        client.close()
        engine.close()


def until(test: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `test()` holds."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.005)


def together(work: Sequence[Callable[[], object]], seconds: float = 300.0) -> None:
    """Run all at once, each in a thread of its own; the first fault of any is raised here."""
    with ThreadPoolExecutor(len(work)) as pool:
        for each in [pool.submit(one) for one in work]:
            each.result(seconds)
