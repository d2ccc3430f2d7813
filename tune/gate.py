"""A trained candidate and held-out questions → it goes live by a recorded decision, or is refused; what went live can be taken back.

Both states answer through the very code that people are served by. The candidate goes live only if the score rises, with the whole
95 % interval of the paired difference above 0, no guarded score falls by more than the margin, and no quote is wrong.
A decision is a line in live.jsonl of the data folder, which `config.load` reads; the files lie beside it, under their own digest.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import LIVE, Settings, standing_decisions
from errors import UsageError
from evals.compare import BETTER_LOW, row_scores
from evals.intervals import Interval, paired
from evals.questions import Question
from evals.results import commit, table
from evals.run import run
from ingest.embed import EmbedderLike
from ingest.open import Index
from rag.answer import Answerer, open_reader
from rag.engine import open_model
from rag.engine.files import digest

GUARDED = ("contains", "cited_gold", "refused_wrongly", "refused_rightly", "number_wrong")  # none of these may get worse
MARGIN = 0.02  # by which a guarded mean may fall: one question of fifty, less than chance moves it
FILES = {"adapter": ("adapter.gguf",), "reader": ("reader.json", "model.safetensors", "evidence.json")}


@dataclass(frozen=True, slots=True)
class Guard:
    """A score that must not fall: means before and after, and whether it got worse by more than the margin."""

    name: str
    before: float
    after: float
    fell: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` says why the candidate is refused; none: it may go live."""

    score: str
    before: float
    after: float
    difference: Interval
    guards: tuple[Guard, ...]
    quotes_wrong: int
    reasons: tuple[str, ...]


def kind_of(candidate: Path) -> str:
    """"adapter" for a GGUF file, "reader" for a folder with reader.json. Raises UsageError for anything else."""
    if candidate.is_file() and candidate.suffix == ".gguf":
        return "adapter"
    if (candidate / "reader.json").is_file():
        return "reader"
    raise UsageError(f"{candidate} is neither an adapter nor a reader.", "Give adapter.gguf, or the folder of a reader.")


def changes(candidate: Path, kind: str, level: str | None) -> dict[str, str]:
    """The settings that differ with the candidate."""
    return {kind: str(candidate.resolve()), **({"model_level": level} if level else {})}


def measured(
    settings: Settings, questions: Sequence[Question], index: Index, embedder: EmbedderLike, *, unit: str, slack: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[str, list[dict[str, Any]]]:
    """(Name of the model, a row of `evals.run` a question) of the state that `settings` describe."""
    reader, weights = open_reader(settings)
    model = open_model(settings, say)
    try:
        answerer = Answerer(settings, embedder, model, None, reader, weights)
        return model.name, run(questions, index, answerer, unit=unit, slack=slack, say=say)
    finally:
        model.close()


def judge(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], score: str, margin: float = MARGIN) -> Verdict:
    """Whether `after` may go live in place of `before`: rows on the same questions. Raises UsageError where the score applies to none."""
    pairs = {name: _pairs(before, after, name) for name in {score, *GUARDED}}
    if not pairs[score]:
        raise UsageError(f"{score} applies to none of these questions.", "Choose another --score, or other questions.")
    sign = -1 if score in BETTER_LOW else 1
    difference = paired([new for _, new in pairs[score]], [old for old, _ in pairs[score]])
    guards = tuple(_guard(name, pairs[name], margin) for name in GUARDED if pairs[name])
    wrong = sum(row["quotes_wrong"] for row in after)
    reasons = [f"{each.name} gets worse: {each.before:.3f} → {each.after:.3f}" for each in guards if each.fell]
    if min(sign * difference.low, sign * difference.high) <= 0:
        reasons.insert(0, f"{score} is not shown to get better: {difference}")
    if wrong:
        reasons.append(f"{wrong} quotes differ from the stored text")
    old, new = _means(pairs[score])
    return Verdict(score, old, new, difference, guards, wrong, tuple(reasons))


def _guard(name: str, pairs: Sequence[tuple[float, float]], margin: float) -> Guard:
    old, new = _means(pairs)
    return Guard(name, old, new, (new - old) * (-1 if name in BETTER_LOW else 1) < -margin)


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(old for old, _ in pairs) / len(pairs), sum(new for _, new in pairs) / len(pairs)


