"""A workload and the speed of llama.cpp's own operations → what no engine that calls them could be quicker than.

A target that lies beyond is out of reach on this machine, whatever the engine does; the serving benchmark prints both.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.workload import PEOPLE, Ask, Workload, prefix
from rag.engine.context import BATCH_TOKENS, Context, Part, Shape, Weights

PRODUCTS, ATTENTION = "MUL_MAT", "FLASH_ATTN_EXT"  # llama.cpp's names; with flash attention every product is one with weights
STEPS = 25  # of writing, the median counts

Seconds = dict[str, float]


def unread(asked: Workload) -> list[tuple[list[int], list[int]]]:
    """For each round how many tokens of each workplace prompt, the one person's and the crowd's, stood at the start of no earlier one:
    those that an engine that forgets nothing still has to read."""
    earlier: list[Ask] = [*asked.warm]
    rounds = []
    for each in asked.rounds:
        new: tuple[list[int], list[int]] = ([], [])
        for counts, asks in zip(new, (each.one_workplace, each.crowd_workplace), strict=True):
            for ask in asks:
                known = max((prefix(ask.tokens, other.tokens) for other in earlier), default=0)
                counts.append(max(1, len(ask.tokens) - known))
                earlier.append(ask)
        rounds.append(new)
    return rounds


def waits(asked: Workload, rate: float) -> dict[str, list[list[float]]]:
    """First tokens of the workplace, seconds, if each unread token is read once at `rate` a second, the shortest first, and nothing else is
    done meanwhile; keys as the serving benchmark's."""
    counted = unread(asked)
    return {
        "one_workplace": [[count / rate for count in one] for one, _ in counted],
        "crowd_workplace": [[sofar / rate for sofar in itertools.accumulate(sorted(crowd))] for _, crowd in counted],
    }


def step_s(path: Path, shape: Shape, tokens: Sequence[int]) -> float:
    """Seconds of a step that continues PEOPLE answers behind the same prompt, each in a sequence of its own."""
    weights = Weights(path)
    with contextlib.closing(weights), contextlib.closing(Context(weights, shape)) as context:
        for start in range(0, len(tokens), BATCH_TOKENS):
            context.decode([Part(0, start, tokens[start : start + BATCH_TOKENS], 0)])
        for person in range(1, PEOPLE):
            context.copy(0, person, len(tokens))
        taken = []
        for number in range(STEPS):
            began = time.perf_counter()
            context.decode([Part(person, len(tokens) + number, [tokens[number]], 1) for person in range(PEOPLE)])
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def operations(path: Path, shape: Shape, tokens: Sequence[int], rounds: int) -> Seconds:
    """Seconds of reading a prompt by kind of operation, as llama.cpp calls it, each operation timed by itself; the median of each."""
    spent: defaultdict[str, float] = defaultdict(float)
    since = 0.0

    def ended(kind: str) -> None:
        nonlocal since
        now = time.perf_counter()
        spent[kind] += now - since
        since = now

    taken: list[Seconds] = []
    weights = Weights(path)
    with contextlib.closing(weights), contextlib.closing(Context(weights, replace(shape, flash=True), ended)) as context:
        for _ in range(rounds):
            context.cut(0, 0)
            spent.clear()
            for start in range(0, len(tokens), BATCH_TOKENS):
                since = time.perf_counter()
                context.decode([Part(0, start, tokens[start : start + BATCH_TOKENS], 0)])
            taken.append(dict(spent))
    return {kind: statistics.median(each.get(kind, 0.0) for each in taken) for kind in taken[0]}


def most(delivered: Mapping[str, float], converted: Mapping[str, float]) -> tuple[float, float]:
    """How many times faster the converted file's products are, and how many times faster reading would be if they took no time at all."""
    rest = sum(seconds for kind, seconds in converted.items() if kind != PRODUCTS)
    return delivered[PRODUCTS] / converted[PRODUCTS], sum(delivered.values()) / rest


def shares(spent: Mapping[str, float]) -> tuple[float, float, float]:
    """Seconds of products with weights, of attention, and of everything else."""
    products, attention = spent[PRODUCTS], spent[ATTENTION]
    return products, attention, sum(spent.values()) - products - attention
