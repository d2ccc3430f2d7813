"""Settings → the three things every page talks to: client, records, and how far the engine is with starting.

One object for all sessions of the web process. Starting the engine takes seconds, so it happens in a thread of its own and
pages draw "Starting the engine" meanwhile.
"""

from __future__ import annotations

import logging
import logging.handlers
import secrets
import threading
import time

import config
from errors import FootnoteError
from rag.client import Client
from records import Records

START_SECONDS = 120.0  # a first start converts the bundled model; on two busy cores that took half a minute
LOG_BYTES = 1_000_000  # of one log file; three are kept
log = logging.getLogger("footnote.web")


class Backend:
    """What the pages share. `state` is "starting", "ready" or "failed"; then `error` says why."""

    def __init__(self, settings: config.Settings, client: Client, records: Records) -> None:
        self.settings = settings
        self.client = client
        self.records = records
        self.upload_token = secrets.token_urlsafe(16)  # other sites cannot read it, so they cannot upload
        self.state = "starting"
        self.error: FootnoteError | None = None
        self.since = time.monotonic()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the engine unless that is already going on; returns at once."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self.state, self.error, self.since = "starting", None, time.monotonic()
            self._thread = threading.Thread(target=self._start, name="engine start", daemon=True)
            self._thread.start()

    def stage(self) -> str:
        """What the engine says it is doing while it starts, "" where it does not say anything yet."""
        try:
            return str(self.client.health().get("stage", ""))
        except FootnoteError:
            return ""

    def _start(self) -> None:
        try:
            self.client.start(START_SECONDS)
        except FootnoteError as error:
            log.error("the engine did not start: %s", error)
            self.error, self.state = error, "failed"
        except Exception as error:  # noqa: BLE001 - the edge of a thread: without this the page would say "Starting" for ever
            number = report(error)
            self.error = FootnoteError("The engine did not start.", f"The log has the reason under number {number}.")
            self.state = "failed"
        else:
            self.state = "ready"


_shared: Backend | None = None
_lock = threading.Lock()


def shared() -> Backend:
    """The process's own backend, made on first use and told to start its engine."""
    global _shared
    with _lock:
        if _shared is None:
            settings = config.load()
            keep_log(settings)
            _shared = Backend(settings, Client(settings), Records(settings.records))
            _shared.start()
        return _shared


def use(backend: Backend) -> None:
    """Make `backend` the process's own: a program that serves the pages over another client calls this first."""
    global _shared
    with _lock:
        _shared = backend


def keep_log(settings: config.Settings) -> None:
    """Write warnings and faults to logs/web.log: never the text of a question or a document."""
    settings.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(settings.logs / "web.log", maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)


def report(error: BaseException) -> str:
    """Write a fault of the program to the log; returns the short number that the person is given."""
    number = secrets.token_hex(3)
    log.error("fault %s", number, exc_info=error)
    return number
