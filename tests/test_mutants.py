"""Thousands of damaged files of every format: each is read or named with a reason, in time, and nothing else on the disk changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import config
from tests.mutate import SECONDS_A_FILE

SAMPLE, FULL = 200, 5000
CALLS = (  # that change what is on the disk, or reach further
    "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,truncate,"
    "mknod,mknodat,chmod,fchmodat,chown,fchownat,lchown,setxattr,mount,execve,connect"
)
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")
ALLOWED = (  # a network of its own, and stepping back where what started it did
    "/dev/null", "/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/autogroup",
)  # fmt: skip
LONGEST_S = 20 * SECONDS_A_FILE  # a file may ask for more time for its pictures


def changed(log: Path) -> list[str]:
    """Paths outside `log`'s folder that a traced process changed, connected to or ran."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)\) += (?!-1)", line)
        if not match or (match[1].startswith("open") and not any(flag in match[2] for flag in WRITES)):
            continue
        if match[1] == "connect" and "AF_UNIX" in match[2]:
            continue
        base = re.match(r"(?:AT_FDCWD|\d+)<([^>]*)>", match[2])
        for path in re.findall(r'"((?:[^"\\]|\\.)*)"', match[2])[: 1 if match[1] == "execve" else 2]:
            whole = os.path.normpath(os.path.join(base[1] if base else "/", path))  # noqa: PTH118 a path that another process used
            if not whole.startswith(f"{log.parent}{os.sep}") and whole not in ALLOWED:
                found.append(f"{match[1]} {whole}")
        if match[1] == "connect":
            found.append(match[2])
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.timeout(4 * 3600)
def test_damaged_files_harm_nothing_but_themselves(tmp_path: Path, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits flipped, cut, spliced, overgrown, members of archives changed: the parent lives, and only the scratch folder is written to."""
    count, log = FULL if full else SAMPLE, tmp_path / "strace.log"
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-o", str(log), "-e", f"trace={CALLS}"]
    done = subprocess.run(
        [*trace, sys.executable, "-m", "tests.mutate", str(tmp_path / "mutants"), str(count)],
        cwd=config.ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 0, "the parent died"
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == count and all(each["untouched"] for each in results)
    assert all(each["reason"] for each in results if each["kind"] != "read")
    assert max(each["seconds"] for each in results) < LONGEST_S
    programs = {line for line in changed(log) if line.startswith("execve ")}
    assert {Path(each).name.split("-")[0] for each in programs} <= {Path(sys.executable).resolve().name, "python", "pandoc"}
    assert [each for each in changed(log) if each not in programs] == []
    assert list((tmp_path / "temporary").iterdir()) == [] and list((tmp_path / "mutants").iterdir()) == []
    with capsys.disabled():
        if full:
            print(f"\nDamaged files: {count}, the slowest {max(each['seconds'] for each in results)} s, nothing else written to")
            outcomes = Counter((Path(each["file"]).suffix, each["kind"]) for each in results)
            for (suffix, kind), number in sorted(outcomes.items()):
                print(f"  {suffix:<8} {kind:<14} {number:>5}")
            for each in results:
                if each["kind"] in ("crashed", "timed_out", "out_of_memory") or "Error:" in each["reason"]:
                    print(f"  {each['file']}: {each['kind']}, {each['seconds']} s, {each['reason']}")
