"""Documents and reviewed questions → triples to train on: personal data covered, duplicates dropped, one half of the documents only.

The half is the one that choices are made on; the other half stays unseen, so that `python -m tune gate` measures on it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.private import covered, personal
from evals.questions import Gold, from_lines, half_of
from ingest.catalog import Catalog
from ingest.sentences import sentences
from ingest.types import Passage
from tune.data import Triple, normalised


def gather(catalog: Catalog, lines: Iterable[dict[str, Any]], which: str = "tune") -> tuple[list[Triple], Counter[str]]:
    """Triples of the questions whose documents are in the half `which`, and how many lines were kept or left out, by reason.

    `lines` are questions as docs/measuring.md describes them; one with "review": true waits for a person and is left out.
    """
    stored: dict[tuple[str, int | None], list[Passage]] = {}
    for document in catalog.documents():
        if document.status == "ready":
            for passage in catalog.passages_of(document.id):
                stored.setdefault((passage.document, passage.page), []).append(passage)
    counts: Counter[str] = Counter()
    triples: dict[tuple[str, str], Triple] = {}
    for line in lines:
        triple, reason = _triple(line, stored, which)
        if triple is not None and (normalised(triple.question), triple.passage) in triples:
            triple, reason = None, "asked twice"
        if triple is not None:
            triples[normalised(triple.question), triple.passage] = triple
        counts[reason] += 1
    return list(triples.values()), counts


def write(path: Path, triples: Sequence[Triple]) -> None:
    """One triple a line, as `python -m tune reader` and `adapter` read them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in triples), encoding="utf-8")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a question set that `evals.questions.read` has accepted."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _triple(line: dict[str, Any], stored: dict[tuple[str, int | None], list[Passage]], which: str) -> tuple[Triple | None, str]:
    (question,) = from_lines([line])
    if line.get("review"):
        return None, "waits for review"
    if which not in ("all", half_of(question)):
        return None, "kept for the gate"
    if personal(question.question) or any(personal(each) for each in question.answers):
        return None, "personal data in question or answer"
    source = "feedback" if question.kind == "feedback" else "documents"
    if not question.answerable or question.history:
        return None, "a follow-up" if question.history else "no answer"  # packs make their own unanswerable questions
    for gold in question.gold:
        for passage in stored.get((gold.document, gold.page), []):
            start = _start(passage.text, gold, question.answers)
            for answer in question.answers:
                if start is not None and passage.text.startswith(answer, start):
                    return Triple(source, gold.document, question.question, covered(passage.text), answer, start), "kept"
    return None, "answer not found in its place"


def _start(text: str, gold: Gold, answers: Sequence[str]) -> int | None:
    """Where an answer stands in the gold sentence, or, where none is named, in the only sentence of `text` that holds it."""
    wanted = " ".join(gold.text.split())
    places = []
    for left, right in sentences(text):
        sentence = " ".join(text[left:right].split())
        at = next((found for each in answers if each and (found := text.find(each, left, right)) >= 0), -1)
        if at >= 0 and (not wanted or wanted in sentence or sentence in wanted):
            places.append(at)
    return places[0] if places and (wanted or len(places) == 1) else None
