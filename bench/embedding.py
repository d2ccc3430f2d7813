"""Passages → vectors made a second: as a refresh makes them, by each path, beside a loop that encodes document by document.

The same passages in the same run, in turns. How far the vectors lie apart is said, and what each path finds is scored.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.measures import REPEATS, Bench, Measured
from bench.timing import timing
from errors import UsageError
from evals.prepare import opened
from evals.questions import read, spread
from evals.retrieval import retrieval
from evals.units import kind_of
from ingest.embed import EXACT, PATHS, Embedder, in_batches
from rag.answer import Answerer, open_reader

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from bench.sets import QuestionSet

PASSAGES = 300  # of each set, whole documents spread over it; five turns of each way take some minutes
SCORE = "nDCG@10"
LOOP = "document by document"


def embedding(bench: Bench) -> Measured:
    """Speed and nearness on PASSAGES of each set; nDCG on the whole set, indexed by each path."""
    import numpy

    embedders = {EXACT: Embedder(bench.settings)}  # one that remembers nothing, unlike the bench's own
    refused: dict[str, str] = {}
    for path in PATHS[1:]:
        try:
            embedders[path] = Embedder(dataclasses.replace(bench.settings, embedding=path))
        except UsageError as error:
            refused[path] = error.message
    rows: list[tuple[object, ...]] = []
    body: dict[str, Any] = {"refused": refused}
    for each in bench.sets:
        documents = _documents(bench, each)
        count = sum(map(len, documents))
        ways: dict[str, Callable[[], NDArray[numpy.float32]]] = {LOOP: functools.partial(_loop, embedders[EXACT], documents)}
        ways |= {path: functools.partial(_batched, embedder, documents) for path, embedder in embedders.items()}
        vectors: dict[str, NDArray[numpy.float32]] = {}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(REPEATS):
            for way, make in ways.items():
                bench.say(f"{each.name}: {way}, {turn + 1} of {REPEATS}")
                began, worked = time.perf_counter(), time.process_time()
                vectors[way] = make()
                seconds[way].append(time.perf_counter() - began)
                cpu[way].append(time.process_time() - worked)
        scores = {path: _score(bench, each, embedder) for path, embedder in embedders.items()}
        body[each.name] = {"passages": count}
        for way in ways:
            gains = [loop / mine for loop, mine in zip(seconds[LOOP], seconds[way], strict=True)]
            cpu_gains = [loop / mine for loop, mine in zip(cpu[LOOP], cpu[way], strict=True)]
            cosine = float((vectors[way] * vectors[LOOP]).sum(axis=1).min())
            apart = float(numpy.abs(vectors[way] - vectors[LOOP]).max())
            score = scores.get(way)
            kept = "" if score is None else f"{score:.4f} ({score / scores[EXACT]:.2%})" if scores[EXACT] else f"{score:.4f}"
            rows.append((
                each.name, way, count, f"{count / timing(seconds[way]).median:,.1f}",
                f"{timing(gains).median:.2f} ({min(gains):.2f}–{max(gains):.2f})",
                f"{timing(cpu_gains).median:.2f} ({min(cpu_gains):.2f}–{max(cpu_gains):.2f})", f"{apart:.0e}", f"{cosine:.5f}", kept,
            ))
            body[each.name][way] = {
                "wall": timing(seconds[way]).as_json(), "cpu": timing(cpu[way]).as_json(), "most_apart": apart, "least_cosine": cosine,
                SCORE: score,
            }
    head = (
        "set", "made", "passages", "passages a second", "times the loop, by the clock", "in CPU time", "most apart", "least cosine",
        f"{SCORE} (of exact)",
    )
    return Measured("Embedding", head, tuple(rows), body)


def _documents(bench: Bench, each: QuestionSet) -> list[list[str]]:
    """The texts that are embedded of whole documents spread over the set, PASSAGES or a document more."""
    with opened(bench.settings, each.name, each.docs, bench.embedder) as index:
        ready = [document for document in index.catalog.documents() if document.passages]
        total = sum(document.passages for document in ready)
        found: list[list[str]] = []
        for document in ready[:: max(1, total // PASSAGES)]:
            if sum(map(len, found)) < PASSAGES:
                passages = index.catalog.passages_of(document.id)
                found.append([f"{passage.context}\n{passage.text}" if passage.context else passage.text for passage in passages][:PASSAGES])
        return found


def _loop(embedder: Embedder, documents: Sequence[Sequence[str]]) -> NDArray[numpy.float32]:
    """What a first program does: one `encode` a document."""
    import numpy

    return numpy.concatenate([embedder.passages(texts) for texts in documents])


def _batched(embedder: Embedder, documents: Sequence[Sequence[str]]) -> NDArray[numpy.float32]:
    """As a refresh does it; vectors in the order of the texts."""
    import numpy

    texts = [text for some in documents for text in some]
    made = numpy.zeros((len(texts), embedder.dimensions), dtype=numpy.float32)
    for part in in_batches(texts):
        made[part] = embedder.passages([texts[at] for at in part])
    return made


def _score(bench: Bench, each: QuestionSet, embedder: Embedder) -> float:
    """Mean nDCG@10 of the app's retrieval on the set, indexed with this embedder."""
    questions = spread(read(each.questions), bench.limit)
    path = embedder.name.partition("+")[2]
    collection = f"{each.name}-{path}" if path else each.name
    with opened(bench.settings, collection, each.docs, embedder) as index:
        answerer = Answerer(bench.settings, embedder, None, None, *open_reader(bench.settings))
        scores = retrieval(questions, index, answerer, unit=kind_of(questions))
    values = scores.values("footnote", SCORE)
    return sum(values) / len(values) if values else 0.0


__all__ = ["embedding"]
