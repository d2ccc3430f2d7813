"""A million made-up passages in one collection, built, searched and refreshed; and vector search beside faiss' plain exact index.

Texts are sentences of the sets' documents, drawn at random, so that words are as frequent as people write them; vectors have as many
topics as there are documents. Building skips the reading of files and the embedder, which have measures of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy

from bench.measures import REPEATS, TEXT_SUFFIXES, Bench, Measured
from bench.timing import timing
from errors import UsageError
from evals.prepare import opened
from evals.questions import read, spread
from ingest import publish, vectors
from ingest.catalog import Draft, DraftPassage
from ingest.chunk import RULES
from ingest.editions import RULES as EDITION_RULES
from ingest.embed import EmbeddingCache
from ingest.open import open_index
from ingest.refresh import READING, probe, refresh
from ingest.scan import scan
from ingest.types import Page, ParsedDocument, ParseFailure, SourceFile
from rag.retrieve import retrieve

PASSAGES = 1_000_000
DOCUMENTS = 1_000  # a thousandth of the collection each
SENTENCES_A_PASSAGE = (2, 6)
DIMENSIONS = 384
NOISE = 0.6  # of a passage's vector, against its document's
REAL = 100_000  # vectors of real passages, repeated with NOISE_REPEATED where the sets have fewer
NOISE_REPEATED = 0.1
QUESTIONS = 40
SHARES = (0.9, 0.5, 0.1, 0.01)  # of the passages, or of the documents, that a filter lets through
COLLECTION = "million"
Floats = vectors.Floats


class Sentences:
    """The sentences of the sets' text files, drawn by number: the same number gives the same passage."""

    def __init__(self, bench: Bench) -> None:
        paths = [path for each in bench.sets for path in each.files() if path.suffix.lower() in TEXT_SUFFIXES]
        texts = (" ".join(path.read_text(encoding="utf-8", errors="replace").split()) for path in paths)
        self.all = sorted({each for text in texts for each in re.split(r"(?<=[.!?]) ", text) if 40 < len(each) < 300})
        if len(self.all) < 1000:
            raise UsageError("The sets hold too little plain text to make a million passages of.", "Name sets with text files.")

    def passage(self, number: int) -> str:
        chance = random.Random(number)
        drawn = [chance.choice(self.all) for _ in range(chance.randint(*SENTENCES_A_PASSAGE))]
        return f"{' '.join(drawn)} Number {number}."


class Topics:
    """Vectors by number, as an embedder that answers with made-up ones."""

    name, dimensions = "topics:1", DIMENSIONS

    def passages(self, texts: Sequence[str]) -> Floats:
        """A text's vector is its number's."""
        numbers = [int(found[1]) if (found := re.search(r"Number (\d+)\.", text)) else 0 for text in texts]
        return self.rows(numpy.array(numbers, dtype=numpy.int64))

    def questions(self, texts: Sequence[str]) -> Floats:
        return self.rows(numpy.array([int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % PASSAGES for text in texts]))

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def rows(self, numbers: numpy.ndarray[Any, numpy.dtype[numpy.int64]]) -> Floats:
        made = numpy.empty((len(numbers), DIMENSIONS), dtype=numpy.float32)
        for row, number in zip(made, numbers, strict=True):
            topic = numpy.random.default_rng(int(number) % DOCUMENTS + PASSAGES).standard_normal(DIMENSIONS, dtype=numpy.float32)
            row[:] = topic + NOISE * numpy.random.default_rng(int(number)).standard_normal(DIMENSIONS, dtype=numpy.float32)
        return unit(made)


class Numbers:
    """Reads files that hold the numbers of their passages."""

    def __init__(self, sentences: Sentences) -> None:
        self._sentences = sentences

    def __enter__(self) -> Numbers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def parse_all(self, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, ParsedDocument | ParseFailure, float]]:
        for file in files:
            yield file, self.document(file), 0.0

    def document(self, file: SourceFile) -> ParsedDocument:
        first, count = map(int, file.absolute.read_text(encoding="utf-8").split())
        text = "".join(f"{self._sentences.passage(first + each)}\n\n" for each in range(count))
        return ParsedDocument(kind="txt", title=f"Volume {first // count}", pages=(Page(number=None, text=text),))


