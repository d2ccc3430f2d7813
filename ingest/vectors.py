"""Passage numbers and unit vectors of one version → the passages nearest to a question, the filter inside the index.

Small collections are searched exactly. Large ones by bytes, one a dimension, and the best of those are compared exactly: a third
of the time and a quarter of the memory. The vectors themselves stay on disk, mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from errors import IndexDamaged

UNIT_TOLERANCE = 1e-3  # how far from 1 the length of a stored vector may be
EXACT_ROWS = 20_000  # up to here all vectors are compared exactly: 2 ms, and 30 MB
TRAIN_ROWS = 50_000  # spread over the vectors, whose range in each dimension the bytes divide; what lies outside is cut off
SPARE = 100  # passages that are compared exactly beyond those asked for; at 1,000,000 vectors none of the best ten was missed
PART_ROWS = 50_000  # vectors looked at together when an index is opened: 80 MB

Ids = NDArray[numpy.int64]
Floats = NDArray[numpy.float32]


def save(ids_path: Path, vectors_path: Path, ids: Ids, vectors: Floats) -> None:
    """Writes ids (n,) int64 and vectors (n, d) float32 as .npy files, row by row the same passage."""
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids, {len(vectors)} vectors")
    numpy.save(ids_path, numpy.ascontiguousarray(ids, dtype="<i8"), allow_pickle=False)
    numpy.save(vectors_path, numpy.ascontiguousarray(vectors, dtype="<f4"), allow_pickle=False)


def load(ids_path: Path, vectors_path: Path) -> tuple[Ids, Floats]:
    """The arrays that `save` wrote, mapped rather than read; raises IndexDamaged."""
    try:
        ids = numpy.load(ids_path, mmap_mode="r", allow_pickle=False)
        vectors = numpy.load(vectors_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexDamaged(f"{vectors_path.parent} holds vectors that cannot be read ({error}).", "Run: python -m ingest verify") from None
    if (
        ids.dtype != numpy.dtype("<i8")
        or vectors.dtype != numpy.dtype("<f4")
        or ids.ndim != 1
        or vectors.ndim != 2
        or len(ids) != len(vectors)
    ):
        raise IndexDamaged(f"{vectors_path.parent} holds vectors of an unknown shape.", "Run: python -m ingest verify")
    return ids, vectors


class Vectors:
    """The vectors of one version, ready to search. Searches may run on several threads."""

    def __init__(self, ids: Ids, vectors: Floats) -> None:
        """ids (n,) ascending; vectors (n, d), each of length 1."""
        import faiss

        self.ids = ids
        self.vectors = vectors
        total, dimensions = vectors.shape
        if total > 1 and not bool(numpy.all(numpy.diff(ids) > 0)):
            raise IndexDamaged("The passages of the index are not in order.", "Run: python -m ingest FOLDER --force")
        self._exact = total <= EXACT_ROWS
        self._index: Any = faiss.IndexFlatIP(dimensions)
        if not self._exact:
            self._index = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            self._index.train(numpy.ascontiguousarray(vectors[:: -(-total // TRAIN_ROWS)]))
        for start in range(0, total, PART_ROWS):
            part = numpy.ascontiguousarray(vectors[start : start + PART_ROWS])
            lengths = numpy.sqrt(numpy.einsum("ij,ij->i", part, part))
            if not bool(numpy.all(numpy.abs(lengths - 1.0) <= UNIT_TOLERANCE)):
                raise IndexDamaged("Vectors of the index are not of length 1.", "Run: python -m ingest FOLDER --force")
            self._index.add(part)

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """The vectors in `folder` (passages.npy, vectors.npy); raises IndexDamaged."""
        return cls(*load(folder / "passages.npy", folder / "vectors.npy"))

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, vector: Floats, keep: int, allowed_ids: Collection[int] | Ids | None = None) -> list[tuple[int, float]]:
        """(passage id, cosine), best first, at most `keep`; only among `allowed_ids` (ascending) where that is given.

        vector: (d,) of length 1. Of equally near passages the lower number comes first.
        """
        import faiss

        total = len(self.ids)
        if total == 0 or keep <= 0:
            return []
        parameters = None
        if allowed_ids is not None:
            mask = numpy.isin(self.ids, numpy.asarray(allowed_ids, dtype=numpy.int64))
            keep = min(keep, int(mask.sum()))
            if not keep:
                return []
            bits = numpy.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        question = numpy.ascontiguousarray(vector, dtype=numpy.float32).reshape(1, -1)
        near = keep if self._exact else keep + max(keep, SPARE)
        scores, found = self._index.search(question, min(near, total), params=parameters)
        rows, cosines = found[0][found[0] >= 0], scores[0][found[0] >= 0]
        if not self._exact:
            rows = numpy.sort(rows)
            cosines = self.vectors[rows] @ question[0]
        hits = sorted(zip(self.ids[rows].tolist(), cosines.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))
        return hits[:keep]

    def vector(self, passage_id: int) -> Floats | None:
        """The stored vector of a passage, None where there is none."""
        row = int(numpy.searchsorted(self.ids, passage_id))
        return numpy.asarray(self.vectors[row]) if row < len(self.ids) and int(self.ids[row]) == passage_id else None

    def similarities(self, vector: Floats, passage_ids: Sequence[int]) -> dict[int, float]:
        """Cosine of `vector`, (d,) of length 1, with each of these passages (ascending); those without a vector are left out."""
        wanted = numpy.asarray(passage_ids, dtype=numpy.int64)
        rows = numpy.searchsorted(self.ids, wanted)
        there = rows < len(self.ids)
        rows, wanted = rows[there], wanted[there]
        there = self.ids[rows] == wanted
        cosines = self.vectors[rows[there]] @ numpy.asarray(vector, dtype=numpy.float32)
        return {int(number): float(cosine) for number, cosine in zip(wanted[there], cosines, strict=True)}


def exact(vectors: Floats) -> Callable[[Floats, int], object]:
    """faiss' plain exact index over `vectors`, searched for (d,) and a count: what the bench compares with."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(numpy.ascontiguousarray(vectors))
    return lambda vector, keep: index.search(vector.reshape(1, -1), keep)
