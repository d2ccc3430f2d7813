"""Collection → the probability from which its answers are shown, where an admin had it fitted; else the one that ships.

`python -m tune refusal` writes the file. It holds for the weights and the reader that it was fitted with, and is left aside with others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from rag.evidence import Weights


def threshold(home: Path, collection: str, weights: Weights) -> float:
    """The threshold in force for `collection`."""
    found = fitted(home, collection)
    return float(found["threshold"]) if found and found["weights"] == fingerprint(weights) else weights.threshold


def fitted(home: Path, collection: str) -> dict[str, Any] | None:
    """What `tune refusal` found for `collection`: threshold, tolerated, weights, created, measured; None where it was never run.

    A file that cannot be read counts as absent: the threshold that ships is then in force, which is the safe one.
    """
    try:
        found = json.loads(place(home, collection).read_text(encoding="utf-8"))
        return found if 0.0 <= float(found["threshold"]) <= 1.0 and isinstance(found["weights"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def place(home: Path, collection: str) -> Path:
    """Where the threshold of `collection` is kept."""
    return home / "refusal" / f"{collection}.json"


def fingerprint(weights: Weights) -> str:
    """Twelve letters that change with the weights; not with their threshold, which is what is being fitted."""
    plain = json.dumps([dataclasses.asdict(weights.pick), dataclasses.asdict(weights.answer)], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]
