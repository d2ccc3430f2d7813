"""An archive, a message or a PDF → the files inside it, in a folder, under numbers: their names are labels and reach no file system.

Links, devices and folders of an archive are left out. Sizes are counted while unpacking, since what an archive says of itself may be a lie.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config import Settings
from errors import DocumentUnreadable
from ingest.parse.detect import HEAD_BYTES, detect, zip_kind
from ingest.types import Member, Unpacked

MAX_MEMBERS = 1000  # of one container
MAX_BYTES = 500_000_000  # of all that one container holds
MAX_NAME = 200  # characters of one part of a member's path
BLOCK = 1 << 20
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
_PACKED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def unpack(path: Path, name: str, into: Path, settings: Settings) -> Unpacked:
    """What the file at `path` holds, written into `into`; nothing where it is no container. `name` is its label.

    Raises DocumentUnreadable: encrypted, damaged, bomb.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return Unpacked(False) if zip_kind(path) else _unpack(True, _zipped(path), into, settings)
    for magic, opened in _PACKED.items():
        if head.startswith(magic):
            found = _unpack(True, _tarred(path), into, settings)
            return found if found.members else _unpack(True, _packed(path, name, opened), into, settings)
    if head[257:262] == b"ustar":
        return _unpack(True, _tarred(path), into, settings)
    return _unpack(False, _attached(path, name), into, settings)


Contents = Iterator[tuple[str, IO[bytes]]]


def _unpack(archive: bool, contents: Contents, into: Path, settings: Settings) -> Unpacked:
    members, left_out, room = list[Member](), list[str](), MAX_BYTES
    try:
        for number, (name, stream) in enumerate(contents):
            shown = member_label(name)
            if not shown:
                continue
            if len(members) == MAX_MEMBERS or not room:
                limit = f"{MAX_MEMBERS:,} files" if room else f"{MAX_BYTES / 1e6:,.0f} MB"
                left_out.append(f"{shown} and what follows it: more than {limit}")
                break
            target = into / str(number)
            most = min(settings.max_file_mb * 1_000_000, room)
            try:
                size = _copy(stream, target, most)
            except BROKEN as error:
                size = -1
                left_out.append(f"{shown}: it cannot be unpacked ({type(error).__name__})")
            else:
                if size > most:
                    left_out.append(f"{shown}: larger than {most / 1e6:,.0f} MB")
            if 0 <= size <= most:
                members.append(Member(shown, target, size))
                room -= size
            else:
                target.unlink(missing_ok=True)
    except BROKEN as error:
        left_out.append(f"what follows: it cannot be unpacked ({type(error).__name__})")
    return Unpacked(archive, tuple(members), tuple(left_out))


def _copy(stream: IO[bytes], target: Path, most: int) -> int:
    """Bytes written, at most a block more than `most`."""
    size = 0
    with stream, target.open("wb") as file:
        while size <= most and (block := stream.read(BLOCK)):
            file.write(block)
            size += len(block)
    return size


def member_label(name: str) -> str:
    """A member's name as it may be shown: a relative path of visible characters, "" where it names nothing that is read."""
    text = unicodedata.normalize("NFC", name.replace("\\", "/"))
    text = "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") else each for each in text)
    parts = [part.strip()[:MAX_NAME] for part in text.split("/") if part.strip() not in ("", ".", "..")]
    if not parts or any(part.startswith((".", "~$")) or part == "__MACOSX" for part in parts):
        return ""
    return "/".join(parts)


def _zipped(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        for each in archive.infolist():
            kind = stat.S_IFMT(each.external_attr >> 16)
            if not each.is_dir() and kind in (0, stat.S_IFREG):
                yield each.filename, archive.open(each)


def _tarred(path: Path) -> Contents:
    try:
        archive = tarfile.open(path)  # noqa: SIM115 closed below
    except tarfile.ReadError:
        return  # a single file, packed
    with archive:
        for each in archive:
            stream = archive.extractfile(each) if each.isreg() else None
            if stream is not None:
                yield each.name, stream


def _packed(path: Path, name: str, opened: Callable[[Path], Any]) -> Contents:
    yield PurePosixPath(name).stem, opened(path)


def _attached(path: Path, name: str) -> Contents:
    """What is attached to a message or embedded in a PDF."""
    try:
        kind = detect(path, name)
    except DocumentUnreadable:  # whoever reads it as a document says why
        return
    found: Iterator[tuple[str, bytes]] = iter(())
    if kind == "pdf":
        from ingest.parse.pdf import embedded

        found = embedded(path)
    elif kind in ("eml", "mbox"):
        from ingest.parse.mail import attached

        found = attached(path.read_bytes(), kind == "mbox")
    elif kind == "msg":
        from ingest.parse.elements import outlook_attachments

        found = outlook_attachments(path)
    for label, data in found:
        yield label, io.BytesIO(data)
