"""Scores → a table for people, and a JSON file that says what was measured: commit, settings, index version, day."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import ROOT, Settings
from errors import UsageError
from evals.intervals import Interval

FOLDER = Path(__file__).resolve().parent / "results"
FORMAT = 1


def commit() -> str:
    """The short hash of the checkout, with "+" where files differ from it; "unknown" outside a checkout."""
    try:
        short, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return short + ("+" if changed else "")


def settings_json(settings: Settings) -> dict[str, Any]:
    """The settings without paths and secrets: a result may be passed on. A model's path is cut to its file name."""
    kept: dict[str, Any] = {}
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if isinstance(value, Path) or each.name == "server_key":
            continue
        kept[each.name] = Path(value).name if each.name in ("model", "adapter", "embedder") and value else value
    return kept


def save(kind: str, name: str, body: Mapping[str, Any], settings: Settings, folder: Path | None = None) -> Path:
    """Writes one result beside the others and returns its path: results/20250304-101500-retrieval-handbook.json."""
    now = datetime.datetime.now(datetime.UTC)
    where = folder or FOLDER
    where.mkdir(parents=True, exist_ok=True)
    head = {
        "format": FORMAT, "kind": kind, "name": name, "made": now.isoformat(timespec="seconds"), "commit": commit(),
        "settings": settings_json(settings),
    }
    path = where / f"{now:%Y%m%d-%H%M%S}-{kind}-{name}.json"
    path.write_text(json.dumps({**head, **body}, ensure_ascii=False, indent=1, default=_plain) + "\n", encoding="utf-8")
    return path


def peak_memory_mb() -> float:
    """MB of memory that this process held at its peak, mapped model files included."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: its ru_maxrss would begin with what the parent held when it started this process
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def load(path: Path) -> dict[str, Any]:
    """A saved result. Raises UsageError where the file is none."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(body, dict) and body.get("format") == FORMAT
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a result: {error}.", "Give a file that `python -m evals` wrote.") from None
    if not known:
        raise UsageError(f"{path} is no result of this version.", "Run the evaluation again.")
    return dict(body)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned for a terminal, which is also a Markdown table."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    made = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([made[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *made[1:]])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _plain(value: object) -> object:
    if isinstance(value, Interval):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
