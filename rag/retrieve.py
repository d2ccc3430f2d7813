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

FUSION_RANK = 60  # reciprocal rank fusion's constant (Cormack, Clarke and Büttcher, SIGIR 2009)
SAME_WORDS = 0.95  # Jaccard overlap of word sets above which two passages with equal numbers and names are one
FOLD_WINDOW = 4  # passages looked at for each one kept, when duplicates are folded


def retrieve(question: str, index: Index, embedder: EmbedderLike, keep: int, allowed: Set[int], pool: int = 100) -> list[Hit]:
    """The `keep` best hits for `question` among the documents `allowed`.

    Args:
        question: one that stands alone (see condense).
        allowed: document ids; passages of others are never looked at, neither by keywords nor by vectors.
        pool: passages taken from each side before fusion.

    Returns hits with scores that compare within the list (reciprocal rank sums), at most `keep`, fewer where less was found.
    """
    if not allowed:
        return []
    pool = max(pool, 2 * keep)
    everything = len(allowed) == sum(each.passages > 0 for each in index.catalog.documents())
    by_words = index.catalog.search_keywords(question, pool, None if everything else allowed)
    among = None if everything else index.catalog.passage_ids(allowed)
    by_meaning = index.vectors.search(embedder.questions([question])[0], pool, among)
    scores = fuse([[passage for passage, _ in by_words], [passage for passage, _ in by_meaning]])
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


def fuse(rankings: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> dict[int, float]:
    """Reciprocal rank fusion: passage → sum over rankings of weight / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0.0) + weight / (FUSION_RANK + rank)
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
