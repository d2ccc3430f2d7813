"""Question → hits, best first: keywords and vectors searched inside the index among the allowed documents, fused, duplicates folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from rag.types import Hit
from rag.words import words

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from ingest.types import Passage

SAME_WORDS = 0.95  # Jaccard overlap of word sets above which two passages with equal numbers and names are one
DOCUMENT_WEIGHT = 0.4  # of a passage's document beside its own score of 1; chosen on one half of three question sets
DOCUMENT_PASSAGES = 3  # of the best of a document that speak for it; where there are fewer, the missing ones count as 0
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
    by_words = dict(index.catalog.search_keywords(question, pool, None if everything else allowed))
    among = None if everything else index.catalog.passage_ids(allowed)
    vector = embedder.questions([question])[0]
    near = {passage for passage, _ in index.vectors.search(vector, pool, among)}
    every = sorted(near | by_words.keys())
    similarity = index.vectors.similarities(vector, every)
    scores = fuse(by_words, similarity, index.catalog.documents_of(every))
    best = sorted(scores, key=lambda passage: (-scores[passage], passage))[: keep * FOLD_WINDOW]
    hits = [
        Hit(
            passage,
            scores[passage.id],
            "meaning" if passage.id not in by_words else "both" if passage.id in near else "keywords",
            similarity.get(passage.id, 0.0),
        )
        for passage in index.catalog.passages(best)
    ]
    return fold(hits)[:keep]


def fuse(by_words: Mapping[int, float], by_meaning: Mapping[int, float], documents: Mapping[int, int]) -> dict[int, float]:
    """Passage → score from 0 to 1: the mean of its BM25 score and its cosine, each as a share of the best, and its document's share.

    A passage without a word of the question gets nothing for words; a negative cosine counts as 0. What a document's best
    DOCUMENT_PASSAGES passages score on average speaks for each of them: a page about the subject beats a page that names it.
    """
    own: dict[int, float] = {}
    for scores in (by_words, by_meaning):
        best = max(scores.values(), default=0.0)
        for passage, score in scores.items():
            own[passage] = own.get(passage, 0.0) + 0.5 * (max(0.0, score) / best if best > 0 else 0.0)
    of_document: dict[int, list[float]] = {}
    for passage, score in own.items():
        of_document.setdefault(documents[passage], []).append(score)
    whole = {each: sum(sorted(some, reverse=True)[:DOCUMENT_PASSAGES]) / DOCUMENT_PASSAGES for each, some in of_document.items()}
    return {
        passage: (score + DOCUMENT_WEIGHT * whole[documents[passage]]) / (1 + DOCUMENT_WEIGHT) for passage, score in own.items()
    }


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
