"""The model behind an OpenAI-compatible server, against a small server written here."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import config
from config import Settings
from errors import EngineUnavailable, FootnoteError, UsageError
from rag.engine.remote import RemoteModel
from rag.types import Turn

QUESTION = [Turn("system", "Answer."), Turn("user", "Where is it?")]


class OneModelServer(ThreadingHTTPServer):
    """Says `words`, one event each; counts tokens where `counts` is true; refuses with `status`; `broken` ends in an error."""

    words = ("In ", "Zürich", ".")
    status = 200
    counts = True
    broken = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, object]] = []
        self.keys: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: OneModelServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._send(200 if self.server.counts else 404, json.dumps({"tokens": body["content"].split()}).encode())
            return
        if self.path != "/v1/chat/completions":
            self._send(404, b"{}")
            return
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        lines: list[dict[str, object]] = [{"choices": [{"delta": {"content": word}}]} for word in self.server.words]
        if self.server.broken:
            lines.append({"error": {"message": "out of memory"}})
        lines.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        text = ": keep-alive\n\n" + "".join(f"data: {json.dumps(line, ensure_ascii=False)}\n\n" for line in lines) + "data: [DONE]\n\n"
        self._send(self.server.status, text.encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), 7):  # small parts, so that characters and lines are cut in the middle
            self.wfile.write(body[at : at + 7])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[OneModelServer]:
    running = OneModelServer()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def settings(server: OneModelServer, **more: Any) -> Settings:
    return dataclasses.replace(config.Settings(), server_url=f"http://127.0.0.1:{server.server_port}/v1", server_model="big", **more)


def test_words_arrive_as_the_server_says_them(server: OneModelServer) -> None:
    """Pieces keep their order and letters, the messages arrive untouched, and usage is counted."""
    model = RemoteModel(settings(server, server_key="secret"))
    assert list(model.generate(tuple(model.chat(QUESTION)), max_tokens=9)) == ["In ", "Zürich", "."]
    asked = server.asked[0]
    assert asked["messages"] == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Where is it?"}]
    assert asked["model"] == "big" and asked["temperature"] == 0 and asked["max_tokens"] == 9
    assert server.keys == ["Bearer secret"]
    assert model.usage()["answer_tokens"] == 3 and model.level == "free"


def test_a_choice_is_one_of_those_given(server: OneModelServer) -> None:
    """Whatever the server says, the result is one of the strings, the nearest."""
    model = RemoteModel(settings(server))
    assert list(model.generate(model.chat(QUESTION), max_tokens=9, choices=["It is in Bern.", "It is in Zürich."])) == ["It is in Zürich."]


def test_stopping_ends_the_stream(server: OneModelServer) -> None:
    """should_stop is asked after each piece."""
    model = RemoteModel(settings(server))
    seen: list[str] = []
    for piece in model.generate(model.chat(QUESTION), max_tokens=9, should_stop=lambda: len(seen) >= 1):  # noqa: B023 - asked while it grows
        seen += [piece]
    assert seen == ["In "]


def test_an_error_in_the_middle_is_told_and_not_taken_for_the_end(server: OneModelServer) -> None:
    """Servers answer with status 200 first and may still fail: what came is not the whole answer."""
    server.broken = True
    model = RemoteModel(settings(server))
    seen = []
    with pytest.raises(EngineUnavailable, match="out of memory"):
        for piece in model.generate(model.chat(QUESTION), max_tokens=9):
            seen.append(piece)
    assert seen == ["In ", "Zürich", "."]


def test_what_a_thread_asked_for_is_counted_apart(server: OneModelServer) -> None:
    """Several answers are on the way at once, and each is billed for its own."""
    model = RemoteModel(settings(server))
    list(model.generate(model.chat(QUESTION), max_tokens=9))
    found: list[dict[str, float]] = []

    def other() -> None:
        list(model.generate(model.chat(QUESTION), max_tokens=9))
        found.append(model.usage())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found[0]["answer_tokens"] == model.usage()["answer_tokens"] == 3


def test_without_a_tokenizer_tokens_are_guessed_high(server: OneModelServer) -> None:
    """A third of the characters, and more for scripts whose letters take several bytes."""
    server.counts = False
    model = RemoteModel(settings(server))
    assert len(model.tokenize("a" * 300)) == 100
    assert len(model.tokenize("語" * 100)) >= 100
    assert model.chat([Turn("user", "a" * 300)])[0] < 0 and len(model.chat([Turn("user", "a" * 300)])) > 100


def test_a_long_prompt_is_refused_before_it_is_sent(server: OneModelServer) -> None:
    """Nothing is cut and nothing is sent."""
    model = RemoteModel(settings(server, context_tokens=50))
    with pytest.raises(FootnoteError):
        list(model.generate(model.chat([Turn("user", "word " * 100)]), max_tokens=5))
    assert server.asked == []


def test_a_refusal_names_the_cure(server: OneModelServer) -> None:
    """A wrong key is said to be a wrong key."""
    model = RemoteModel(settings(server))
    server.status = 401
    with pytest.raises(EngineUnavailable) as caught:
        list(model.generate(model.chat(QUESTION), max_tokens=9))
    assert "FOOTNOTE_SERVER_KEY" in caught.value.cure


def test_a_server_that_is_not_there_is_unavailable() -> None:
    """Nobody listens on the port of a socket that was closed again."""
    gone = OneModelServer()
    gone.server_close()
    with pytest.raises(EngineUnavailable):
        RemoteModel(settings(gone))
    with pytest.raises(UsageError):
        RemoteModel(dataclasses.replace(config.Settings(), server_url="ftp://somewhere"))
