"""Token ids → unit vectors, with the bundled embedder's weights and numpy alone.

The library that runs any embedder needs seven seconds to import and half a gigabyte; this needs a tenth of a second. It reads the
bundled model only (BERT, mean of the tokens, length 1), and a test holds its vectors against the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray
from safetensors import safe_open

Floats = NDArray[numpy.float32]

LAYERS = 6
HEADS = 12
WIDTH = 384
EPSILON = 1e-12  # in the layers' normalisation


class MiniLM:
    """The weights, read once. May be called from several threads."""

    def __init__(self, weights: Path) -> None:
        with safe_open(str(weights), framework="numpy") as file:
            read = {name: file.get_tensor(name) for name in file.keys() if name != "embeddings.position_ids"}  # noqa: SIM118
        self._words: Floats = read["embeddings.word_embeddings.weight"]
        # every text is of the first type, so that row belongs to each position
        first_type = read["embeddings.token_type_embeddings.weight"][0]
        self._positions: Floats = read["embeddings.position_embeddings.weight"] + first_type
        self._first = (read["embeddings.LayerNorm.weight"], read["embeddings.LayerNorm.bias"])
        self._layers = [_Layer(read, f"encoder.layer.{number}.") for number in range(LAYERS)]

    def vector(self, ids: Sequence[int]) -> Floats:
        """(384,) of length 1; `ids` are one text's tokens with their marks at start and end, at most 512."""
        hidden = _normalise(self._words[numpy.asarray(ids)] + self._positions[: len(ids)], *self._first)
        for layer in self._layers:
            hidden = layer(hidden)
        mean = hidden.mean(axis=0)
        return numpy.asarray(mean / numpy.linalg.norm(mean), dtype=numpy.float32)


class _Layer:
    def __init__(self, read: dict[str, Floats], name: str) -> None:
        def dense(part: str) -> tuple[Floats, Floats]:
            return numpy.ascontiguousarray(read[f"{name}{part}.weight"].T), read[f"{name}{part}.bias"]

        def norm(part: str) -> tuple[Floats, Floats]:
            return read[f"{name}{part}.LayerNorm.weight"], read[f"{name}{part}.LayerNorm.bias"]

        parts = [dense(f"attention.self.{each}") for each in ("query", "key", "value")]
        self._attend = numpy.concatenate([weight for weight, _ in parts], axis=1), numpy.concatenate([bias for _, bias in parts])
        self._mix, self._mix_norm = dense("attention.output.dense"), norm("attention.output")
        self._widen, self._narrow, self._norm = dense("intermediate.dense"), dense("output.dense"), norm("output")

    def __call__(self, hidden: Floats) -> Floats:
        """(tokens, 384) → the same shape, one layer on."""
        joint = (hidden @ self._attend[0] + self._attend[1]).reshape(-1, 3, HEADS, WIDTH // HEADS)
        query, key, value = (joint[:, each].transpose(1, 0, 2) for each in range(3))
        scores = query @ key.transpose(0, 2, 1)
        scores *= numpy.float32((WIDTH // HEADS) ** -0.5)
        scores -= scores.max(axis=-1, keepdims=True)
        numpy.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(1, 0, 2).reshape(-1, WIDTH)
        hidden = _normalise(mixed @ self._mix[0] + self._mix[1] + hidden, *self._mix_norm)
        wide = _gelu(hidden @ self._widen[0] + self._widen[1])
        return _normalise(wide @ self._narrow[0] + self._narrow[1] + hidden, *self._norm)


def _normalise(values: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = values - values.mean(axis=-1, keepdims=True)
    deviation = numpy.sqrt(numpy.einsum("...d,...d->...", centred, centred)[..., None] / values.shape[-1] + EPSILON)
    return numpy.asarray(centred / deviation * weight + bias, dtype=numpy.float32)


def _gelu(values: Floats) -> Floats:
    """x · Φ(x), with the error function by Abramowitz and Stegun's formula 7.1.26, whose error is below 1.5e-7."""
    size = numpy.abs(values) * numpy.float32(2**-0.5)
    inverse = 1.0 / (1.0 + numpy.float32(0.3275911) * size)
    series = numpy.float32(1.061405429) * inverse
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += numpy.float32(term)
        series *= inverse
    numpy.square(size, out=size)
    numpy.negative(size, out=size)
    numpy.exp(size, out=size)
    error = numpy.copysign(1.0 - series * size, values)
    return numpy.asarray(values * (error + 1.0) * numpy.float32(0.5), dtype=numpy.float32)
