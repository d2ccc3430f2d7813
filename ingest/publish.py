"""A folder of finished files → the version that readers see, whole or not at all. `indexes/README.md` describes the layout.

Every byte is flushed before the pointer moves, so that neither a killed process nor a lost current leaves half a version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errors import DiskFailed, FootnoteError, IndexDamaged, IndexMissing, IndexTooNew, LockHeld, NoSpace, UsageError

FORMAT = 1  # of the index; a newer one is refused, an older one is migrated by building anew
FILES = ("catalog.sqlite", "passages.npy", "vectors.npy")
HASHED_AT_ONCE = 2  # files: the two large ones of a version, each on a core
LEASE = "LEASE"  # empty; locked by those who read the version
POINTER = {"version", "manifest_sha256", "highest"}  # what CURRENT says
VERSION_NAME = re.compile(r"v\d{6,}")
COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is made of. `files` maps a name to {"sha256", "size"}."""

    format: int
    version: str
    collection: str
    created: str  # ISO, UTC
    embedder: str
    dimensions: int
    reading: int  # number of the rules by which files become pages
    passage_tokens: int
    documents: int
    passages: int
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Version:
    """A published version: its name ("v000012"), its folder, what it is made of."""

    name: str
    folder: Path
    manifest: Manifest


def collection_folder(index: Path, collection: str) -> Path:
    """The folder of a collection; raises UsageError where the name could not be one."""
    if not COLLECTION_NAME.fullmatch(collection):
        raise UsageError(
            f"{collection!r} cannot be the name of a collection.", "Use letters, digits, dot, dash and underscore, at most 64."
        )
    return index / collection


def collections(index: Path) -> list[str]:
    """Names of the collections of an index folder that have a published version."""
    if not index.is_dir():
        return []
    return sorted(each.parent.name for each in index.glob("*/CURRENT") if COLLECTION_NAME.fullmatch(each.parent.name))


def current(index: Path, collection: str) -> Version:
    """The published version. Raises IndexMissing, IndexDamaged, IndexTooNew. File hashes are checked by `faults`."""
    folder = collection_folder(index, collection)
    try:
        pointer = _pointer(folder)
    except FileNotFoundError:
        known = collections(index)
        others = f" Collections there: {', '.join(known)}." if known else ""
        raise IndexMissing(
            f"There is no index of the collection {collection!r} in {index} yet.{others}",
            f"Run: python -m ingest FOLDER --collection {collection}",
        ) from None
    except (ValueError, OSError) as error:
        raise IndexDamaged(f"{folder / 'CURRENT'} cannot be read ({error}).", _rollback_hint(collection)) from None
    return read_version(folder / "versions" / pointer["version"], pointer["manifest_sha256"])


def read_version(folder: Path, manifest_sha256: str | None = None) -> Version:
    """The version in `folder`; raises IndexDamaged where its manifest is not the one that was published."""
    try:
        body = (folder / "MANIFEST.json").read_bytes()
        if manifest_sha256 is not None and hashlib.sha256(body).hexdigest() != manifest_sha256:
            raise ValueError("its hash is not the published one")
        manifest = manifest_of(body)
    except IndexTooNew:
        raise IndexTooNew(
            f"{folder} was written by a newer Footnote.", "Update Footnote, or build the index anew in another folder."
        ) from None
    except (OSError, ValueError) as error:
        raise IndexDamaged(f"{folder / 'MANIFEST.json'} is damaged ({error}).", _rollback_hint(folder.parent.parent.name)) from None
    return Version(folder.name, folder, manifest)


def manifest_of(body: bytes) -> Manifest:
    """The manifest that `body` holds; raises ValueError where it is not what was written, and IndexTooNew."""
    try:
        fields = _undamaged(json.loads(body))
        if int(fields["format"]) > FORMAT:
            raise IndexTooNew("This was written by a newer Footnote.", "Update Footnote.")
        return Manifest(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"fields are missing or unknown: {error}") from None


def versions(index: Path, collection: str) -> list[Path]:
    """Folders of all versions that are kept, oldest first."""
    folder = collection_folder(index, collection) / "versions"
    if not folder.is_dir():
        return []
    return sorted((each for each in folder.iterdir() if VERSION_NAME.fullmatch(each.name)), key=lambda each: int(each.name[1:]))


