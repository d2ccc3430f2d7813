"""Hits → hits in which a newer edition's passage stands before the older one's equal passage, and older editions are labelled.

Which documents are editions of one was found while they were read (`ingest/editions.py`). A question that names a year or a version
knows which one it wants: its order stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from ingest.editions import VERSION
from rag.types import Hit
from rag.words import words

if TYPE_CHECKING:
    from ingest.catalog import Catalog

EQUAL = 0.5  # Jaccard overlap of word sets from which passages of two editions say the same thing, with other figures
NAMED_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)|(?<![^\W_])(?:FY|')\s?\d\d(?!\d)", re.IGNORECASE)


def newer_first(question: str, hits: Sequence[Hit], catalog: Catalog, allowed: Set[int]) -> list[Hit]:
    """`hits`, best first, with `newer` set on passages of older editions; the newer one's equal passage takes the better place.

    A newer edition that is not `allowed` is neither named nor preferred. Scores stay with the places.
    """
    newest = {number: each.other for number, each in catalog.editions().items() if each.kind == "older" and each.other in allowed}
    older = [at for at, hit in enumerate(hits) if hit.passage.document_id in newest]
    if not older:
        return list(hits)
    labelled = list(hits)
    for at in older:
        passage = hits[at].passage
        labelled[at] = replace(hits[at], passage=replace(passage, newer=catalog.document(newest[passage.document_id]).document))
    if NAMED_YEAR.search(question) or VERSION.search(question):
        return labelled
    for at in older:
        mine = labelled[at].passage
        for below in range(at + 1, len(labelled)):
            theirs = labelled[below].passage
            if theirs.document_id == newest.get(mine.document_id) and _equal(mine.text, theirs.text):
                upper, lower = labelled[at], labelled[below]
                labelled[at], labelled[below] = replace(lower, score=upper.score), replace(upper, score=lower.score)
                break
    return labelled


def _equal(one: str, other: str) -> bool:
    mine, theirs = ({each.form for each in words(text)} for text in (one, other))
    return len(mine & theirs) >= EQUAL * len(mine | theirs)
