"""Processes that refresh a folder and are killed, or are told that the disk is full or broken, where it is asked from outside.

Run as `python -m tests.crash`: for each line of JSON on stdin it forks a child that refreshes `place` with quick stand-ins, and
prints the child's exit code and how often it touched the files of the index. `fault` ("kill", "ENOSPC" or "EIO") happens at the
`at`-th touch; `limit` bounds the bytes of any file. Run as `python -m tests.crash PLACE` it refreshes once, for a tracer.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import config
from errors import FootnoteError
from tests.folder import Folder

TOUCHES = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.truncate",
    "sqlite3.connect",
)
FAULTS = ("kill", "ENOSPC", "EIO")
KILLED = 9  # exit code of a child that died where it should
UNTOLD = 70  # an error that was not turned into a message


class Crashes:
    """The forking process: libraries are loaded once, so that a crash costs a tenth of a second."""

    def __enter__(self) -> Crashes:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash"], cwd=config.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()

    def __call__(self, place: Path, at: int = 0, fault: str = "kill", limit: int = 0) -> tuple[int, int]:
        """Exit code, and touches counted (0 where the child was killed)."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"place": str(place), "at": at, "fault": fault, "limit": limit}) + "\n")
        self._process.stdin.flush()
        code, touches = self._process.stdout.readline().split()
        return int(code), int(touches)


def refreshed(folder: Folder) -> int:
    """Refreshes; returns the exit code of the command line for how it ended."""
    try:
        folder.refresh()
    except FootnoteError as error:
        return error.exit_code
    except (OSError, sqlite3.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _child(place: Path, at: int, fault: str, limit: int, counted: int) -> int:
    folder = Folder(place, prune_limit=1.0)
    touches = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touches
        if event in TOUCHES and str(folder.settings.index) in str(arguments[0]):
            touches += 1
            if touches == at:
                if fault == "kill":
                    os._exit(KILLED)
                number = getattr(errno, fault)
                raise OSError(number, os.strerror(number), str(arguments[0]))

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.addaudithook(count)
    try:
        code = refreshed(folder)
    except Exception as error:  # noqa: BLE001 what no command line tells: the test must see it
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = UNTOLD
    os.write(counted, str(touches).encode())
    return code


def _serve() -> None:
    import faiss  # noqa: F401 loaded once for all children

    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os._exit(_child(Path(asked["place"]), asked["at"], asked["fault"], asked["limit"], writing))
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            touches = pipe.read().decode()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), touches or 0, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(refreshed(Folder(Path(sys.argv[1]), prune_limit=1.0)))
    _serve()
