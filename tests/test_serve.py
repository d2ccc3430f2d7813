"""The engine's queue, events, pages, uploads and records, over its real socket, with a scripted answerer instead of models."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from errors import Busy, EngineUnavailable, FootnoteError, IndexMissing, UnknownUser, UsageError
from rag.client import Client
from rag.desk import INTERRUPTED
from rag.place import SOCKET_BYTES, environment, fingerprint, place, prepare
from rag.serve import Engine
from records.store import Records
from tests.engine_room import LEAVE, TRAVEL, ScriptedAnswerer, build, running, settings_in

Room = tuple[Client, Engine, ScriptedAnswerer]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    settings = settings_in(tmp_path, queue_limit=3, answers_at_once=1)
    build(settings, {"leave.md": LEAVE, "travel.md": TRAVEL})
    with running(settings) as found:
        yield found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [each["event"] for each in events]


def until(test: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.01)


# ---- answers


def test_events_are_numbered_from_zero_and_end_with_the_answer(room: Room) -> None:
    """Sources come before the first sentence, the last event is the answer, and numbers have no gaps."""
    client, _, _ = room
    events = list(client.events(client.ask("annual leave", "default")))
    assert [each["seq"] for each in events] == list(range(len(events)))
    assert kinds(events)[-1] == "done" and events[-1]["answer"]["answer"] == "Said of annual leave"
    assert kinds(events).index("sources") < kinds(events).index("sentence")


def test_a_reader_can_resume_and_read_again(room: Room) -> None:
    """What was said stays: reading from the middle gives exactly the rest, also after the end, also twice."""
    client, _, _ = room
    answer = client.ask("annual leave", "default")
    events = list(client.events(answer))
    assert list(client.events(answer, after=3)) == events[3:]
    assert list(client.events(answer)) == events


def test_sources_reach_the_reader_before_anything_is_written(room: Room) -> None:
    """The answerer is held back after its sources; the reader has them all the same."""
    client, _, scripted = room
    answer = client.ask("wait for annual leave", "default")
    for event in client.events(answer):
        if event["event"] == "sources":
            assert not scripted.go.is_set()
            assert event["passages"][0]["document"] == "leave.md"
            scripted.go.set()
    assert client.answer(answer)["state"] == "done"


def test_a_person_who_leaves_does_not_stop_the_answer(room: Room) -> None:
    """The connection is dropped in the middle; the answer is complete when it is asked for."""
    client, _, scripted = room
    answer = client.ask("wait for annual leave", "default")
    reader = client.events(answer)
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    scripted.go.set()
    until(lambda: client.answer(answer)["state"] == "done")
    assert client.answer(answer)["answer"]["answer"] == "Said of wait for annual leave"


def test_who_waits_sees_the_position_and_it_moves(room: Room) -> None:
    """First come, first served; each step forward is told, with an estimate."""
    client, _, scripted = room
    first = client.ask("wait a", "default")
    assert scripted.began.wait(10)
    second, third = client.ask("b", "default"), client.ask("c", "default")
    assert client.answer(second)["state"] == "queued" and client.answer(second)["position"] == 1
    assert client.answer(third)["position"] == 2 and client.answer(third)["estimate_s"] > 0
    scripted.go.set()
    events = list(client.events(third))
    assert [each["position"] for each in events if each["event"] == "queued"] == [2, 1]
    assert [question for question, _ in scripted.heard] == ["wait a", "b", "c"]
    assert client.answer(first)["state"] == "done"


def test_a_full_queue_says_so(room: Room) -> None:
    """The settings allow three to wait; the fourth is told at once."""
    client, _, scripted = room
    client.ask("wait", "default")
    assert scripted.began.wait(10)
    for number in range(3):
        client.ask(f"question {number}", "default")
    with pytest.raises(Busy) as caught:
        client.ask("one more", "default")
    assert caught.value.cure


def test_an_answer_can_be_stopped_while_it_is_written_and_while_it_waits(room: Room) -> None:
    """Stopping ends the events with "stopped"; who waited is not answered at all."""
    client, _, scripted = room
    written = client.ask("wait", "default")
    assert scripted.began.wait(10)
    waiting = client.ask("never heard", "default")
    client.stop(waiting)
    client.stop(written)
    assert kinds(list(client.events(waiting)))[-1] == "stopped"
    assert kinds(list(client.events(written)))[-1] == "stopped"
    assert [question for question, _ in scripted.heard] == ["wait"]
    client.stop(written)  # once more: nothing happens


def test_a_fault_in_one_answer_does_not_end_the_next(room: Room) -> None:
    """An exception is told with a number; the engine answers on."""
    client, _, _ = room
    events = list(client.events(client.ask("please fail", "default")))
    assert kinds(events)[-1] == "error" and "number" in events[-1]["cure"]
    assert client.answer(client.ask("fine", "default"))["state"] in ("queued", "searching", "writing", "done")
    assert client.ask_and_wait("fine again", "default")["found"]


def test_questions_never_reach_the_log(room: Room) -> None:
    """Neither asking, searching nor a fault that names the question writes its words to the log."""
    client, engine, _ = room
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    log = logging.getLogger("footnote.engine")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        list(client.events(client.ask("fail about zebracrossing", "default")))
        client.ask_and_wait("zebracrossing leave", "default")
        client.search("zebracrossing", "default")
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    assert "fault" in lines.getvalue() and "POST /answers" in lines.getvalue()
    assert "zebracrossing" not in lines.getvalue()
    assert client.running() or engine.health()["ready"]


def test_errors_arrive_as_what_they_are(room: Room) -> None:
    """Each has its own class on the other side of the socket."""
    client, _, _ = room
    with pytest.raises(IndexMissing):
        client.search("leave", "absent")
    with pytest.raises(UnknownUser):
        client.ask("leave", "default", user="mallory")
    with pytest.raises(UsageError):
        client.ask("   ", "default")
    with pytest.raises(UsageError):
        client.answer("nobody")
    with pytest.raises(UsageError):
        client.search("leave", "default", document="nothing-like-this")
    with pytest.raises(UsageError):
        client.documents("bad name!")
    with pytest.raises(IndexMissing):
        client.ask_and_wait("leave", "absent")


# ---- conversations


def test_question_and_answer_are_kept_as_they_come(room: Room) -> None:
    """The question and an unfinished answer are there at once, the finished one before the reader hears of it."""
    client, engine, scripted = room
    conversation = engine.records.create_conversation("local", "default", "Leave")
    answer = client.ask("wait for it", "default", conversation=conversation)
    assert scripted.began.wait(10)
    question, writing = engine.records.messages(conversation, "local")
    assert (question.role, question.text) == ("user", "wait for it")
    assert (writing.role, writing.status, writing.answer_id) == ("assistant", "writing", answer)
    scripted.go.set()
    for event in client.events(answer):
        if event["event"] == "done":
            kept = engine.records.messages(conversation, "local")[-1]
            assert kept.status == "done" and kept.answer is not None and kept.answer["answer"] == "Said of wait for it"


def test_a_conversation_is_the_history_of_its_next_question(room: Room) -> None:
    """Without a history of its own a question is read with what the conversation said before."""
    client, engine, scripted = room
    conversation = engine.records.create_conversation("local", "default", "Leave")
    list(client.events(client.ask("first", "default", conversation=conversation)))
    list(client.events(client.ask("second", "default", conversation=conversation)))
    assert [turn.content for turn in scripted.heard[1][1]] == ["first", "Said of first"]


def test_asking_again_replaces_the_answer_in_place(room: Room) -> None:
    """The same message gets the new answer, and what it said before is no history."""
    client, engine, scripted = room
    conversation = engine.records.create_conversation("local", "default", "Leave")
    list(client.events(client.ask("first", "default", conversation=conversation)))
    message = engine.records.messages(conversation, "local")[-1]
    list(client.events(client.ask("first", "default", conversation=conversation, message=message.id)))
    assert len(engine.records.messages(conversation, "local")) == 2
    assert engine.records.messages(conversation, "local")[-1].answer_id != message.answer_id
    assert scripted.heard[1][1] == ()


def test_what_a_dead_engine_left_unfinished_is_marked(tmp_path: Path) -> None:
    """Only answers of this index folder's engines: another folder's engine may still be writing its own."""
    settings = settings_in(tmp_path)
    with Records(settings.records) as records:
        conversation = records.create_conversation("local", "default", "Leave")
        name = f"{place(settings).key}-abc"
        own = records.add_message(conversation, "assistant", "", "local", status="writing", answer_id=name)
        other = records.add_message(conversation, "assistant", "", "local", status="writing", answer_id="ffffffffffff-abc")
    engine = Engine(settings)
    engine.interrupt_old()
    found = {each.id: each for each in engine.records.messages(conversation, "local")}
    engine.records.close()
    assert (found[own].status, found[own].text) == ("failed", INTERRUPTED)
    assert found[other].status == "writing"


# ---- versions


def test_a_new_version_is_used_by_the_next_question_and_the_old_one_is_let_go(tmp_path: Path) -> None:
    """A question keeps the version it began with; the next one has the new one, and nothing stays open."""
    settings = settings_in(tmp_path)
    old = build(settings, {"leave.md": LEAVE})
    with running(settings) as (client, engine, scripted):
        slow = client.ask("wait", "default")
        assert scripted.began.wait(10)
        held = engine.held._held["default"]
        new = build(settings, {"travel.md": TRAVEL})
        assert new != old
        assert client.search("meals", "default")[0]["document"] == "travel.md"
        assert held.replaced and held.readers == 1
        scripted.go.set()
        assert list(client.events(slow))[-1]["answer"]["index_version"] == old
        assert client.ask_and_wait("meals", "default")["index_version"] == new
        assert held.readers == 0 and client.collections()[0]["version"] == new


def test_a_damaged_new_version_does_not_take_the_old_one_away(tmp_path: Path) -> None:
    """A pointer to nonsense is reported in the log; questions go on with what is open."""
    settings = settings_in(tmp_path)
    build(settings, {"leave.md": LEAVE})
    with running(settings) as (client, _, _):
        assert client.search("leave", "default")
        (settings.index / "default" / "CURRENT").write_text("nonsense")
        assert client.search("leave", "default")[0]["document"] == "leave.md"


# ---- the library


def test_documents_and_pages_are_listed_and_read(room: Room) -> None:
    """Text comes with its headings; what is not there is said so."""
    client, _, _ = room
    (leave,) = [each for each in client.documents("default") if each["document"] == "leave.md"]
    page = client.page_text("default", leave["id"], None)
    assert page["text"] in LEAVE or LEAVE.strip() in page["text"]
    assert page["headings"][0]["text"] == "Leave policy" and page["kind"] == "md"
    assert client.original("default", leave["id"]) == ("leave.md", LEAVE.encode())
    assert "absolute" not in leave
    for wrong in (lambda: client.page_text("default", 999, None), lambda: client.page_text("default", leave["id"], 7)):
        with pytest.raises(UsageError):
            wrong()


def test_an_original_that_changed_is_not_shown_as_the_one_indexed(room: Room) -> None:
    """Offsets of the old text would point anywhere in the new file."""
    client, engine, _ = room
    (leave,) = [each for each in client.documents("default") if each["document"] == "leave.md"]
    (engine.settings.home / "files" / "default" / "leave.md").write_text("Something else")
    with pytest.raises(UsageError):
        client.original("default", leave["id"])
    assert client.page_text("default", leave["id"], None)["text"]


def test_an_upload_is_kept_whole_under_its_label(room: Room) -> None:
    """Bytes arrive as they were; a name that climbs out of its folder is only a label."""
    client, engine, _ = room
    body = os.urandom(700_000)
    kept = client.upload("default", "../../etc/Übersicht 2025.pdf", io.BytesIO(body))
    assert kept["document"] == "etc/Übersicht 2025.pdf" and kept["size"] == len(body)
    (blob,) = (engine.settings.uploads / "default" / "blobs").iterdir()
    assert blob.read_bytes() == body
    assert not list(engine.settings.uploads.glob(".arriving*"))


def test_an_upload_that_is_too_large_or_broken_off_leaves_nothing(tmp_path: Path) -> None:
    """Half a document must never be indexed as a whole one."""
    settings = settings_in(tmp_path, upload_mb=1)
    with running(settings) as (client, _, _):
        with pytest.raises(FootnoteError):
            client.upload("default", "large.bin", io.BytesIO(bytes(1_500_000)))
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.connect(str(place(settings).socket))
            head = b"POST /collections/default/uploads HTTP/1.1\r\nHost: e\r\nX-Label: half.txt\r\nContent-Length: 1000\r\n\r\n"
            leaving.sendall(head + b"half")
        until(lambda: not list(settings.uploads.glob(".arriving*")))
        assert not (settings.uploads / "default").exists()


def test_only_uploads_can_be_removed_here(room: Room) -> None:
    """A file of a folder is not Footnote's to delete; the message says where it lies."""
    client, _, _ = room
    with pytest.raises(UsageError) as caught:
        client.remove("default", "leave.md")
    assert "files" in caught.value.message
    with pytest.raises(UsageError):
        client.remove("default", "absent.md")
    with pytest.raises(UsageError):
        client.add_folder("default", "relative/path")


