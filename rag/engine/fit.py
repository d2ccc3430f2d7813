"""A model and this machine → how its memory is made: threads, flash attention, prompts at once. Measured once, then remembered.

It takes a few seconds. What is best differs: two threads on one core of the processor may be slower than one, and so may several on one
token where they are quicker on many. `python -m rag models bench` shows what was found.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config import Settings
from rag.engine.context import Context, Part, Shape, Weights, cores
from rag.engine.files import ModelFile, record, register
from rag.engine.state import Bytes

STEP_TOKENS = 256  # llama.cpp pads a memory to this
BEHIND = 1024  # tokens of a prompt in a trial, as far as memory_mb goes: behind a prompt with passages attention is half of the work
RUNNING_SHARE = 0.6  # of memory_mb is for running prompts, the rest for what earlier ones leave
PEOPLE = (1, 2, 4, 8)  # answers written in one step
DRAFTS = (1, 4, 8, 16)  # tokens of one answer in one step: what checking a drafted continuation would cost
TRIAL_S = 1.0  # seconds that reading may take in one trial; a slow model is tried with fewer tokens
MOST_READ, LEAST_READ = 256, 16  # tokens that are really read in a trial; what a prompt has before them are copies
ROUNDS = 3  # of each kind of step, and of reading; the quickest counts, since what disturbs a trial only makes it slower
TYPICAL_READ, TYPICAL_WRITTEN = 1500, 100  # tokens of a prompt with passages and of an answer: what the best is best for
BETTER = 0.9  # of the usual shape's time, that another must take at most to be preferred: trials are noisy
BUSY = 0.75  # load of a core, over the last minute, from which on trials are put off

KEY = "fit behind a prompt"  # of the register's entry


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """What a shape cost with prompts of `behind` tokens: tokens read a second, in the middle of one; seconds of a step behind them by
    people who write, and by tokens of one draft."""

    shape: Shape
    behind: int
    read_rate: float
    step_s: dict[int, float]
    draft_s: dict[int, float]

    @property
    def typical_s(self) -> float:
        """Seconds of a typical answer, its writer alone half of the time and one of eight otherwise."""
        alone, shared = self.step_s[1], self.step_s[PEOPLE[-1]] / PEOPLE[-1]
        return TYPICAL_READ / self.read_rate + TYPICAL_WRITTEN * (alone + shared) / 2


def busy() -> bool:
    """True where others keep this machine's cores so busy that trials would measure them."""
    return os.getloadavg()[0] > BUSY * cores()


def shape(weights: Weights, file: ModelFile, settings: Settings, say: Callable[[str], None], is_busy: Callable[[], bool] = busy) -> Shape:
    """How the memory is made; measured where it was not on this machine. `say` hears of what takes time.

    While the machine is busy with something else the usual shape serves, and the next start measures.
    """
    many, window = room(weights, settings)
    found = known(file, settings)
    if found.get("threads") and isinstance(found.get("flash"), bool):
        return Shape(many, window, int(found["threads"]), int(found["threads_batch"]), found["flash"])
    if is_busy():
        threads = settings.threads or cores()
        return Shape(many, window, threads, threads, True)
    say("Finding out once how this machine runs the language model fastest…")
    best = chosen(trials(weights, settings))
    record(settings, _key(file, settings), as_entry(best))
    return dataclasses.replace(best.shape, sequences=many, window=window)


def known(file: ModelFile, settings: Settings) -> dict[str, Any]:
    """What was found out about a file on this machine; empty where nothing was."""
    return register(settings).get(_key(file, settings), {})


def again(file: ModelFile, settings: Settings) -> dict[str, Any]:
    """Find it out anew, busy or not, and return what was found."""
    record(settings, _key(file, settings), {})
    weights = Weights(file.path)
    try:
        shape(weights, file, settings, lambda _: None, lambda: False)
    finally:
        weights.close()
    return known(file, settings)


