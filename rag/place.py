"""Settings → where the engine of an index folder is met (socket, locks, logs) and what tells one engine from another.

Shared by the engine and its clients; imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from config import ROOT, Settings
from errors import EngineUnavailable

SOCKET_BYTES = 100  # longest path of a Unix socket that works everywhere: Linux takes 107 bytes, macOS 103
ASKED_EACH_TIME = frozenset(
    {"collection", "keep_passages", "port", "upload_mb", "index", "home"}
)  # no part of an engine's identity
MALLOC = {  # glibc's, which gives each thread a heap that keeps what was freed; others ignore these. What prompts leave goes back at once
    "MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # pages of 2 MB where Linux has them, see docs/decisions.md
}  # fmt: skip
CODE = ("config.py", "errors.py", "rag/**/*.py", "ingest/**/*.py", "records/**/*.py", "prompts/*")


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one engine. `lock` is held by the engine while it lives, `starting` by whoever starts one."""

    folder: Path
    key: str

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.key}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"

    @property
    def starting(self) -> Path:
        return self.folder / f"{self.key}.starting"

    @property
    def pid(self) -> Path:
        return self.folder / f"{self.key}.pid"


def place(settings: Settings) -> Place:
    """Where the engine for these settings is met: a private folder in the data folder, or a short one if that is too long."""
    key = hashlib.sha256(f"{settings.index}\0{settings.home}".encode()).hexdigest()[:12]
    found = Place(settings.home / "run", key)
    if len(os.fsencode(found.socket)) > SOCKET_BYTES:
        found = Place(Path(tempfile.gettempdir()) / f"footnote-{os.getuid()}", key)
    return found


def prepare(found: Place) -> None:
    """Make the folder, private to this user. Raises EngineUnavailable where somebody else's lies in its place."""
    found.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = found.folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise EngineUnavailable(
            f"{found.folder} belongs to another user.", "Set FOOTNOTE_HOME to a folder of your own with a short path."
        )
    if stat.S_IMODE(facts.st_mode) != 0o700:
        found.folder.chmod(0o700)


@cache
def code_version() -> str:
    """Short hash of the code and prompts that decide what is answered; taken once, of the files as this process found them."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def fingerprint(settings: Settings) -> str:
    """Code and settings that decide what an engine answers; one whose fingerprint differs is replaced."""
    digest = hashlib.sha256(code_version().encode())
    for field in dataclasses.fields(settings):
        if field.name not in ASKED_EACH_TIME:
            digest.update(f"{field.name}={getattr(settings, field.name)!r}\0".encode())
    return digest.hexdigest()[:16]


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with every setting spelled out, so that a child process has the same settings, and with MALLOC."""
    spelled = {f"FOOTNOTE_{field.name.upper()}": str(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return {**MALLOC, **os.environ, **spelled}
