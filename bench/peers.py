"""A GGUF file → the engines that can run it, ours and others', asked in one way: a question in, pieces of text out as they come.

`Llama` of llama-cpp-python behind a lock, llama-server, and the examples/server of llama-cpp-python's source; `scripts/llama_server.sh`
makes the latter two. Each is a process of its own that waits while others are measured; ours keeps its memory warm meanwhile.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.apart import Apart, Failed
from bench.workload import Ask
from config import ROOT, Settings
from errors import FootnoteError
from rag import SHAPES, WAITING
from rag.place import MALLOC, environment

BUILT = ROOT / "var" / "llama-server"  # where scripts/llama_server.sh puts what it makes
START_S = 60.0  # a server loads the model and warms up
SILENCE_S = 300.0  # before a first token: eight long prompts, one after another, on one slow core
END_S = 10.0


class PeerFailed(FootnoteError):
    """A peer could not be started, refused, or broke off: its cell says so, the others are measured."""


class Engine(Protocol):
    """What is compared. `write` may be called from many threads at once."""

    name: str

    def write(self, ask: Ask, most: int) -> Iterator[str]: ...

    def close(self) -> None: ...


class Messages:
    """An engine of Python in a process of its own that gets messages and lays them into the model's template itself."""

    def __init__(self, name: str, module: str, options: Mapping[str, Any], log: Path, environment: Mapping[str, str]) -> None:
        """`module` is run. Raises PeerFailed where its engine does not start."""
        self.name = name
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as printed:
            try:
                self._apart = Apart([sys.executable, "-m", module], options, cwd=ROOT, env=dict(environment), stderr=printed)
            except Failed as error:
                raise PeerFailed(f"{name} did not start: {error}", f"See {log}.") from None

    def write(self, ask: Ask, most: int) -> Iterator[str]:
        try:
            yield from self._apart.write([{"role": turn.role, "content": turn.content} for turn in ask.messages], most)
        except Failed as error:
            raise PeerFailed(f"{self.name} broke off: {error}") from None

    def close(self) -> None:
        self._apart.close()


def ours(settings: Settings) -> Messages:
    """This checkout's engine with these settings, in a process with the engine's environment."""
    return Messages("Footnote", "bench.ours", {}, settings.logs / "ours.log", environment(settings))


def locked(name: str, model: Path, logs: Path, options: dict[str, Any]) -> Messages:
    """`Llama` behind a lock, with these options of its own."""
    return Messages(name, "bench.locked", {"path": str(model), **options}, logs / "locked.log", _without_ours())


class Served:
    """A server in a process of its own, asked for the very tokens over a connection for each question."""

    def __init__(
        self, name: str, command: Callable[[int], Sequence[str]], path: str, body: Callable[[Ask, int], dict[str, Any]],
        said: Callable[[dict[str, Any]], str], ready: str, log: Path, environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._path, self._body, self._said = path, body, said
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{self._port}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as printed:
            self._process = subprocess.Popen(
                list(command(self._port)), cwd=ROOT, env={**_without_ours(), **(environment or {})}, stdin=subprocess.DEVNULL,
                stdout=printed, stderr=printed,
            )  # fmt: skip  # in this session: some kernels share processors by session, and a peer must not have more than we have
        deadline = time.monotonic() + START_S
        while not self._answers(ready):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
                raise PeerFailed(f"{name} did not start: {lines[-1][:200]}", f"See {log}.")
            time.sleep(0.1)

    def write(self, ask: Ask, most: int) -> Iterator[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENCE_S)
        try:
            connection.request("POST", self._path, json.dumps(self._body(ask, most)), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise PeerFailed(f"{self.name} refused with {response.status}: {response.read(300).decode('utf-8', 'replace')}")
            for line in response:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise PeerFailed(f"{self.name} broke off: {event['error']}")
                    yield self._said(event)
        except (OSError, http.client.HTTPException) as error:
            raise PeerFailed(f"{self.name} broke off: {error!r}") from None
        finally:
            connection.close()

    def close(self) -> None:
        """End the process, by its number."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(END_S)

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def llama_server(name: str, model: Path, logs: Path, options: Sequence[str]) -> Served:
    """llama-server, asked at its own /completion, where a prompt may be tokens. Raises PeerFailed where it was not made."""
    binary = _made("bin/llama-server")

    def command(port: int) -> list[str]:
        return [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *options]

    def body(ask: Ask, most: int) -> dict[str, Any]:
        greedy = {"temperature": 0, "top_k": 1, "samplers": ["top_k"]}
        return {"prompt": list(ask.tokens), "n_predict": most, "stream": True, **greedy}

    return Served(name, command, "/completion", body, lambda event: str(event.get("content") or ""), "/health", logs / "llama-server.log")


def example_server(name: str, model: Path, logs: Path, options: dict[str, Any]) -> Served:
    """The examples/server of llama-cpp-python's source, asked at /v1/completions. Raises PeerFailed where it was not made."""
    script = _made("server.py")
    logs.mkdir(parents=True, exist_ok=True)

    def command(port: int) -> list[str]:
        file = logs / f"examples-server-{port}.json"
        settings = {"server": {"host": "127.0.0.1", "port": port}, "model": {"path": str(model), "alias": "model", **options}}
        file.write_text(json.dumps(settings), encoding="utf-8")
        return [sys.executable, str(script), "-C", str(file)]

    def body(ask: Ask, most: int) -> dict[str, Any]:
        return {"model": "model", "prompt": list(ask.tokens), "max_tokens": most, "temperature": 0, "stream": True}

    def said(event: dict[str, Any]) -> str:
        return "".join(each.get("text") or "" for each in event.get("choices") or ())

    path = {"PYTHONPATH": str(script.parent / "libraries")}
    return Served(name, command, "/v1/completions", body, said, "/healthz", logs / "examples-server.log", path)


def _without_ours() -> dict[str, str]:
    """The environment without what this package sets for itself: a server has the defaults that it has elsewhere."""
    return {name: value for name, value in os.environ.items() if {**WAITING, **SHAPES, **MALLOC}.get(name) != value}


def _made(name: str) -> Path:
    found = sorted(BUILT.glob(f"*/{name}"))
    if not found:
        raise PeerFailed(f"{name.rpartition('/')[2]} is not there.", "Run: scripts/llama_server.sh")
    return found[-1]
