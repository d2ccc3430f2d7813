"""Searches on one core, with nothing else to do and while `python -m ingest` reads and embeds a folder on the same core."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measures import COMMAND_S, Bench, Measured
from config import ROOT
from errors import UsageError
from evals.prepare import opened
from evals.questions import read, spread
from ingest.open import Index
from rag.retrieve import retrieve

SEARCHES = 150  # twice: a minute and a half of one core, unless --limit says fewer
PAUSE_S = 0.1  # between two searches: somebody reads, and the refresh goes on
COLLECTION = "waiting"


def waiting(bench: Bench) -> Measured:
    """The refresh is a session of its own, as the engine, cron and systemd start it, and is stopped when the searches are done."""
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("This system cannot keep a process on one core.", "Measure on Linux.")
    each = max(bench.sets, key=lambda found: len(found.files()))
    searches = bench.limit or SEARCHES
    questions = [question.question for question in spread(read(each.questions), searches)]
    questions = (questions * (searches // len(questions) + 1))[:searches]
    cores = os.sched_getaffinity(0)
    with opened(bench.settings, each.name, bench.docs(each), bench.embedder) as index:
        _keep_to({min(cores)})
        try:
            idle = _searches(bench, index, questions, "idle")
            refreshing = _refresh(bench, each.docs)
            try:
                time.sleep(10)  # until it has loaded what it needs
                busy = _searches(bench, index, questions, "while a refresh runs")
                ended = refreshing.poll()
            finally:
                refreshing.terminate()
                refreshing.wait(COMMAND_S)
        finally:
            _keep_to(cores)
    if ended is not None:
        raise UsageError("The refresh was done before the searches were.", "Name a larger set with --sets.")
    shares = {name: statistics.quantiles(seconds, n=20) for name, seconds in (("idle", idle), ("busy", busy))}
    rows = [(name, f"{1000 * found[9]:.0f} ms", f"{1000 * found[18]:.0f} ms") for name, found in shares.items()]
    factor = shares["busy"][18] / shares["idle"][18]
    rows.append(("busy / idle", f"{shares['busy'][9] / shares['idle'][9]:.2f}", f"{factor:.2f}"))
    body: dict[str, Any] = {"set": each.name, "searches": searches, "idle_s": idle, "busy_s": busy, "p95_factor": round(factor, 3)}
    return Measured("Search on one core while a refresh runs on it", ("", "p50", "p95"), tuple(rows), body)


def _keep_to(cores: set[int]) -> None:
    """Every thread of this process, and what it starts from now on."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def _searches(bench: Bench, index: Index, questions: Sequence[str], what: str) -> list[float]:
    allowed = {each.id for each in index.catalog.documents() if each.passages}
    seconds = []
    for number, question in enumerate(questions, 1):
        bench.say(f"searching, {what}, {number} of {len(questions)}")
        began = time.perf_counter()
        retrieve(question, index, bench.embedder, 10, allowed)
        seconds.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    return seconds


def _refresh(bench: Bench, folder: Path) -> subprocess.Popen[bytes]:
    index = bench.settings.home / COLLECTION  # of its own: the other may be one that people are served from
    shutil.rmtree(index, ignore_errors=True)
    index.mkdir(parents=True)
    command = [sys.executable, "-m", "ingest", str(folder), "--collection", COLLECTION, "--index", str(index)]
    environment = {**os.environ, "FOOTNOTE_HOME": str(bench.settings.home)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
