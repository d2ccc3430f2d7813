"""`python -m ingest` over a mixed folder that was never read before → how much of the processor it used, and for how long.

Work of others on the machine takes its share: the last column says what nobody used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from typing import Any

import psutil

from bench.measures import COMMAND_S, Bench, Measured, copy_file
from config import ROOT
from errors import FootnoteError
from ingest.embed import cores

FILES = 300  # spread over the sets: a few minutes of two cores
SAMPLE_S = 0.2  # between two looks; what a child works between the last look and its end is not counted
COLLECTION = "cold"


def cold(bench: Bench) -> Measured:
    """Processor time of the command with all its children, by the clock, on a copy of `FILES` files, or of --limit."""
    folder, index = bench.settings.home / COLLECTION / "docs", bench.settings.home / COLLECTION / "indexes"
    shutil.rmtree(bench.settings.home / COLLECTION, ignore_errors=True)
    index.mkdir(parents=True)
    every = [(each.name, each.docs, path) for each in bench.sets for path in each.files()]
    chosen = every[:: max(1, len(every) // (bench.limit or FILES))][: bench.limit or FILES]
    for name, docs, path in chosen:
        target = folder / name / path.relative_to(docs)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(str(path), str(target))
    command = [sys.executable, "-m", "ingest", str(folder), "--collection", COLLECTION, "--index", str(index)]
    bench.say(f"reading {len(chosen)} files")
    idle, began = psutil.cpu_times().idle, time.perf_counter()
    ingest = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "FOOTNOTE_HOME": str(bench.settings.home)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worked: dict[tuple[int, float], float] = {}  # process and when it began → its processor time when last seen
    while ingest.poll() is None and time.perf_counter() - began < COMMAND_S:
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(ingest.pid)
            for process in (tree, *tree.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    worked[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
        time.sleep(SAMPLE_S)
    seconds, unused = time.perf_counter() - began, psutil.cpu_times().idle - idle
    if ingest.poll() not in (0, 3):  # 3: published, some files failed
        ingest.terminate()
        raise FootnoteError(f"python -m ingest ended with {ingest.wait(COMMAND_S)}.", "Run it by hand to see more.")
    shutil.rmtree(bench.settings.home / COLLECTION)
    cpu = sum(worked.values())
    body: dict[str, Any] = {
        "files": len(chosen), "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "cores": cores(),
        "cores_used": round(cpu / seconds, 3), "cores_unused": round(unused / seconds, 3),
    }
    row = (len(chosen), f"{seconds:.1f} s", f"{cpu:.1f} s", f"{cpu / seconds:.2f} of {cores()}", f"{unused / seconds:.2f}")
    return Measured("A folder read for the first time", ("files", "time", "processor time", "cores used", "used by nobody"), (row,), body)


__all__ = ["cold"]
