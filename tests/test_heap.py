"""Freed memory goes back, and large memory lies in large pages, with malloc set up as the engine's is."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import config
from rag.place import MALLOC

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/smaps").exists(), reason="malloc is not GNU's, or nothing says what is held"
)
LARGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

HOLES = """
from rag.heap import Heap

def resident():
    with open("/proc/self/statm") as opened:
        return int(opened.read().split()[1]) * 4096

before, stay, go = resident(), [], []
for _ in range(3000):
    go.append(bytearray(60_000))
    stay.append(bytearray(600))
full = resident() - before
go.clear()
freed = resident() - before
Heap(3600).give_back()
early = resident() - before
Heap(0).give_back()
print(full, freed, early, resident() - before)
"""

HELD = """
import numpy
from rag.engine.state import pages

kept = {KEPT}
kept[...] = 1
print(sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages:")) * 1024)
"""

READS = """
import ctypes, random
import rag
import config
from rag.answer import open_reader

class Held(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

asked = ctypes.CDLL(None).mallinfo2
asked.restype = Held
reader, _ = open_reader(config.load())
words = (config.ROOT / "README.md").read_text(encoding="utf-8").split()
draw = random.Random(3)
for number in range(1, 61):
    question = " ".join(draw.sample(words, draw.randint(4, 20)))
    reader.read(question, [" ".join(draw.sample(words, draw.randint(40, 140))) for _ in range(6)])
    if number in (30, 60):
        print(asked().uordblks)
"""


def printed(code: str) -> list[int]:
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **MALLOC}, cwd=config.ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [int(each) for each in found.split()]


def test_what_lies_between_things_in_use_goes_back_and_not_too_often() -> None:
    full, freed, early, left = printed(HOLES)
    assert full > 170_000_000
    assert freed > 100_000_000, "nothing to give back: the test has lost its point"
    assert early > 100_000_000
    assert left < 60_000_000  # small things, each with the rest of its page


@pytest.mark.skipif(not LARGE.exists() or "[never]" in LARGE.read_text(), reason="this Linux has no large pages")
@pytest.mark.parametrize("kept", ["numpy.empty(64_000_000, numpy.uint8)", "pages(2, 1000, 32_000)"])
def test_what_is_large_lies_in_large_pages(kept: str) -> None:
    assert printed(HELD.replace("{KEPT}", kept))[0] > 32_000_000


@pytest.mark.real
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this malloc does not say what is in use")
def test_what_is_made_for_each_shape_of_a_batch_does_not_pile_up() -> None:
    """Thirty questions more, of other lengths: the code that torch makes for them would be 28 MB."""
    after_thirty, after_sixty = printed(READS)
    assert after_sixty - after_thirty < 4_000_000