def _pairs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], score: str) -> list[tuple[float, float]]:
    found = []
    for first, second in zip(before, after, strict=True):
        old, new = row_scores("run", first)[score], row_scores("run", second)[score]
        if old is not None and new is not None:
            found.append((old, new))
    return found


def adopt(home: Path, candidate: Path, kind: str, level: str | None, verdict: Verdict, about: dict[str, Any]) -> dict[str, Any]:
    """Copies the candidate into the data folder and records that it is live. Raises UsageError where the verdict has reasons against it."""
    if verdict.reasons:
        raise UsageError(f"{candidate} is refused: {'; '.join(verdict.reasons)}.", "What is live stays.")
    place = keep(home, candidate, kind)
    value = place / FILES["adapter"][0] if kind == "adapter" else place
    entry = {
        "action": "live", "at": _now(), "kind": kind, "settings": changes(candidate, kind, level) | {kind: str(value.relative_to(home))},
        "digest": place.name, "commit": commit(), "score": verdict.score, "before": verdict.before, "after": verdict.after,
        "difference": verdict.difference.as_json(), "guards": [dataclasses.asdict(each) for each in verdict.guards], **about,
    }
    _append(home, entry)
    return entry


def keep(home: Path, candidate: Path, kind: str) -> Path:
    """The folder home/models/KIND/DIGEST with the candidate's files, copied: a training folder may be deleted afterwards."""
    arriving = home / "models" / kind / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(parents=True)
    if kind == "adapter":
        shutil.copyfile(candidate, arriving / FILES[kind][0])
    else:
        for name in FILES[kind]:
            if (candidate / name).is_file():
                shutil.copyfile(candidate / name, arriving / name)
    place = arriving.with_name(digest(arriving))
    if place.is_dir() and digest(place) == place.name:
        shutil.rmtree(arriving)
    else:
        shutil.rmtree(place, ignore_errors=True)
        arriving.replace(place)
    return place


def back(home: Path) -> dict[str, Any]:
    """Records that the last decision is taken back, and returns it. Raises UsageError where nothing is live."""
    standing = standing_decisions(home)
    if not standing:
        raise UsageError("Nothing that was trained here is live.", "There is nothing to go back to.")
    _append(home, {"action": "back", "at": _now(), "kind": standing[-1]["kind"], "digest": standing[-1]["digest"]})
    return standing[-1]


def text(verdict: Verdict) -> str:
    """The scores as a table."""
    rows: list[tuple[object, ...]] = [(f"{verdict.score} (must rise)", f"{verdict.before:.3f}", f"{verdict.after:.3f}", verdict.difference)]
    rows += [(each.name, f"{each.before:.3f}", f"{each.after:.3f}", "worse" if each.fell else "") for each in verdict.guards]
    rows.append(("wrong quotes", "", str(verdict.quotes_wrong), "worse" if verdict.quotes_wrong else ""))
    return table(("", "live now", "candidate", "difference [95 % interval]"), rows)


def status(home: Path) -> str:
    """What is live, whether its files are what they were, and every decision, newest first."""
    standing = standing_decisions(home)
    lines = [f"Live: {_live(home, each)}" for each in standing] or ["Nothing that was trained here is live."]
    path = home / LIVE
    for line in reversed(path.read_text(encoding="utf-8").splitlines() if path.is_file() else []):
        each = json.loads(line)
        said = f"{each['at']}  {each['action']}: {each['kind']} {each['digest'][:12]}"
        if each["action"] == "live":
            said += (
                f"\n    {each['score']} {each['before']:.3f} → {each['after']:.3f} on {each['difference']['n']} questions of "
                f"{each['questions']}, difference {each['difference']['low']:+.3f} to {each['difference']['high']:+.3f}"
            )
        lines.append(said)
    return "\n".join(lines)


def _live(home: Path, decision: dict[str, Any]) -> str:
    place = home / "models" / decision["kind"] / decision["digest"]
    level = decision["settings"].get("model_level")
    wrong = "" if place.is_dir() and digest(place) == place.name else ", but its files are missing or changed"
    return f"{decision['kind']} {place.name[:12]}{f' at {level}' if level else ''}{wrong}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _append(home: Path, entry: dict[str, Any]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with (home / LIVE).open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(entry, ensure_ascii=False) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
