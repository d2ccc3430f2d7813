"""Triples → a LoRA adapter in GGUF for the bundled language model: it learns to answer in one sentence of the passages.

Every linear layer gets a low-rank addition; the model itself stays as it is. Loss on the answers only, in the app's own prompt.
Every draw depends on the seed and the step alone, so that a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import config
from errors import UsageError
from rag.engine.files import bundled
from rag.engine.model import LanguageModel
from rag.reader import half_precision, sha256
from tune.checkpoint import keep, learning_rate, restore
from tune.data import load_triples, split
from tune.gguf_weights import LINEAR, load, write_adapter
from tune.packs import Shelf, Tokens, prompt_name, tokens

log = logging.getLogger(__name__)

RANK = 16  # 9.8 MB for the bundled model
ALPHA_PER_RANK = 2.0  # the addition is alpha / rank · B · A
RATE = 5e-4  # highest learning rate
STEPS = 600
PACKS = 1  # a step; about six answers
CHECKPOINT_STEPS = 50  # about five minutes of a core of its own; each is measured on what was held out
CHECKPOINT_S = 600  # seconds after which a step is kept anyway: on a busy machine fifty steps may take hours
WARM_UP_STEPS = 30
COOL_SHARE = 0.4
AVERAGE = 0.98  # share of the running average of weights kept a step, once there are enough steps
HELD_PACKS = 8  # of documents never trained on, for the loss that says which checkpoint is best: about 45 answers
MODEL_TOKENS = 2048  # window of the model that only tokenises here
FILE = "adapter.gguf"


class Lora(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A frozen linear layer plus scale · B · A, which starts at nothing."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, half: bool) -> None:
        super().__init__()
        self.linear = linear.to(torch.bfloat16) if half else linear
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.linear(x)
        return plain + nn.functional.linear(nn.functional.linear(x, self.a), self.b) * self.scale


def put_on(model: LlamaForCausalLM, rank: int, half: bool) -> dict[str, nn.Parameter]:
    """Puts a fresh adapter on every linear layer of `model`, freezes the rest, and returns what is trained."""
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if name.startswith("model.layers.") and name.endswith(LINEAR):
            parent, _, last = name.rpartition(".")
            if not isinstance(module, nn.Linear):
                raise TypeError(name)
            setattr(model.get_submodule(parent), last, Lora(module, rank, ALPHA_PER_RANK, half))
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def loss(model: LlamaForCausalLM, pack: Tokens) -> tuple[Tensor, int]:
    """(Sum of the cross-entropy of the answers' tokens, how many they are).

    One row: the prefix, then the branches. Each branch sees the prefix and itself, at the positions it would have alone.
    """
    ids, positions, starts = list(pack.prefix), list(range(len(pack.prefix))), []
    for branch in pack.branches:
        starts.append(len(ids))
        ids += branch
        positions += range(len(pack.prefix), len(pack.prefix) + len(branch))
    sees = torch.tril(torch.ones(len(ids), len(ids), dtype=torch.bool))
    for start, branch in zip(starts, pack.branches, strict=True):
        sees[start + len(branch) :, start : start + len(branch)] = False  # later branches do not see this one
    mask = torch.zeros(1, 1, len(ids), len(ids)).masked_fill(~sees, torch.finfo(torch.float32).min)
    read = [at for start, branch, count in zip(starts, pack.branches, pack.answers, strict=True)
            for at in range(start + len(branch) - count - 1, start + len(branch) - 1)]  # fmt: skip
    row = torch.tensor([ids])
    states = model.model(row, attention_mask=mask, position_ids=torch.tensor([positions])).last_hidden_state[0, read]
    logits = model.lm_head(states).float()
    return nn.functional.cross_entropy(logits, row[0, [at + 1 for at in read]], reduction="sum"), len(read)


def train(
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    rank: int = RANK,
    rate: float = RATE,
    hold_out: float = 0.06,
    threads: int = 0,
    resume: bool = False,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    packs: int = PACKS,
    held_packs: int = HELD_PACKS,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Trains, with a checkpoint in `out` every `checkpoint_steps`; returns out/adapter.gguf, the best of them so far.

    Best is the lowest loss on documents never trained on (`hold_out`: their share). The bundled model is the base.
    Raises UsageError where `resume` finds another run's checkpoint.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)  # the adapter's A
    out.mkdir(parents=True, exist_ok=True)
    triples = load_triples(data)
    kept, held = split(triples, hold_out)
    if not kept or not held:
        raise UsageError(f"{data} has too few documents to hold {hold_out:.0%} of them out.", "Give more, or a larger --hold-out.")
    base, half = bundled(), half_precision()
    model = load(base.path)
    parameters = put_on(model, rank, half)
    average = {name: each.detach().clone() for name, each in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
    run = {
        "seed": seed, "rate": rate, "rank": rank, "hold_out": hold_out, "packs": packs, "held_packs": held_packs,
        "data_sha256": sha256(data), "triples": len(triples), "base_sha256": base.sha256, "prompt": prompt_name(),
    }  # fmt: skip
    step, found = restore(out, parameters, optimizer, average, run, steps, 1 - COOL_SHARE) if resume else (0, {})
    best = float(found.get("best", math.inf))
    tokeniser = LanguageModel(dataclasses.replace(config.load(), context_tokens=MODEL_TOKENS, threads=threads or 1), file=base)
    try:
        drawn = _drawer(Shelf(kept), tokeniser, f"{seed}/train")
        watched = [_drawer(Shelf(held), tokeniser, "held")(number) for number in range(held_packs)]
        say(f"{len(kept)} triples, {sum(each.numel() for each in parameters.values())} weights, steps {step} to {steps}, "
            f"{'bfloat16' if half else 'float32'}")  # fmt: skip
        began, losses, seen = time.monotonic(), [], 0
        last = began
        while step < steps:
            total, count = 0.0, 0
            some = [drawn(step * packs + number) for number in range(packs)]
            wanted = sum(sum(each.answers) for each in some)
            for pack in some:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                    value, read = loss(model, pack)
                (value / wanted).backward()
                total, count = total + float(value.detach()), count + read
                seen += len(pack.prefix) + sum(map(len, pack.branches))
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate(step, steps, WARM_UP_STEPS, COOL_SHARE)
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            share = min(AVERAGE, step / (step + 10))
            torch._foreach_lerp_([*average.values()], [each.detach() for each in parameters.values()], 1 - share)
            losses.append(total / count)
            if step % 10 == 0:
                spent, recent = time.monotonic() - began, losses[-50:]
                say(f"step {step} loss {sum(recent) / len(recent):.3f} tokens/s {seen / spent:.0f} minutes {spent / 60:.1f}")
            if step % checkpoint_steps == 0 or step == steps:
                now = held_loss(model, parameters, average, watched, half)
                if now < best:
                    best = now
                    export(model, average, out / FILE, rank, {**run, "steps": steps, "step": step, "held_loss": round(now, 4)})
                say(f"step {step}: loss on held-out documents {now:.4f}, best {best:.4f}")
            elif time.monotonic() - last < CHECKPOINT_S:
                continue
            keep(out, parameters, optimizer, average, step, {**run, "steps": steps}, {"best": best})
            say(f"kept step {step}")
            last = time.monotonic()
    finally:
        tokeniser.close()
    return out / FILE


def _drawer(shelf: Shelf, model: LanguageModel, name: str) -> Callable[[int], Tokens]:
    def draw(number: int) -> Tokens:
        chance = random.Random(f"{name}/{number}")
        pack = None
        while pack is None:
            pack = shelf.pack(chance)
        return tokens(pack, model.chat, model.tokenize, model.end)

    return draw


def held_loss(
    model: LlamaForCausalLM, parameters: dict[str, nn.Parameter], average: dict[str, Tensor], packs: Sequence[Tokens], half: bool
) -> float:
    """Mean loss a token of the averaged weights, which are put back afterwards."""
    now = {name: each.detach().clone() for name, each in parameters.items()}
    _set(parameters, average)
    total, count = 0.0, 0
    for pack in packs:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            value, read = loss(model, pack)
        total, count = total + float(value), count + read
    _set(parameters, now)
    return total / count


def _set(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.detach().copy_(values[name])


def export(model: LlamaForCausalLM, weights: dict[str, Tensor], path: Path, rank: int, training: dict[str, Any]) -> None:
    """Writes `weights` (named as `put_on` names them) as a GGUF adapter that llama.cpp loads; whole or not at all."""
    names = [name.removesuffix(".a") for name in weights if name.endswith(".a")]
    pairs = {name: (weights[f"{name}.a"], weights[f"{name}.b"]) for name in names}
    arriving = path.with_name(f".{path.name}.part")
    write_adapter(arriving, pairs, model, ALPHA_PER_RANK * rank, json.dumps(training, sort_keys=True))
    arriving.replace(path)
