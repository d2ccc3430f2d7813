"""Question → hits, best first: keywords and vectors searched inside the index among the allowed documents, fused, duplicates folded."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from rag.newer import newer_first
from rag.types import Hit
from rag.words import FUNCTION_WORDS, stem, words

if TYPE_CHECKING:
    from ingest.catalog import Document
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from ingest.types import Passage
    from rag.reader import Reader

SAME_WORDS = 0.95  # Jaccard overlap of word sets above which two passages with equal numbers and names are one
DOCUMENT_WEIGHT = 0.4  # of a passage's document beside its own score of 1; chosen on one half of three question sets
DOCUMENT_PASSAGES = 3  # of the best of a document that speak for it; where there are fewer, the missing ones count as 0
NAMED_WEIGHT = 0.3  # of a document whose name the question says, beside a passage's own score of 1; chosen on one half of one set
READ = 12  # passages that the reader looks at, 20 to 80 ms of one core each
READER_WEIGHT = 0.1  # of its word beside a score of 1; chosen on one half of three question sets
READER_SCALE = 3.0  # logits; what a margin is divided by before it becomes a share
FOLD_WINDOW = 4  # passages looked at for each one kept, when duplicates are folded

_YEAR = re.compile(r"(?:19|20)\d\d")
_LETTERS_OR_DIGITS = re.compile(r"\d+|[^\W\d_]+")


def retrieve(
    question: str, index: Index, embedder: EmbedderLike, keep: int, allowed: Set[int], pool: int = 100, reader: Reader | None = None
) -> list[Hit]:
    """The `keep` best hits for `question` among the documents `allowed`.

    Args:
        question: one that stands alone (see condense).
        allowed: document ids; passages of others are never looked at, neither by keywords nor by vectors.
        pool: passages taken from each side before fusion.
        reader: reads the first READ of them and has a word in their order.

    Returns hits with scores from 0 to 1 that compare within the list, at most `keep`, fewer where less was found.
    """
    if not allowed:
        return []
    looked = max(keep, READ)
    pool = max(pool, 2 * looked)
    everything = len(allowed) == sum(each.passages > 0 for each in index.catalog.documents())
    by_words = dict(index.catalog.search_keywords(question, pool, None if everything else allowed))
    among = None if everything else index.catalog.passage_ids(allowed)
    vector = embedder.questions([question])[0]
    near = {passage for passage, _ in index.vectors.search(vector, pool, among)}
    every = sorted(near | by_words.keys())
    similarity = index.vectors.similarities(vector, every)
    documents = index.catalog.documents_of(every)
    called = named(question, [index.catalog.document(each) for each in set(documents.values())])
    scores = fuse(by_words, similarity, documents, called)
    best = sorted(scores, key=lambda passage: (-scores[passage], passage))[: looked * FOLD_WINDOW]
    hits = [
        Hit(
            passage,
            scores[passage.id],
            "meaning" if passage.id not in by_words else "both" if passage.id in near else "keywords",
            similarity.get(passage.id, 0.0),
        )
        for passage in index.catalog.passages(best)
    ]
    hits = fold(newer_first(question, hits, index.catalog, allowed))
    if reader is not None:
        hits = newer_first(question, reread(question, hits, reader), index.catalog, allowed)
    return hits[:keep]


def reread(question: str, hits: Sequence[Hit], reader: Reader) -> list[Hit]:
    """The first READ of `hits` in an order in which the reader has a word: how far it finds an answer above "none is here"."""
    readings = reader.read(question, [hit.passage.text for hit in hits[:READ]])
    sure = [READER_WEIGHT / (1 + math.exp(-each.margin / READER_SCALE)) for each in readings] + [0.0] * len(hits[READ:])
    scored = [replace(hit, score=(hit.score + more) / (1 + READER_WEIGHT)) for hit, more in zip(hits, sure, strict=True)]
    return sorted(scored[:READ], key=lambda hit: -hit.score) + scored[READ:]


def named(question: str, documents: Iterable[Document]) -> set[int]:
    """Those of `documents` that the question calls by name: by a year and another word of their file's path or title.

    "Acme's 2019 annual report" means one of twenty annual reports, however much another says about what is asked. Where
    several fit, those with the most words in common. A name without a year is mostly a subject, which the search sees to.
    """
    asked = name_words(question)
    fitting: dict[int, int] = {}
    for each in documents:
        shared = asked & name_words(f"{each.path.rpartition('.')[0]} {each.title}")
        if any(_YEAR.fullmatch(word) for word in shared) and not all(word.isdigit() for word in shared):
            fitting[each.id] = len(shared)
    most = max(fitting.values(), default=0)
    return {number for number, count in fitting.items() if count == most}


@lru_cache(maxsize=10_000)
def name_words(text: str) -> frozenset[str]:
    """Words a file may be known by, with the year of "FY2019" and neighbours as one: "Best Buy" is "BESTBUY_2019.pdf"."""
    runs = _LETTERS_OR_DIGITS.findall(text.lower())
    plain = [each for each in runs if each not in FUNCTION_WORDS]
    return frozenset([stem(each) for each in plain] + [first + second for first, second in itertools.pairwise(runs)])


def fuse(
    by_words: Mapping[int, float], by_meaning: Mapping[int, float], documents: Mapping[int, int], called: Collection[int] = ()
) -> dict[int, float]:
    """Passage → score from 0 to 1: the mean of its BM25 score and its cosine, each as a share of the best, and its document's share.

    A passage without a word of the question gets nothing for words; a negative cosine counts as 0. What a document's best
    DOCUMENT_PASSAGES passages score on average speaks for each of them: a page about the subject beats a page that names it.
    Passages of the documents in `called` get NAMED_WEIGHT on top.
    """
    own: dict[int, float] = {}
    for scores in (by_words, by_meaning):
        best = max(scores.values(), default=0.0)
        for passage, score in scores.items():
            own[passage] = own.get(passage, 0.0) + 0.5 * (max(0.0, score) / best if best > 0 else 0.0)
    highest = 1.0
    if called:
        highest += NAMED_WEIGHT
        own = {passage: score + NAMED_WEIGHT * (documents[passage] in called) for passage, score in own.items()}
    of_document: dict[int, list[float]] = {}
    for passage, score in own.items():
        of_document.setdefault(documents[passage], []).append(score)
    whole = {each: sum(sorted(some, reverse=True)[:DOCUMENT_PASSAGES]) / DOCUMENT_PASSAGES for each, some in of_document.items()}
    return {
        passage: (score + DOCUMENT_WEIGHT * whole[documents[passage]]) / (1 + DOCUMENT_WEIGHT) / highest for passage, score in own.items()
    }


def fold(hits: Sequence[Hit]) -> list[Hit]:
    """Near-duplicates become one hit at the better one's place; the newer text is shown, the others are named in `also`."""
    kept: list[Hit] = []
    prints: list[tuple[set[str], list[str]]] = []
    for hit in hits:
        mine = _print(hit.passage)
        for at, other in enumerate(prints):
            if _same(mine, other):
                is_newer = not hit.passage.newer and (hit.passage.date or "") > (kept[at].passage.date or "")
                newer, older = (hit, kept[at]) if is_newer else (kept[at], hit)
                kept[at] = replace(newer, score=kept[at].score, found_by=kept[at].found_by, also=(*kept[at].also, *hit.also, older.passage))
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
