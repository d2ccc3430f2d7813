"""Files → parsed documents, read in child processes that are watched, limited and thrown away.

A file is somebody else's data and a parser is a million lines of C: neither may harm the process that asks. Parsers are
loaded once in a fork server (`ingest/parse/server.py`), which starts with the first file; its children have no network,
an empty working folder and limits of time and resident memory kept by this side, and are replaced after some files. Time is the
child's processor time, so that a busy machine fails no good file; a child that waits for nothing is ended by the wall clock.
Messages are JSON in frames of known length; nothing a child sends is executed or unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from config import ROOT, Settings
from errors import DocumentUnreadable, FootnoteError
from ingest.types import Heading, Member, Page, ParsedDocument, ParseFailure, SourceFile, Table, Unpacked

FORK, LOAD = b"f", b"l"  # what the fork server is asked for: a child, or `unstructured` loaded for all later ones
HANDED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "FOOTNOTE_OFFLINE_LOG", "PYTHONPATH")  # nothing else is
FILES_A_CHILD = 200  # then it is replaced: parsers leak, and so does what one file leaves behind for the next
GROWN_MB = 400  # resident growth after which an idle child is replaced
WATCH_S = 0.1  # between two looks at memory and time; memory grows by about 1 GB a second at worst
START_S = 120.0  # for the fork server to load the parsers on a busy machine
RENDER_S = 20.0  # for one page picture
MB_A_STEP, S_A_STEP = 10, 10  # ten more seconds for each ten megabytes of a file
WALL_TIMES = 8  # a file's limit of processor time, as wall time: a busy machine gives a child an eighth of a core at worst
MAX_ASKED_S = 900.0  # most extra time one file may ask for (scanned pages)
MAX_FRAME = 1_000_000_000  # bytes of one message; 20 million characters take a tenth


def document_to_json(document: ParsedDocument) -> dict[str, Any]:
    return {
        "kind": document.kind,
        "title": document.title,
        "date": document.date,
        "people": document.people,
        "warnings": document.warnings,
        "ocr_pages": document.ocr_pages,
        "pages": [
            [
                page.number,
                page.text,
                [[heading.start, heading.level, heading.text] for heading in page.headings],
                [[table.start, table.end, table.header] for table in page.tables],
            ]
            for page in document.pages
        ],
    }


def document_from_json(body: dict[str, Any]) -> ParsedDocument:
    return ParsedDocument(
        kind=body["kind"],
        title=body["title"],
        date=body["date"],
        people=tuple(body["people"]),
        warnings=tuple(body["warnings"]),
        ocr_pages=body["ocr_pages"],
        pages=tuple(
            Page(number, text, tuple(Heading(*each) for each in headings), tuple(Table(*each) for each in tables))
            for number, text, headings, tables in body["pages"]
        ),
    )


class Sandbox:
    """Reads files and draws pages in child processes. `jobs` children read at once (0: one a core).

    Nothing starts before the first file. Use as a context manager, or call `close()`.
    """

    def __init__(self, settings: Settings, jobs: int = 0) -> None:
        self._settings = settings
        self._jobs = jobs or settings.jobs or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._renderer: _Child | None = None
        self._unpacker: _Child | None = None
        self._rendering = threading.Lock()
        self._scratch: Path | None = None
        self._closed = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every child and removes the scratch folder."""
        with self._lock:
            self._closed = True
            servers, self._servers = list(self._servers.values()), {}
            lone = (self._renderer, self._unpacker)
            self._renderer = self._unpacker = None
        for child in lone:
            if child is not None:
                child.kill()
        for server in servers:
            server.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def parse_all(self, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, ParsedDocument | ParseFailure, float]]:
        """Each file with what it says or why it says nothing, and the seconds it took, in the order they finish.

        `files` is pulled as children become free. A child that crashes, hangs or grows costs its own file only.
        """
        again: deque[SourceFile] = deque()  # files whose child lacked `unstructured`, or broke off in the middle of OCR
        no_ocr: dict[Path, ParseFailure] = {}  # files read once more without it, and how the first time ended
        waiting = iter(files)
        children: list[_Child] = []
        selector = selectors.DefaultSelector()
        more = True
        try:
            while True:
                for child in [each for each in children if each.file is None and each.spent()]:
                    selector.unregister(child.socket)
                    children.remove(child)
                    child.kill()
                for child in children:
                    if more and child.file is None:
                        following = _next(again, waiting)
                        if following is None:
                            more = False
                        else:
                            child.parse(following, ocr=following.absolute not in no_ocr)
                while more and len(children) < self._jobs and all(child.file is not None for child in children):
                    following = _next(again, waiting)
                    if following is None:
                        more = False
                        break
                    child = self._child("parse")
                    children.append(child)
                    selector.register(child.socket, selectors.EVENT_READ, child)
                    child.parse(following, ocr=following.absolute not in no_ocr)
                if not any(child.file is not None for child in children):
                    if again:
                        more = True
                        continue
                    return
                for key, _ in selector.select(WATCH_S):
                    key.data.receive()
                for child in list(children):
                    if child.lacks_unstructured():
                        again.append(child.let_go())
                        more = True
                        continue
                    outcome = child.outcome()
                    if outcome is None:
                        continue
                    file, result, seconds = outcome
                    if isinstance(result, ParseFailure) and child.was_at_ocr() and file.absolute not in no_ocr:
                        no_ocr[file.absolute] = result
                        again.append(file)
                        more = True
                        continue
                    first = no_ocr.pop(file.absolute, None)
                    yield file, result if first is None else _second_try(result, first), seconds
        finally:
            selector.close()
            for child in children:
                child.kill()

    def unpack(self, file: SourceFile) -> Unpacked | ParseFailure:
        """What `file` holds, as files in the scratch folder, there until `close()`; nothing where it is no container."""
        child = self._unpacker
        if child is None or child.spent():
            if child is not None:
                child.kill()
            child = self._unpacker = self._child("parse")
        child.unpack(file)
        answer = _answered(child)
        if isinstance(answer, ParseFailure):
            return answer
        return unpacked(answer, self._scratch or Path(os.devnull))

    def render_page(self, path: Path, number: int, quotes: list[str], width: int) -> bytes:
        """PNG of a PDF page with `quotes` marked. Raises DocumentUnreadable."""
        with self._rendering:
            for attempt in (1, 2):
                child = self._renderer
                if child is None or child.spent():
                    if child is not None:
                        child.kill()
                    child = self._renderer = self._child("render")
                child.render(path, number, quotes, width)
                answer = _answered(child)
                if isinstance(answer, dict):
                    return bytes(answer["picture"])
                if answer.kind == "crashed" and attempt == 1 and child.files == 1:
                    continue  # the server itself may have gone; a new one gets one try
                raise DocumentUnreadable(answer.kind, answer.reason, answer.cure)
            raise DocumentUnreadable("crashed", "The page could not be drawn.", "Open the original instead.")

    def _child(self, purpose: str) -> _Child:
        with self._lock:
            if self._closed:
                raise FootnoteError("The sandbox is closed.")
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="footnote-"))
            server = self._servers.get(purpose)
            if server is None or not server.alive():
                if server is not None:
                    server.close()
                server = self._servers[purpose] = _Server(purpose, self._scratch)
            return _Child(server, self._settings, self._scratch)


