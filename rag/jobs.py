"""A wish to refresh a collection → a `python -m ingest` process, its progress file by file, and its report.

One at a time a collection; a wish that comes while one runs is met by another run afterwards, so no upload is missed.
"""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from config import ROOT, Settings
from ingest.report import last
from rag.place import environment

LISTED_FILES = 20_000  # files that the library page is told about
LAST_LINES = 20  # of what ingest said, kept for the log when it fails without a report

log = logging.getLogger("footnote.engine")


@dataclass(slots=True)
class Job:
    """One run. `state`: running, done (its report may list failed files) or failed."""

    id: str
    collection: str
    folders: tuple[str, ...]
    state: str = "running"
    stage: str = ""
    done: int = 0
    total: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    message: str = ""
    cure: str = ""
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    finished: str = ""  # ISO, UTC

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "collection": self.collection,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "files": list(self.files.values()),
            "report": self.report,
            "message": self.message,
            "cure": self.cure,
            "started": self.started,
            "seconds": round(self.seconds if self.state != "running" else time.time() - self.started, 1),
            "finished": self.finished,
        }


class Jobs:
    """The refreshes of one engine. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._next: dict[str, list[Job]] = {}
        self._last: dict[str, Job] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._closing = False

    def start(self, collection: str, folders: tuple[str, ...] = ()) -> str:
        """Refresh what the collection knows, or add folders to it; returns the job's id at once."""
        job = Job(secrets.token_hex(4), collection, folders)
        with self._lock:
            waiting = self._next.setdefault(collection, [])
            same = next((each for each in waiting if each.folders == folders), None)
            if same is not None:
                return same.id
            if collection in self._running:
                waiting.append(job)
                return job.id
            self._running[collection] = self._last[collection] = job
        threading.Thread(target=self._run, args=(job,), name=f"refresh {collection}", daemon=True).start()
        return job.id

    def state(self, collection: str) -> dict[str, Any]:
        """The job that runs, else the last refresh, whoever ran it; {"state": "none"} where none is known."""
        with self._lock:
            job = self._last.get(collection)
            if job is not None and (job.state != "done" or job.report is None):
                return job.as_json()
        kept = last(self._settings.index, collection)
        if job is not None and (kept is None or str(kept.get("finished", "")) <= job.finished):
            return job.as_json()
        if kept is None:
            return {"state": "none", "collection": collection, "files": [], "report": None}
        return {
            "state": "done", "collection": collection, "files": kept["files"], "report": kept,
            "finished": kept.get("finished", ""), "seconds": kept.get("seconds", 0.0),
        }

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def close(self, wait_s: float = 5.0) -> None:
        """Interrupt what runs: ingest ends cleanly, the old version goes on being served, and the next run resumes."""
        with self._lock:
            self._closing = True
            processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self, job: Job) -> None:
        following: Job | None = job
        while following is not None:
            job = following
            try:
                self._ingest(job)
            except OSError as error:  # the process could not be started
                job.message, job.cure, job.state = f"The refresh could not be started: {error}.", "Try again.", "failed"
            job.seconds, job.finished = time.time() - job.started, datetime.now(UTC).isoformat(timespec="seconds")
            log.info("refresh of %s %s after %.1f s", job.collection, job.state, job.seconds)
            with self._lock:
                waiting = self._next.get(job.collection, [])
                following = waiting.pop(0) if waiting and not self._closing else None
                if following is None:
                    del self._running[job.collection]
                else:
                    self._running[job.collection] = self._last[job.collection] = following

    def _ingest(self, job: Job) -> None:
        job.started = time.time()
        command = [
            sys.executable,
            "-m",
            "ingest",
            *job.folders,
            "--collection",
            job.collection,
            "--index",
            str(self._settings.index),
        ]
        process = subprocess.Popen(
            [*command, "--json", "--progress-json"],
            cwd=ROOT,
            env=environment(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        with self._lock:
            self._processes[job.id] = process
        said: deque[str] = deque(maxlen=LAST_LINES)
        listening = threading.Thread(target=self._listen, args=(job, process.stderr, said), daemon=True)
        listening.start()
        output = process.stdout.read() if process.stdout is not None else ""
        code = process.wait()
        listening.join(5)
        with self._lock:
            self._processes.pop(job.id, None)
        self._conclude(job, code, output, said)

    def _listen(self, job: Job, stream: IO[str] | None, said: deque[str]) -> None:
        for line in stream or ():
            event = _object(line)
            if event is None:
                said.append(line.rstrip())
                continue
            job.stage = str(event.get("stage", job.stage))
            job.done, job.total = int(event.get("done") or 0), int(event.get("total") or 0)
            file = event.get("file")
            if isinstance(file, dict) and "document" in file and len(job.files) < LISTED_FILES:
                job.files[str(file["document"])] = file

    def _conclude(self, job: Job, code: int, output: str, said: deque[str]) -> None:
        job.report = _object(output)
        if code in (0, 3) and job.report is not None:  # 3: published, but some files failed; they are in the report
            for each in job.report.get("failed", ()):
                job.files[each["document"]] = {"status": "failed", **each}
            job.report["files"] = list(job.files.values())
            job.state = "done"
            return
        found = job.report or {}
        job.report = None
        job.message = str(found.get("error") or (said[-1] if said else f"The refresh ended with code {code}."))
        job.cure = str(found.get("cure") or "Run: python -m ingest in a terminal, which shows more.")
        job.state = "failed"
        log.error("refresh of %s ended with code %d: %s", job.collection, code, " / ".join(said))


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
