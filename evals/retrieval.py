"""Questions and an index → how well the app's own retrieval finds what answers them, beside a plain baseline in the same run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.baseline import Baseline
from evals.intervals import Interval, interval, paired
from evals.metrics import RANKED, ranking_scores
from evals.prepare import stored_pages
from evals.questions import Question
from evals.results import table
from evals.units import Span, Unit, Units, kind_of
from ingest.open import Index
from rag.answer import Answerer
from rag.types import Hit, Turn

DEPTH = 50  # passages asked for: enough to fill ten units even where many passages share one


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Scores by system ("footnote", "baseline", "baseline by paragraph") → question id → measure."""

    unit: str
    questions: tuple[Question, ...]
    scores: dict[str, dict[str, dict[str, float]]]
    found: dict[str, dict[str, list[Unit]]]  # system → question id → its first ten units
    absent: tuple[str, ...]  # ids of questions whose gold is not in the index at all: they count as misses
    seconds: dict[str, list[float]]  # system → wall seconds of each question

    def values(self, system: str, measure: str) -> list[float]:
        return [self.scores[system][question.id][measure] for question in self.questions]

    def summary(self) -> dict[str, Any]:
        """Means with intervals by system, and our gain over the baseline, question by question."""
        systems: dict[str, dict[str, Interval]] = {
            system: {measure: interval(self.values(system, measure)) for measure in RANKED} for system in self.scores
        }
        for theirs in [system for system in self.scores if system != "footnote"]:
            systems[f"gain over {theirs}"] = {
                measure: paired(self.values("footnote", measure), self.values(theirs, measure)) for measure in RANKED
            }
        return {"unit": self.unit, "questions": len(self.questions), "absent": len(self.absent), **systems}

    def text(self) -> str:
        """The summary as a table."""
        summary = self.summary()
        rows = [(name, *(found[measure] for measure in RANKED)) for name, found in summary.items() if isinstance(found, dict)]
        lines = [f"{len(self.questions)} questions; unit: {self.unit}", table(("", *RANKED), rows)]
        if self.absent:
            lines.append(f"{len(self.absent)} questions name a place that is not in the index: {', '.join(self.absent[:5])}")
        return "\n".join(lines)

    def details(self) -> list[dict[str, Any]]:
        """One row a question, for comparing runs."""
        return [
            {
                "id": question.id, "question": question.question,
                **{system: self.scores[system][question.id] for system in self.scores},
                "found": {system: self.found[system][question.id] for system in self.found},
            }
            for question in self.questions
        ]


def retrieval(
    questions: Sequence[Question], index: Index, answerer: Answerer, *, unit: str | None = None, slack: int = 0,
    baseline_cache: Path | None = None,
) -> RetrievalScores:
    """Score the retrieval of `answerer` on the questions that name where their answer stands.

    Args:
        unit: document, page or paragraph; None: the smallest that the set names.
        slack: pages either side of the gold one that count as it.
        baseline_cache: a folder for the baseline's vectors; None: no baseline is run.
    """
    asked = [each for each in questions if each.answerable and each.gold]
    pages = stored_pages(index)
    units = Units(pages, unit or kind_of(asked), [gold for each in asked for gold in each.gold])
    golds = {each.id: [units.wanted(gold) for gold in each.gold] for each in asked}
    near = {each.id: [units.wanted(gold, slack) for gold in each.gold] for each in asked}
    wanted = {id: frozenset(unit for gold in many for unit in gold) for id, many in golds.items()}
    baselines: dict[str, Baseline] = {}
    if baseline_cache is not None:
        baselines["baseline"] = Baseline(pages, answerer.embedder, baseline_cache)
        if units.kind == "paragraph":
            baselines["baseline by paragraph"] = Baseline(pages, answerer.embedder, baseline_cache, cut=True)
    systems = ["footnote", *baselines]
    rankings: dict[str, dict[str, list[Unit]]] = {system: {} for system in systems}
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    for question in asked:
        history = [Turn(role, content) for role, content in question.history]
        started = time.perf_counter()
        hits = answerer.search(question.question, index, history=history, document=question.document, keep=DEPTH)
        seconds["footnote"].append(time.perf_counter() - started)
        rankings["footnote"][question.id] = _near(units.ranking(spans(hits)), golds[question.id], near[question.id])
        allowed = None
        if question.document:
            ids = index.catalog.match(question.document)
            allowed = frozenset(each.document for each in index.catalog.documents() if each.id in ids)
        for system, baseline in baselines.items():
            started = time.perf_counter()
            chunks = baseline.search(question.question, DEPTH, allowed)
            seconds[system].append(time.perf_counter() - started)
            rankings[system][question.id] = _near(units.ranking(chunks), golds[question.id], near[question.id])
    return RetrievalScores(
        unit=units.kind + (f" ± {slack}" if slack else ""),
        questions=tuple(asked),
        scores={system: ranking_scores(rankings[system], wanted) for system in systems},
        found={system: {id: ranked[:10] for id, ranked in rankings[system].items()} for system in systems},
        absent=tuple(id for id, gold in wanted.items() if not gold),
        seconds=seconds,
    )


def spans(hits: Sequence[Hit]) -> list[Span]:
    """Where the hits stand. A passage folded into a better twin stands where that one does."""
    found = []
    for hit in hits:
        for passage in (hit.passage, *hit.also):
            found.append(Span(passage.document, passage.page, passage.start, passage.end))
    return found


def _near(ranking: list[Unit], golds: list[frozenset[Unit]], near: list[frozenset[Unit]]) -> list[Unit]:
    """The ranking with each unit that lies near a gold put in the gold's place."""
    exact = {unit for gold in golds for unit in gold}
    placed = []
    for unit in ranking:
        beside = [gold for gold, around in zip(golds, near, strict=True) if unit in around and gold]
        placed.append(unit if unit in exact or not beside else min(beside[0]))
    return list(dict.fromkeys(placed))
