"""PDF files → pages read a second, ours beside a plain pypdf loop in the same run, and the words of a known good text that each finds.

Files come from the folder's `parsing` set (`pdf/sources`, with `pdf/groundtruth/NAME.md`) and, for speed alone, from the question sets.
Nothing is embedded, and pages without text are left alone by both: pypdf reads no pictures.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measures import REPEATS, Bench, Measured
from bench.timing import timing
from config import Settings
from errors import DocumentUnreadable
from ingest.sandbox import Sandbox
from ingest.types import ParseFailure, SourceFile

CHILDREN = "footnote, children"  # whose processor time is not this process's
WORD = re.compile(r"[^\W_]+")
Texts = dict[Path, list[str]]  # file → its pages


@dataclass(frozen=True, slots=True)
class _Run:
    texts: Texts
    seconds: float
    cpu_s: float


def reading(bench: Bench) -> Measured:
    """Every reader over the same files in turn, REPEATS times, so that a busy moment meets all of them."""
    groups = {"parsing": sorted((bench.folder / "parsing" / "pdf" / "sources").glob("*.pdf"))} if bench.folder else {}
    groups |= {each.name: [path for path in each.files() if path.suffix.lower() == ".pdf"] for each in bench.sets}
    readers: dict[str, Callable[[Sequence[Path]], Texts]] = {
        "footnote": lambda files: _ours(files, bench.settings),
        "pypdf loop": _pypdf,
        CHILDREN: lambda files: _in_children(files, bench.settings),
    }
    rows: list[tuple[object, ...]] = []
    body: dict[str, Any] = {}
    for name, files in groups.items():
        if not files:
            continue
        runs: dict[str, list[_Run]] = {reader: [] for reader in readers}
        for turn in range(REPEATS):
            for reader, read in readers.items():
                bench.say(f"{name}: {reader}, {turn + 1} of {REPEATS}")
                runs[reader].append(_timed(read, files))
        pages = max(sum(map(len, found[0].texts.values())) for found in runs.values())
        body[name] = {"files": len(files), "pages": pages}
        for reader, found in runs.items():
            words = _words_found(found[0].texts)
            wall, cpu = timing([each.seconds for each in found]), timing([each.cpu_s for each in found])
            ratio = timing([plain.seconds / each.seconds for plain, each in zip(runs["pypdf loop"], found, strict=True)])
            times = f"{ratio.median:.2f} ({min(ratio.seconds):.2f}–{max(ratio.seconds):.2f})"
            rows.append((
                name, reader, pages, f"{pages / wall.median:,.1f}", f"{pages / cpu.median:,.1f}" if reader != CHILDREN else "–", times,
                f"{words[0]:,} of {words[1]:,}" if words[1] else "–",
            ))
            body[name][reader] = {
                "wall": wall.as_json(), "cpu": None if reader == CHILDREN else cpu.as_json(),
                "pages_a_second": round(pages / wall.median, 2), "times_pypdf": [round(each, 3) for each in ratio.seconds],
                "words_found": words[0], "words": words[1],
            }
    head = ("files of", "read by", "pages", "pages a second", "pages a CPU-second", "times the pypdf loop, by the clock", "words found")
    return Measured("Reading PDF files, nothing embedded", head, tuple(rows), body)


def _timed(read: Callable[[Sequence[Path]], Texts], files: Sequence[Path]) -> _Run:
    began, cpu = time.perf_counter(), time.process_time()
    texts = read(files)
    return _Run(texts, time.perf_counter() - began, time.process_time() - cpu)


def _ours(files: Sequence[Path], settings: Settings) -> Texts:
    """The parser alone, in this process."""
    from ingest.parse import parse

    found: Texts = {}
    for path in files:
        try:
            found[path] = [page.text for page in parse(path, path.name, _without_ocr(settings), lambda _: None).pages]
        except DocumentUnreadable:
            found[path] = []
    return found


def _in_children(files: Sequence[Path], settings: Settings) -> Texts:
    """As `python -m ingest` reads them: in watched children, one a core, with the time that these need to start."""
    wanted = [SourceFile("", path.name, path, path.stat().st_size, 0) for path in files]
    with Sandbox(_without_ocr(settings)) as sandbox:
        results = list(sandbox.parse_all(wanted))
    return {
        file.absolute: [] if isinstance(result, ParseFailure) else [page.text for page in result.pages] for file, result, _ in results
    }


def _without_ocr(settings: Settings) -> Settings:
    return dataclasses.replace(settings, ocr=False)


def _pypdf(files: Sequence[Path]) -> Texts:
    """What a first program does: each page's `extract_text`, in order."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    found: Texts = {}
    for path in files:
        try:
            found[path] = [page.extract_text() for page in pypdf.PdfReader(path).pages]
        except Exception:  # noqa: BLE001 whatever it raises on a broken file is its answer
            found[path] = []
    return found


def _words_found(texts: Texts) -> tuple[int, int]:
    """(words of the good texts that were found, all of them), each as often as it stands there; (0, 0) without good texts."""
    there = total = 0
    for path, pages in texts.items():
        good = path.parent.parent / "groundtruth" / f"{path.stem}.md"
        if good.is_file():
            wanted = Counter(WORD.findall(good.read_text(encoding="utf-8").replace("<!-- image -->", "").casefold()))
            there += (wanted & Counter(WORD.findall("\n".join(pages).casefold()))).total()
            total += wanted.total()
    return there, total


__all__ = ["reading"]
