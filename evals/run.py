"""Questions and an index → the app's own answers, scored: wording, citations, refusals, speed.

An answer is scored as shown, without its [n]. Exact match and F1 are SQuAD 2.0's, so they are low by design where whole sentences
are quoted; `contains` and `word recall` say whether the answer stands in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evals.intervals import Interval, interval
from evals.metrics import citation_scores, contains, exact_match, f1, number_verdict, word_recall
from evals.prepare import stored_pages
from evals.questions import Question
from evals.results import table
from evals.units import Span, Units, kind_of
from ingest.open import Index
from rag.answer import Answerer
from rag.evidence import evidence
from rag.types import Answer, Turn

WORDING = ("exact", "f1", "short_exact", "short_f1", "contains", "word_recall", "number_right", "number_wrong")
CITING = ("gold_in_passages", "citation_precision", "citation_recall", "cited_gold")
HOW = ("quoted", "shortened", "written", "computed")
WRONGLY_REFUSED = (0.05, 0.10, 0.15, 0.20, 0.30)  # shares of the answerable at which a curve says what is refused rightly
LABELS = {
    "exact": "answer is a gold answer (exact match)",
    "f1": "F1 of words",
    "short_exact": "short answer is a gold answer",
    "short_f1": "F1 of the short answer's words",
    "contains": "a gold answer stands in it",
    "word_recall": "share of a gold answer's words shown",
    "number_right": "amount right, ± 1 %",
    "number_wrong": "wrong amount stated",
    "gold_in_passages": "gold place among the passages",
    "citation_precision": "citations that point to a gold place",
    "citation_recall": "gold places cited",
    "cited_gold": "a gold place is cited",
    "refused_wrongly": "answerable, but refused",
    "refused_rightly": "unanswerable, refused",
    "right_or_refused": "right answer or right refusal",
}
SPEEDS = {
    "seconds": "seconds an answer", "first_sentence_s": "seconds to the first sentence", "cpu_s": "CPU seconds an answer",
}


def _quiet(_: str) -> None:
    pass


def run(
    questions: Sequence[Question], index: Index, answerer: Answerer, *, unit: str | None = None, slack: int = 0,
    say: Callable[[str], None] = _quiet,
) -> list[dict[str, Any]]:
    """One row of scores a question, in order; a score is None where it does not apply.

    Args:
        unit: what a citation must hit: document, page or paragraph; None: the smallest that the set names.
        slack: pages either side of the gold one that count as right.
        say: hears of progress.
    """
    units = Units(stored_pages(index), unit or kind_of(questions), [gold for each in questions for gold in each.gold])
    rows = []
    for number, question in enumerate(questions, 1):
        say(f"question {number} of {len(questions)}")
        first: list[float] = []
        started = time.perf_counter()

        def emit(event: dict[str, Any], first: list[float] = first, started: float = started) -> None:
            if event["event"] == "sentence" and not first:
                first.append(time.perf_counter() - started)

        history = [Turn(role, content) for role, content in question.history]
        answer = answerer.answer(question.question, index, history=history, document=question.document, emit=emit)
        seconds = time.perf_counter() - started
        found = evidence(answer.question, answer.hits, answerer.embedder, answerer.reader, answerer.weights)  # as while answering
        rows.append({
            **score(question, answer, units, slack, index),
            "probability": round(found.probability, 4),
            "seconds": round(seconds, 3), "first_sentence_s": round(first[0], 3) if first else None,
            "cpu_s": answer.usage.get("cpu_seconds"),
        })
    return rows


def score(question: Question, answer: Answer, units: Units, slack: int, index: Index) -> dict[str, Any]:
    """What `answer` is worth as an answer to `question`."""
    shown = " ".join(each.text for each in answer.sentences)
    golds = [wanted for gold in question.gold if (wanted := units.wanted(gold, slack))]
    row: dict[str, Any] = {
        "id": question.id, "question": question.question, "kind": question.kind, "answerable": question.answerable,
        "found": answer.found, "answer": shown, "gold": list(question.answers),
        "short": next((each.key for each in answer.sentences if each.key), ""),
        "how": [each.how for each in answer.sentences],
        "sentences": [each.text for each in answer.sentences],
        "citations": [
            {
                "sentence": number, "document": each.passage.document, "page": each.passage.page, "start": each.start, "end": each.end,
                "quote": each.quote,
            }
            for number, sentence in enumerate(answer.sentences) for each in sentence.citations
        ],
        "quotes_wrong": wrong_quotes(answer, index),
    }
    row.update(dict.fromkeys((*WORDING, *CITING)))
    if question.answerable and question.answers:
        verdict = number_verdict(shown, question.answers)
        short = row["short"] or shown  # refused: no word is right
        row.update({
            "short_exact": exact_match(short, question.answers), "short_f1": round(f1(short, question.answers), 4),
            "exact": exact_match(shown, question.answers), "f1": round(f1(shown, question.answers), 4),
            "contains": contains(shown, question.answers), "word_recall": round(word_recall(shown, question.answers), 4),
            "number_right": None if not verdict else float(verdict == "right"),
            "number_wrong": None if not verdict else float(verdict == "wrong"),
        })
    if question.answerable and golds:
        passages = [
            frozenset(units.of(Span(each.document, each.page, each.start, each.end)))
            for hit in answer.hits for each in (hit.passage, *hit.also)
        ]
        row["gold_in_passages"] = float(any(found & gold for found in passages for gold in golds))
        cited = [frozenset(units.of(Span(c.passage.document, c.passage.page, c.start, c.end))) for c in answer.citations]
        scores = citation_scores(cited, golds)
        if scores is not None:
            row["citation_precision"], row["citation_recall"], row["cited_gold"] = scores
        row["cited_gold"] = row["cited_gold"] or 0.0  # a refused question cites nothing: counted, or refusing would pay
    return row


def wrong_quotes(answer: Answer, index: Index) -> int:
    """Citations whose quote is not the stored text at its offsets. Anything but 0 is a fault."""
    wrong = 0
    for each in answer.citations:
        text = index.catalog.page(each.passage.document_id, each.passage.page).text
        wrong += text[each.start : each.end] != each.quote or not each.quote
    return wrong


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals over the rows to which each score applies; refusals also by kind of question."""
    answerable = [each for each in rows if each["answerable"]]
    unanswerable = [each for each in rows if not each["answerable"]]
    kinds = sorted({each["kind"] for each in unanswerable if each["kind"]})
    sentences = [how for each in rows for how in each["how"]]
    return {
        "questions": len(rows),
        **{name: interval([float(each[name]) for each in answerable if each[name] is not None]) for name in (*WORDING, *CITING)},
        "refused_wrongly": interval([float(not each["found"]) for each in answerable]),
        "refused_rightly": interval([float(not each["found"]) for each in unanswerable]),
        "refused_rightly_by_kind": {
            kind: interval([float(not each["found"]) for each in unanswerable if each["kind"] == kind]) for kind in kinds
        },
        "right_or_refused": interval([right for each in rows if (right := right_or_refused(each)) is not None]),
        "sentences": {how: sentences.count(how) for how in HOW},
        "citations": sum(len(each["citations"]) for each in rows),
        "quotes_wrong": sum(each["quotes_wrong"] for each in rows),
        "seconds": _spread([each["seconds"] for each in rows]),
        "first_sentence_s": _spread([each["first_sentence_s"] for each in rows if each["first_sentence_s"] is not None]),
        "cpu_s": _spread([each["cpu_s"] for each in rows if each["cpu_s"] is not None]),
    }