def faults(version: Version) -> list[str]:
    """Files of a version that are not what was published, in plain words; empty where all is well."""

    def fault(name: str) -> str:
        path, known = version.folder / name, version.manifest.files[name]
        try:
            if path.stat().st_size != known["size"]:
                return f"{path} has {path.stat().st_size} bytes instead of {known['size']}"
            return "" if file_sha256(path) == known["sha256"] else f"{path} is not the file that was published (its hash differs)"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"

    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return [each for each in pool.map(fault, version.manifest.files) if each]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Lease:
    """Says that a reader uses a version, so that it is not cleared away. Ends with `close`, or with the process."""

    def __init__(self, version: Version) -> None:
        self._file: int | None = None
        path = version.folder / LEASE
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            self.close()  # a read-only share without locks: versions are then kept by number alone

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def lock(index: Path, collection: str) -> Iterator[None]:
    """Makes this process the collection's only writer; raises LockHeld with who it is."""
    folder = collection_folder(index, collection)
    with told_of_space(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(file, 400, 0).decode(errors="replace").strip() or "another process"
            raise LockHeld(f"The collection {collection!r} is being written by {holder}.", "Wait until it is done, or stop it.") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {now()}\n".encode(), 0)
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)


@contextlib.contextmanager
def told_of_space(folder: Path) -> Iterator[None]:
    """Turns "no space left" into an error with a cure; a disk that failed and a folder that cannot be written too."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpace(f"There is no space left for {folder}.", "Free some space and run the same command again.") from error
        if error.errno == errno.EIO:
            raise disk_failed(Path(error.filename or folder), str(error.strerror)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise FootnoteError(
                f"{error.filename or folder} cannot be written ({error.strerror}).", "Choose another --index folder."
            ) from error
        raise


def disk_failed(path: Path, reason: str) -> DiskFailed:
    """An I/O error at `path`, with its cure."""
    return DiskFailed(
        f"The disk of {path} could not be read or written ({reason}).",
        "Look at the disk, its quota and the system's log, then run the same command again.",
    )


def drafts(index: Path, collection: str) -> Path:
    """An empty folder to build a version in, on the same file system."""
    folder = collection_folder(index, collection) / "versions"
    draft = folder / f".tmp-{uuid.uuid4().hex}"
    with told_of_space(folder):
        draft.mkdir(parents=True, mode=0o700)
    return draft


def publish(
    index: Path,
    collection: str,
    draft: Path,
    manifest: Manifest,
    *,
    keep: int,
    probe: Callable[[Path], None],
    erase_older: bool = False,
) -> Version:
    """Makes the files in `draft` the current version. `manifest` comes without version, time and files; they are filled in.

    `probe(folder)` opens the version as a reader would and raises where something is wrong. `erase_older` leaves no version to
    go back to, for documents that must not come back. The caller holds the lock.
    """
    root = collection_folder(index, collection)
    with told_of_space(root):
        numbers = [int(each.name[1:]) for each in versions(index, collection)]
        name = f"v{max([_highest(root), *numbers]) + 1:06d}"
        files: dict[str, dict[str, Any]] = {}
        (draft / LEASE).touch(mode=0o600)
        for each in (*FILES, LEASE):
            (draft / each).chmod(0o600)
            _sync(draft / each)
        with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
            for each, sha256 in zip((*FILES, LEASE), pool.map(file_sha256, [draft / each for each in (*FILES, LEASE)]), strict=True):
                files[each] = {"sha256": sha256, "size": (draft / each).stat().st_size}
        manifest = dataclasses.replace(manifest, version=name, created=now(), files=files)
        body = json.dumps(_sealed(dataclasses.asdict(manifest)), indent=1, ensure_ascii=False).encode()
        _write(draft / "MANIFEST.json", body)
        _sync(draft)
        folder = draft.parent / name
        draft.rename(folder)
        _sync(folder.parent)
        version = read_version(folder, hashlib.sha256(body).hexdigest())
        try:
            wrong = faults(version)
            if wrong:
                raise IndexDamaged(f"What was written did not read back: {'; '.join(wrong)}.", "Check the disk.")
            probe(folder)
            point(root, version)
        except BaseException:
            if _highest(root) < int(name[1:]):  # the last flush may fail when the pointer has already moved
                shutil.rmtree(folder, ignore_errors=True)
            raise
        clear(index, collection, 1 if erase_older else keep, even_leased=erase_older)
    return version


def point(root: Path, version: Version) -> None:
    """Moves CURRENT to `version`, in one step."""
    sha256 = file_sha256(version.folder / "MANIFEST.json")
    pointer = root / f"CURRENT.{uuid.uuid4().hex}"
    highest = max(_highest(root), int(version.name[1:]))
    fields = {"version": version.name, "manifest_sha256": sha256, "highest": highest}
    _write(pointer, json.dumps(_sealed(fields)).encode())
    pointer.rename(root / "CURRENT")
    _sync(root)


def rollback(index: Path, collection: str, name: str | None = None) -> Version:
    """Points at `name`, or at the newest whole version before the current one. The caller holds the lock."""
    root = collection_folder(index, collection)
    served = ""
    with contextlib.suppress(OSError, ValueError):
        served = _pointer(root)["version"]
    if not served and not versions(index, collection):
        current(index, collection)  # raises what is missing
    for folder in reversed(versions(index, collection)):
        if (name is None and VERSION_NAME.fullmatch(served) and int(folder.name[1:]) >= int(served[1:])) or (
            name not in (None, folder.name)
        ):
            continue
        try:
            version = read_version(folder)
        except IndexDamaged:
            continue
        if not faults(version):
            with told_of_space(root):
                point(root, version)
            return version
    raise UsageError(
        f"The collection {collection!r} has no {'earlier version' if name is None else f'version {name}'} to go back to.",
        "Run: python -m ingest status",
    )


def clear(index: Path, collection: str, keep: int, even_leased: bool = False) -> None:
    """Removes all but the newest `keep` versions, the current one, and those a reader holds (unless `even_leased`)."""
    root = collection_folder(index, collection)
    served = current(index, collection).name if (root / "CURRENT").exists() else ""
    for folder in versions(index, collection)[: -keep or None]:
        if folder.name != served and (even_leased or not _leased(folder)):
            # renamed first, so that a reader never meets a version with half of its files
            gone = folder.with_name(f".tmp-{uuid.uuid4().hex}")
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def sweep(index: Path, collection: str) -> None:
    """Removes what a run that was killed left behind. The caller holds the lock."""
    root = collection_folder(index, collection)
    for left in [*root.glob("versions/.tmp-*"), *root.glob("CURRENT.*")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    highest = _highest(root)
    for folder in versions(index, collection):
        if int(folder.name[1:]) > highest:  # named, but never served
            shutil.rmtree(folder, ignore_errors=True)


def _highest(root: Path) -> int:
    """The number of the newest version that was ever served; 0 for none. Rolling back does not lower it."""
    try:
        pointer = _pointer(root)
        return max(int(pointer["version"][1:]), int(pointer.get("highest", 0)))
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError, OSError):
        kept = [int(each.name[1:]) for each in (root / "versions").glob("v*") if VERSION_NAME.fullmatch(each.name)]
        return max(kept, default=0)  # the pointer is damaged: nothing is swept away that might be needed


def _pointer(root: Path) -> dict[str, Any]:
    """What CURRENT says; raises ValueError where it is not what was written, and OSError."""
    fields = _undamaged(json.loads((root / "CURRENT").read_text(encoding="utf-8")))
    if not {"version", "manifest_sha256"} <= fields.keys() <= POINTER:
        raise ValueError("fields are missing or unknown")
    if not VERSION_NAME.fullmatch(str(fields["version"])):
        raise ValueError("it names no version")
    return fields


def _sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields`, with a hash of them."""
    return {**fields, "sha256": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()}


def _undamaged(sealed: Any) -> dict[str, Any]:
    """What `_sealed` was given; raises ValueError where that was changed. Files written before there was a hash have none."""
    if not isinstance(sealed, dict):
        raise ValueError("it holds no object")
    fields = {name: value for name, value in sealed.items() if name != "sha256"}
    if "sha256" in sealed and sealed != _sealed(fields):
        raise ValueError("it is not what was written")
    return fields


def now() -> str:
    """This moment as ISO text in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _leased(folder: Path) -> bool:
    try:
        file = os.open(folder / LEASE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(file)


def _write(path: Path, body: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _rollback_hint(collection: str) -> str:
    return f"Run: python -m ingest verify --collection {collection}, then rollback, or ingest the folders again."