def million(bench: Bench) -> Measured:
    """Build, open, search with and without a filter, refresh of a thousandth, and the memory it all took."""
    total, documents = bench.limit or PASSAGES, DOCUMENTS
    a_document = total // documents
    settings = dataclasses.replace(bench.settings, index=bench.settings.home / COLLECTION / "indexes", keep_versions=1)
    folder = bench.settings.home / COLLECTION / "docs"
    shutil.rmtree(bench.settings.home / COLLECTION, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(documents):
        (folder / f"{number:04}.txt").write_text(f"{number * a_document} {a_document}", encoding="utf-8")
    sentences, topics = Sentences(bench), Topics()
    rows: list[tuple[object, ...]] = []
    body: dict[str, Any] = {"passages": total, "documents": documents, "sentences": len(sentences.all)}

    def note(name: str, what: object, value: float) -> None:
        rows.append((name, what))
        body[name] = round(value, 4)
        bench.say(f"{name}: {what}")

    def within(allowed: set[int]) -> Callable[[str], object]:
        return lambda text: retrieve(text, index, topics, 10, allowed)

    began = time.perf_counter()
    _build(bench, settings, folder, sentences, topics, a_document)
    note("catalog, vectors and publishing", f"{time.perf_counter() - began:.0f} s", time.perf_counter() - began)
    version = publish.current(settings.index, COLLECTION)
    size = sum(path.stat().st_size for path in version.folder.iterdir())
    note("on disk", f"{size / 1e9:.2f} GB", size)
    began = time.perf_counter()
    index = open_index(settings.index, COLLECTION, topics.name)
    note("opened, every byte checked", f"{time.perf_counter() - began:.1f} s", time.perf_counter() - began)
    asked = [each.question for each in spread(read(bench.sets[0].questions), QUESTIONS)]
    questions = topics.questions(asked)
    everything = {each.id for each in index.catalog.documents()}
    chance = random.Random(0)
    for share in (None, *SHARES):
        label = "all" if share is None else f"filter {share:.0%}"
        allowed = everything if share is None else set(chance.sample(sorted(everything), max(1, round(share * documents))))
        among = None if share is None else index.catalog.passage_ids(allowed)
        bench.say(f"searching, {label}")
        found = _timed(questions, among_these(index.vectors, among))
        note(f"vectors, {label}", found, found.median)
        found = _timed(asked, within(allowed))
        note(f"retrieve, {label}", found, found.median)
    index.close()
    refreshed = []
    for turn in range(REPEATS if bench.limit else 2):
        bench.say(f"refresh of one document of {documents}, {turn + 1}")
        (folder / f"{turn:04}.txt").write_text(f"{total + turn * a_document} {a_document}", encoding="utf-8")
        began = time.perf_counter()
        report = refresh(
            [("docs", folder)], COLLECTION, settings, embedder=lambda: topics, reader=lambda: Numbers(sentences)
        )  # fmt: skip
        refreshed.append(time.perf_counter() - began)
        if report.count("changed") != 1:
            raise UsageError(f"The refresh changed {report.count('changed')} documents instead of one.", "This is a fault of the measure.")
    note("refresh of 0.1 %", timing(refreshed), timing(refreshed).median)
    began = time.perf_counter()
    refresh([("docs", folder)], COLLECTION, settings, embedder=lambda: topics, reader=lambda: Numbers(sentences))
    note("refresh of nothing", f"{time.perf_counter() - began:.2f} s", time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    note("most memory, mapped files included", f"{peak / 1e9:.1f} GB", peak)
    shutil.rmtree(bench.settings.home / COLLECTION)
    return Measured(f"{total:,} passages in one collection", ("", ""), tuple(rows), body)


def dense(bench: Bench) -> Measured:
    """Vector search beside faiss' IndexFlatIP without a filter, over the vectors of the sets' own passages."""
    parts = []
    for each in bench.sets:
        with opened(bench.settings, each.name, bench.docs(each), bench.embedder) as index:
            parts.append(numpy.array(index.vectors.vectors))
    real = numpy.concatenate(parts)
    chance = numpy.random.default_rng(0)
    total = bench.limit or REAL
    repeated = real[chance.integers(0, len(real), max(0, total - len(real)))]
    made = unit(repeated + NOISE_REPEATED * chance.standard_normal(repeated.shape, dtype=numpy.float32) / numpy.sqrt(DIMENSIONS))
    stored = numpy.concatenate([real, made])[:total]
    ids = numpy.arange(total, dtype=numpy.int64)
    texts = [question.question for each in bench.sets for question in spread(read(each.questions), QUESTIONS)]
    asked = bench.embedder.questions(texts)
    plain = vectors.exact(stored)
    ours = vectors.Vectors(ids, stored)
    base = _timed(asked, lambda row: plain(row, 100))
    rows: list[tuple[object, ...]] = [("IndexFlatIP, no filter", base, "1.000")]
    body: dict[str, Any] = {"vectors": total, "real": min(total, len(real)), "questions": len(asked), "plain": base.as_json()}
    for share in (None, *SHARES):
        allowed = None if share is None else numpy.sort(chance.choice(ids, round(share * total), replace=False))
        found = _timed(asked, among_these(ours, allowed))
        right = 0
        for row in asked:
            cosines = stored @ row if allowed is None else stored[allowed] @ row
            best = numpy.argsort(-cosines)[:10]
            best = best if allowed is None else allowed[best]
            right += len(set(best.tolist()) & {number for number, _ in ours.search(row, 10, allowed)})
        recall = right / (10 * len(asked))
        label = "no filter" if share is None else f"filter {share:.0%}"
        rows.append((f"footnote, {label}", found, f"{recall:.3f}"))
        body[label] = {**found.as_json(), "recall_at_10": recall}
    title = f"Dense search over {total:,} vectors, {min(total, len(real)):,} of them of real passages"
    return Measured(title, ("", "time", "recall@10"), tuple(rows), body)


def among_these(index: vectors.Vectors, allowed: Any) -> Callable[[Any], object]:
    return lambda row: index.search(row, 100, allowed)


def unit(rows: Floats) -> Floats:
    """`rows`, each of length 1."""
    lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
    return numpy.asarray(rows / numpy.maximum(lengths, 1e-12), dtype=numpy.float32)


def _build(bench: Bench, settings: Any, folder: Path, sentences: Sentences, topics: Topics, a_document: int) -> None:
    """Publishes the collection as a refresh would have made it."""
    with publish.lock(settings.index, COLLECTION):
        draft_folder = publish.drafts(settings.index, COLLECTION)
        draft = Draft(draft_folder / "catalog.sqlite")
        files = scan(folder, "docs").files
        for done, file in enumerate(files, 1):
            bench.say(f"building {done} of {len(files)}")
            first = int(file.absolute.read_text(encoding="utf-8").split()[0])
            passages, start = [], 0
            for number in range(first, first + a_document):
                text = f"{sentences.passage(number)}\n\n"
                key = EmbeddingCache.key(text, topics.name)
                passages.append(DraftPassage(0, start, start + len(text), "", "", text, key))
                start += len(text)
            page = Page(number=None, text="".join(each.text for each in passages))
            document = ParsedDocument(kind="txt", title=f"Volume {first // a_document}", pages=(page,))
            draft.add(file, document, passages, added=publish.now())
        draft.set_fact("chunk", f"{RULES}/{settings.passage_tokens}/{topics.name}")
        bench.say("comparing documents")
        draft.compare()
        draft.set_fact("editions", str(EDITION_RULES))
        draft.set_fact("sources", f'[["docs", "{folder.resolve()}", []]]')
        draft.seal()
        total = a_document * len(files)
        ids = numpy.arange(1, total + 1, dtype=numpy.int64)
        made = numpy.empty((total, DIMENSIONS), dtype=numpy.float32)
        for start in range(0, total, a_document):
            bench.say(f"made-up vectors {start:,}")
            made[start : start + a_document] = topics.rows(ids[start : start + a_document] - 1)
        vectors.save(draft_folder / "passages.npy", draft_folder / "vectors.npy", ids, made)
        manifest = publish.Manifest(
            format=publish.FORMAT, version="", collection=COLLECTION, created="", embedder=topics.name, dimensions=DIMENSIONS,
            reading=READING, passage_tokens=settings.passage_tokens, documents=len(files), passages=total, files={},
        )  # fmt: skip
        publish.publish(settings.index, COLLECTION, draft_folder, manifest, keep=1, probe=probe)


def _timed(asked: Any, search: Callable[[Any], object]) -> Any:
    """Seconds of each question, after one that is not counted."""
    search(asked[0])
    seconds = []
    for each in asked:
        began = time.perf_counter()
        search(each)
        seconds.append(time.perf_counter() - began)
    return timing(seconds)


__all__ = ["dense", "million"]
