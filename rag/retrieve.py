"""Question → hits, best first: keywords and vectors searched inside the index among the allowed documents, fused, duplicates folded."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from rag.types import Hit
from rag.words import words

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from ingest.types import Passage

SAME_WORDS = 0.95  # Jaccard overlap of word sets above which two passages with equal numbers and names are one
FOLD_WINDOW = 4  # passages looked at for each one kept, when duplicates are folded


def retrieve(question: str, index: Index, embedder: EmbedderLike, keep: int, allowed: Set[int], pool: int = 100) -> list[Hit]:
    """The `keep` best hits for `question` among the documents `allowed`.

    Args:
        question: one that stands alone (see condense).
        allowed: document ids; passages of others are never looked at, neither by keywords nor by vectors.
        pool: passages taken from each side before fusion.

    Returns hits with scores from 0 to 1 that compare within the list, at most `keep`, fewer where less was found.
    """
    if not allowed:
        return []
    pool = max(pool, 2 * keep)
    everything = len(allowed) == sum(each.passages > 0 for each in index.catalog.documents())
    by_words = index.catalog.search_keywords(question, pool, None if everything else allowed)
    among = None if everything else index.catalog.passage_ids(allowed)
    by_meaning = index.vectors.search(embedder.questions([question])[0], pool, among)
    scores = fuse(by_words, by_meaning)
    similarity = dict(by_meaning)
    in_words = {passage for passage, _ in by_words}
    best = sorted(scores, key=lambda passage: (-scores[passage], passage))[: keep * FOLD_WINDOW]
    hits = [
        Hit(
            passage,
            scores[passage.id],
            "both" if passage.id in in_words and passage.id in similarity else "keywords" if passage.id in in_words else "meaning",
            similarity.get(passage.id, 0.0),
        )
        for passage in index.catalog.passages(best)
    ]
    return fold(hits)[:keep]


def fuse(by_words: Sequence[tuple[int, float]], by_meaning: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Passage → mean of its two scores, each as a share of the best of its kind; one that a side did not find gets nothing from it.

    Both lists are (passage id, score), best first, scores above 0 (BM25; cosine, of which negative ones count as 0).
    """
    scores: dict[int, float] = {}
    for ranking in (by_words, by_meaning):
        best = max((score for _, score in ranking), default=0.0)
        for passage, score in ranking:
            scores[passage] = scores.get(passage, 0.0) + 0.5 * (max(0.0, score) / best if best > 0 else 0.0)
    return scores


def fold(hits: Sequence[Hit]) -> list[Hit]:
    """Near-duplicates become one hit at the better one's place; the newer text is shown, the others are named in `also`."""
    kept: list[Hit] = []
    prints: list[tuple[set[str], list[str]]] = []
    for hit in hits:
        mine = _print(hit.passage)
        for at, other in enumerate(prints):
            if _same(mine, other):
                newer, older = (hit, kept[at]) if (hit.passage.date or "") > (kept[at].passage.date or "") else (kept[at], hit)
                kept[at] = replace(
                    newer, score=kept[at].score, found_by=kept[at].found_by, also=(*kept[at].also, *hit.also, older.passage)
                )
                break
        else:
            kept.append(hit)
            prints.append(mine)
    return kept


def _print(passage: Passage) -> tuple[set[str], list[str]]:
    found = words(passage.text)
    return {each.form for each in found}, sorted(each.form for each in found if each.critical)


def _same(a: tuple[set[str], list[str]], b: tuple[set[str], list[str]]) -> bool:
    return a[1] == b[1] and len(a[0] & b[0]) >= SAME_WORDS * len(a[0] | b[0])
