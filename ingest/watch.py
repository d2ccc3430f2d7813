"""Folders → a signal each time something in them changed and then stayed quiet. Without watchdog it looks by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest.scan import scan


def changes(folders: Sequence[Path], quiet_s: float, poll_s: float) -> Iterator[None]:
    """Yields at once, then for each burst of changes, `quiet_s` after its last. Never ends by itself.

    What changes while the caller is at work between two yields is noticed too.

    Looks at sizes and times every `poll_s` seconds where the system reports no changes, and on network shares that never do.
    """
    happened = threading.Event()
    observer = _observer(folders, happened)
    before = _fingerprint(folders)
    looked = time.monotonic()
    try:
        yield
        while True:
            noticed = happened.wait(poll_s)
            # a share that reports nothing is looked at too, but seldom where an observer runs
            if not noticed and time.monotonic() - looked < (poll_s * 12 if observer else poll_s):
                continue
            while noticed:
                happened.clear()
                noticed = happened.wait(quiet_s)
            now = _fingerprint(folders)
            while observer is None and now != before:
                time.sleep(quiet_s)
                later = _fingerprint(folders)
                if later == now:
                    break
                now = later
            looked = time.monotonic()
            if now != before:
                before = now
                yield
    finally:
        if observer is not None:
            observer.stop()
            observer.join()


def _fingerprint(folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for folder in folders:
        if folder.is_dir():
            found += [(str(each.absolute), each.size, each.mtime_ns) for each in scan(folder, "").files]
    return found


def _observer(folders: Sequence[Path], happened: threading.Event) -> Any:
    """A running watchdog observer, or None where it is not installed or the system refuses."""
    try:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer
    except ImportError:
        return None

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("created", "modified", "moved", "deleted"):
                happened.set()

    observer = Observer()
    try:
        for folder in folders:
            if folder.is_dir():
                observer.schedule(Handler(), str(folder), recursive=True)
        observer.start()
    except OSError:  # too many folders for the system's limit
        observer.unschedule_all()
        return None
    return observer
