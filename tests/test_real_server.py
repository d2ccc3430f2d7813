"""The model behind an address, against a real llama-server: made by scripts/llama_server.sh where it is not there, so only with --full."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import config
from bench.peers import Served, llama_server
from config import ROOT, Settings
from errors import EngineUnavailable
from ingest.embed import Embedder
from ingest.refresh import refresh
from rag.client import Client
from rag.engine import open_model
from rag.engine.files import converted
from rag.engine.remote import RemoteModel
from rag.types import Turn
from records.store import Records

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]
WINDOW = 2048
QUESTION = [Turn("system", "You answer briefly."), Turn("user", "What is the capital of France?")]
LONG = [Turn("user", "A town by the sea has a market, and people come. " * 120 + "What does the town have?")]  # about 1,500 tokens


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A llama-server with two places, from the very source that the app runs."""
    if not request.config.getoption("--full"):
        pytest.skip("compiling llama-server takes many minutes: only with --full")
    subprocess.run([ROOT / "scripts" / "llama_server.sh"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    home = tmp_path_factory.mktemp("home")
    file = converted(dataclasses.replace(config.load(), home=home), lambda _: None)
    server = llama_server("llama-server", file.path, home / "logs", ["-np", "2", "-c", str(2 * WINDOW)])
    yield server
    server.close()


@pytest.fixture
def settings(served: Served, tmp_path: Path) -> Settings:
    return config.load(index=tmp_path / "indexes", home=tmp_path / "home", server_url=served.address, context_tokens=WINDOW, reader="")


@pytest.fixture
def model(settings: Settings) -> Iterator[RemoteModel]:
    opened = open_model(settings)
    assert isinstance(opened, RemoteModel)
    yield opened
    opened.close()


def resting(served: Served) -> bool:
    """Whether no place of the server works any more, looked at until it is so, for as long as it may take to notice."""
    deadline = time.monotonic() + 30
    while any(each["is_processing"] for each in httpx.get(f"{served.address}/slots").json()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_words_stream_and_are_counted(model: RemoteModel) -> None:
    """Pieces as they come, the server's own count of tokens, and what it did not read again."""
    pieces = list(model.generate(model.chat(QUESTION), max_tokens=20))
    assert len(pieces) > 1 and "Paris" in "".join(pieces)
    first = model.usage()
    assert first["prompt_tokens"] > 10 and len(pieces) <= first["answer_tokens"] <= 20
    assert list(model.generate(model.chat(QUESTION), max_tokens=20)) == pieces
    assert model.usage()["reused_tokens"] > first["reused_tokens"]


def test_a_prompt_is_counted_high_enough(model: RemoteModel) -> None:
    """What `chat` counts is no less than what the server reads, so that no prompt overflows its window unnoticed."""
    for messages in (QUESTION, LONG):
        tokens = model.chat(messages)
        before = model.usage()
        list(model.generate(tokens, max_tokens=1))
        after = model.usage()
        read = sum(after[name] - before[name] for name in ("prompt_tokens", "reused_tokens"))
        assert read <= len(tokens) <= 1.2 * read + 20


def test_a_grammar_binds_the_server(model: RemoteModel) -> None:
    """The words that it allows, though the model would say others."""
    said = "".join(model.generate(model.chat(QUESTION), max_tokens=20, grammar='root ::= "It is " ("Berlin" | "Rome") "."'))
    assert said in ("It is Berlin.", "It is Rome.")


def test_a_choice_is_one_of_those_given(model: RemoteModel) -> None:
    """In one piece, whatever else the server would say."""
    choices = ["The answer is in the text.", "The answer is not in the text."]
    (said,) = model.generate(model.chat(QUESTION), max_tokens=20, choices=choices)
    assert said in choices


def test_a_stop_while_writing_frees_the_servers_place(model: RemoteModel, served: Served) -> None:
    """Nothing comes after the stop, and the server does not go on for nobody."""
    seen: list[str] = []
    story = model.chat([Turn("user", "Tell a long story about a town by the sea.")])
    for piece in model.generate(story, max_tokens=1500, should_stop=lambda: len(seen) >= 2):  # noqa: B023 - asked while it grows
        seen += [piece]
    assert len(seen) == 2 and resting(served)


def test_a_stop_while_the_prompt_is_read_frees_the_servers_place(model: RemoteModel, served: Served) -> None:
    """The server sends nothing until it has read the prompt; the stop is heard before that."""
    asked = threading.Event()

    def stop() -> bool:
        busy = any(each["is_processing"] for each in httpx.get(f"{served.address}/slots").json())
        asked.set() if busy else None
        return asked.is_set()

    words = " ".join(f"word{number}" for number in range(350))  # nothing of it was read before
    assert list(model.generate(model.chat([Turn("user", words)]), max_tokens=400, should_stop=stop)) == []
    assert asked.is_set() and resting(served)
    assert "Paris" in "".join(model.generate(model.chat(QUESTION), max_tokens=20))


def test_many_ask_at_once(model: RemoteModel) -> None:
    """More than the server has places: it makes the others wait, everybody gets their own answer, and counts stay apart."""
    found: dict[int, tuple[str, float]] = {}

    def ask(number: int) -> None:
        asked = [Turn("user", f"Repeat this number and say nothing else: {number}")]
        grammar = f'root ::= "{number}"'
        found[number] = ("".join(model.generate(model.chat(asked), max_tokens=8, grammar=grammar)), model.usage()["answer_tokens"])

    people = [threading.Thread(target=ask, args=(number,)) for number in range(100, 106)]
    for each in people:
        each.start()
    for each in people:
        each.join()
    assert {number: text for number, (text, _) in found.items()} == {number: str(number) for number in range(100, 106)}
    assert all(0 < count <= 8 for _, count in found.values())


def test_a_prompt_that_the_servers_window_does_not_hold_is_refused(settings: Settings, served: Served) -> None:
    """Where the settings promise more than the server has, its own refusal is told, with what to look at."""
    wide = RemoteModel(dataclasses.replace(settings, context_tokens=100_000))
    with pytest.raises(EngineUnavailable) as caught:
        list(wide.generate(wide.chat([Turn("user", "word " * 3 * WINDOW)]), max_tokens=5))
    assert "status 400" in caught.value.message and "window" in caught.value.cure


def test_a_server_that_dies_while_it_answers_is_said_to_have(settings: Settings, tmp_path: Path) -> None:
    """An answer that broke off is not taken for a whole one."""
    file = converted(settings, lambda _: None)
    dying = llama_server("dying", file.path, tmp_path / "logs", ["-c", str(WINDOW)])
    model = RemoteModel(dataclasses.replace(settings, server_url=dying.address))
    with pytest.raises(EngineUnavailable):
        for _ in model.generate(model.chat([Turn("user", "Tell a long story about a town by the sea.")]), max_tokens=1500):
            dying.close()


def test_the_app_answers_queues_and_keeps_receipts_with_a_server(settings: Settings, tmp_path: Path) -> None:
    """Through the engine process and its socket, at the level free: three people at once, each with citations and a receipt that names
    the server; the receipts' chain holds."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "leave.md").write_text("# Leave\n\nFull-time employees get 25 days of annual leave a year.\n")
    (docs / "travel.md").write_text("# Travel\n\nThe hotel limit in Berlin is 140 euros a night.\n")
    embedder = Embedder(settings)
    refresh([("docs", docs)], "default", settings, embedder=lambda: embedder)
    client = Client(settings)
    client.start(300)
    try:
        questions = ("How many days of annual leave do employees get?", "What is the hotel limit in Berlin?", "Who gets annual leave?")
        asked = [client.ask(each, "default") for each in questions]
        events = [list(client.events(each)) for each in asked]
        told = [{event["event"] for event in each} for each in events]
        answers = [each[-1]["answer"] for each in events]
    finally:
        client.shutdown()
    assert all("done" in each and "sources" in each for each in told) and any("queued" in each for each in told)
    assert all(each["found"] and each["citations"] for each in answers)
    with Records(settings.records) as records:
        kept = [records.receipt(each["receipt"]) for each in answers]
        assert records.verify_receipts() == []
    where = settings.server_url.removeprefix("http://")
    assert all(each is not None and each.body is not None and each.body["model"].endswith(where) for each in kept)
