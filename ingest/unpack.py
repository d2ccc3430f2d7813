"""Files of a folder → the same with what their archives, messages and PDFs hold, each as a file of its own under its container's path.

What a container held is remembered until it changes, so that a refresh opens no container twice. Copies last as long as the sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ingest.scan import SETTLED_NS, hashed
from ingest.types import ParseFailure, SourceFile, Unpacked

NAME = "CONTAINERS.json"  # beside CURRENT; may be deleted at any time
MAX_DEPTH = 3  # containers inside containers
MAX_FILES = 5000  # of one container with all that is inside it
HEAD_BYTES = 65_536  # read to see whether a file may hold others: a message's header may be long
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
PDF, MAIL = b"%PDF-", b"\nmime-version:"
PASSING = ("timed_out", "out_of_memory", "crashed")  # kinds of failure that a quieter machine or another setting may not see
TAR_AT, TAR = 257, b"ustar"


class Unpacker(Protocol):
    """What opens a container; `ingest.sandbox.Sandbox` in the app."""

    def unpack(self, file: SourceFile) -> Unpacked | ParseFailure: ...


@dataclass(frozen=True, slots=True)
class Held:
    """What one container held when it had this size and time. `files`: path, size in bytes and SHA-256 of each."""

    size: int
    mtime_ns: int
    archive: bool
    files: tuple[tuple[str, int, str], ...]


@dataclass(slots=True)
class Contents:
    """All files, those inside containers included; what each container held, by source/path; what was left out and why."""

    files: list[SourceFile] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def unpack(
    files: Iterable[SourceFile],
    unpacker: Unpacker,
    before: Mapping[str, Held],
    is_known: Callable[[SourceFile], bool],
    progress: Callable[[int], None] = lambda done: None,
) -> Contents:
    """Opens those of `files` that hold others, and what they hold.

    before: what containers held when they were last opened; used where size and time are the same and `is_known` says of each file
    in them that its text is there. Every other file is looked into. An archive is replaced by what it holds; a message or a PDF stays.
    """
    found = Contents()
    for done, file in enumerate(files, 1):
        key = f"{file.source}/{file.path}"
        held = before.get(key)
        inside: list[SourceFile] = []
        if held and (held.size, held.mtime_ns) == (file.size, file.mtime_ns):
            inside = [_member(file, path, file.absolute, size, sha256) for path, size, sha256 in held.files]
        if held is None or (held.size, held.mtime_ns) != (file.size, file.mtime_ns) or not all(map(is_known, inside)):
            archive, inside, certain = _opened(file, unpacker, found.left_out, MAX_DEPTH)
            settled = time.time_ns() - file.mtime_ns > SETTLED_NS
            members = tuple((each.path, each.size, each.sha256) for each in inside)
            held = Held(file.size, file.mtime_ns if settled and certain else 0, archive, members)
        found.held[key] = held
        found.files += inside if held.archive and inside else [file, *inside]
        progress(done)
    return found


def _opened(file: SourceFile, unpacker: Unpacker, left_out: list[str], depth: int) -> tuple[bool, list[SourceFile], bool]:
    """Whether the file is nothing but a container, the files inside it, at any depth, and whether another try would find the same."""
    if not _may_hold(file):
        return False, [], True
    result = unpacker.unpack(file)
    if isinstance(result, ParseFailure):
        left_out.append(f"{file.path} was not unpacked: {result.reason}")
        return False, [], result.kind not in PASSING
    left_out += [f"{file.path}/{each}" for each in result.left_out]
    found: list[SourceFile] = []
    taken: set[str] = set()
    certain = True
    for number, each in enumerate(result.members):
        name = each.name if each.name.lower() not in taken else f"{each.name}~{number}"
        taken.add(name.lower())
        if file.mtime_ns:
            with contextlib.suppress(OSError):
                os.utime(each.file, ns=(file.mtime_ns, file.mtime_ns))
        member = _member(file, f"{file.path}/{name}", each.file, each.size)
        archive, inside, sure = _opened(member, unpacker, left_out, depth - 1) if depth > 1 else (False, [], True)
        certain = certain and sure
        found += inside if archive and inside else [replace(hashed(member), mtime_ns=file.mtime_ns), *inside]
        if len(found) > MAX_FILES:
            left_out.append(f"{file.path} holds more than {MAX_FILES:,} files; only these were read")
            break
    return result.archive, found[:MAX_FILES], certain


def _member(container: SourceFile, path: str, copy: Path, size: int, sha256: str = "") -> SourceFile:
    place = container.place / path.removeprefix(f"{container.path}/")
    return SourceFile(container.source, path, copy, size, container.mtime_ns, sha256, inside=place)


def _may_hold(file: SourceFile) -> bool:
    """By its first bytes, for a cheap no; whoever opens it decides."""
    try:
        with file.absolute.open("rb") as content:
            head = content.read(HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(MAGIC) or head[TAR_AT : TAR_AT + len(TAR)] == TAR or PDF in head[:1024] or MAIL in b"\n" + head.lower()


def remembered(folder: Path) -> dict[str, Held]:
    """What the containers of a collection held, by source/path; nothing where that is not known."""
    try:
        body: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return {key: Held(int(size), int(at), bool(archive), tuple(_files(files))) for key, (size, at, archive, files) in body.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _files(body: Iterable[Any]) -> Iterator[tuple[str, int, str]]:
    for path, size, sha256 in body:
        yield str(path), int(size), str(sha256)


def forget(folder: Path) -> None:
    """Remove it: after a purge it must not name what was erased."""
    (folder / NAME).unlink(missing_ok=True)


def remember(folder: Path, held: Mapping[str, Held]) -> None:
    """Keep it for the next refresh; a disk that cannot take it costs opening the containers again."""
    part = folder / f"{NAME}.part"
    with contextlib.suppress(OSError):
        body = {key: [each.size, each.mtime_ns, each.archive, each.files] for key, each in held.items()}
        part.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
        part.replace(folder / NAME)
