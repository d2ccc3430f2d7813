"""Publishing under fire: killed, out of space or with a broken disk at any point, readers see a whole version and nothing is left behind.

`--full` goes through every point; the figures are in docs/operators.md.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from errors import FootnoteError, IndexDamaged, IndexMissing, NoSpace
from ingest.open import open_index
from tests.crash import FAULTS, KILLED, Crashes
from tests.fakes import WordEmbedder
from tests.folder import Folder, contents

TOLD = (1, IndexDamaged.exit_code, NoSpace.exit_code)  # what a run that failed ends with
CHANGED_AT = 1_700_000_000  # long ago
CODE_STEP = 7  # every so manieth touch in the sample
SYSTEM_SAMPLE, SYSTEM_FULL = 9, 240
KILLS_SAMPLE, KILLS_FULL = 4, 200
CALLS = ("openat", "read", "pread64", "write", "pwrite64", "sendfile", "ftruncate", "fsync", "fdatasync", "rename", "mkdir", "unlink",
         "unlinkat", "rmdir", "chmod", "fchmodat")  # fmt: skip


class Stage:
    """A folder with a published version, changed since: a run brings it from `old` to `new`."""

    def __init__(self, place: Path) -> None:
        self.origin = place / "origin"
        self.place = place / "trial"
        folder = Folder(self.origin, prune_limit=1.0)
        folder.write("a.md", "# Leave\n\nTen days of leave.")
        folder.write("b.md", "# Travel\n\nThe company pays for travel.")
        folder.refresh()
        self.old = self._contents(folder)
        folder.write("c.md", "# Added\n\nParental leave is for part-time staff too.")
        folder.write("a.md", "# Leave\n\nEleven days of leave.")
        (folder.root / "b.md").unlink()
        for each in folder.root.iterdir():  # a file changed a moment ago is hashed again later, and that hash is kept beside the index
            os.utime(each, (CHANGED_AT, CHANGED_AT))
        clean = Folder(place / "clean")
        for each in folder.root.iterdir():
            clean.write(each.name, each.read_text())
        clean.refresh()
        self.new = self._contents(clean)

    def fresh(self) -> Path:
        """A copy to try on."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.origin, self.place)
        return self.place

    def judge(self, code: int, what: str) -> str:
        """After a run: a whole version is served, and another run ends with `new` and nothing left behind. Says what was served."""
        folder = Folder(self.place, prune_limit=1.0)
        served = self._contents(folder)
        assert served in (self.old, self.new), f"{what}: a torn version"
        assert served == self.new or code != 0, f"{what}: said to be done, but the old version is served"
        folder.refresh()
        assert self._contents(folder) == self.new, f"{what}: the next run does not end with what a clean build gives"
        assert folder.litter() == [], f"{what}: left {folder.litter()}"
        return "new" if served == self.new else "old"

    @staticmethod
    def _contents(folder: Folder) -> dict[str, Any]:
        reader = folder.open()
        try:
            assert not reader.warnings
            return contents(reader, folder.embedder)
        finally:
            reader.close()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def told(capsys: pytest.CaptureFixture[str], full: bool, title: str, outcomes: Counter[tuple[str, ...]]) -> None:
    with capsys.disabled():
        if full:
            print(f"\n{title}: {outcomes.total()}, none with a torn version or anything left behind")
            for row, count in sorted(outcomes.items()):
                print(f"  {' · '.join(row):<44} {count:>4}")


@pytest.mark.slow
def test_a_fault_at_any_touch_of_the_files_leaves_a_whole_version_and_no_litter(
    stage: Stage, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, no space, or an I/O error at every touch that Python tells of."""
    outcomes = Counter[tuple[str, ...]]()
    with Crashes() as crashed:
        code, touches = crashed(stage.fresh())
        assert code == 0 and touches > 20
        for fault in FAULTS:
            for at in range(1, touches + 1, 1 if full else CODE_STEP):
                code, _ = crashed(stage.fresh(), at, fault)
                what = f"{fault} at touch {at} of {touches}"
                assert code in ((KILLED,) if fault == "kill" else (0, *TOLD)), f"{what}: exit code {code}"
                outcomes[fault, f"exit {code}", stage.judge(code, what)] += 1
    told(capsys, full, "Faults in code", outcomes)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_fault_in_any_system_call_leaves_a_whole_version_and_no_litter(
    stage: Stage, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same below Python, in SQLite and numpy: each call on a file of the index is killed or fails."""
    points = list(_system_calls(stage))
    assert len(points) > 50
    outcomes = Counter[tuple[str, ...]]()
    every = [(point, fault) for point in points for fault in FAULTS if fault != "ENOSPC" or "read" not in point[0]]
    random.Random(0).shuffle(every)
    wanted = SYSTEM_FULL if full else SYSTEM_SAMPLE
    for (call, at), fault in every:  # a call may be another one in the next run, or not made; then the next point is tried
        how = "signal=KILL" if fault == "kill" else f"error={fault}"
        code, log = _traced(stage.fresh(), "-e", f"inject={call}:{how}:when={at}")
        served = stage.judge(code, f"{fault} at {call} {at}")
        if code == -signal.SIGKILL or re.search(r"/indexes/.*\(INJECTED\)", log):
            outcomes[fault, call, f"exit {code}", served] += 1
        if outcomes.total() == wanted:
            break
    told(capsys, full, "Faults in system calls", outcomes)
    assert outcomes.total() == wanted


def _traced(place: Path, *options: str) -> tuple[int, str]:
    log = place / "strace.log"
    command = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *options]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command += [sys.executable, "-m", "tests.crash", str(place)]
    done = subprocess.run(command, cwd=config.ROOT, env=environment, capture_output=True)
    return done.returncode, log.read_text(encoding="utf-8", errors="replace")


