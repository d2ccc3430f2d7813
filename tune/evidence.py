"""Questions with known answers + indexes + the reader → the weights by which sentences are picked and answers refused.

Two small fits over several collections at once. Picking: every candidate sentence of a question gets a score, "none of them" has
score 0, and the chance of each is its share of the exponentials. Refusing: whether the picked sentence answers, from what the signs
say of it. Few weights, so that some hundred questions suffice; documents used for fitting are never those reported on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evals.metrics import contains
from evals.questions import Question, half_of
from rag.evidence import SIGNS, evidence
from rag.retrieve import retrieve
from rag.visible import LOCAL, visible
from rag.words import content

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.reader import Reader
    from rag.types import Hit

FEATURES = tuple(name for name in SIGNS if name != "bias")  # columns of Case.features
PICK = ("similarity", "coverage", "named", "found", "rank", "sentence", "lead")  # what picking looks at
ANSWER = ("coverage", "named", "passage", "sentence")  # of the picked sentence: what refusing looks at
OF_READER = ("sentence", "lead")
PENALTY = 0.003  # ridge on the weights of scaled features; keeps a set of a few hundred questions from extremes
WRONG = (0.05, 0.10, 0.15, 0.20, 0.30)  # shares of answerable questions refused at which the rest is reported
SHORT_WORDS = 8  # accepted answers up to this length stand in a right sentence word for word; longer ones are paraphrased
PARAPHRASED = 0.5  # share of a sentence's content words that a long accepted answer holds, from which the sentence is right
PAGES_AROUND = 1  # a page label may be one off: answers run over page breaks


@dataclass(frozen=True, slots=True)
class Case:
    """One question: a row of FEATURES for each candidate sentence, and which of them hold the answer.

    `about` is False for a question that has nothing to do with the documents (off topic, nonsense).
    """

    id: str
    collection: str
    half: str  # "tune" or "report", as the evaluations part them
    answerable: bool
    about: bool
    features: np.ndarray  # (candidates, features)
    right: np.ndarray  # (candidates,) bool


def case(question: Question, collection: str, hits: Sequence[Hit], embedder: EmbedderLike, reader: Reader | None) -> Case:
    """Features and labels of one question over its hits."""
    rows: list[list[float]] = []
    answers: list[bool] = []
    for each in evidence(question.question, hits, embedder, reader).candidates:
        rows.append([float(getattr(each.signs, name)) for name in FEATURES])
        answers.append(question.answerable and right(each.text, hits[each.number - 1], question))
    return Case(
        question.id, collection, half_of(question), question.answerable,
        bool(question.gold or question.related or question.document),
        np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES)), np.array(answers, dtype=bool),
    )


def right(text: str, hit: Hit, question: Question) -> bool:
    """Whether the sentence stands where the question's answer is, and holds it; see SHORT_WORDS and PARAPHRASED."""
    golds = [each for each in question.gold if each.document == hit.passage.document]
    pages = [each.page for each in golds if each.page is not None]
    if question.gold and not golds:
        return False
    if pages and (hit.passage.page is None or all(abs(hit.passage.page - page) > PAGES_AROUND for page in pages)):
        return False
    short = [each for each in question.answers if len(each.split()) <= SHORT_WORDS]
    if short:
        return bool(contains(text, short))
    own, wanted = set(content(text)), set(content(" ".join(question.answers)))
    return bool(own) and len(own & wanted) >= PARAPHRASED * len(own)


def cases(
    questions: Iterable[Question], collection: str, index: Index, embedder: EmbedderLike, reader: Reader | None, keep: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Case]:
    """Every question through the retrieval that the app uses."""
    everything = visible(LOCAL, index)
    found = []
    for number, each in enumerate(questions, 1):
        say(f"{collection}: question {number}")
        allowed = everything & frozenset(index.catalog.match(each.document)) if each.document else everything
        hits = retrieve(each.question, index, embedder, keep, allowed, reader=reader)
        found.append(case(each, collection, hits, embedder, reader))
    return found


def fit(cases: Sequence[Case], use: Sequence[str] = PICK) -> dict[str, float]:
    """Weights of the features in `use`, and "bias", that make the right sentences, or "none", most likely."""
    columns = [FEATURES.index(name) for name in use]
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


def fit_answer(cases: Sequence[Case], weights: dict[str, float], use: Sequence[str] = ANSWER) -> dict[str, float]:
    """Weights of the features in `use` and "bias" for the log-odds that the picked sentence answers. A wrong pick is no answer."""
    columns = [FEATURES.index(name) for name in use]
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
    answer = {name: float(value) for name, value in zip(use, raw, strict=True)}
    answer["bias"] = float(found.detach()[-1]) - float((raw * middle).sum())
    return answer


def probability(case: Case, weights: dict[str, float], answer: dict[str, float]) -> float:
    """The chance that the picked sentence answers."""
    pick = picked(case, weights)
    if pick is None:
        return 0.0
    signs = (name for name in answer if name != "bias")
    odds = answer["bias"] + sum(answer[name] * float(case.features[pick, FEATURES.index(name)]) for name in signs)
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, odds))))


def report(cases: Sequence[Case], weights: dict[str, float], answer: dict[str, float]) -> dict[str, Any]:
    """How well the weights pick and refuse.

    `top1`, `top3`: share of answerable questions whose first (first three) sentences hold a gold answer; `retrieved`: whether any
    candidate did. `refused_at`: for each share of answerable questions refused by mistake the threshold, the share refused of the
    unanswerable questions about these documents and of those off topic, and the share of the answers shown that are right.
    """
    asked = [each for each in cases if each.answerable]
    top1, top3, retrieved = [], [], []
    for each in asked:
        order = np.argsort(-scores(each, weights), kind="stable")
        top1.append(bool(len(order) and each.right[order[0]]))
        top3.append(bool(each.right[order[:3]].any()))
        retrieved.append(bool(each.right.any()))
    sure = np.array([probability(each, weights, answer) for each in asked])
    near = np.array([probability(each, weights, answer) for each in cases if not each.answerable and each.about])
    far = np.array([probability(each, weights, answer) for each in cases if not each.answerable and not each.about])
    curve: dict[str, dict[str, float | None]] = {}
    for share in WRONG if asked else ():
        threshold = float(np.quantile(sure, share))
        curve[f"{share:.2f}"] = {
            "threshold": round(threshold, 4),
            "unanswerable": mean(near < threshold),
            "off_topic": mean(far < threshold),
            "right_of_shown": mean(np.array(top1)[sure >= threshold]),
        }
    return {
        "answerable": len(asked), "unanswerable": len(near), "off_topic": len(far), "top1": mean(np.array(top1)),
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
