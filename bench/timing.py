"""A thing done several times → median and spread of what it took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repetition, in order."""

    seconds: tuple[float, ...]

    def __str__(self) -> str:
        if not self.seconds:
            return "–"
        return f"{self.median:.2f} s ({min(self.seconds):.2f}–{max(self.seconds):.2f}, {len(self.seconds)}×)"

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        if not self.seconds:
            return {"n": 0}
        return {
            "median_s": round(self.median, 4), "least_s": round(min(self.seconds), 4), "most_s": round(max(self.seconds), 4),
            "n": len(self.seconds), "all_s": [round(each, 4) for each in self.seconds],
        }


def timing(seconds: Sequence[float]) -> Timing:
    return Timing(tuple(seconds))
