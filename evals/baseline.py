"""Stored pages → the retrieval everybody starts with, to be compared with: 180-word chunks, BM25 and vectors fused by rank.

It reads the same parsed text and uses the same embedder as the index, so a difference is retrieval's alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.units import Span, StoredPage, paragraphs

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike

CHUNK_WORDS = 180
OVERLAP_WORDS = 40
BM25_K1, BM25_B = 1.2, 0.75  # Lucene's values; words are lower-cased, neither stemmed nor stopped
FUSION_RANK = 60  # reciprocal rank fusion's constant
POOL = 1000  # chunks of each ranking that are fused
WORD = re.compile(r"\w+")
SPACED = re.compile(r"\S+")


def chunks(page: StoredPage, start: int = 0, end: int | None = None) -> list[Span]:
    """Slices of 180 words of text[start:end], each beginning 140 words after the one before."""
    stop = len(page.text) if end is None else end
    words = [match.span() for match in SPACED.finditer(page.text, start, stop)]
    spans = []
    for first in range(0, len(words), CHUNK_WORDS - OVERLAP_WORDS):
        last = min(first + CHUNK_WORDS, len(words))
        spans.append(Span(page.document, page.number, words[first][0], words[last - 1][1]))
        if last == len(words):
            break
    return spans


class Baseline:
    """Holds the chunks of some pages, their BM25 index and their vectors; the vectors are kept in `cache` between runs.

    Chunks never cross a page, nor a paragraph where `cut` is true: stronger, for sets whose unit is the paragraph.
    """

    def __init__(self, pages: Sequence[StoredPage], embedder: EmbedderLike, cache: Path, cut: bool = False) -> None:
        self._embedder = embedder
        self.spans = [
            span for page in pages
            for start, end in (paragraphs(page.text) if cut else [(0, len(page.text))])
            for span in chunks(page, start, end)
        ]
        texts = {(page.document, page.number): page.text for page in pages}
        self._texts = [texts[span.document, span.page][span.start : span.end] for span in self.spans]
        self._words = _Words(self._texts)
        self._vectors = self._embedded(cache)

    def search(self, question: str, keep: int, documents: frozenset[str] | None = None) -> list[Span]:
        """The `keep` best chunks, best first, among `documents` (None: all)."""
        by_words = self._words.scores(question)
        by_meaning = self._vectors @ self._embedder.questions([question])[0]
        allowed = np.array([documents is None or span.document in documents for span in self.spans])
        fused = np.zeros(len(self.spans))
        for scores, there in ((by_words, allowed & (by_words > 0)), (by_meaning, allowed)):
            order = np.argsort(-np.where(there, scores, -np.inf), kind="stable")[: min(POOL, int(there.sum()))]
            fused[order] += 1 / (FUSION_RANK + 1 + np.arange(len(order)))
        best = np.argsort(-fused, kind="stable")[:keep]
        return [self.spans[at] for at in best if fused[at] > 0]

    def _embedded(self, cache: Path) -> np.ndarray:
        digest = hashlib.sha256("\0".join([self._embedder.name, *self._texts]).encode()).hexdigest()[:32]
        path = cache / f"{digest}.npy"
        if path.is_file():
            kept: np.ndarray = np.load(path, allow_pickle=False)
            return kept
        vectors = np.asarray(self._embedder.passages(self._texts), dtype=np.float32)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, vectors, allow_pickle=False)
        unfinished.replace(path)
        return vectors


class _Words:
    """BM25 over texts (Robertson and Zaragoza, 2009), with the never negative idf that Lucene uses."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(WORD.findall(text.lower())) for text in texts]
        lengths = np.array([each.total() for each in counts], dtype=np.float64)
        long = 1 - BM25_B + BM25_B * lengths / max(float(lengths.mean()) if len(lengths) else 1.0, 1.0)
        postings: dict[str, list[tuple[int, int]]] = {}
        for at, each in enumerate(counts):
            for word, count in each.items():
                postings.setdefault(word, []).append((at, count))
        self._total = len(texts)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, found in postings.items():
            where, often = np.array(found).T
            rarity = math.log(1 + (self._total - len(found) + 0.5) / (len(found) + 0.5))
            self._weights[word] = where, rarity * often / (often + BM25_K1 * long[where])

    def scores(self, question: str) -> np.ndarray:
        """(texts,) scores; 0 where no word of the question stands."""
        scores = np.zeros(self._total)
        for word in WORD.findall(question.lower()):
            if word in self._weights:
                where, weights = self._weights[word]
                scores[where] += weights
        return scores
