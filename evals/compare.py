"""Two results on the same questions → what changed, with an interval for each difference, down to the questions that changed."""

from __future__ import annotations

from typing import Any

from errors import UsageError
from evals.intervals import Interval, paired
from evals.metrics import RANKED
from evals.results import table
from evals.run import CITING, WORDING, right_or_refused

SHOWN = 20  # changed questions printed for a score; the JSON has them all
BESIDE = ("model", "level", "prompt")  # what a result was made with beside its settings
BETTER_LOW = ("number_wrong", "refused_wrongly", "seconds", "cpu_s")


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Differences after - before for every score that both have, over the questions that both asked.

    Raises UsageError where the results are of different kinds or share no question.
    """
    if before["kind"] != after["kind"]:
        raise UsageError(f"One result is of {before['kind']}, the other of {after['kind']}.", "Compare two of one kind.")
    if after["kind"] not in ("run", "retrieval"):
        raise UsageError(f"Results of {after['kind']} are comparisons already.", "Compare the results of `run` or `retrieval` behind them.")
    earlier = {each["id"]: row_scores(before["kind"], each) for each in before["rows"]}
    later = {each["id"]: row_scores(after["kind"], each) for each in after["rows"]}
    wording = {each["id"]: each["question"] for each in after["rows"]}
    common = [id for id in earlier if id in later]
    if not common:
        raise UsageError("The results share no question.", "Compare results on the same question set.")
    scores: dict[str, Any] = {}
    for name in earlier[common[0]]:
        pairs = [(id, earlier[id][name], later[id][name]) for id in common]
        known = [(id, old, new) for id, old, new in pairs if old is not None and new is not None]
        if known:
            changed = [{"id": id, "question": wording[id], "before": old, "after": new} for id, old, new in known if old != new]
            timed = name in ("seconds", "cpu_s")
            scores[name] = {
                "before": sum(old for _, old, _ in known) / len(known), "after": sum(new for _, _, new in known) / len(known),
                "difference": paired([new for _, _, new in known], [old for _, old, _ in known]),
                "verdict": "", "changed": [] if timed else changed,
            }
            scores[name]["verdict"] = verdict(scores[name]["difference"], name in BETTER_LOW)
    old, new = ({**each["settings"], **{name: each.get(name) for name in BESIDE}} for each in (before, after))
    differing = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return {
        "kind": after["kind"], "questions": len(common), "left_out": len(earlier) + len(later) - 2 * len(common),
        "commits": [before["commit"], after["commit"]],
        "settings": {name: [old.get(name), new.get(name)] for name in differing},
        "scores": scores,
    }


def verdict(difference: Interval, low_is_better: bool = False) -> str:
    """"better" or "worse" where the interval leaves out 0, else "" : nothing shown."""
    if difference.low > 0 or difference.high < 0:
        return "worse" if (difference.mean > 0) == low_is_better else "better"
    return ""


def text(difference: dict[str, Any]) -> str:
    """The comparison as a table, then the questions behind the scores that matter most."""
    rows = [
        (name, f"{each['before']:.3f}", f"{each['after']:.3f}", each["difference"], len(each["changed"]), each["verdict"])
        for name, each in difference["scores"].items()
    ]
    lines = [f"{difference['questions']} questions, commits {' → '.join(difference['commits'])}"]
    lines += [f"{name}: {old} → {new}" for name, (old, new) in difference["settings"].items()]
    lines.append(table(("", "before", "after", "difference [95 % interval]", "changed", ""), rows))
    for name in ("contains", "found", "cited_gold", "recall@5"):
        changed = difference["scores"].get(name, {}).get("changed", [])
        if changed:
            lines.append(f"\n{name}:")
            lines += [f"  {each['before']:g} → {each['after']:g}  {each['id']}  {each['question']}" for each in changed[:SHOWN]]
            if len(changed) > SHOWN:
                lines.append(f"  and {len(changed) - SHOWN} more (--json)")
    return "\n".join(lines)


def row_scores(kind: str, row: dict[str, Any]) -> dict[str, float | None]:
    """Every score of one row of a result; None where it does not apply."""
    if kind == "retrieval":
        return {name: row["footnote"][name] for name in RANKED}
    answerable = row["answerable"]
    return {
        **{name: row.get(name) for name in (*WORDING, *CITING)},  # an older result may lack a newer score
        "refused_wrongly": float(not row["found"]) if answerable else None,
        "refused_rightly": None if answerable else float(not row["found"]),
        "right_or_refused": right_or_refused(row),
        "found": float(row["found"]), "seconds": row["seconds"], "cpu_s": row["cpu_s"],
    }
