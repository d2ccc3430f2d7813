"""Scores of single questions → their mean with a bootstrap interval, and the paired difference of two such lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000  # draws with replacement; the ends of a 95 % interval then rest on 50 draws each
SEED = 7  # the same scores give the same interval


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its 95 % percentile-bootstrap interval over `n` questions."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.n else "–"

    def as_json(self) -> dict[str, float | int | None]:
        """None where there was nothing to score: JSON knows no NaN."""
        if not self.n:
            return {"mean": None, "low": None, "high": None, "n": 0}
        return {"mean": round(self.mean, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}


def interval(values: Sequence[float]) -> Interval:
    """The mean of `values` and its interval. Questions are drawn, so it says how much the choice of questions matters."""
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    means = _resampled_means(np.asarray(values, dtype=np.float64))
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(np.mean(values)), float(low), float(high), len(values))


def paired(after: Sequence[float], before: Sequence[float]) -> Interval:
    """The interval of the mean of `after[i] - before[i]`: both lists score the same questions in the same order."""
    return interval([a - b for a, b in zip(after, before, strict=True)])


def at_least(differences: Sequence[float]) -> float:
    """The one-sided lower bound, with 95 % confidence, of the mean of paired differences that lie between -1 and 1.

    A bootstrap with one more question among those that were asked: a lost one. Without it equal answers to ten questions would prove
    that no question can ever be lost; with it they leave 3 / n open, as the rule of three says. See docs/decisions.md.
    """
    return float(np.percentile(_resampled_means(np.asarray([*differences, -1.0], dtype=np.float64)), 5))


def _resampled_means(values: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    means: np.ndarray = values[drawn].mean(axis=1)
    return means
