"""A training run ↔ one file that it can go on from: weights, their running average and the optimizer's two moments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from errors import UsageError

FILE = "checkpoint.safetensors"


def learning_rate(step: int, steps: int, warm_up: int, cool_share: float) -> float:
    """Share of the highest rate: rises over `warm_up` steps, stays, falls to nothing over the last `cool_share` of the steps."""
    return min((step + 1) / warm_up, 1.0, max(0.0, (steps - step) / (steps * cool_share)))


def keep(
    out: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor], step: int,
    run: dict[str, Any], found: Mapping[str, Any] | None = None,
) -> None:
    """Writes the checkpoint, replacing the last. `run`: what another run must share; `found`: what this one has found so far."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[name] = parameter.detach().contiguous()
        tensors["average." + name] = average[name]
        tensors["moment1." + name], tensors["moment2." + name] = state["exp_avg"], state["exp_avg_sq"]
    about = {"step": str(step), "run": json.dumps(run, sort_keys=True), "found": json.dumps(dict(found or {}))}
    save_file(tensors, str(out / "checkpoint.tmp"), metadata=about)
    (out / "checkpoint.tmp").replace(out / FILE)


def restore(
    out: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor],
    run: dict[str, Any], steps: int, settled: float,
) -> tuple[int, dict[str, Any]]:
    """Puts the checkpoint of the same run back; returns its step and what it had found, (0, {}) where there is none.

    A run may be made longer or shorter until `settled`, the share of its steps after which the two would not be the same.
    Raises UsageError where the checkpoint is another run's.
    """
    path = out / FILE
    if not path.is_file():
        return 0, {}
    about = metadata(path)
    was, step = json.loads(about["run"]), int(about["step"])
    planned = was.pop("steps")
    if was != run or (planned != steps and step > min(planned, steps) * settled):
        raise UsageError(f"{path} belongs to a run with other settings.", "Give the same options, or another --out.")
    tensors = load_file(str(path))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            average[name].copy_(tensors["average." + name])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors["moment1." + name],
                "exp_avg_sq": tensors["moment2." + name],
            }
    return step, dict(json.loads(about.get("found", "{}")))


def metadata(path: Path) -> dict[str, str]:
    """The strings in the head of a safetensors file."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        found: dict[str, str] = json.loads(stream.read(size))["__metadata__"]
    return found
