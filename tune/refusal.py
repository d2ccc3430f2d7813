"""A collection's own made questions → the threshold at which a tolerated share of what it cannot answer is answered all the same.

Each question is asked twice: of the whole collection, which answers it, and without the documents that hold its answer, which do not.
Questions that have nothing to do with any company join the second kind. One half of the questions chooses, the other is reported: with
one number to choose, questions about the same document tell each other next to nothing, and small collections have few documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import UsageError
from evals.intervals import interval
from evals.metrics import contains
from evals.questions import Question
from evals.results import table
from rag.evidence import Weights, evidence
from rag.retrieve import retrieve
from rag.visible import LOCAL, visible

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.reader import Reader

LEAST = 20  # questions of each kind and half; with fewer a share of 5 % is not even one of them


@dataclass(frozen=True, slots=True)
class Asked:
    """One question put once: whether what it was asked of answers it, and how sure the evidence was that it does."""

    half: str
    answerable: bool
    probability: float


def asked(
    questions: Sequence[Question], index: Index, embedder: EmbedderLike, reader: Reader | None, weights: Weights, keep: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Asked]:
    """Every question as it stands, and every one with a gold place once more without the documents of these places."""
    everything = visible(LOCAL, index)
    found = []
    for number, each in enumerate(questions, 1):
        say(f"question {number} of {len(questions)}")
        allowed = everything & frozenset(index.catalog.match(each.document)) if each.document else everything
        hits = retrieve(each.question, index, embedder, keep, allowed, reader=reader)
        found.append(Asked(half(each), each.answerable, evidence(each.question, hits, embedder, reader, weights).probability))
        if not each.gold:
            continue
        names = {gold.document for gold in each.gold}
        without = allowed - {one.id for one in index.catalog.documents() if one.document in names}
        hits = retrieve(each.question, index, embedder, keep, without, reader=reader)
        if not any(contains(hit.passage.text, each.answers) for hit in hits):  # another document may say it too
            found.append(Asked(half(each), False, evidence(each.question, hits, embedder, reader, weights).probability))
    return found


def half(question: Question) -> str:
    """ "tune" or "report", by the question's own words."""
    return "tune" if hashlib.sha256(question.question.encode()).digest()[0] % 2 == 0 else "report"


def refusal(asked: Sequence[Asked], tolerate: float) -> dict[str, Any]:
    """The least threshold that answers at most `tolerate` of the unanswerable in the half that chooses, and the other half's shares.

    Raises UsageError where there are too few questions to say anything.
    """
    halves = {half: [each for each in asked if each.half == half] for half in ("tune", "report")}
    for half, some in halves.items():
        for answerable in (True, False):
            count = sum(each.answerable == answerable for each in some)
            if count < LEAST:
                kind = "answerable" if answerable else "unanswerable"
                raise UsageError(
                    f"There are {count} {kind} questions in the half named {half!r}; {LEAST} are needed.",
                    "Ask for more with --count, add your own with --questions, or index more documents.",
                )
    falling = sorted((each.probability for each in halves["tune"] if not each.answerable), reverse=True)
    threshold = math.nextafter(falling[int(tolerate * len(falling))], 2.0)  # just above the first one too many
    return {
        "threshold": min(1.0, threshold),
        "tolerated": tolerate,
        "chosen_on": shares(halves["tune"], threshold),
        "measured": shares(halves["report"], threshold),
    }


def shares(asked: Sequence[Asked], threshold: float) -> dict[str, Any]:
    """Of the unanswerable the share answered, of the answerable the share refused, each with its interval."""
    false = [float(each.probability >= threshold) for each in asked if not each.answerable]
    lost = [float(each.probability < threshold) for each in asked if each.answerable]
    return {"false_answers": interval(false).as_json(), "wrong_refusals": interval(lost).as_json()}


def curve(asked: Sequence[Asked], tolerated: Sequence[float] = (0.01, 0.02, 0.05, 0.10, 0.20)) -> list[dict[str, Any]]:
    """What each tolerated share would cost, for an admin who is choosing."""
    return [refusal(asked, each) for each in tolerated]


def text(collection: str, found: dict[str, Any] | None, *, dry: bool = False, gone: bool = False) -> str:
    """What an admin reads."""
    if found is None:
        return f"{collection}: the threshold that ships is in force. Fit one: python -m tune refusal --collection {collection}"
    rows = [
        (
            f"{row['tolerated']:.2f}", f"{row['threshold']:.3f}", _share(row["measured"]["false_answers"]),
            _share(row["measured"]["wrong_refusals"]),
        )
        for row in found.get("curve", ())
    ]
    state = "was taken away; the one that ships is in force" if gone else "would be" if dry else "is"
    lines = [
        f"{collection}: the threshold {state} {found['threshold']:.3f}" if not gone else f"{collection}: the fitted threshold {state}",
        f"tolerated  {found['tolerated']:.2f} of what cannot be answered",
        f"measured   {_share(found['measured']['false_answers'])} answered all the same, on the questions not chosen with",
        f"           {_share(found['measured']['wrong_refusals'])} of what can be answered refused",
    ]
    if rows and not gone:
        lines += ["", table(("tolerated", "threshold", "answered wrongly", "refused wrongly"), rows)]
    return "\n".join(lines)


def _share(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] of {found['n']}"
