"""Questions with known answers + an index + the reader → the weights by which sentences are picked and answers refused.

Two small fits. Picking: every candidate sentence of a question gets a score, "none of them" has score 0, and the chance of each is
its share of the exponentials. Refusing: whether the picked sentence answers, from what the signs say of it. Few weights, so that
some hundred questions suffice; documents used for fitting are never those reported on.
"""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evals.questions import Question, half_of
from rag.evidence import evidence
from rag.reader import Reader
from rag.retrieve import retrieve
from rag.visible import visible
from tune.data import Triple

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.types import Hit

FEATURES = ("similarity", "coverage", "rank", "sentence")  # of rag.evidence.Signs
ANSWER = ("sentence", "coverage", "similarity")  # of the picked sentence: what refusing looks at
PENALTY = 0.003  # ridge on the weights of scaled features; keeps a set of a few hundred questions from extremes
WRONG = (0.05, 0.10, 0.15, 0.20, 0.30)  # shares of answerable questions refused at which the rest is reported
ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Case:
    """One question: a row of FEATURES for each candidate sentence, and which of them hold the answer.

    `document` is the one the question is about, "" for a question from elsewhere that no document here can answer.
    """

    id: str
    document: str
    answerable: bool
    features: np.ndarray  # (candidates, features)
    right: np.ndarray  # (candidates,) bool


def case(question: dict[str, Any], hits: Sequence[Hit], embedder: EmbedderLike, reader: Reader) -> Case:
    """Features and labels of one question over its hits."""
    text = str(question["question"])
    answers = [plain(each) for each in question.get("answers") or [question.get("answer")] if each]
    documents = {gold["doc"] for gold in question.get("gold") or []}
    rows: list[list[float]] = []
    right: list[bool] = []
    for each in evidence(text, hits, embedder, reader).candidates:
        rows.append([float(getattr(each.signs, name)) for name in FEATURES])
        held = any(f" {answer} " in f" {plain(each.text)} " for answer in answers)
        right.append(held and (not documents or hits[each.number - 1].passage.document in documents))
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


def picked(case: Case, weights: dict[str, float]) -> int | None:
    """The candidate with the highest score; None where there is none."""
    return int(scores(case, weights).argmax()) if len(case.features) else None


def fit_answer(cases: Sequence[Case], weights: dict[str, float]) -> dict[str, float]:
    """Weights of ANSWER and "bias" for the log-odds that the picked sentence answers. A wrong pick counts as no answer."""
    columns = [FEATURES.index(name) for name in ANSWER]
    picks = [(each, pick) for each in cases if (pick := picked(each, weights)) is not None]
    rows = np.array([each.features[pick, columns] for each, pick in picks])
    truth = torch.tensor([float(each.answerable and each.right[pick]) for each, pick in picks], dtype=torch.float64)
    middle, width = rows.mean(0), rows.std(0) + 1e-9
    scaled = torch.tensor((rows - middle) / width)
    found = torch.zeros(len(columns) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(scaled @ found[:-1] + found[-1], truth)
        value = value + PENALTY * (found[:-1] ** 2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    raw = found.detach().numpy()[:-1] / width
    answer = {name: float(value) for name, value in zip(ANSWER, raw, strict=True)}
    answer["bias"] = float(found.detach()[-1]) - float((raw * middle).sum())
    return answer


def probability(case: Case, weights: dict[str, float], answer: dict[str, float]) -> float:
    """The chance that the picked sentence answers."""
    pick = picked(case, weights)
    if pick is None:
        return 0.0
    odds = answer["bias"] + sum(answer[name] * float(case.features[pick, FEATURES.index(name)]) for name in ANSWER)
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, odds))))


def report(cases: Sequence[Case], weights: dict[str, float], answer: dict[str, float]) -> dict[str, Any]:
    """How well the weights pick and refuse.

    `top1`, `top3`: share of answerable questions whose first (first three) sentences hold a gold answer; `retrieved`: whether any
    candidate did. `refused_at`: for each share of answerable questions refused by mistake the threshold, the share refused of the
    unanswerable questions about these documents and of those from elsewhere, and the share of the answers shown that are right.
    """
    asked = [each for each in cases if each.answerable]
    top1, top3, retrieved = [], [], []
    for each in asked:
        order = np.argsort(-scores(each, weights), kind="stable")
        top1.append(bool(len(order) and each.right[order[0]]))
        top3.append(bool(each.right[order[:3]].any()))
        retrieved.append(bool(each.right.any()))
    sure = np.array([probability(each, weights, answer) for each in asked])
    near = np.array([probability(each, weights, answer) for each in cases if not each.answerable and each.document])
    far = np.array([probability(each, weights, answer) for each in cases if not each.answerable and not each.document])
    curve: dict[str, dict[str, float | None]] = {}
    for share in WRONG if asked else ():
        threshold = float(np.quantile(sure, share))
        curve[f"{share:.2f}"] = {
            "threshold": round(threshold, 4),
            "unanswerable": mean(near < threshold),
            "elsewhere": mean(far < threshold),
            "right_of_shown": mean(np.array(top1)[sure >= threshold]),
        }
    return {
        "answerable": len(asked), "unanswerable": len(near), "elsewhere": len(far), "top1": mean(np.array(top1)),
        "top3": mean(np.array(top3)), "retrieved": mean(np.array(retrieved)), "refused_at": curve,
    }  # fmt: skip


def threshold_for(cases: Sequence[Case], weights: dict[str, float], answer: dict[str, float], refuse: float) -> float:
    """The probability below which `refuse` of the answerable questions fall."""
    return float(np.quantile([probability(each, weights, answer) for each in cases if each.answerable], refuse))


def as_file(weights: dict[str, float], answer: dict[str, float], threshold: float, reader: str, refuse: float) -> str:
    """The text of evidence.json, as rag/evidence.py loads it."""
    about = {
        "reader": reader,
        "pick": {name: round(value, 4) for name, value in sorted(weights.items())},
        "answer": {name: round(value, 4) for name, value in sorted(answer.items())},
        "threshold": round(threshold, 4),
        "threshold_refuses": refuse,
    }
    return json.dumps(about, indent=2) + "\n"


def mean(values: np.ndarray) -> float | None:
    """To four places; None of nothing."""
    return round(float(values.mean()), 4) if len(values) else None


def half(cases: Sequence[Case], which: str) -> list[Case]:
    """The cases of the half "tune" or "report", as the evaluations part them: by document, or by id for those from elsewhere."""
    return [each for each in cases if half_of(question_of(each)) == which]


def question_of(case: Case) -> Question:
    """As much of the question as its half depends on."""
    return Question(case.id, "", (), case.answerable, (), related=case.document)


def elsewhere(triples: Sequence[Triple], documents: Sequence[str], number: int, seed: int) -> list[dict[str, Any]]:
    """`number` different questions of other documents than `documents`, as lines of a question set: nothing here answers them."""
    here = {re.sub(r"[\W_]+", "", each.rsplit(".", 1)[0]).lower() for each in documents}
    texts = sorted({each.question for each in triples if re.sub(r"[\W_]+", "", each.group).lower() not in here})
    chosen = random.Random(seed).sample(texts, min(number, len(texts)))
    return [{"id": f"elsewhere-{at}", "question": text, "answerable": False, "answers": []} for at, text in enumerate(chosen)]
