"""A grammar and logits → the next token that fits it."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy
from llama_cpp.llama_grammar import json_schema_to_gbnf

from errors import FootnoteError, UsageError
from rag.engine.context import Logits, Weights


class Grammar:
    """A GBNF grammar that follows what was chosen."""

    def __init__(self, weights: Weights, rules: str) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(weights.vocabulary, rules.encode("utf-8"), b"root")
        if not self._sampler:
            raise UsageError("The grammar cannot be read.", "Check it against llama.cpp's GBNF format.")
        self._table = numpy.zeros(weights.words, dtype=[("id", numpy.int32), ("logit", numpy.float32), ("p", numpy.float32)])

    def best(self, logits: Logits) -> int:
        """The likeliest token that fits. Raises FootnoteError where none does."""
        token = int(logits.argmax())
        if self._fitting(numpy.array([token]), logits)[0]:  # a look at one is a hundred times cheaper than at all
            return token
        return int(self.masked(logits).argmax())

    def masked(self, logits: Logits) -> Logits:
        """The logits, minus infinity where a token does not fit. Raises FootnoteError where none does."""
        fitting = self._fitting(numpy.arange(len(logits)), logits)
        if not fitting.any():
            raise FootnoteError("The grammar allows no further word.", "Let its root rule end.")
        return numpy.where(fitting, logits, numpy.float32(-numpy.inf))

    def accept(self, token: int) -> None:
        """This token was chosen; it must fit."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)

    def _fitting(self, tokens: numpy.ndarray[Any, Any], logits: Logits) -> numpy.ndarray[Any, Any]:
        table = self._table[: len(tokens)]
        table["id"], table["logit"] = tokens, logits[tokens]
        entries = llama_cpp.llama_token_data_array(
            data=table.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data)), size=len(tokens), selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(entries))
        kept: numpy.ndarray[Any, Any] = table["logit"] > -numpy.inf
        return kept


def of_schema(schema: str) -> str:
    """The grammar of a JSON schema. Raises UsageError where it cannot be made."""
    try:
        return str(json_schema_to_gbnf(schema))
    except Exception as error:  # noqa: BLE001 - the library raises whatever its parser meets
        raise UsageError(f"The JSON schema cannot be read: {error}.", "Check it against json-schema.org.") from None
