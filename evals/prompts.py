"""Two prompts and questions → which is better, chosen on one half of the questions, confirmed on the other, and live by a decision.

A decision is a line in prompts/decisions.jsonl of the data folder; `rag/prompt.py` reads there which prompt is live.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UsageError
from evals.compare import BETTER_LOW, row_scores
from evals.intervals import Interval, at_least, interval, paired
from evals.questions import Question, half
from evals.results import commit, table
from evals.run import run
from ingest.open import Index
from rag.answer import Answerer
from rag.prompt import DECISIONS, FOLDER, SHIPPED, Wording, adopted, decisions, live, opened

HALVES = {"tune": "tuning half", "report": "held-out half"}
Rows = dict[str, dict[str, list[dict[str, Any]]]]  # half → prompt's label → a row of scores a question


@dataclass(frozen=True, slots=True)
class Half:
    """One half of the questions: each prompt's score, the difference second - first, and how little it may be in the winner's favour."""

    scores: tuple[Interval, Interval]
    difference: Interval
    least: float  # one-sided 95 % lower bound of the difference in favour of the prompt that won the tuning half
    changed: tuple[tuple[str, str, float, float], ...]  # id, question, score with the first, with the second


@dataclass(frozen=True, slots=True)
class Judgement:
    """`winner` is the label of the better prompt on the tuning half, "" where both did equally; `confirmed` by the held-out half."""

    labels: tuple[str, str]
    score: str
    tune: Half
    report: Half
    winner: str
    confirmed: bool


def measure(
    wordings: Sequence[Wording], questions: Sequence[Question], index: Index, answerer: Answerer, *, unit: str, slack: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Rows:
    """The rows of `evals.run` for each half of the questions and each prompt. Raises UsageError where a half is empty."""
    rows: Rows = {}
    for which, called in HALVES.items():
        asked = half(questions, which)
        if not asked:
            raise UsageError(f"The {called} of the questions is empty.", "Ask about more documents: halves go by document.")
        rows[which] = {
            each.label: run(asked, index, dataclasses.replace(answerer, wording=each), unit=unit, slack=slack, say=say)
            for each in wordings
        }
    return rows


def judge(rows: Rows, labels: tuple[str, str], score: str) -> Judgement:
    """Which prompt is better by `score`. Confirmed: on the held-out half the same one is better, with 95 % confidence, one-sided."""
    sign = -1 if score in BETTER_LOW else 1
    pairs = {which: _pairs(found, labels, score) for which, found in rows.items()}
    lead = sign * statistics.fmean(new - old for _, _, old, new in pairs["tune"])
    towards = sign * (1 if lead >= 0 else -1)
    tune, report = (_half(pairs[which], towards) for which in HALVES)
    winner = "" if lead == 0 else labels[lead > 0]
    return Judgement(labels, score, tune, report, winner, bool(winner) and report.least > 0)


def _pairs(found: dict[str, list[dict[str, Any]]], labels: tuple[str, str], score: str) -> list[tuple[str, str, float, float]]:
    scored = []
    for first, second in zip(found[labels[0]], found[labels[1]], strict=True):
        old, new = (row_scores("run", row)[score] for row in (first, second))
        if old is not None and new is not None:
            scored.append((first["id"], first["question"], old, new))
    if not scored:
        raise UsageError(f"{score} applies to no question of one half.", "Choose another --score.")
    return scored


def _half(pairs: Sequence[tuple[str, str, float, float]], towards: int) -> Half:
    old, new = [each[2] for each in pairs], [each[3] for each in pairs]
    least = at_least([towards * (b - a) for a, b in zip(old, new, strict=True)])
    return Half((interval(old), interval(new)), paired(new, old), least, tuple(each for each in pairs if each[2] != each[3]))


def adopt(home: Path, wording: Wording, judgement: Judgement, measured: dict[str, Any]) -> dict[str, Any]:
    """Record that `wording` is live from now on. `measured` says with what: model, level, collection, index version, results file.

    Raises UsageError where it was not confirmed, or its version number was used for other words before.
    """
    if not judgement.confirmed or judgement.winner != wording.label:
        raise UsageError(f"{wording.label} was not confirmed on the held-out half.", "What is live stays.")
    for each in decisions(home):
        if (each.get("prompt"), each.get("version")) == (wording.name, wording.version) and each["text"] != wording.text:
            raise UsageError(f"{wording.label} was adopted before with other words.", "Raise the version in its first line.")
    winner = judgement.labels.index(judgement.winner)
    entry = {
        **_entry("adopted", live(home).label, wording.label), "prompt": wording.name, "version": wording.version,
        "sha256": hashlib.sha256(wording.text.encode()).hexdigest(), "score": judgement.score,
        **{which: _half_json(each, winner == 0) for which, each in (("tune", judgement.tune), ("report", judgement.report))},
        **measured, "text": wording.text,
    }
    _append(home, entry)
    return entry


def back(home: Path) -> dict[str, Any]:
    """Record that the prompt before the live one is live again. Raises UsageError where nothing was adopted."""
    standing = adopted(decisions(home))
    if not standing:
        raise UsageError(f"{opened(SHIPPED).label} is live and came with Footnote.", "There is nothing to go back to.")
    entry = _entry("went back", standing[-1].label, (standing[-2] if len(standing) > 1 else opened(SHIPPED)).label)
    _append(home, entry)
    return entry


def text(judgement: Judgement) -> str:
    """Both prompts on both halves, and what follows from it."""
    first, second = judgement.labels
    head = ("", first, second, "difference [95 % interval]", "questions", "changed")
    rows = [
        (HALVES[which], *found.scores, found.difference, found.difference.n, len(found.changed))
        for which, found in (("tune", judgement.tune), ("report", judgement.report))
    ]
    lines = [f"{judgement.score}, {second} against {first}", table(head, rows)]
    for which, found in (("tune", judgement.tune), ("report", judgement.report)):
        lines += [f"{HALVES[which]}: {old:g} → {new:g}  {id}  {question}" for id, question, old, new in found.changed]
    return "\n".join([*lines, "", conclusion(judgement)])


def conclusion(judgement: Judgement) -> str:
    """Who won, and whether it was confirmed."""
    if not judgement.winner:
        return "Both prompts do equally well on the tuning half. There is nothing to confirm."
    loser = judgement.labels[judgement.winner == judgement.labels[0]]
    lead, least = abs(judgement.tune.difference.mean), judgement.report.least
    said = f"{judgement.winner} is better than {loser} on the tuning half, by {lead:.3f}. "
    if judgement.confirmed:
        return said + f"The held-out half confirms it: better by at least {least:.3f}, with 95 % confidence."
    return said + f"The held-out half does not confirm it: with 95 % confidence it may be {abs(least):.3f} worse."


def status(home: Path) -> str:
    """Which prompt is live, the decisions that led there, newest first, and the prompts that could be compared."""
    made = decisions(home)
    lines = [f"Live: {live(home).label}" + ("" if made else ", as Footnote comes with it; no decision was made yet")]
    for each in reversed(made):
        line = f"{each['at']}  {each['action']}: {each['before']} → {each['after']}  (commit {each['commit']})"
        if each["action"] == "adopted":
            held = each["report"]
            line += (
                f"\n    {each['score']} on the held-out half {held['before']['mean']:.3f} → {held['after']['mean']:.3f}, "
                f"at least {held['at_least']:+.3f}; {each['model']} at {each['level']}; {each['results']}"
            )
        lines.append(line)
    folders = (FOLDER, home / "prompts")
    names = sorted(path.stem for folder in folders for path in folder.glob("*.md") if path.stem != "README")
    return "\n".join([*lines, f"There are: {', '.join(names)}"])


def _entry(action: str, before: str, after: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"at": now, "action": action, "before": before, "after": after, "commit": commit()}


def _half_json(found: Half, winner_first: bool) -> dict[str, Any]:
    """The scores of the prompt that lost and of the one that won."""
    before, after = reversed(found.scores) if winner_first else found.scores
    return {"before": before.as_json(), "after": after.as_json(), "at_least": round(found.least, 4)}


def _append(home: Path, entry: dict[str, Any]) -> None:
    """Write the decisions with one more; whoever reads meanwhile sees all of the old ones or all of the new."""
    path = home / "prompts" / DECISIONS
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in [*decisions(home), entry])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as written:
        written.write(lines)
        written.flush()
        os.fsync(written.fileno())
    unfinished.replace(path)