def unpacked(answer: dict[str, Any], scratch: Path) -> Unpacked | ParseFailure:
    """What a child says it unpacked, as long as all of it lies in `scratch`: a child that was taken over may name any file."""
    members = tuple(Member(str(name), Path(place).resolve(), int(size)) for name, place, size in answer["members"])
    if not all(each.file.is_relative_to(scratch.resolve()) and each.file.is_file() for each in members):
        return ParseFailure("crashed", "Unpacking it led out of the folder for that.", "Leave it out.")
    return Unpacked(bool(answer["archive"]), members, tuple(map(str, answer["left_out"])))


def _answered(child: _Child) -> dict[str, Any] | ParseFailure:
    """What a child that works alone says, once it has."""
    with selectors.DefaultSelector() as selector:
        selector.register(child.socket, selectors.EVENT_READ)
        while True:
            if selector.select(WATCH_S):
                child.receive()
            answer = child.answer()
            if answer is not None:
                return answer


def _next(again: deque[SourceFile], waiting: Iterator[SourceFile]) -> SourceFile | None:
    """A file that was given back, else the next one; None where there is none now."""
    return again.popleft() if again else next(waiting, None)


def _second_try(result: ParsedDocument | ParseFailure, first: ParseFailure) -> ParsedDocument | ParseFailure:
    """What a file gave without OCR after OCR had broken off; where it gave nothing, how that ended counts."""
    if isinstance(result, ParseFailure):
        return first
    return dataclasses.replace(result, warnings=(*result.warnings, f"pictures of text were not read: {first.reason}"))


