"""Models and questions → each model's quality, speed, memory and cost, and the smallest that is not worse than the best.

Each model is measured by `python -m evals run` in a process of its own, so that one's memory is not another's and one that crashes ends
only itself.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import ROOT, Settings
from errors import FootnoteError, UsageError
from evals.compare import BETTER_LOW, row_scores
from evals.intervals import Interval, at_least, interval
from evals.models import label, megabytes
from evals.results import load, table
from rag.cost import cost

SHOWN_ANSWERS = 1000  # a single answer's cost has too many zeros to read


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's result of `python -m evals run`, or why there is none. `size` is None for a server's model."""

    name: str
    size: float | None = None  # MB on disk
    result: dict[str, Any] | None = None
    kept: str = ""  # file name of the result
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Rung:
    """One model on the ladder. `behind` is its mean difference from the best, `least` that difference's lower bound."""

    name: str
    model: str
    level: str
    size: float | None
    memory: float | None  # MB, peak, of the whole process that answers
    score: Interval
    seconds: dict[str, Any]
    first_sentence: dict[str, Any]
    cpu: float | None  # seconds an answer, mean; None where a server does the work
    cost: float | None  # an answer, estimated
    behind: float
    least: float
    not_worse: bool
    kept: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs from the smallest up, the best of them, the smallest that is not worse, and what could not be measured (name, reason)."""

    rungs: tuple[Rung, ...]
    best: Rung
    smallest: Rung
    failed: tuple[tuple[str, str], ...]
    score: str
    margin: float
    questions: int


def measure(
    entries: Sequence[str], run: Sequence[str], settings: Settings, results: Path, say: Callable[[str], None] = lambda _: None
) -> list[Measured]:
    """The result of each entry, one after the other.

    Args:
        entries: what `evals.models.entries` gave.
        run: arguments of `python -m evals run` but for the model and the place of its result.
        results: folder in which each result is kept.
    """
    labels = [label(each) for each in entries]
    done = []
    for number, (entry, short) in enumerate(zip(entries, labels, strict=True), 1):
        name = short if labels.count(short) == 1 else entry
        say(f"Model {number} of {len(entries)}: {name}")
        try:
            done.append(_measured(entry, name, run, settings, results))
        except FootnoteError as error:
            done.append(Measured(name, failure=error.message))
    return done


def _measured(entry: str, name: str, run: Sequence[str], settings: Settings, results: Path) -> Measured:
    size = megabytes(entry, settings)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evals", "run", *run, "--model", entry, "--results", folder, "--json"]
        child = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        made = list(Path(folder).glob("*.json"))
        if child.returncode != 0 or not made:
            said = [line for line in child.stderr.splitlines() if line.strip()]
            return Measured(name, size, failure=" ".join(said[-2:]) or f"its process ended with {child.returncode}")
        results.mkdir(parents=True, exist_ok=True)
        kept = results / made[0].name
        kept.write_bytes(made[0].read_bytes())
    return Measured(name, size, load(kept), kept.name)


def ladder(measured: Sequence[Measured], score: str, margin: float, settings: Settings) -> Ladder:
    """Rank what was measured by `score`, and find the smallest model that is not worse than the best by more than `margin`.

    A model is not worse when the one-sided lower bound of its paired difference from the best is above -margin (0 to 1). Smallest: by
    the size of its files, then by memory; a server's model, whose size nobody knows here, is the largest. Raises UsageError where nothing
    can be ranked.
    """
    if not 0 < margin < 1:
        raise UsageError(f"A margin of {margin} cannot be tested.", "Give a share between 0 and 1, such as 0.05.")
    ranked = sorted((each for each in measured if each.result is not None), key=_smallness)
    failed = tuple((each.name, each.failure) for each in measured if each.result is None)
    if not ranked:
        raise UsageError("No model could be measured: " + "; ".join(f"{name}: {why}" for name, why in failed), "Name other models.")
    scores = {each.name: _scores(each, score) for each in ranked}
    common = sorted(set.intersection(*(set(each) for each in scores.values())))
    if not common:
        raise UsageError(f"{score} applies to none of the questions.", "Choose another --score.")
    means = {name: statistics.fmean(found[id] for id in common) for name, found in scores.items()}
    best = max(ranked, key=lambda each: means[each.name])  # the first of equals is the smallest
    rungs = [_rung(each, best, scores, common, score, margin, settings) for each in ranked]
    return Ladder(
        rungs=tuple(rungs), best=rungs[ranked.index(best)], smallest=next(each for each in rungs if each.not_worse),
        failed=failed, score=score, margin=margin, questions=len(common),
    )


def _smallness(each: Measured) -> tuple[float, float]:
    memory = (each.result or {}).get("memory_mb")
    return (float("inf") if each.size is None else each.size, float("inf") if memory is None else memory)


def _scores(measured: Measured, score: str) -> dict[str, float]:
    """Question → its score, more being better."""
    found: dict[str, float] = {}
    for row in (measured.result or {})["rows"]:
        value = row_scores("run", row)[score]
        if value is not None:
            found[row["id"]] = 1 - value if score in BETTER_LOW else value
    return found


def _rung(
    measured: Measured, best: Measured, scores: dict[str, dict[str, float]], common: Sequence[str], score: str, margin: float,
    settings: Settings,
) -> Rung:
    result = measured.result or {}
    own = [scores[measured.name][id] for id in common]
    differences = [value - scores[best.name][id] for id, value in zip(common, own, strict=True)]
    least = 0.0 if measured is best else at_least(differences)
    spent = [row["cpu_s"] for row in result["rows"] if row["cpu_s"] is not None]
    cpu = statistics.fmean(spent) if spent and measured.size is not None else None
    return Rung(
        name=measured.name, model=result["model"], level=result["level"], size=measured.size, memory=result.get("memory_mb"),
        score=interval([1 - each for each in own] if score in BETTER_LOW else own), seconds=result["summary"]["seconds"],
        first_sentence=result["summary"]["first_sentence_s"], cpu=cpu, cost=None if cpu is None else cost(cpu, settings),
        behind=statistics.fmean(differences), least=least, not_worse=measured is best or least > -margin, kept=measured.kept,
    )


def text(found: Ladder, settings: Settings) -> str:
    """The ladder as a table, smallest first, then what it means."""
    head = (
        "model", "level", "MB", found.score, "behind the best [at most]", "p50 / p95 s", "first sentence s", "peak MB", "CPU s",
        f"{settings.currency} a {SHOWN_ANSWERS:,} answers", "",
    )
    rows = [
        (
            each.name, each.level, _number(each.size, 0), each.score,
            "–" if each is found.best else f"{0 - each.behind:.3f} [{0 - each.least:.3f}]",
            f"{each.seconds['p50']:.2f} / {each.seconds['p95']:.2f}", _number(each.first_sentence["p50"], 2), _number(each.memory, 0),
            _number(each.cpu, 2), _number(None if each.cost is None else each.cost * SHOWN_ANSWERS, 4), _verdict(found, each),
        )
        for each in found.rungs
    ]
    lines = [table(head, rows), *(f"Not measured: {name}: {why}" for name, why in found.failed), "", conclusion(found)]
    lines.append(
        f"Cost is estimated from CPU seconds, {settings.watts:g} W a busy core and {settings.price_per_kwh:g} {settings.currency} a kWh. "
        "Peak MB is the whole process that answers: embedder, index and model."
    )
    if any(each.size is None for each in found.rungs):
        lines.append("A server's size, memory and CPU cannot be seen from here: its peak MB is this side's, and it counts as the largest.")
    return "\n".join(lines)


def conclusion(found: Ladder) -> str:
    """What the ladder says, in a sentence or two."""
    best, smallest = found.best, found.smallest
    said = f"Best: {best.name} ({best.score}). "
    if best is found.rungs[0]:
        said += "It is the smallest, too."
    elif smallest is best:
        said += f"No smaller model is shown to be at most {found.margin:g} worse on {found.questions} questions."
    else:
        said += f"Smallest that is at most {found.margin:g} worse: {smallest.name} ({smallest.score})."
    finest = 0 - at_least([0.0] * found.questions)
    if finest >= found.margin:
        said += (
            f"\n{found.questions} questions are too few for a margin of {found.margin:g}: even equal answers leave {finest:.3f} open. "
            "Ask more, or set a wider --margin."
        )
    return said


def marks(found: Ladder, rung: Rung) -> list[str]:
    """What is said of a rung that stands out."""
    return [word for word, holds in (("best", rung is found.best), ("smallest not worse", rung is found.smallest)) if holds]


def _verdict(found: Ladder, rung: Rung) -> str:
    return ", ".join(marks(found, rung)) or ("not worse" if rung.not_worse else "not shown")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
