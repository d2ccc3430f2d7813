"""The client against real engine processes: starting, sharing, replacing, dying, refreshing. Real models, real ingest."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import ROOT, Settings
from errors import EngineUnavailable, ModelMissing
from ingest.embed import Embedder
from ingest.refresh import refresh
from rag.client import Client
from rag.place import environment, place
from records.store import Records
from tests.engine_room import LEAVE, TRAVEL, settings_in
from tests.fakes import TextReader

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = settings_in(tmp_path_factory.mktemp("engine"))
    folder = made.home / "files"
    folder.mkdir(parents=True)
    (folder / "leave.md").write_text(LEAVE)
    (folder / "travel.md").write_text(TRAVEL)
    refresh([("files", folder)], "default", made, embedder=lambda: Embedder(made), reader=TextReader)
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    made = Client(settings)
    made.start(180)
    yield made
    made.shutdown()


def test_an_answer_comes_with_quotes_that_stand_in_the_page(client: Client) -> None:
    """A whole question through the real process: found, and each quote is the page's text at its offsets."""
    answer = client.ask_and_wait("How many days of annual leave does an employee have?", "default")
    assert answer["found"] and "27 days" in answer["answer"] and answer["receipt"]
    for each in answer["citations"]:
        text = client.page_text("default", each["document_id"], each["page"])["text"]
        assert text[each["start"] : each["end"]] == each["quote"]


def test_starting_a_running_engine_is_cheap(client: Client, settings: Settings) -> None:
    """Another client meets the same process, in milliseconds."""
    other = Client(settings)
    pid = client.health()["pid"]
    started = time.process_time()
    other.start(10)
    assert time.process_time() - started < 0.3  # seconds of processor time; the fingerprint of the code is most of it
    assert other.health()["pid"] == pid and other.running()
    other.close()


def test_the_command_line_uses_the_running_engine_and_gives_the_same(client: Client, settings: Settings) -> None:
    """`python -m rag search` loads no models when an engine runs, and prints the passages that the engine finds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rag", "search", "meals on a journey", "--json"],
        cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["passages"] == client.search("meals on a journey", "default")
    assert "torch" not in done.stderr and "llama_cpp" not in done.stderr


def test_an_upload_is_read_and_found(client: Client) -> None:
    """Upload, refresh, progress by file, found; remove, refresh, gone. The files that were there stay."""
    client.upload("default", "canteen/menu.txt", io.BytesIO(b"The canteen serves lentil soup every Wednesday at noon.\n"))
    client.refresh("default")
    job = _finished(client)
    assert job["state"] == "done", job
    assert [each["status"] for each in job["files"] if each["document"].endswith("menu.txt")] == ["added"]
    assert client.search("lentil soup", "default")[0]["document"].endswith("canteen/menu.txt")
    (listed,) = [each for each in client.documents("default") if each["document"].endswith("menu.txt")]
    client.remove("default", listed["document"])
    assert _finished(client)["state"] == "done"
    assert not [each for each in client.documents("default") if each["document"].endswith("menu.txt")]
    assert client.search("annual leave", "default")[0]["document"] == "leave.md"


def test_a_refresh_that_fails_says_why(client: Client, tmp_path: Path) -> None:
    """The guard against mass removal stops the job; its reason and cure arrive."""
    folder = tmp_path / "share"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"Document number {number} speaks of topic {number}.\n")
    client.add_folder("guarded", folder)
    assert _finished(client, "guarded")["state"] == "done"
    for number in range(3):
        (folder / f"{number}.txt").unlink()
    client.refresh("guarded")
    job = _finished(client, "guarded")
    assert job["state"] == "failed" and job["message"] and job["cure"]
    assert client.search("topic", "guarded")


def test_an_engine_that_was_killed_is_started_again_and_its_answers_are_marked(client: Client, settings: Settings) -> None:
    """After a native crash the next call works, and what was being written says that it was interrupted."""
    with Records(settings.records) as records:
        conversation = records.create_conversation("local", "default", "Leave")
        records.add_message(conversation, "assistant", "", "local", status="writing", answer_id=f"{place(settings).key}-gone")
        pid = client.health()["pid"]
        os.kill(pid, signal.SIGKILL)
        _until(lambda: not _alive(client))
        assert client.search("annual leave", "default")
        assert client.health()["pid"] != pid
        assert records.messages(conversation, "local")[-1].status == "failed"


def test_reading_an_answer_of_a_killed_engine_ends_with_an_error(client: Client) -> None:
    """The reader is not left waiting for ever."""
    answer = client.ask("How many days of annual leave?", "default")
    events = client.events(answer)
    next(events)
    os.kill(client.health()["pid"], signal.SIGKILL)
    with pytest.raises((EngineUnavailable, StopIteration)):
        while True:
            next(events)
    client.start(180)


def test_other_settings_replace_the_engine(client: Client, settings: Settings) -> None:
    """An engine that would answer with another window is ended, and the new one has the new settings."""
    before = client.health()["pid"]
    changed = Client(dataclasses.replace(settings, context_tokens=2048))
    assert not changed.running()
    changed.start(180)
    assert changed.health()["pid"] != before and changed.running() and not client.running()
    changed.close()
    client.start(180)
    assert client.running()


def test_two_who_start_at_once_share_one_engine(settings: Settings, client: Client) -> None:
    """Four clients, no engine: one process is started, all four reach it."""
    client.shutdown()
    clients = [Client(settings) for _ in range(4)]
    threads = [threading.Thread(target=each.start, args=(180,)) for each in clients]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({each.health()["pid"] for each in clients}) == 1
    assert "running already" not in (settings.logs / "engine.out").read_text()
    for one in clients:
        one.close()


def test_ending_leaves_nothing_behind(settings: Settings, client: Client) -> None:
    """Socket and pid file are gone, and a client that never started an engine says how to."""
    fresh = Client(settings)
    fresh.start(180)
    pid = fresh.health()["pid"]
    fresh.shutdown()
    assert not place(settings).socket.exists() and not place(settings).pid.exists()
    _until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    other = Client(settings)
    assert not other.running()
    with pytest.raises(EngineUnavailable) as caught:
        other.collections()
    assert "serve" in caught.value.cure
    other.close()


def test_a_model_that_is_missing_is_the_error_of_starting(settings: Settings, tmp_path: Path) -> None:
    """The person is told which file is absent, not that "the engine failed"."""
    broken = Client(dataclasses.replace(settings, home=tmp_path / "home", model="/absent/model.gguf"))
    with pytest.raises(ModelMissing) as caught:
        broken.start(120)
    assert "/absent/model.gguf" in caught.value.message
    broken.shutdown()


def test_an_engine_ends_by_itself_after_idleness_when_told_to(settings: Settings, tmp_path: Path) -> None:
    """`serve --idle-exit 1` is gone a few seconds after its last request."""
    alone = dataclasses.replace(settings, home=tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "rag", "serve", "--index", str(alone.index), "--idle-exit", "1"],
        cwd=ROOT, env=environment(alone), stderr=subprocess.DEVNULL,
    )
    assert process.wait(120) == 0
    assert not place(alone).socket.exists()


def _finished(client: Client, collection: str = "default") -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        job = client.job(collection)
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.2)
    raise TimeoutError(job)


def _alive(client: Client) -> bool:
    return client._probe() is not None


def _until(test: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.05)
