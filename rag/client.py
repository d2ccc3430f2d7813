"""Calls → the engine process of an index folder, over its Unix socket; starts it, and starts it again when it died.

Light on purpose: pages and commands import this, and nothing heavy comes with it. Errors arrive as errors.FootnoteError.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import httpx

import errors
from config import ROOT, Settings
from errors import EngineUnavailable, FootnoteError, UsageError
from rag.place import environment, fingerprint, place, prepare

CONNECT_S = 5.0  # a socket on this machine answers at once, or the machine is very busy
READ_S = 60.0  # the slowest single answer: a page rendered by a sandbox that is just starting
SILENCE_S = 30.0  # between two lines of events; the engine sends an empty one every five seconds
IDLE_S = 14_400  # s without a request after which an engine ends: the web app was stopped, or nobody has asked for half a day
SPAWN_S = 30.0  # from starting the process to its first answer: importing takes two seconds, on a busy machine many more
ENDING_S = 15.0  # for an engine that was asked to end
POLL_S = 0.1
OUT_BYTES = 1_000_000  # of what engines print, before the file is started anew
HARMLESS = frozenset({"/search"})  # posts that change nothing, so that they may be repeated
LOCAL = "local"


class Client:
    """The engine of one index folder. Threads may share one client; making one costs nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = place(settings)
        self._fingerprint = ""
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._place.socket)),
            base_url="http://engine",
            trust_env=False,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = False  # whether this client may start the engine again when it died
        self._restarting = threading.Lock()

    # ---- life

    def start(self, wait_s: float = 120.0) -> None:
        """Make sure that an engine with this code and these settings runs, and wait up to `wait_s` for it to be ready.

        Where it runs already this takes milliseconds. With `wait_s` 0 it returns as soon as the engine answers.
        Raises EngineUnavailable, or what kept the models from loading.
        """
        self._starts = True
        deadline = time.monotonic() + wait_s
        health = self._probe()
        if health is None or health["code"] != self._code() or health["stage"] == "failed":
            health = self._replace()
        while not health["ready"]:
            if health["error"]:
                raise _error(health["error"])
            if wait_s <= 0:
                return
            if time.monotonic() > deadline:
                raise EngineUnavailable(
                    f"The engine is still {health['stage'][:1].lower()}{health['stage'][1:]} after {wait_s:.0f} seconds.",
                    f"Wait a little; {self._settings.logs / 'engine.log'} shows what it does.",
                )
            time.sleep(POLL_S)
            found = self._probe()
            if found is not None:
                health = found
            elif not self._holds_lock():  # alive it may be too busy with loading to answer in time
                raise self._died()

    def running(self) -> bool:
        """Whether an engine with this code and these settings answers questions now. Starts nothing."""
        health = self._probe()
        return health is not None and bool(health["ready"]) and health["code"] == self._code()

    def health(self) -> dict[str, Any]:
        """{"ready", "stage", "model", "waiting", "error", …}; raises EngineUnavailable where no engine answers."""
        found: dict[str, Any] = self._get("/health")
        return found

    def shutdown(self) -> None:
        """End the engine, in order; nothing happens where none runs. Returns when it has ended."""
        self._starts = False
        health = self._probe()
        deadline = time.monotonic() + SPAWN_S
        while health is None and self._place.lock.exists() and self._holds_lock() and time.monotonic() < deadline:
            time.sleep(POLL_S)  # it is there, and too busy with starting to answer in time
            health = self._probe()
        if health is not None:
            self._end(int(health["pid"]))

    def close(self) -> None:
        """Let go of the connections; the engine goes on."""
        self._http.close()

    def _code(self) -> str:
        if not self._fingerprint:
            self._fingerprint = fingerprint(self._settings)  # of the code that this process runs, so it is taken once
        return self._fingerprint

    def _probe(self) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._http.get("/health", timeout=CONNECT_S).json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer

    def _replace(self) -> dict[str, Any]:
        """Start an engine, ending one of other code or settings; one process at a time does this."""
        prepare(self._place)
        with self._place.starting.open("a") as lock:
            _lock(lock.fileno(), SPAWN_S + ENDING_S)
            health = self._probe()
            if health is not None and health["code"] == self._code() and health["stage"] != "failed":
                return health  # somebody else was quicker
            if health is not None:
                self._end(int(health["pid"]))
            return self._spawn()

    def _spawn(self) -> dict[str, Any]:
        self._settings.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        out = self._settings.logs / "engine.out"
        if out.exists() and out.stat().st_size > OUT_BYTES:
            out.unlink()
        with out.open("ab") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "rag", "serve", "--index", str(self._settings.index), "--idle-exit", str(IDLE_S)],
                cwd=ROOT,
                env=environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        self._process = process
        deadline = time.monotonic() + SPAWN_S
        while time.monotonic() < deadline:
            health = self._probe()
            if health is not None:
                return health
            if process.poll() is not None:
                raise self._died()
            time.sleep(POLL_S)
        raise EngineUnavailable("The engine did not start in time.", f"See {out}.")

    def _end(self, pid: int) -> None:
        """Ask the engine to end; when it does not, end it. `pid` is what it said of itself."""
        with contextlib.suppress(httpx.HTTPError):
            self._http.post("/shutdown", timeout=CONNECT_S)
        deadline = time.monotonic() + ENDING_S
        while _lives(pid) and self._holds_lock():
            if self._process is not None:
                self._process.poll()  # a child that has ended is a zombie until it is asked about
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                deadline += ENDING_S
            time.sleep(POLL_S)

    def _holds_lock(self) -> bool:
        with self._place.lock.open("a") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _died(self) -> EngineUnavailable:
        out = self._settings.logs / "engine.out"
        said = _last_line(out)
        return EngineUnavailable(
            f"The engine ended while it was starting{f': {said}' if said else ''}.",
            f"See {out} and {self._settings.logs / 'engine.log'}.",
        )

    # ---- what is there

    def collections(self) -> list[dict[str, Any]]:
        """[{"name", "documents", "passages", "version", "refreshed", …}]."""
        found: list[dict[str, Any]] = self._get("/collections")
        return found

    def documents(self, collection: str, user: str = LOCAL) -> list[dict[str, Any]]:
        """Documents that `user` may see, failed ones too (status, reason, cure)."""
        found: list[dict[str, Any]] = self._get(f"/collections/{_segment(collection)}/documents", {"user": user})
        return found

    def suggestions(self, collection: str, user: str = LOCAL) -> list[str]:
        """Questions that the documents can answer."""
        found: list[str] = self._get(f"/collections/{_segment(collection)}/suggestions", {"user": user})
        return found

    def page_text(self, collection: str, document_id: int, page: int | None, user: str = LOCAL) -> dict[str, Any]:
        """{"text", "headings", "tables", "kind", "pages", …} of one page, or of a document without pages (`page` None)."""
        values = {"user": user} | ({} if page is None else {"page": str(page)})
        found: dict[str, Any] = self._get(f"/collections/{_segment(collection)}/documents/{document_id}/text", values)
        return found

    def page_image(
        self, collection: str, document_id: int, page: int, quotes: Sequence[str], width: int, user: str = LOCAL
    ) -> bytes:
        """PNG of a page, `width` pixels wide, with the quotes highlighted."""
        body = {"page": page, "quotes": list(quotes), "width": width, "user": user}
        return self._post(f"/collections/{_segment(collection)}/documents/{document_id}/image", body).content

    def original(self, collection: str, document_id: int, user: str = LOCAL) -> tuple[str, bytes]:
        """(file name, bytes) of the file that was indexed."""
        response = self._call(
            "GET", f"/collections/{_segment(collection)}/documents/{document_id}/original", params={"user": user}
        )
        return unquote(response.headers["x-name"]), response.content

    # ---- questions

    def ask(
        self,
        question: str,
        collection: str,
        *,
        user: str = LOCAL,
        document: str | None = None,
        history: Sequence[Any] | None = None,
        conversation: str | None = None,
        message: int | None = None,
        keep: int | None = None,
    ) -> str:
        """Put a question to the engine; returns the answer's id at once.

        With `conversation` the engine keeps question and answer in the records; `message` names an assistant message of it that
        is to be answered again, in place. `history` (rag.types.Turn or {"role", "content"}) None: what the conversation said.
        Raises Busy when too many questions wait.
        """
        body = {
            "question": question,
            "collection": collection,
            "user": user,
            "document": document,
            "history": _turns(history),
            "conversation": conversation,
            "message": message,
            "keep": keep,
        }
        return str(self._post("/answers", body).json()["id"])

    def events(self, answer_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Events of an answer from number `after` on, as they come, until its end; lost connections are resumed."""
        tries = 0
        while True:
            try:
                for event in self._lines(answer_id, after):
                    after, tries = event["seq"] + 1, 0
                    yield event
                    if event["event"] in ("done", "stopped", "error"):
                        return
            except httpx.HTTPError:
                pass
            except UsageError:
                if not tries:
                    raise  # otherwise another engine has taken the place of the one that was lost, and knows nothing of this answer
                raise EngineUnavailable("The engine stopped while it answered. It runs again.", "Ask again.") from None
            tries += 1
            if tries > 3:
                raise EngineUnavailable("The engine stopped while it answered.", "Ask again.")
            time.sleep(POLL_S * tries)

    def _lines(self, answer_id: str, after: int) -> Iterator[dict[str, Any]]:
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        with self._http.stream(
            "GET", f"/answers/{_segment(answer_id)}/events", params={"after": after}, timeout=timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
                raise _error(response.json())
            for line in response.iter_lines():
                if line.strip():
                    yield json.loads(line)

    def answer(self, answer_id: str) -> dict[str, Any]:
        """{"state": queued|searching|reading|writing|done|stopped|failed, "passages", "sentences", "answer", …} so far."""
        found: dict[str, Any] = self._get(f"/answers/{_segment(answer_id)}")
        return found

    def stop(self, answer_id: str) -> None:
        """End an answer with what is there; nothing happens where it has ended already."""
        self._post(f"/answers/{_segment(answer_id)}/stop", {})

    def ask_and_wait(
        self,
        question: str,
        collection: str,
        *,
        user: str = LOCAL,
        document: str | None = None,
        history: Sequence[Any] | None = None,
        keep: int | None = None,
    ) -> dict[str, Any]:
        """The whole answer, as rag.types.Answer.as_json. Raises FootnoteError with what went wrong."""
        answer_id = self.ask(question, collection, user=user, document=document, history=history or (), keep=keep)
        try:
            for event in self.events(answer_id):
                if event["event"] == "error":
                    raise _error(event)
                if event["event"] in ("done", "stopped"):
                    answer: dict[str, Any] = event["answer"]
                    return answer
        except BaseException:
            with contextlib.suppress(FootnoteError):
                self.stop(answer_id)  # Ctrl-C: nobody waits for this answer any more
            raise
        raise EngineUnavailable("The engine stopped while it answered.", "Ask again.")

    def search(
        self,
        question: str,
        collection: str,
        *,
        user: str = LOCAL,
        document: str | None = None,
        history: Sequence[Any] | None = None,
        keep: int | None = None,
    ) -> list[dict[str, Any]]:
        """Passages, best first, as rag.types.Hit.as_json."""
        body = {
            "question": question,
            "collection": collection,
            "user": user,
            "document": document,
            "history": _turns(history),
            "keep": keep,
        }
        found: list[dict[str, Any]] = self._post("/search", body).json()["passages"]
        return found

    # ---- the library

    def upload(self, collection: str, label: str, file: BinaryIO, user: str = LOCAL) -> dict[str, Any]:
        """Keep one file among the collection's uploads, streamed; `refresh` then reads it. `label` is a name, never a path."""
        headers = {"X-Label": quote(label), "X-User": quote(user), "Content-Type": "application/octet-stream"}
        answer: dict[str, Any] = self._call(
            "POST",
            f"/collections/{_segment(collection)}/uploads",
            content=_parts(file),
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
        ).json()
        return answer

    def remove(self, collection: str, document: str, user: str = LOCAL) -> str:
        """Take an uploaded document away; returns the id of the job that publishes the index without it."""
        return str(self._post(f"/collections/{_segment(collection)}/remove", {"document": document, "user": user}).json()["job"])

    def refresh(self, collection: str, user: str = LOCAL) -> str:
        """Read what is new or changed, in a process of its own; returns the job's id at once."""
        return str(self._post(f"/collections/{_segment(collection)}/refresh", {"user": user}).json()["job"])

    def add_folder(self, collection: str, path: str | Path, user: str = LOCAL) -> str:
        """Add a folder of the engine's machine to the collection; returns the job's id at once."""
        return str(self._post(f"/collections/{_segment(collection)}/folders", {"path": str(path), "user": user}).json()["job"])

    def job(self, collection: str) -> dict[str, Any]:
        """The refresh that runs or ran last: {"state": none|running|done|failed, "done", "total", "files", "report", …}."""
        found: dict[str, Any] = self._get(f"/collections/{_segment(collection)}/job")
        return found

    # ---- the wire

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return self._call("GET", path, params=params).json()

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return self._call("POST", path, json=dict(body))

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; where the engine died it is started again and, if that does no harm, asked again."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise EngineUnavailable("The engine does not answer.", f"See {self._settings.logs / 'engine.log'}.") from None
        except httpx.HTTPError as error:
            if not self._starts:
                raise EngineUnavailable("No engine runs for this index folder.", "Run: python -m rag serve") from None
            with self._restarting:
                self.start()
            if not (isinstance(error, httpx.ConnectError) or method == "GET" or path in HARMLESS or path.endswith("/image")):
                # it may have been heard before the engine died: saying it again could ask twice
                raise EngineUnavailable("The engine stopped while it answered. It runs again.", "Try again.") from None
            try:
                response = self._http.request(method, path, **options)
            except httpx.HTTPError:
                raise EngineUnavailable("The engine cannot be reached.", f"See {self._settings.logs / 'engine.log'}.") from None
        if response.status_code >= 400:
            raise _error(_json(response))
        return response


def _segment(text: str) -> str:
    return quote(text, safe="")


def _parts(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(1 << 18):
        yield part


def _turns(history: Sequence[Any] | None) -> list[dict[str, str]] | None:
    if history is None:
        return None
    return [dict(each) if isinstance(each, Mapping) else {"role": each.role, "content": each.content} for each in history]


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"message": f"The engine answered with status {response.status_code}."}


def _error(body: Mapping[str, Any]) -> FootnoteError:
    """The error that the engine raised, as the same class here."""
    kind = getattr(errors, str(body.get("error", "")), FootnoteError)
    message, cure = str(body.get("message", "Something went wrong in the engine.")), str(body.get("cure", ""))
    if kind is errors.DocumentUnreadable:
        return errors.DocumentUnreadable(str(body.get("kind", "damaged")), message, cure)
    if isinstance(kind, type) and issubclass(kind, FootnoteError):
        return kind(message, cure)
    return FootnoteError(message, cure)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lock(file: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EngineUnavailable("Another process has been starting the engine for too long.", "Try again.") from None
            time.sleep(POLL_S)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-4000:].decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