class _Server:
    """The process that loads parsers and forks children. It ends when this side goes away."""

    def __init__(self, purpose: str, scratch: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lock = threading.Lock()
        self._loads = False
        self._socket = ours
        environment = {name: value for name, value in os.environ.items() if name in HANDED_ON}
        if "FOOTNOTE_OFFLINE_LOG" not in environment:  # with it, `selfcheck --offline` watches these processes too
            environment.pop("PYTHONPATH", None)
        environment.update(
            DO_NOT_TRACK="1", ORT_DISABLE_TELEMETRY="1", UNSTRUCTURED_DISABLE_NOTICE="1", HF_HUB_OFFLINE="1",
            TMPDIR=str(scratch), PYTHONDONTWRITEBYTECODE="1", PYTHONUTF8="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
        )  # fmt: skip
        self._log = scratch / f"{purpose}.log"  # what the server itself complains of; its children are silent
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ingest.parse.server", str(theirs.fileno()), purpose, str(scratch)],
                cwd=ROOT,
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()

    def complaint(self) -> str:
        """The last line of its log, "" where there is none."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:200]
        return ""

    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, end: socket.socket) -> None:
        """Asks for a child that speaks on `end`; it says its process id there when it is ready."""
        with self._lock, contextlib.suppress(OSError):
            socket.send_fds(self._socket, [FORK], [end.fileno()])

    def load_unstructured(self) -> None:
        """Children asked for from now on have it."""
        with self._lock, contextlib.suppress(OSError):
            if not self._loads:
                self._loads = True
                self._socket.sendall(LOAD)

    def close(self) -> None:
        self._socket.close()  # the server kills its children and leaves
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Child:
    """One child: what it is doing, since when, and what came back."""

    def __init__(self, server: _Server, settings: Settings, scratch: Path) -> None:
        self._server = server
        self._settings = settings
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        server.fork(theirs)
        theirs.close()
        self.file: SourceFile | None = None
        self.files = 0
        self._process: psutil.Process | None = None
        self._first_mb = 0.0
        self._mb = 0.0
        self._buffer = bytearray()
        self._messages: list[dict[str, Any]] = []
        self._ended = False
        self._busy = False
        self._born = time.monotonic()
        self._started = 0.0
        self._worked_before = 0.0  # seconds of processor time when the work in hand began
        self._limit = 0.0
        self._asked = 0.0
        self._looked = 0.0

    # -- work --

    def parse(self, file: SourceFile, ocr: bool = True) -> None:
        self.file = file
        self._read("parse", file, ocr)

    def unpack(self, file: SourceFile) -> None:
        self._read("unpack", file, False)

    def _read(self, do: str, file: SourceFile, ocr: bool) -> None:
        settings = self._settings
        self._limit = settings.parse_timeout_s + S_A_STEP * (file.size // (MB_A_STEP * 1_000_000))
        self._send(
            {
                "do": do,
                "path": str(file.absolute),
                "name": file.path,
                "settings": {
                    "max_file_mb": settings.max_file_mb,
                    "max_pages": settings.max_pages,
                    "max_chars": settings.max_chars,
                    "ocr": settings.ocr and ocr,
                },
            }
        )

    def render(self, path: Path, number: int, quotes: list[str], width: int) -> None:
        self._limit = RENDER_S
        self._send({"do": "render", "path": str(path), "number": number, "quotes": quotes, "width": width})

    def _send(self, body: dict[str, Any]) -> None:
        self.files += 1
        self._busy = True
        self._asked = 0.0
        self._begin()
        data = json.dumps(body).encode()
        try:
            self.socket.sendall(len(data).to_bytes(8, "big") + data)
        except OSError:
            self._ended = True

    def _begin(self) -> None:
        self._started = time.monotonic()
        self._worked_before = self._worked()

    def receive(self) -> None:
        """Takes what has arrived; never blocks longer than one read of what is there."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return
        self._buffer += data
        while len(self._buffer) >= 8:
            size = int.from_bytes(self._buffer[:8], "big")
            if size > MAX_FRAME:
                self._ended = True
                return
            if len(self._buffer) < 8 + size:
                return
            frame = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            try:
                message = json.loads(frame) if frame[:1] == b"{" else {"picture": frame}
            except ValueError:
                self._ended = True
                return
            if "pid" in message:
                with contextlib.suppress(psutil.Error):
                    self._process = psutil.Process(int(message["pid"]))
                    self._first_mb = self._resident()
                if self._busy:
                    self._begin()  # loading the parsers is not the file's time
            elif "seconds" in message and "ask" in message:
                more = min(float(message["seconds"]), MAX_ASKED_S - self._asked)
                self._asked += max(more, 0.0)
            else:
                self._messages.append(message)

    # -- outcome --

    def outcome(self) -> tuple[SourceFile, ParsedDocument | ParseFailure, float] | None:
        """The file in hand and what became of it; None while it is being read."""
        if self.file is None:
            return None
        seconds = time.monotonic() - self._started
        result: ParsedDocument | ParseFailure | None = None
        if self._messages:
            body = self._messages.pop(0)
            if "document" in body:
                result = document_from_json(body["document"])
            else:
                result = ParseFailure(str(body.get("kind", "crashed")), str(body.get("reason", "")), str(body.get("cure", "")))
        else:
            result = self._failure(seconds)
        if result is None:
            return None
        file, self.file, self._busy = self.file, None, False
        return file, result, seconds

    def was_at_ocr(self) -> bool:
        """Whether the child was ended, or died, after it had asked for time to read pictures."""
        return self._ended and self._asked > 0

    def lacks_unstructured(self) -> bool:
        """Whether the file in hand needs what this child was forked without."""
        return self.file is not None and bool(self._messages) and "not_loaded" in self._messages[0]

    def let_go(self) -> SourceFile:
        """The file in hand, for another child; this one ends, and the next ones have what it lacked."""
        if self.file is None:
            raise FootnoteError("There is no file to let go.")
        file, self.file, self._busy, self._ended = self.file, None, False, True
        self._server.load_unstructured()
        return file

    def answer(self) -> dict[str, Any] | ParseFailure | None:
        """What came of a picture or of unpacking; None while it is at work."""
        if self._messages:
            self._busy = False
            body = self._messages.pop(0)
            if "picture" in body or "members" in body:
                return body
            return ParseFailure(str(body.get("kind", "crashed")), str(body.get("reason", "")), str(body.get("cure", "")))
        return self._failure(time.monotonic() - self._started)

    def _failure(self, seconds: float) -> ParseFailure | None:
        """Why the work in hand will not end well; kills the child where it is at fault."""
        if self._process is None:
            if self._ended or time.monotonic() - self._born > START_S or not self._server.alive():
                self.kill()
                why = self._server.complaint()
                return ParseFailure("crashed", f"The reader did not start{f' ({why})' if why else ''}.", "Install the requirements again.")
            return None
        if self._ended:
            return ParseFailure("crashed", "Reading it crashed the reader.", "Open it in its program and save it again, or save it as pdf.")
        now = time.monotonic()
        if now - self._looked >= WATCH_S:
            self._looked = now
            self._mb = self._resident()
        if self._mb > self._settings.parse_memory_mb:
            self.kill()
            return ParseFailure(
                "out_of_memory",
                f"It needed more than {self._settings.parse_memory_mb:,} MB of memory.",
                "Split it, or raise parse_memory_mb.",
            )
        limit = self._limit + self._asked
        if seconds > limit and (self._worked() - self._worked_before > limit or seconds > WALL_TIMES * limit):
            self.kill()
            return ParseFailure("timed_out", f"It took longer than {limit:.0f} s.", "Split it, or raise parse_timeout_s.")
        return None

    def _worked(self) -> float:
        """Seconds of processor time of the child and of the converters it has started."""
        if self._process is None:
            return 0.0
        total = 0.0
        with contextlib.suppress(psutil.Error):
            total = sum(self._process.cpu_times()[:4])  # of itself and of children that have ended
            for helper in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += sum(helper.cpu_times()[:2])
        return total

    def _resident(self) -> float:
        """Resident megabytes of the child and of the converters it has started."""
        if self._process is None:
            return 0.0
        total = 0
        with contextlib.suppress(psutil.Error):
            total = self._process.memory_info().rss
            for helper in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += helper.memory_info().rss
        return total / 1e6

    def spent(self) -> bool:
        """Whether the child has ended or should: too many files, or memory that stays."""
        return (
            self._ended
            or self.files >= FILES_A_CHILD
            or (self._resident() if self.files % 10 == 0 else self._mb) > self._first_mb + GROWN_MB
        )

    def kill(self) -> None:
        self._ended = True
        if self._process is not None:
            with contextlib.suppress(psutil.Error):
                for helper in self._process.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        helper.kill()
                self._process.send_signal(signal.SIGKILL)  # psutil refuses where the id belongs to another process by now
        with contextlib.suppress(OSError):
            self.socket.close()
