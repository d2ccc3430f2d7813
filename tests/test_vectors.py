"""Vectors: exact nearest passages, filtered inside the index, refused where damaged."""

from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import IndexDamaged
from ingest.vectors import EXACT_ROWS, Floats, Vectors, load, save


def unit(count: int, width: int = 8, seed: int = 0) -> Floats:
    rows = numpy.random.default_rng(seed).normal(size=(count, width)).astype(numpy.float32)
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 40), st.sets(st.integers(0, 100)), st.booleans())
def test_search_is_what_sorting_all_cosines_gives(count: int, keep: int, allowed: set[int], filtered: bool) -> None:
    """With and without a filter; numbers that do not exist are no passages."""
    rows, ids = unit(count), numpy.arange(count, dtype=numpy.int64) * 3
    question = unit(1, seed=9)[0]
    cosines = sorted(((int(number), float(row @ question)) for number, row in zip(ids, rows, strict=True)), key=lambda each: -each[1])
    wanted = [number for number, _ in cosines if not filtered or number in allowed][:keep]
    found = Vectors(ids, rows).search(question, keep, sorted(allowed) if filtered else None)
    assert [number for number, _ in found] == wanted
    assert all(abs(score - dict(cosines)[number]) < 1e-5 for number, score in found)


def test_saved_vectors_are_the_same_when_loaded(tmp_path: Path) -> None:
    """Without pickle, as plain arrays."""
    rows, ids = unit(5), numpy.arange(5, dtype=numpy.int64)
    save(tmp_path / "passages.npy", tmp_path / "vectors.npy", ids, rows)
    read_ids, read_rows = load(tmp_path / "passages.npy", tmp_path / "vectors.npy")
    assert (read_ids == ids).all() and (read_rows == rows).all()
    opened = Vectors.open(tmp_path)
    row = opened.vector(3)
    assert row is not None and (row == rows[3]).all() and opened.vector(77) is None


def test_equal_passages_come_in_order_of_their_numbers() -> None:
    """The same question gives the same list every time."""
    rows = numpy.repeat(unit(1), 4, axis=0)
    assert [number for number, _ in Vectors(numpy.arange(4), rows).search(rows[0], 4)] == [0, 1, 2, 3]


def test_vectors_that_are_not_of_length_one_are_refused() -> None:
    """A cosine above 1 would beat every honest passage."""
    with pytest.raises(IndexDamaged):
        Vectors(numpy.arange(2), unit(2) * 3)


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """Pickled objects, half files and rows that do not pair are damage, not data."""
    save(tmp_path / "passages.npy", tmp_path / "vectors.npy", numpy.arange(5), unit(5))
    good = (tmp_path / "vectors.npy").read_bytes()
    numpy.save(tmp_path / "vectors.npy", numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(IndexDamaged):
        Vectors.open(tmp_path)
    (tmp_path / "vectors.npy").write_bytes(good[:-7])
    with pytest.raises(IndexDamaged):
        Vectors.open(tmp_path)
    numpy.save(tmp_path / "vectors.npy", unit(4))
    with pytest.raises(IndexDamaged):
        Vectors.open(tmp_path)


def test_similarities_are_the_cosines_of_the_passages_named() -> None:
    """Of those that exist; the others are left out."""
    rows, ids = unit(5), numpy.arange(5, dtype=numpy.int64) * 3
    question = unit(1, seed=9)[0]
    found = Vectors(ids, rows).similarities(question, [0, 2, 6, 12, 15])
    assert list(found) == [0, 6, 12]
    assert all(abs(found[number] - float(rows[number // 3] @ question)) < 1e-6 for number in found)
    assert Vectors(ids, rows).similarities(question, []) == {}


def test_a_large_collection_finds_what_comparing_every_vector_finds() -> None:
    """Beyond EXACT_ROWS the search is by bytes first: with any filter, the ten best are the ten best, with their exact cosines."""
    chance = numpy.random.default_rng(1)
    topics = unit(50, 64, seed=2)
    rows = topics[chance.integers(0, 50, EXACT_ROWS + 5_000)] + 0.08 * chance.normal(size=(EXACT_ROWS + 5_000, 64)).astype(numpy.float32)
    rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    ids = numpy.arange(len(rows), dtype=numpy.int64) * 2
    index = Vectors(ids, rows)
    missed = 0
    for share in (None, 0.5, 0.02, 0.0003):
        allowed = ids if share is None else ids[chance.random(len(ids)) < share]
        for question in rows[chance.integers(0, len(rows), 10)]:
            cosines = rows[allowed // 2] @ question
            best = numpy.argsort(-cosines, kind="stable")[:10]
            found = index.search(question, 10, None if share is None else allowed)
            missed += len(set(allowed[best].tolist()) - {number for number, _ in found})
            assert len(found) == min(10, len(allowed)) and {number for number, _ in found} <= set(allowed.tolist())
            assert all(abs(score - float(rows[number // 2] @ question)) < 1e-6 for number, score in found)
            assert found == sorted(found, key=lambda each: (-each[1], each[0]))
    assert missed == 0
