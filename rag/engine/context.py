"""Tokens of many sequences → logits, through llama.cpp's low-level calls. One thread at a time may use a context.

Each sequence has a memory of its own (a "stream"), so that nobody's words look past other people's. What a sequence holds can be taken out
and put into another, see state.py.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy

from errors import ModelMissing
from rag.engine import state
from rag.engine.files import header
from rag.engine.state import Bytes, Layout

BATCH_TOKENS = 512  # tokens read in one call; llama.cpp gains nothing on a CPU from more
OUTPUTS = 128  # tokens of one call whose logits can be asked for; each takes a row of the vocabulary (200 KB for the bundled model)

TILE = 64  # tokens of a prompt that llama.cpp's attention takes at once on a processor; fewer one by one, which takes longer than 64 …
PADDED_FROM, PADDED_BEHIND = 32, 1024  # … from so many on, behind so many tokens (32: 210 ms, 48: 310, 64: 198, behind 1,536)

Logits = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

_said: deque[str] = deque(maxlen=40)  # the last lines of llama.cpp's own log, for messages about a file that will not load


def _listen(level: int, text: bytes, _: Any) -> None:
    if level >= 2 and text.strip():  # warnings, errors and their continuations
        _said.append(text.decode("utf-8", "replace").strip())


_listener = llama_cpp.llama_log_callback(_listen)  # llama.cpp keeps no reference: this name does
llama_cpp.llama_log_set(_listener, ctypes.c_void_p(0))  # it prints to stderr otherwise

# llama.cpp asks this at every operation whether to give up. A Python function would wait for Python's lock each time; strlen of a
# buffer that holds "" or "x" says the same without it.
_gives_up = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.llama_cpp.ggml_abort_callback)


class NoRoom(Exception):
    """The memory has no cells for these tokens. Nothing was read."""


class GivenUp(Exception):
    """Reading was given up because `give_up` was called. Nothing of it is kept."""


class Broken(Exception):
    """llama.cpp failed; its memory cannot be trusted any longer."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens to read after the first `start` ones of a sequence; logits are wanted after each of the last `rows`."""

    sequence: int
    start: int
    tokens: Sequence[int]
    rows: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How a memory is made. `rag.engine.fit` finds out threads and flash for this machine and model."""

    sequences: int  # prompts that are read and continued at once
    window: int  # tokens of each
    threads: int  # that write a token
    threads_batch: int  # that read a prompt
    flash: bool


class Weights:
    """A GGUF file's weights in memory, and the adapters that were made for it."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        _said.clear()
        self.path = path
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise ModelMissing(
                f"{path} cannot be loaded: {' '.join(list(_said)[-3:]) or 'llama.cpp gave no reason'}.",
                "Download it again, or name another GGUF file with FOOTNOTE_MODEL.",
            )
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.words = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        self.trained_tokens = int(llama_cpp.llama_model_n_ctx_train(self.model))
        heads = llama_cpp.llama_model_n_head(self.model)
        width = llama_cpp.llama_model_n_embd(self.model) * llama_cpp.llama_model_n_head_kv(self.model) // max(1, heads)
        self.cell_bytes = 2 * 2 * max(1, width) * llama_cpp.llama_model_n_layer(self.model)  # a key and a value of 16 bits a layer
        self.cuts = not (llama_cpp.llama_model_is_recurrent(self.model) or llama_cpp.llama_model_is_hybrid(self.model))
        self.layout: Layout | None = None  # how llama.cpp writes its memory down, known from the first `Context.save`
        self._adapters: dict[Path, Any] = {}

    def adapter(self, path: Path) -> Any:
        """The adapter of a file, loaded once. Raises ModelMissing where it is none for this model."""
        if path not in self._adapters:
            if not path.is_file():
                raise ModelMissing(f"The adapter {path} does not exist.", "Name another adapter, or none.")
            header(path)
            _said.clear()
            loaded = llama_cpp.llama_adapter_lora_init(self.model, str(path).encode())
            if not loaded:
                reason = list(_said)[-1].rpartition("adapter: ")[2] if _said else "llama.cpp gave no reason"
                raise ModelMissing(
                    f"{path} is no adapter for {self.path.name}: {reason}.", "Name an adapter that was made for this model, or none."
                )
            self._adapters[path] = loaded
        return self._adapters[path]

    def close(self) -> None:
        """Free everything; its contexts are closed before."""
        llama_cpp.llama_model_free(self.model)  # frees the adapters, too