def curve(rows: Sequence[dict[str, Any]]) -> dict[str, Interval]:
    """Share of the answerable that may be refused → share of the unanswerable that the evidence would refuse at that threshold.

    Other reasons to refuse come on top; without questions of both kinds there is no curve.
    """
    answerable = [each["probability"] for each in rows if each["answerable"]]
    unanswerable = [each["probability"] for each in rows if not each["answerable"]]
    if not answerable or not unanswerable:
        return {}
    thresholds = {share: float(np.quantile(answerable, share)) for share in WRONGLY_REFUSED}
    return {f"{share:.2f}": interval([float(each < least) for each in unanswerable]) for share, least in thresholds.items()}


def text(scores: dict[str, Any]) -> str:
    """The summary as a table."""
    rows: list[tuple[object, ...]] = [(label, scores[name], scores[name].n) for name, label in LABELS.items() if scores[name].n]
    rows += [(f"  of kind {kind}", found, found.n) for kind, found in scores["refused_rightly_by_kind"].items()]
    total = sum(scores["sentences"].values()) or 1
    rows += [(f"sentences {how}", f"{count / total:.2f}", count) for how, count in scores["sentences"].items()]
    rows.append(("quotes that differ from the stored text", scores["quotes_wrong"], scores["citations"]))
    for name, label in SPEEDS.items():
        spread = scores[name]
        if spread["n"]:
            rows.append((f"{label}, p50 / p95", f"{spread['p50']:.2f} / {spread['p95']:.2f}", spread["n"]))
    return table(("", "mean [95 % interval]", "of"), rows)


def right_or_refused(row: dict[str, Any]) -> float | None:
    """1 for a right answer or a right refusal, None where neither can be told."""
    if not row["answerable"]:
        return float(not row["found"])
    return None if row["contains"] is None else float(row["contains"])


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    if not values:
        return {"p50": None, "p95": None, "n": 0}
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "n": len(values)}