def room(weights: Weights, settings: Settings) -> tuple[int, int]:
    """(prompts that run at once, tokens of each): one for each answer on its way and one that is read ahead, as far as memory_mb goes."""
    window = min(settings.context_tokens, weights.trained_tokens)
    window = -(-window // STEP_TOKENS) * STEP_TOKENS
    return max(1, min(settings.answers_at_once + 1, int(RUNNING_SHARE * settings.memory_mb * 1e6 / (window * weights.cell_bytes)))), window


def store_bytes(weights: Weights, settings: Settings) -> int:
    """What of memory_mb is left for earlier prompts."""
    many, window = room(weights, settings)
    return max(0, settings.memory_mb * 1_000_000 - many * window * int(weights.cell_bytes))


def trials(weights: Weights, settings: Settings) -> list[Trial]:
    """Every sensible shape, measured; the usual one first."""
    most = settings.threads or cores()
    threads = [most] if settings.threads or most == 1 else [most, (most + 1) // 2]
    behind = _behind(weights, settings)
    window = behind + STEP_TOKENS
    return [_trial(weights, Shape(PEOPLE[-1], window, count, count, flash), behind) for count in threads for flash in (True, False)]


def _behind(weights: Weights, settings: Settings) -> int:
    most = int(settings.memory_mb * 1e6 / (PEOPLE[-1] * weights.cell_bytes))
    return max(STEP_TOKENS, min(BEHIND, (min(most, weights.trained_tokens) // STEP_TOKENS - 1) * STEP_TOKENS))


def chosen(measured: Sequence[Trial]) -> Trial:
    """The one that answers soonest, where it is clearly better than the usual one; threads that write a single token are chosen apart."""
    best = min(measured, key=lambda each: each.typical_s)
    best = best if best.typical_s < BETTER * measured[0].typical_s else measured[0]
    lone = min((each for each in measured if each.shape.flash == best.shape.flash), key=lambda each: each.step_s[1])
    if lone.step_s[1] >= BETTER * best.step_s[1]:
        return best
    steps, drafts = ({**of, 1: lone_of[1]} for of, lone_of in ((best.step_s, lone.step_s), (best.draft_s, lone.draft_s)))
    return dataclasses.replace(best, shape=dataclasses.replace(best.shape, threads=lone.shape.threads), step_s=steps, draft_s=drafts)


def as_entry(trial: Trial) -> dict[str, Any]:
    """A trial as it is remembered and shown."""
    found = trial.shape
    return {
        "threads": found.threads,
        "threads_batch": found.threads_batch,
        "flash": found.flash,
        "behind": trial.behind,
        "read_rate": round(trial.read_rate, 1),
        "step_ms": {str(count): round(1000 * seconds, 2) for count, seconds in trial.step_s.items()},
        "draft_ms": {str(count): round(1000 * seconds, 2) for count, seconds in trial.draft_s.items()},
    }


def _key(file: ModelFile, settings: Settings) -> str:
    return f"{KEY} {file.sha256[:16]} {platform.machine()} {_processor()} {settings.threads or cores()} {version('llama-cpp-python')}"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as opened:
            return next((line.partition(":")[2].strip() for line in opened if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor()


def _trial(weights: Weights, shape: Shape, behind: int) -> Trial:
    context = Context(weights, shape)
    try:
        started = time.perf_counter()
        context.decode([Part(0, 0, [1] * LEAST_READ, 0)])  # touches the weights and starts the threads
        slow = (time.perf_counter() - started) / LEAST_READ
        count = max(LEAST_READ, min(MOST_READ, int(TRIAL_S / slow / ROUNDS)))
        context.cut(0, 0)
        context.decode([Part(0, 0, [1] * count, 0)])
        read = _saved(context)
        middle = _lay(context, 0, read, count, behind // 2)
        rate = count / _quickest(context, range(1), middle, count, 1)
        for person in range(PEOPLE[-1]):
            start = _lay(context, person, read, count, behind)
        steps = {people: _quickest(context, range(people), start, 1, 1) for people in PEOPLE}
        drafts = {tokens: _quickest(context, range(1), start, tokens, tokens) for tokens in DRAFTS}
    finally:
        context.close()
    return Trial(shape, start, rate, steps, drafts)


def _saved(context: Context) -> Bytes | None:
    """What the first sequence holds; None where this model's prompts cannot be kept."""
    try:
        return context.save(0, 0) if context.cuts else None
    except ValueError:
        return None


def _lay(context: Context, sequence: int, read: Bytes | None, count: int, behind: int) -> int:
    """A sequence holds about `behind` tokens, copies of the `count` that were read: what they say makes no difference to what they cost.
    Where they cannot be copied it holds those alone. Returns how many it holds."""
    if read is None:
        if sequence:
            context.copy(0, sequence, count)
        return count
    context.cut(sequence, 0)
    pieces = [read] * max(1, behind // count)
    context.load(sequence, pieces)
    return count * len(pieces)


def _quickest(context: Context, sequences: range, start: int, tokens: int, rows: int) -> float:
    """Seconds of a step in which each sequence gets some tokens more, `rows` of them with logits; afterwards they are as before."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        context.decode([Part(each, start, [1] * tokens, rows) for each in sequences])
        taken.append(time.perf_counter() - started)
        for each in sequences:
            context.cut(each, start)
    return min(taken)
