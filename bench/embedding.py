"""Passages → vectors made a second: as a refresh makes them, by each path, beside a loop that encodes document by document.

The same passages in the same run, in turns, and how far the vectors lie apart. What each path finds is a measure of its own, since
whole sets are embedded for it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
from ingest.chunk import chunk_document
from ingest.embed import EXACT, PATHS, Embedder, Tokens, cores, in_batches, plain
from ingest.sandbox import Sandbox
from ingest.scan import scan
from ingest.types import ParseFailure
from rag.answer import Answerer, open_reader

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from bench.sets import QuestionSet

PASSAGES = 120  # of each set: five turns of each way take a minute or two of two cores
A_DOCUMENT = 40  # most passages of one document, so that a book is not the whole sample
STEPS = 40  # documents looked at lie this many to a set, evenly
SCORE = "nDCG@10"
LOOP = "document by document"


def embedding(bench: Bench) -> Measured:
    """Speed and nearness on `PASSAGES` of each set, or --limit of them."""
    import numpy

    embedders, refused = _embedders(bench)
    loop = plain(bench.settings)
    rows: list[tuple[object, ...]] = []
    body: dict[str, Any] = {"refused": refused}
    for each in bench.sets:
        bench.say(f"{each.name}: reading")
        documents = _documents(bench, each)
        count = sum(map(len, documents))
        if not count:
            continue
        ways: dict[str, Callable[[], NDArray[numpy.float32]]] = {LOOP: functools.partial(_loop, loop, documents)}
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
        body[each.name] = {"passages": count, "documents": len(documents)}
        for way in ways:
            gains = [loop / mine for loop, mine in zip(seconds[LOOP], seconds[way], strict=True)]
            cpu_gains = [loop / mine for loop, mine in zip(cpu[LOOP], cpu[way], strict=True)]
            cosine = float((vectors[way] * vectors[LOOP]).sum(axis=1).min())
            apart = float(numpy.abs(vectors[way] - vectors[LOOP]).max())
            rows.append((
                each.name, way, f"{count} of {len(documents)} documents", f"{count / timing(seconds[way]).median:,.1f}",
                f"{timing(gains).median:.2f} ({min(gains):.2f}–{max(gains):.2f})",
                f"{timing(cpu_gains).median:.2f} ({min(cpu_gains):.2f}–{max(cpu_gains):.2f})", f"{apart:.0e}", f"{cosine:.5f}",
            ))
            body[each.name][way] = {
                "wall": timing(seconds[way]).as_json(), "cpu": timing(cpu[way]).as_json(), "most_apart": apart, "least_cosine": cosine,
            }
    head = ("set", "made", "passages", "passages a second", "times the loop, by the clock", "in CPU time", "most apart", "least cosine")
    return Measured("Embedding", head, tuple(rows), body)


def finding(bench: Bench) -> Measured:
    """nDCG@10 of the app's retrieval on whole sets, indexed by each path; embeds what it has not embedded before."""
    embedders, refused = _embedders(bench)
    rows: list[tuple[object, ...]] = []
    body: dict[str, Any] = {"refused": refused}
    for each in bench.sets:
        found: dict[str, float] = {}
        for path, embedder in embedders.items():
            bench.say(f"{each.name}: {path}")
            found[path] = _score(bench, each, embedder)
            of_exact = f"{found[path] / found[EXACT]:.2%}" if found[EXACT] else "–"
            rows.append((each.name, path, f"{found[path]:.4f}", of_exact))
        body[each.name] = found
    return Measured("What each way of embedding finds", ("set", "made", SCORE, "of exact"), tuple(rows), body)


def _embedders(bench: Bench) -> tuple[dict[str, Embedder], dict[str, str]]:
    """An embedder a path, as a refresh uses it, and why others cannot be had here."""
    embedders: dict[str, Embedder] = {}
    refused: dict[str, str] = {}
    for path in PATHS:
        try:
            embedders[path] = Embedder(dataclasses.replace(bench.settings, embedding=path), workers=bench.settings.threads or cores())
        except UsageError as error:
            refused[path] = error.message
    return embedders, refused


def _documents(bench: Bench, each: QuestionSet) -> list[list[str]]:
    """The texts that are embedded of documents spread over the set."""
    files = scan(each.docs, each.name).files
    most = bench.limit or PASSAGES
    starts = Tokens(bench.settings).starts
    found: list[list[str]] = []
    with Sandbox(bench.settings) as sandbox:
        for _, parsed, _ in sandbox.parse_all(files[:: max(1, len(files) // STEPS)]):
            if isinstance(parsed, ParseFailure):
                continue
            texts = []
            for position, piece in itertools.islice(chunk_document(parsed, starts, bench.settings), A_DOCUMENT):
                text = parsed.pages[position].text[piece.start : piece.end]
                texts.append(f"{piece.context}\n{text}" if piece.context else text)
            found.append(texts[: most - sum(map(len, found))])
            if sum(map(len, found)) >= most:
                break
    return [texts for texts in found if texts]


def _loop(encode: Callable[[Sequence[str]], Any], documents: Sequence[Sequence[str]]) -> NDArray[numpy.float32]:
    """What a first program does: one `encode` a document."""
    import numpy

    return numpy.concatenate([encode(texts) for texts in documents])


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


__all__ = ["embedding", "finding"]
