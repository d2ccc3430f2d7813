"""Questions with known answers + an index + the reader → the weights by which sentences are picked and answers refused.

One model does both: every candidate sentence of a question gets a score, "none of them" has score 0, and the chance of each is
its share of the exponentials. The chance that the passages answer at all is what "none" leaves over. Few weights, so that some
hundred questions suffice; documents used for fitting are never those reported on.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rag.evidence import evidence
from rag.reader import Reader, Reading
from rag.retrieve import retrieve
from rag.visible import visible
from tune.data import bucket

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.types import Hit

FEATURES = ("similarity", "coverage", "rank", "sentence", "passage", "lead")
CLIP = 12.0  # logits beyond which the reader is as sure as it gets
PENALTY = 0.02  # ridge on the weights of scaled features; keeps a set of a few hundred questions from extremes
ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Case:
    """One question: a row of FEATURES for each candidate sentence, and which of them hold the answer.

    `document` is the one the question is about.
    """

    id: str
    document: str
    answerable: bool
    features: np.ndarray  # (candidates, features)
    right: np.ndarray  # (candidates,) bool


def signs(similarity: float, coverage: float, number: int, sentence: float, reading: Reading, best: float) -> list[float]:
    """One candidate's FEATURES.

    Args:
        number: the hit it stands in, from 1.
        sentence: the reader's best span inside it, less the null score of its passage.
        reading: the reader on its passage.
        best: the highest span score over the candidates of all hits of this question.
    """
    return [
        similarity,
        coverage,
        1.0 / number,
        max(-CLIP, min(CLIP, sentence)),
        max(-CLIP, min(CLIP, reading.margin)),
        max(-CLIP, sentence + reading.null_score - best),  # 0 for the sentence with the best span of all
    ]


def case(question: dict[str, Any], hits: Sequence[Hit], embedder: EmbedderLike, reader: Reader) -> Case:
    """Features and labels of one question over its hits."""
    text = str(question["question"])
    candidates = evidence(text, hits, embedder).candidates
    inside = {number: [each for each in candidates if each.number == number] for number in range(1, len(hits) + 1)}
    spans = [[(each.start, each.end) for each in inside[number]] for number in inside]
    readings = reader.read(text, [hit.passage.text for hit in hits], spans) if hits else []
    rows: list[list[float]] = []
    right: list[bool] = []
    scores: list[float] = []
    for reading in readings:
        scores.extend(score + reading.null_score for score in reading.sentences)
    best = max(scores, default=0.0)
    answers = [plain(each) for each in question.get("answers") or [question.get("answer")] if each]
    documents = {gold["doc"] for gold in question.get("gold") or []}
    for number, reading in enumerate(readings, 1):
        for each, score in zip(inside[number], reading.sentences, strict=True):
            rows.append(signs(each.similarity, each.coverage, number, score, reading, best))
            held = any(f" {answer} " in f" {plain(each.text)} " for answer in answers)
            right.append(held and (not documents or hits[number - 1].passage.document in documents))
    document = str(question.get("related_doc") or next(iter(documents), ""))
    return Case(
        str(question["id"]), document, bool(question.get("answerable", answers)),
        np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES)), np.array(right, dtype=bool),
    )  # fmt: skip


def cases(questions: Iterable[dict[str, Any]], index: Index, embedder: EmbedderLike, reader: Reader, keep: int) -> list[Case]:
    """Every question through the retrieval that the app uses."""
    allowed = visible("local", index)
    return [
        case(each, retrieve(str(each["question"]), index, embedder, keep, allowed), embedder, reader) for each in questions
    ]


def plain(text: str) -> str:
    """Lower case without punctuation and articles, as SQuAD compares."""
    kept = "".join(" " if each in string.punctuation else each for each in text.lower())
    return " ".join(ARTICLES.sub(" ", kept).split())


def fit(cases: Sequence[Case], use: Sequence[str] = FEATURES) -> dict[str, float]:
    """Weights of the features in `use`, and "bias", that make the right sentences, or "none", most likely."""
    columns = [FEATURES.index(each) for each in use]
    every = np.concatenate([each.features[:, columns] for each in cases if len(each.features)])
    middle, width = every.mean(0), every.std(0) + 1e-9
    tensors = []
    for each in cases:
        if len(each.features) and (each.right.any() or not each.answerable):  # where retrieval missed, nothing can be learnt
            scaled = torch.tensor((each.features[:, columns] - middle) / width)
            tensors.append((scaled, torch.tensor(each.right), each.answerable))
    weights = torch.zeros(len(columns), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = PENALTY * (weights**2).sum() * len(tensors)
        for rows, right, answerable in tensors:
            scores = torch.cat([torch.zeros(1, dtype=torch.float64), rows @ weights + bias])
            wanted = scores[1:][right] if answerable else scores[:1]
            total = total + torch.logsumexp(scores, 0) - torch.logsumexp(wanted, 0)
        total.backward()
        return total

    optimizer.step(closure)
    raw = weights.detach().numpy() / width
    found = {name: float(value) for name, value in zip(use, raw, strict=True)}
    found["bias"] = float(bias.detach()[0]) - float((raw * middle).sum())
    return found


def scores(case: Case, weights: dict[str, float]) -> np.ndarray:
    """The score of each candidate, in log-odds against "none of them"."""
    total = np.full(len(case.features), weights["bias"])
    for name, weight in weights.items():
        if name != "bias":
            total += weight * case.features[:, FEATURES.index(name)]
    return total


def probability(scores: np.ndarray) -> float:
    """The chance that one of the candidates answers."""
    if not len(scores):
        return 0.0
    top = float(scores.max())
    spread = top + math.log(float(np.exp(scores - top).sum()))
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, spread))))


def report(
    cases: Sequence[Case], weights: dict[str, float], wrong: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.3)
) -> dict[str, Any]:
    """How well the weights pick (top1, top3) and refuse.

    `refused_at`: for each share of answerable questions refused by mistake, the threshold and the share of the others refused.
    """
    top1, top3, sure, unsure = [], [], [], []
    for each in cases:
        values = scores(each, weights)
        if each.answerable:
            order = np.argsort(-values, kind="stable")
            top1.append(bool(len(order) and each.right[order[0]]))
            top3.append(bool(len(order) and each.right[order[:3]].any()))
            sure.append(probability(values))
        else:
            unsure.append(probability(values))
    curve = {}
    if sure and unsure:
        ordered = np.sort(sure)
        for share in wrong:
            threshold = float(np.quantile(ordered, share))
            refused = float((np.array(unsure) < threshold).mean())
            curve[f"{share:.2f}"] = {"threshold": round(threshold, 4), "refused": round(refused, 4)}
    return {
        "answerable": len(top1), "unanswerable": len(unsure), "top1": round(float(np.mean(top1)), 4) if top1 else None,
        "top3": round(float(np.mean(top3)), 4) if top3 else None,
        "retrieved": round(float(np.mean([each.right.any() for each in cases if each.answerable])), 4) if top1 else None,
        "refused_at": curve,
    }  # fmt: skip


def half(cases: Sequence[Case], number: int) -> list[Case]:
    """The cases whose document's name falls into half 0 or 1 by its hash."""
    return [each for each in cases if bucket(each.document, 2) == number]