# ---- the process


def test_socket_and_folder_are_private(room: Room) -> None:
    """Nobody but this user can reach the engine."""
    _, engine, _ = room
    found = place(engine.settings)
    assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(found.socket.stat().st_mode) == 0o600


def test_a_long_data_folder_gets_a_short_private_socket(tmp_path: Path) -> None:
    """A Unix socket's path has little room; the other folder belongs to this user alone."""
    settings = settings_in(tmp_path / ("long" * 30))
    found = place(settings)
    assert len(os.fsencode(found.socket)) <= SOCKET_BYTES
    prepare(found)
    assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
    assert place(settings_in(tmp_path / ("long" * 31))).socket != found.socket


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Another user may have put it there."""
    settings = settings_in(tmp_path)
    settings.home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (settings.home / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineUnavailable):
        prepare(place(settings))


def test_settings_that_decide_answers_tell_engines_apart(tmp_path: Path) -> None:
    """Another model is another engine; another number of passages, which every question brings along, is not."""
    settings = settings_in(tmp_path)
    assert fingerprint(settings) == fingerprint(settings_in(tmp_path, keep_passages=9, collection="other"))
    assert fingerprint(settings) != fingerprint(settings_in(tmp_path, model="/other.gguf"))


def test_a_child_process_gets_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is spelled out in its environment and read back to the same value."""
    import config

    settings = settings_in(tmp_path, ocr=False, keep_passages=7, prune_limit=0.5, server_model="big")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert config.load() == settings


