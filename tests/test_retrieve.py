"""Retrieval: two rankings become one, near-duplicates become one hit, and a filter holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from config import ROOT
from ingest.catalog import Document
from ingest.types import Passage
from rag.reader import Reader
from rag.retrieve import fold, fuse, named, reread, retrieve
from rag.types import Hit
from rag.visible import LOCAL, visible
from tests.folder import Folder

NUMBERS = st.dictionaries(st.integers(0, 20), st.floats(-1, 30, allow_nan=False), max_size=15)


@given(NUMBERS, NUMBERS)
def test_scores_lie_between_nothing_and_one(by_words: dict[int, float], by_meaning: dict[int, float]) -> None:
    """Whatever the two sides say, also nothing, or only negative cosines."""
    documents = {passage: passage // 3 for passage in {*by_words, *by_meaning}}
    scores = fuse(by_words, by_meaning, documents)
    assert scores.keys() == documents.keys()
    assert all(0.0 <= score <= 1.0 + 1e-9 for score in scores.values())


def test_both_sides_count_and_the_best_of_both_is_first() -> None:
    scores = fuse({1: 10.0, 2: 9.0}, {2: 0.8, 3: 0.9}, {1: 1, 2: 2, 3: 3})
    assert max(scores, key=lambda passage: scores[passage]) == 2


def test_a_document_about_the_subject_speaks_for_its_passages() -> None:
    """Two passages score the same by themselves; the one among others that fit comes first."""
    by_words = {1: 5.0, 2: 5.0, 3: 5.0, 4: 5.0}
    scores = fuse(by_words, dict.fromkeys(by_words, 0.5), {1: 1, 2: 1, 3: 1, 4: 2})
    assert scores[1] == scores[2] == scores[3] > scores[4]


def document(number: int, path: str) -> Document:
    return Document(number, "docs", path, path, "docx", "", None, "", 0, 0, 1, 1, 0, 0, "ready", "", "", (), (), "", "", (), Path(path))


def passage(number: int, text: str, date: str | None = None) -> Passage:
    return Passage(number, f"{number}.txt", number, "", None, "", text, 0, len(text), date)


def test_copies_become_one_hit_and_another_amount_is_another_hit() -> None:
    """The newer copy is shown; what differs in a number is no copy."""
    text = "Every employee receives {} days of paid leave a year, to be agreed with the manager in writing beforehand."
    hits = [
        Hit(passage(1, text.format(25), "2023-01-01"), 0.9, "both"),
        Hit(passage(2, text.format(25), "2025-01-01"), 0.8, "both"),
        Hit(passage(3, text.format(30)), 0.7, "both"),
    ]
    folded = fold(hits)
    assert [each.passage.id for each in folded] == [2, 3] and [each.id for each in folded[0].also] == [1]
    assert folded[0].score == 0.9


def test_a_question_that_says_a_documents_name_and_year_gets_that_document_first(tmp_path: Path) -> None:
    """Of twenty reports that all say something about dividends, the one that is asked for."""
    folder = Folder(tmp_path)
    amounts = iter(range(11, 99))
    for name in ("BESTBUY", "ACME"):
        for year in range(2015, 2021):
            plain = (name, year) in (("BESTBUY", 2017), ("ACME", 2019))
            said = "In all, {} million went out as dividends paid." if plain else "The dividends that were paid were {} million."
            folder.write(f"reports/{name}_{year}_10K.md", said.format(next(amounts)))
    folder.write("dividends.md", "Dividends paid, dividends paid: how the dividends paid are written down is explained in chapter 7.")
    folder.refresh()
    index = folder.open()
    try:
        for question, name in (
            ("How much were the dividends paid by Best Buy in FY2017?", "BESTBUY_2017_10K.md"),
            ("How much were the dividends paid by Acme in 2019?", "ACME_2019_10K.md"),
        ):
            found = retrieve(question, index, folder.embedder, 13, visible(LOCAL, index))
            assert found[0].passage.document == f"reports/{name}", question
            assert all(0 <= each.score <= 1 for each in found)
    finally:
        index.close()


def test_a_name_without_a_year_is_a_subject_and_a_year_alone_no_name() -> None:
    documents = [document(1, "travel policy 2023.docx"), document(2, "travel policy 2025.docx"), document(3, "menu 2025.docx")]
    assert named("What does the travel policy say about taxis?", documents) == set()
    assert named("What changed in 2025?", documents) == set()
    assert named("What did the 2023 travel policy say about taxis?", documents) == {1}
    assert named("What is in the travel policies of 2023 and 2025?", documents) == {1, 2}


def test_the_reader_lifts_the_passage_that_answers(tmp_path: Path) -> None:
    """Two sections on the same subject with the same words: the one that says how much goes first, with the reader that ships."""
    folder = Folder(tmp_path)
    folder.write("a.md", "Days of leave: an intern asks the team lead for days of leave in writing.")
    folder.write("b.md", "Interns get 12 days of leave.")
    folder.refresh()
    index = folder.open()
    reader = Reader(ROOT / "models" / "reader", 1)
    question = "How many days of leave does an intern get?"
    try:
        allowed = visible(LOCAL, index)
        without = retrieve(question, index, folder.embedder, 5, allowed)
        without.sort(key=lambda hit: hit.passage.document)
        hits = [replace(each, score=0.8 - 0.005 * at) for at, each in enumerate(without)]
        found = reread(question, hits, reader)
        assert [each.passage.document for each in found] == ["b.md", "a.md"]
        assert 0.7 < found[1].score < found[0].score < 0.85
        far = [replace(each, score=0.8 - 0.2 * at) for at, each in enumerate(without)]
        assert [each.passage.document for each in reread(question, far, reader)] == ["a.md", "b.md"]  # it has a word, not the last one
        assert reread(question, [], reader) == []
    finally:
        index.close()


def test_nothing_outside_the_documents_allowed_is_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in ("a", "b", "c"):
        folder.write(f"{name}.md", f"The leave of team {name} is twenty days.")
    folder.refresh()
    index = folder.open()
    try:
        everything = visible(LOCAL, index)
        only = frozenset(index.catalog.match("b.md"))
        assert {each.passage.document for each in retrieve("leave", index, folder.embedder, 5, everything)} == {"a.md", "b.md", "c.md"}
        assert {each.passage.document for each in retrieve("leave", index, folder.embedder, 5, only)} == {"b.md"}
        assert retrieve("leave", index, folder.embedder, 5, frozenset()) == []
    finally:
        index.close()