def _system_calls(stage: Stage) -> Iterator[tuple[str, int]]:
    """(name, which one in its thread) of the calls of an undisturbed run that touch the index."""
    place = stage.fresh()
    code, log = _traced(place)
    assert code == 0
    counts = Counter[tuple[str, str]]()
    for line in log.splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match:
            counts[match[1], match[2]] += 1
            if str(place / "indexes") in line:
                yield match[2], counts[match[1], match[2]]


class Company:
    """A folder whose files are all changed between runs; every version that is published must hold one edition of it, whole."""

    FILES = 6

    def __init__(self, place: Path) -> None:
        self.place = place
        self.texts: dict[str, set[str]] = {}  # edition → the names of its files
        for each in ("docs", "home", "temporary"):
            (place / each).mkdir(parents=True)

    def publish_files(self, round_: int) -> str:
        """Writes the edition of this round: texts come back after some rounds, so that most vectors are known by then."""
        edition = f"{round_ % self.FILES}x{round_ // 40}"
        for path in (self.place / "docs").iterdir():
            path.unlink()
        names = {f"part-{number}.md" for number in range(self.FILES) if (number + round_) % self.FILES}
        for name in names:
            text = f"# {name}\n\nThis is edition {edition} of the handbook. It gives {len(name) + round_ % self.FILES} days of leave.\n"
            (self.place / "docs" / name).write_text(text, encoding="utf-8")
        self.texts[edition] = names
        return edition

    def run(self, kill_after: float | None = None) -> int:
        """`python -m ingest` as a person runs it, killed after so many seconds; returns its exit code."""
        command = [sys.executable, "-m", "ingest", str(self.place / "docs"), "--index", str(self.place / "indexes"), "--force", "--json"]
        environment = {
            **os.environ, "FOOTNOTE_HOME": str(self.place / "home"), "TMPDIR": str(self.place / "temporary"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        with subprocess.Popen(command, cwd=config.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                _, said = process.communicate(timeout=kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            else:
                assert process.returncode == 0, said.decode()
            return process.returncode

    def read(self) -> str:
        """Asks what is published by words and by meaning; returns its edition. Raises AssertionError where it is torn, IndexMissing."""
        index = open_index(self.place / "indexes", "default")
        try:
            assert not index.warnings, index.warnings
            documents = index.catalog.documents()
            found = index.catalog.search_keywords("edition handbook leave", 100)
            near = index.vectors.search(index.vectors.vectors[0], 100)
            texts = [each.text for each in index.catalog.passages([number for number, _ in [*found, *near]])]
            editions = set(re.findall(r"edition (\w+)", " ".join(texts)))
            assert len(editions) == 1, f"passages of editions {editions}"
            assert {each.path for each in documents} == self.texts[min(editions)], "documents of another edition"
            assert len(found) == len(near) == len(documents)
            return min(editions)
        finally:
            index.close()

    def temporary(self) -> list[str]:
        """What lies in the folder for temporary files, without torch's own, which is one for all times."""
        return [each.name for each in (self.place / "temporary").iterdir() if not each.name.startswith("torchinductor_")]

    def contents(self) -> dict[str, Any]:
        embedder = WordEmbedder()
        embedder.dimensions = 384  # of the real one, which made the vectors: any question finds the same in the same index
        index = open_index(self.place / "indexes", "default")
        try:
            return contents(index, embedder)
        finally:
            index.close()


class Asker(threading.Thread):
    """Reads a company's index again and again."""

    def __init__(self, company: Company) -> None:
        super().__init__()
        self.company, self.reads, self.early, self.torn, self.done = company, 0, 0, "", threading.Event()

    def run(self) -> None:
        while not self.done.is_set() and not self.torn:
            try:
                self.company.read()
                self.reads += 1
            except IndexMissing:
                self.early += 1
            except (AssertionError, FootnoteError, OSError, KeyError) as error:
                self.torn = f"{type(error).__name__}: {error}"
            self.done.wait(0.05)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_at_any_moment_tears_nothing_and_leaves_nothing(
    tmp_path: Path, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command with its children and the real embedder, SIGKILL at random moments, while somebody asks all the time."""
    company, chance = Company(tmp_path / "company"), random.Random(0)
    company.publish_files(0)
    began = time.monotonic()
    assert company.run() == 0
    seconds = [time.monotonic() - began]
    asker = Asker(company)
    asker.start()
    outcomes = Counter[tuple[str, ...]]()
    kills = round_ = 0
    try:
        while kills < (KILLS_FULL if full else KILLS_SAMPLE) and not asker.torn:
            round_ += 1
            edition = company.publish_files(round_)
            began = time.monotonic()
            code = company.run(chance.uniform(0.02, 1.05) * statistics.median(seconds[-9:]))
            if code == 0:
                seconds.append(time.monotonic() - began)
            kills += code != 0
            outcomes["killed" if code else "ended in time", "new" if company.read() == edition else "old"] += 1
    finally:
        asker.done.set()
        asker.join()
    assert asker.torn == ""
    assert company.run() == 0
    clean = Company(tmp_path / "clean")
    clean.publish_files(round_)
    assert clean.run() == 0
    assert company.contents() == clean.contents()
    root = company.place / "indexes" / "default"
    left = [each.name for each in (root / "versions").iterdir() if not each.name.startswith("v")]
    left += [each.name for each in root.iterdir() if each.name not in Folder.KEPT]
    end = time.monotonic() + 10  # children of the last one killed clear up on their own
    while company.temporary() and time.monotonic() < end:
        time.sleep(0.1)
    assert left + company.temporary() == []
    told(capsys, full, f"Kills of a whole run ({asker.reads} reads meanwhile)", outcomes)