def test_many_readers_of_one_answer_hear_the_same(room: Room) -> None:
    """Three tabs, one answer."""
    client, _, scripted = room
    answer = client.ask("wait", "default")
    heard: list[str] = []
    lock = threading.Lock()

    def read() -> None:
        said = json.dumps(list(client.events(answer)))
        with lock:
            heard.append(said)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for each in threads:
        each.start()
    assert scripted.began.wait(10)
    scripted.go.set()
    for each in threads:
        each.join(10)
    assert len(heard) == 3 and len(set(heard)) == 1


def test_a_health_check_is_answered_while_models_load(tmp_path: Path) -> None:
    """Ready is false, the stage is named, and a search waits instead of failing."""
    settings: Settings = settings_in(tmp_path)
    engine = Engine(settings)
    try:
        assert engine.health()["ready"] is False and engine.health()["stage"] == "starting"
    finally:
        engine.records.close()


def test_a_model_that_cannot_be_loaded_is_told_to_who_asks(tmp_path: Path) -> None:
    """The reason and the cure reach health checks, those who wait and those who come."""
    settings = settings_in(tmp_path, embedder=str(tmp_path / "absent"))
    engine = Engine(settings)
    try:
        engine.load()
        assert engine.health()["stage"] == "failed" and engine.health()["error"]["cure"]
        with pytest.raises(FootnoteError):
            engine.searcher()
        with pytest.raises(FootnoteError):
            from rag.desk import Question

            engine.desk.ask(Question("leave", "default", "local"))
    finally:
        engine.records.close()
