"""A trained reader + documents it never saw → how its margins become probabilities, and how well it does there."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from errors import UsageError
from evals.metrics import normalised
from rag.reader import Reader
from tune.data import Example, draw, load_triples, pools, split

EXAMPLES = 600  # drawn from the held-out documents; the two numbers fitted need no more
LETTERS = (400, 1200)  # stretches of passages near the length of Footnote's own


def calibrate(folder: Path, data: Path, *, threads: int = 0, seed: int = 1) -> dict[str, Any]:
    """Fits slope and offset on the documents that training held out, writes them into reader.json and returns the scores.

    Raises UsageError where the reader was trained on other data or held nothing out.
    """
    reader = Reader(folder, threads)
    training = reader.about["training"]
    _, held = split(load_triples(data), float(training.get("hold_out", 0.0)))
    if not held:
        raise UsageError(f"{folder} was trained without holding documents out.", "Train with --hold-out 0.06.")
    examples = draw(pools(held, seed), EXAMPLES, random.Random(seed), LETTERS)
    readings = [reader.read(each.question, [each.passage])[0] for each in examples]
    slope, offset = platt([each.margin for each in readings], [each.answered for each in examples])
    about = dict(reader.about)
    about["calibration"] = {"slope": round(slope, 4), "offset": round(offset, 4)}
    found = [
        (each, normalised(each.passage[reading.start : reading.end]), normalised(each.passage[each.start : each.end]))
        for each, reading in zip(examples, readings, strict=True)
    ]
    answered = [(got, gold) for each, got, gold in found if each.answered]
    about["held_out"] = {
        "documents": len({each.group for each in held}),
        "examples": len(examples),
        "exact_match": round(sum(got == gold for got, gold in answered) / len(answered), 4),
        "f1": round(sum(f1(got, gold) for got, gold in answered) / len(answered), 4),
        "right_about_answering": accuracy(examples, [slope * each.margin + offset > 0 for each in readings]),
    }
    (folder / "reader.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"calibration": about["calibration"], "held_out": about["held_out"]}


def accuracy(examples: Sequence[Example], said: Sequence[bool]) -> dict[str, float]:
    """Kind of example → share of right decisions whether the passage answers."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for each, answered in zip(examples, said, strict=True):
        total[each.kind] += 1
        right[each.kind] += answered == each.answered
    return {kind: round(right[kind] / total[kind], 4) for kind in sorted(total)}


def f1(found: str, gold: str) -> float:
    """Shared words of two normalised answers, as SQuAD scores them."""
    one, other = found.split(), gold.split()
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other)) if shared else 0.0


def platt(margins: Sequence[float], answered: Sequence[bool]) -> tuple[float, float]:
    """Slope and offset of the logistic curve that makes `answered` most likely."""
    values = torch.tensor(list(margins), dtype=torch.float64)
    truth = torch.tensor([float(each) for each in answered], dtype=torch.float64)
    both = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([both], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(both[0] * values + both[1], truth)
        value.backward()
        return value

    optimizer.step(closure)
    slope, offset = both.detach().tolist()
    return float(slope), float(offset)