class Context:
    """A memory in which some prompts are read and continued at once. Raises ModelMissing where it does not fit into the computer's."""

    def __init__(self, weights: Weights, shape: Shape, watch: Callable[[str], None] | None = None) -> None:
        """`watch` hears the name of each of llama.cpp's operations as it ends; that takes time, so it is for measuring alone."""
        self._weights = weights
        self.shape = shape
        self.cuts = weights.cuts
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = shape.sequences * shape.window
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_seq_max = shape.sequences
        parameters.n_outputs_max = OUTPUTS
        parameters.kv_unified = False
        parameters.n_threads, parameters.n_threads_batch = shape.threads, shape.threads_batch
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if shape.flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if watch:
            self._watch = _watching(watch)  # llama.cpp keeps no reference
            parameters.cb_eval = self._watch
        self._context = llama_cpp.llama_init_from_model(weights.model, parameters)
        if not self._context:
            raise ModelMissing(
                f"{weights.path} needs more memory than there is: {' '.join(list(_said)[-3:])}.",
                "Lower FOOTNOTE_MEMORY_MB or FOOTNOTE_CONTEXT_TOKENS, or use a smaller model.",
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._held = [0] * shape.sequences  # tokens of each sequence
        self._scratch = numpy.empty(0, dtype=numpy.uint8)
        self._adapter: Path | None = None
        self._stop = ctypes.create_string_buffer(2)
        llama_cpp.llama_set_abort_callback(self._context, _gives_up, ctypes.cast(self._stop, ctypes.c_void_p))
        self._tokens = numpy.zeros(BATCH_TOKENS, dtype=numpy.int32)
        self._positions = numpy.zeros(BATCH_TOKENS, dtype=numpy.int32)
        self._sequences = numpy.zeros(BATCH_TOKENS, dtype=numpy.int32)
        self._flags = numpy.zeros(BATCH_TOKENS, dtype=numpy.int8)
        self._ones = numpy.ones(BATCH_TOKENS, dtype=numpy.int32)
        pointer = ctypes.POINTER(llama_cpp.llama_seq_id)
        first = self._sequences.ctypes.data
        self._pointers = (pointer * BATCH_TOKENS)(*(ctypes.cast(first + 4 * number, pointer) for number in range(BATCH_TOKENS)))
        self._batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            n_seq_id=self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._pointers, ctypes.POINTER(pointer)),
            logits=self._flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def wear(self, adapter: Path | None) -> None:
        """What is read from now on is read with this adapter."""
        if adapter == self._adapter:
            return
        worn = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(*([self._weights.adapter(adapter)] if adapter else []))
        llama_cpp.llama_set_adapters_lora(self._context, worn, 1 if adapter else 0, (ctypes.c_float * 1)(1.0))
        self._adapter = adapter

    def decode(self, parts: Sequence[Part]) -> list[Logits]:
        """Read the parts, at most BATCH_TOKENS tokens and OUTPUTS rows in all, each of another sequence.

        Returns for each part its rows (rows, vocabulary), which the next call overwrites. Raises NoRoom, GivenUp, Broken; the sequences
        then hold what they held before.
        """
        fill = [*self._gaps(parts), *self._padding(parts)]
        at, outputs = 0, dict[int, range]()
        for part in sorted([*parts, *fill], key=lambda each: each.sequence):
            end = at + len(part.tokens)
            self._tokens[at:end] = part.tokens
            self._positions[at:end] = numpy.arange(part.start, part.start + len(part.tokens))
            self._sequences[at:end] = part.sequence
            self._flags[at:end] = 0
            if part.rows:
                self._flags[end - part.rows : end] = 1
                outputs[part.sequence] = range(end - part.rows, end)
            at = end
        self._batch.n_tokens = at
        code = llama_cpp.llama_decode(self._context, self._batch)
        for part in fill:
            self.cut(part.sequence, part.start)
        if code != 0:
            kept = all(self.cut(part.sequence, part.start) == part.start for part in parts)
            if code == 1:
                raise NoRoom
            if code == 2 and kept:
                raise GivenUp
            raise Broken(f"llama.cpp code {code}: {' '.join(list(_said)[-2:])}")
        for part in parts:
            self._held[part.sequence] = part.start + len(part.tokens)
        return [self._rows(outputs.get(part.sequence, range(0))) for part in parts]

    def _gaps(self, parts: Sequence[Part]) -> list[Part]:
        """A token for each empty sequence between others: llama.cpp computes neighbours in one go, and the others one by one."""
        taken = {part.sequence for part in parts}
        empty = [each for each in range(min(taken), max(taken)) if each not in taken and not self._held[each]]
        room = BATCH_TOKENS - sum(len(part.tokens) for part in parts)
        return [Part(each, 0, [0], 0) for each in empty] if len(empty) < len(parts) and len(empty) <= room else []

    def _padding(self, parts: Sequence[Part]) -> list[Part]:
        """Tokens behind those of a piece that is a little too short to be read fast; nobody sees them, and they are forgotten."""
        count, end = len(parts[0].tokens), parts[0].start + len(parts[0].tokens)
        if len(parts) > 1 or not PADDED_FROM <= count < TILE or parts[0].start < PADDED_BEHIND or end + TILE > self.shape.window:
            return []
        return [Part(parts[0].sequence, end, [0] * (TILE - count), 0)] if self.cuts else []

    def _rows(self, rows: range) -> Logits:
        """Rows of one part lie behind each other in llama.cpp's memory."""
        if not rows:
            return numpy.empty((0, self._weights.words), dtype=numpy.float32)
        first = llama_cpp.llama_get_logits_ith(self._context, rows[0])
        return numpy.ctypeslib.as_array(first, shape=(len(rows), self._weights.words))

    def copy(self, source: int, target: int, length: int) -> None:
        """The empty sequence `target` holds the first `length` tokens of `source`, too."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._held[target] = self._held[source]
        self.cut(target, length)

    def cut(self, sequence: int, length: int) -> int:
        """The sequence lets go of everything behind its first `length` tokens; how many it has left: none where memory cannot be cut."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            length = 0
        self._held[sequence] = min(self._held[sequence], length)
        return length

    def save(self, sequence: int, start: int) -> Bytes:
        """What a sequence holds behind its first `start` tokens, for `load`: (keys or values of a layer, tokens, bytes).

        Raises ValueError where llama.cpp writes this model's memory in a form that is not known here.
        """
        size = llama_cpp.llama_state_seq_get_size(self._context, sequence)
        written = self._buffer(size)
        if llama_cpp.llama_state_seq_get_data(self._context, _pointer(written), size, sequence) != size:
            raise ValueError("llama.cpp wrote less than it said")
        self._weights.layout, rows = state.read(written, start)
        return rows

    def load(self, sequence: int, pieces: Sequence[Bytes]) -> None:
        """The empty sequence holds these rows, which `save` gave, from its start on. Raises Broken where llama.cpp refuses them."""
        layout, count = self._weights.layout, sum(each.shape[1] for each in pieces)
        if layout is None:
            raise ValueError("nothing was saved before")
        written = self._buffer(layout.size(count, self.shape.sequences))
        layout.write(written, pieces, sequence, self.shape.sequences)
        if llama_cpp.llama_state_seq_set_data(self._context, _pointer(written), len(written), sequence) != len(written):
            raise Broken(f"a kept prompt was refused: {' '.join(list(_said)[-2:])}")
        self._held[sequence] = count

    def _buffer(self, size: int) -> Bytes:
        """Bytes to write a state into, the same ones each time: new ones would first have to be touched, page by page."""
        if len(self._scratch) < size:
            self._scratch = numpy.empty(size, dtype=numpy.uint8)
        return self._scratch[:size]

    def give_up(self) -> None:
        """Have the call of `decode` that runs raise GivenUp, soon; for other threads."""
        self._stop[0] = b"x"

    def go_on(self) -> None:
        """Take `give_up` back."""
        self._stop[0] = b"\0"

    def close(self) -> None:
        llama_cpp.llama_free(self._context)


def _watching(watch: Callable[[str], None]) -> Any:
    name = llama_cpp.llama_cpp._lib.ggml_op_desc  # of ggml's own functions llama-cpp-python binds none
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]

    def tell(operation: int, asks: bool, _: Any) -> bool:
        if not asks:
            watch(name(operation).decode())
        return True  # to "is anything of this one wanted", and to "go on"

    return llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(tell)


def _pointer(values: Bytes) -> Any:
    return values.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
