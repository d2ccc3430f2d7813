"""Follow-ups with their conversations, and an index → how well what they ask for is found: as the app searches, and as three others would.

Beside the app's own condensing stand the follow-up as it was asked, with the question before it put in front, and as a person rewrote it
to stand alone. CANARD, QReCC and TREC CAsT compare in the same way. Follow-ups that nothing answers are left to `python -m evals run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from errors import UsageError
from evals.intervals import Interval, interval, paired
from evals.metrics import RANKED
from evals.questions import Question
from evals.results import table
from evals.retrieval import RetrievalScores, retrieval
from ingest.open import Index
from rag.answer import Answerer
from rag.condense import condense
from rag.types import Turn

OURS = "footnote"
WAYS = ("as asked", "with the question before it", OURS, "rewritten by hand")
BY_KIND = "nDCG@10"  # what is told for each kind of follow-up


@dataclass(frozen=True, slots=True)
class Followed:
    """Scores of each way on the same follow-ups, and what the app searched for."""

    ways: dict[str, RetrievalScores]
    searched: dict[str, str]  # question id → what the app made of the follow-up

    @property
    def questions(self) -> tuple[Question, ...]:
        return self.ways[OURS].questions

    def summary(self) -> dict[str, Any]:
        """Means with intervals by way, our differences from the other ways, and one measure by kind of follow-up."""
        means = {way: {each: interval(scores.values("footnote", each)) for each in RANKED} for way, scores in self.ways.items()}
        gains = {
            f"gain over {way}": {
                each: paired(self.ways[OURS].values("footnote", each), scores.values("footnote", each)) for each in RANKED
            }
            for way, scores in self.ways.items() if way != OURS
        }
        kinds: dict[str, dict[str, Any]] = {}
        for kind in sorted({each.kind for each in self.questions}):
            some = [at for at, each in enumerate(self.questions) if each.kind == kind]
            kinds[kind] = {
                way: interval([scores.values("footnote", BY_KIND)[at] for at in some]) for way, scores in self.ways.items()
            }
        left = [float(self.searched[each.id] == each.question) for each in self.questions if each.rewrite == each.question]
        return {
            "unit": self.ways[OURS].unit, "questions": len(self.questions), "absent": len(self.ways[OURS].absent),
            **means, **gains, "by kind": kinds, "stand alone, left as they are": interval(left),
        }

    def text(self) -> str:
        """The summary as tables."""
        summary = self.summary()
        rows = [(name, *found.values()) for name, found in summary.items() if isinstance(found, dict) and name != "by kind"]
        kinds = [
            (kind or "–", found[OURS].n, *(f"{found[way].mean:.3f}" for way in WAYS)) for kind, found in summary["by kind"].items()
        ]
        left: Interval = summary["stand alone, left as they are"]
        return "\n".join([
            f"{summary['questions']} follow-ups; unit: {summary['unit']}", table(("", *RANKED), rows), "",
            table((f"{BY_KIND} by kind", "of", *WAYS), kinds),
            *([f"Questions that stand alone and were left as they are: {left}, of {left.n}"] if left.n else []),
            *([f"{summary['absent']} name a place that is not in the index: they count as misses."] if summary["absent"] else []),
        ])

    def details(self) -> list[dict[str, Any]]:
        """One row a follow-up."""
        return [
            {
                "id": each.id, "kind": each.kind, "question": each.question, "searched": self.searched[each.id], "rewrite": each.rewrite,
                **{way: scores.scores["footnote"][each.id] for way, scores in self.ways.items()},
            }
            for each in self.questions
        ]


def follow(
    questions: Sequence[Question], index: Index, answerer: Answerer, *, unit: str | None = None, slack: int = 0
) -> Followed:
    """Score every way on the follow-ups of `questions` that name where their answer stands.

    Raises UsageError where there is none with a history and a rewrite.
    """
    asked = [each for each in questions if each.history and each.rewrite and each.answerable and each.gold]
    if not asked:
        raise UsageError(
            "The set holds no follow-up with `history`, `rewrite` and `gold`.",
            "docs/measuring.md says how to make one: python -m evals make OUT.jsonl --conversations QUESTIONS.jsonl",
        )
    ways = {
        "as asked": [replace(each, history=()) for each in asked],
        "with the question before it": [replace(each, question=f"{_before(each)} {each.question}", history=()) for each in asked],
        OURS: asked,
        "rewritten by hand": [replace(each, question=each.rewrite, history=()) for each in asked],
    }
    scores = {way: retrieval(some, index, answerer, unit=unit, slack=slack) for way, some in ways.items()}
    return Followed(scores, {each.id: condense(each.question, [Turn(*turn) for turn in each.history]) for each in asked})


def _before(question: Question) -> str:
    return next((content for role, content in reversed(question.history) if role == "user"), "")
