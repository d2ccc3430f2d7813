"""A folder → its files; its files and the documents known → what is new, changed, moved, gone and unchanged."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from errors import UsageError
from ingest.catalog import Document
from ingest.types import SourceFile

SKIPPED_FOLDERS = frozenset({".git", "node_modules", "__pycache__"})
SKIPPED_FILES = frozenset({"thumbs.db", "desktop.ini"})
SETTLED_NS = 2_000_000_000  # a file written this short before the scan may be written again without its time changing


@dataclass(frozen=True, slots=True)
class Scan:
    """The files of one folder, and what was left out for safety, with the reason."""

    files: tuple[SourceFile, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a refresh has to do. A moved file has the bytes of a document that is gone from where it was."""

    new: tuple[SourceFile, ...] = ()
    changed: tuple[tuple[Document, SourceFile], ...] = ()
    moved: tuple[tuple[Document, SourceFile], ...] = ()
    gone: tuple[Document, ...] = ()
    unchanged: tuple[tuple[Document, SourceFile], ...] = ()


def scan(folder: Path, source: str, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> Scan:
    """The files under `folder` in order of their paths. Hidden files, office lock files and links that lead out stay out.

    `only` and `exclude` are globs over the relative path or the file name. Raises UsageError where there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Name a folder of documents.")
    root = folder.resolve()
    files: list[SourceFile] = []
    refused: list[str] = []
    taken: set[str] = set()
    waiting = [(root, "")]
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as listing:
                entries = sorted(listing, key=lambda each: each.name)
        except OSError as error:
            refused.append(f"{label(prefix) or root.name}: the folder cannot be read ({error.strerror})")
            continue
        for entry in entries:
            name, path = entry.name, prefix + entry.name
            if name.startswith((".", "~$")) or name.lower() in SKIPPED_FILES:
                continue
            try:
                if entry.is_symlink():
                    target = Path(entry.path).resolve()
                    if not target.is_relative_to(root) or not target.is_file():
                        refused.append(f"{label(path)}: a link that leads out of the folder, or to no file, is not followed")
                        continue
                if entry.is_dir():
                    if name not in SKIPPED_FOLDERS:
                        waiting.append((Path(entry.path), path + "/"))
                    continue
                if not entry.is_file():
                    continue
                shown = label(path)
                if (only and not fits(shown, only)) or fits(shown, exclude):
                    continue
                if shown in taken:
                    shown = f"{shown}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
                taken.add(shown)
                facts = entry.stat()
                files.append(SourceFile(source, shown, Path(entry.path), facts.st_size, facts.st_mtime_ns))
            except OSError as error:
                refused.append(f"{label(path)}: cannot be looked at ({error.strerror})")
    return Scan(tuple(sorted(files, key=lambda each: each.path)), tuple(refused))


def label(path: str) -> str:
    """A relative path as it may be shown and stored: composed Unicode, nothing that cannot be seen, forward slashes."""
    text = unicodedata.normalize("NFC", os.fsencode(path).decode("utf-8", "replace"))
    return "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") else each for each in text)


def fits(path: str, globs: Iterable[str]) -> bool:
    """Whether the relative path, one of its folders, or the file name fits one of the globs; case does not count."""
    whole = path.lower()
    folders = [str(each) for each in PurePosixPath(whole).parents if str(each) != "."]
    for glob in globs:
        wanted = glob.lower().removeprefix("./").rstrip("/")
        names = [whole, *folders] if "/" in wanted else [whole, *folders, *whole.split("/")]
        if any(fnmatch.fnmatchcase(name, wanted) for name in names):
            return True
    return False


def compare(
    files: Iterable[SourceFile],
    known: Collection[Document],
    seen: Callable[[SourceFile], str] = lambda file: "",
    force: bool = False,
) -> Changes:
    """What changed between the documents `known` (of the sources scanned) and the `files` found now.

    Size and time of change are compared first; only where they differ is a file's content hashed. `seen` may know the hash of a
    file that was touched but not changed. With `force` every known file counts as changed.
    """
    before = {(each.source, each.path): each for each in known}
    new: list[SourceFile] = []
    changed: list[tuple[Document, SourceFile]] = []
    unchanged: list[tuple[Document, SourceFile]] = []
    for file in files:
        document = before.pop((file.source, file.path), None)
        if document is None:
            new.append(hashed(file, seen(file)))
        elif force:
            changed.append((document, hashed(file, "")))
        elif (file.size, file.mtime_ns) == (document.size, document.mtime_ns):
            unchanged.append((document, replace(file, sha256=document.sha256)))
        else:
            read = hashed(file, file.sha256 or seen(file))
            (unchanged if read.sha256 == document.sha256 else changed).append((document, read))
    moved: list[tuple[Document, SourceFile]] = []
    left = {(each.sha256, suffix(each.path)): each for each in before.values() if each.status == "ready" and each.sha256}
    still_new: list[SourceFile] = []
    for file in new:
        origin = None if force else left.pop((file.sha256, suffix(file.path)), None)
        if origin is None:
            still_new.append(file)
        else:
            moved.append((origin, file))
            del before[(origin.source, origin.path)]
    return Changes(tuple(still_new), tuple(changed), tuple(moved), tuple(before.values()), tuple(unchanged))


def hashed(file: SourceFile, known: str = "") -> SourceFile:
    """The file with the SHA-256 of its bytes; "" where it cannot be read. Its time is 0 while it may still be written to."""
    if file.sha256:
        return file  # kept by its content
    settled = time.time_ns() - file.mtime_ns > SETTLED_NS
    file = file if settled else replace(file, mtime_ns=0)
    if known:
        return replace(file, sha256=known)
    try:
        with file.absolute.open("rb") as content:
            return replace(file, sha256=hashlib.file_digest(content, "sha256").hexdigest())
    except OSError:
        return replace(file, sha256="", mtime_ns=0)


def suffix(path: str) -> str:
    """The extension, lower case, which decides together with the content how a file is read."""
    return PurePosixPath(path).suffix.lower()
