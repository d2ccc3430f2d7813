"""A prompt's tokens → the model's words, one at a time, in this process through llama.cpp.

Decoding is greedy: the same prompt gives the same words. One prompt is read at a time; a second caller waits. What two
prompts in a row share at their start (instructions, passages) is read once.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy

from config import Settings
from errors import EngineUnavailable, FootnoteError, ModelMissing, UsageError
from rag.engine import template
from rag.engine.files import ModelFile, header, model_file, sha256
from rag.types import Turn

BATCH_TOKENS = 512  # tokens read in one call; llama.cpp gains nothing on a CPU from more
SCORED_TOKENS = 64  # tokens scored in one call; each needs a row of the vocabulary (200 KB for the bundled model)
POLL_S = 0.02  # seconds between two looks at should_stop while a prompt is read
LEVELS = ("verbatim", "compressed", "free")

_said: deque[str] = deque(maxlen=40)  # the last lines of llama.cpp's own log, for messages about a file that will not load


def _listen(level: int, text: bytes, _: Any) -> None:
    if level >= 2 and text.strip():  # warnings, errors and their continuations
        _said.append(text.decode("utf-8", "replace").strip())


_listener = llama_cpp.llama_log_callback(_listen)  # llama.cpp keeps no reference: this name does
llama_cpp.llama_log_set(_listener, ctypes.c_void_p(0))  # it prints to stderr otherwise

_NEVER = llama_cpp.llama_cpp.ggml_abort_callback()  # a null callback


class _Stopped(Exception):
    """should_stop said so while a prompt was being read."""


class _Turnstile:
    """A lock that its holder may take again and that any thread may give back (an abandoned generator is closed anywhere)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._depth = 0

    def take(self) -> None:
        if self._holder != threading.get_ident():
            self._lock.acquire()
            self._holder = threading.get_ident()
        self._depth += 1

    def give(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._holder = 0
            self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        self.take()
        try:
            yield
        finally:
            self.give()


class LanguageModel:
    """A GGUF model. `level` says how free its wording may be: verbatim, compressed or free."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None] = lambda _: None,
        *,
        file: ModelFile | None = None,
        adapter: Path | None = None,
    ) -> None:
        self._turnstile = _Turnstile()
        self._file = file or model_file(settings, say)
        self.name = self._file.name
        self.level = settings.model_level or ("verbatim" if self._file.bundled else "free")
        if self.level not in LEVELS:
            raise UsageError(f"model_level = {self.level!r} is no level.", f"Use one of: {', '.join(LEVELS)}.")
        self._model, self._context = _open(self._file.path, settings)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._words = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.context_tokens = int(llama_cpp.llama_n_ctx(self._context))
        self._kept: list[int] = []  # tokens that llama.cpp's memory holds
        self._last: numpy.ndarray[Any, Any] | None = None  # logits after the last of them, where known
        self._positions = numpy.zeros(BATCH_TOKENS, dtype=numpy.int32)
        self._flags = numpy.zeros(BATCH_TOKENS, dtype=numpy.int8)
        self._should_stop: Callable[[], bool] | None = None
        self._polled = 0.0
        self._abort = llama_cpp.llama_cpp.ggml_abort_callback(self._poll)  # llama.cpp keeps no reference: this attribute does
        self._counts = {"prompt_tokens": 0.0, "reused_tokens": 0.0, "answer_tokens": 0.0, "prompt_s": 0.0, "answer_s": 0.0}
        self._bos = self._word(llama_cpp.llama_vocab_bos(self._vocabulary))
        self._eos = self._word(llama_cpp.llama_vocab_eos(self._vocabulary))
        said = llama_cpp.llama_model_chat_template(self._model, None)
        self._template = template.default(said.decode("utf-8") if said else None)
        if adapter is not None:
            self._wear(adapter)
        self._read(self._tokenise("Hello", control=False) or [0], None)  # touches the weights and starts the threads
        self.clear()

    # ---- text and tokens

    def tokenize(self, text: str) -> list[int]:
        """Tokens of plain text: nothing in it is read as a control token, no BOS is added."""
        return self._tokenise(text, control=False)

    def chat(self, messages: Sequence[Turn]) -> list[int]:
        """The messages in the model's own chat template, as tokens, ready for `generate`.

        Only the template's own words become control tokens, so no message can end its turn or begin another.
        """
        parts = template.pieces(self._template, messages, self._bos, self._eos)
        joined = template.tokens(parts, lambda text, control: self._tokenise(text, control=control))
        bos = llama_cpp.llama_vocab_bos(self._vocabulary)
        if llama_cpp.llama_vocab_get_add_bos(self._vocabulary) and joined[:1] != [bos]:
            joined.insert(0, bos)
        return joined

    def text(self, tokens: Sequence[int]) -> str:
        """The words of tokens, control tokens left out."""
        return b"".join(self._bytes(each) for each in tokens).decode("utf-8", "replace")

    def _tokenise(self, text: str, *, control: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8  # no token is shorter than a byte, but some vocabularies add a leading space
        found = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), found, size, False, control)
        if count < 0:
            found = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), found, -count, False, control)
        return list(found[:count])

    def _bytes(self, token: int, control: bool = False) -> bytes:
        room = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self._vocabulary, token, room, 64, 0, control)
        if size < 0:
            room = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocabulary, token, room, -size, 0, control)
        return room.raw[:size]

    def _word(self, token: int) -> str:
        return self._bytes(token, control=True).decode("utf-8", "replace") if token >= 0 else ""

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return int(llama_cpp.llama_vocab_eos(self._vocabulary))

    def _ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    # ---- what callers ask

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Iterator[str]:
        """The most likely continuation of `tokens`, in pieces that are whole characters, until the model ends its turn.

        With `choices` the result is exactly one of those strings, in one piece, found by walking their tokens. With
        `grammar` (GBNF, rule `root`) every piece fits the grammar. `should_stop` is asked before each token and while the
        prompt is read; when it says yes, the pieces end. Raises FootnoteError where the prompt does not fit the window.
        """
        prompt = list(tokens)
        self._fits(prompt)
        with self._turnstile.held():
            try:
                if choices is not None:
                    yield self._choose(prompt, list(choices), should_stop)
                else:
                    yield from self._write(prompt, min(max_tokens, self.context_tokens - len(prompt)), should_stop, grammar)
            except _Stopped:
                return

    def score(
        self, prompt_tokens: Sequence[int], continuations: Sequence[Sequence[int]], should_stop: Callable[[], bool] | None = None
    ) -> list[float]:
        """Mean log-probability (natural, a token) of each continuation after the prompt; the prompt is read once.

        An empty continuation scores minus infinity. When `should_stop` says yes the rest score minus infinity.
        """
        prompt = list(prompt_tokens)
        self._fits([*prompt, *max(continuations, key=len, default=[])])
        scores = [-numpy.inf] * len(continuations)
        with self._turnstile.held():
            try:
                first = self._read(prompt, should_stop)
                for number, continuation in enumerate(continuations):
                    if continuation:
                        scores[number] = self._mean(prompt, first, list(continuation), should_stop)
            except _Stopped:
                pass
            if self._kept[: len(prompt)] == prompt:
                self._forget(len(prompt))
                self._last = first
        return [float(each) for each in scores]

    def distributions(self, tokens: Sequence[int]) -> Iterator[numpy.ndarray[Any, Any]]:
        """Log-probabilities of every next word after each token, in blocks of rows (tokens, vocabulary); for comparing models."""
        self._fits(tokens)
        with self._turnstile.held():
            self._forget(0)
            for start in range(0, len(tokens), SCORED_TOKENS):
                rows = self._decode(list(tokens[start : start + SCORED_TOKENS]), every=True)
                top = rows.max(axis=1, keepdims=True)
                yield rows - top - numpy.log(numpy.exp(rows - top).sum(axis=1, keepdims=True, dtype=numpy.float64))

    def usage(self) -> dict[str, float]:
        """Counters since the start: prompt_tokens (read), reused_tokens (not read again), answer_tokens, and seconds."""
        return dict(self._counts)

    def clear(self) -> None:
        """Forget the prompt that was read last, so that the next one is read from its beginning."""
        with self._turnstile.held():
            self._forget(0)

    def close(self) -> None:
        """Free the model; nothing may be asked of it afterwards."""
        with self._turnstile.held():
            if self._context is not None:
                llama_cpp.llama_free(self._context)
                llama_cpp.llama_model_free(self._model)
                self._context = self._model = None

    # ---- writing

    def _write(self, prompt: list[int], room: int, should_stop: Callable[[], bool] | None, grammar: str | None) -> Iterator[str]:
        logits = self._read(prompt, should_stop)
        whole = list(prompt)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rules = _Grammar(self._vocabulary, grammar, self._words) if grammar else None
        try:
            for _ in range(room):
                if should_stop is not None and should_stop():
                    return
                token = rules.best(logits) if rules else int(logits.argmax())
                if self._ends(token):
                    return
                whole.append(token)
                piece = decoder.decode(self._bytes(token))  # the bytes of a character that is not whole yet wait here
                self._counts["answer_tokens"] += 1
                if piece:
                    yield piece
                if len(whole) >= len(prompt) + room:
                    return
                started = time.perf_counter()
                if len(self._kept) != len(whole) - 1:  # the caller scored something in between
                    logits = self._read(whole, should_stop)
                else:
                    logits = self._decode([token])
                self._counts["answer_s"] += time.perf_counter() - started
        finally:
            if rules:
                rules.close()

    def _choose(self, prompt: list[int], choices: list[str], should_stop: Callable[[], bool] | None) -> str:
        """Walk the tokens that the choices share; where they part, take the way the model finds likelier."""
        if not choices:
            raise ValueError("choices is empty")
        ways = {number: self._tokenise(choice, control=False) for number, choice in enumerate(choices)}
        self._fits([*prompt, *max(ways.values(), key=len)])
        walked = 0
        while len(ways) > 1:
            ended = [number for number, way in ways.items() if len(way) == walked]
            going = sorted({way[walked] for way in ways.values() if len(way) > walked})
            if not going:
                return choices[ended[0]]  # the same string given twice
            if len(going) > 1 or ended:
                logits = self._read([*prompt, *next(iter(ways.values()))[:walked]], should_stop)
                best = going[int(logits[going].argmax())]
                if ended and self._end_logit(logits) >= float(logits[best]):
                    return choices[ended[0]]
            else:
                best = going[0]
            ways = {number: way for number, way in ways.items() if len(way) > walked and way[walked] == best}
            walked += 1
        chosen = next(iter(ways))
        self._counts["answer_tokens"] += walked
        return choices[chosen]

    def _end_logit(self, logits: numpy.ndarray[Any, Any]) -> float:
        ends = {llama_cpp.llama_vocab_eos(self._vocabulary), llama_cpp.llama_vocab_eot(self._vocabulary)}
        return max((float(logits[each]) for each in ends if each >= 0), default=-numpy.inf)

    def _mean(
        self, prompt: list[int], first: numpy.ndarray[Any, Any], continuation: list[int], should_stop: Callable[[], bool] | None
    ) -> float:
        if should_stop is not None and should_stop():
            raise _Stopped
        self._forget(len(prompt))
        total = _log_probability(first[None, :], continuation[:1])
        for start in range(0, len(continuation) - 1, SCORED_TOKENS):
            given = continuation[start : start + SCORED_TOKENS][: len(continuation) - 1 - start]
            rows = self._decode(given, every=True)
            total += _log_probability(rows, continuation[start + 1 : start + 1 + len(given)])
        return total / len(continuation)

    # ---- reading

    def _fits(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a prompt needs at least one token")
        if len(tokens) >= self.context_tokens:
            raise FootnoteError(
                f"The prompt has {len(tokens)} tokens, but the language model's window is {self.context_tokens}.",
                "Use fewer passages (-k), or raise FOOTNOTE_CONTEXT_TOKENS up to what the model was trained for.",
            )

    def _read(self, tokens: list[int], should_stop: Callable[[], bool] | None) -> numpy.ndarray[Any, Any]:
        """Logits after `tokens`; only what the memory does not hold yet is read."""
        started = time.perf_counter()
        shared = _shared(self._kept, tokens)
        if shared == len(tokens) == len(self._kept) and self._last is not None:
            return self._last
        shared = min(shared, len(tokens) - 1)  # the last token is read again for its logits
        self._forget(shared)
        shared = len(self._kept)  # models that cannot forget a part forget everything
        self._counts["reused_tokens"] += shared
        self._counts["prompt_tokens"] += len(tokens) - shared
        logits = self._last
        try:
            self._should_stop = should_stop
            for start in range(shared, len(tokens), BATCH_TOKENS):
                if should_stop is not None and should_stop():
                    raise _Stopped
                logits = self._decode(tokens[start : start + BATCH_TOKENS])
        finally:
            self._should_stop = None
            self._counts["prompt_s"] += time.perf_counter() - started
        if logits is None:
            raise RuntimeError("nothing was read")
        return logits

    def _decode(self, tokens: list[int], *, every: bool = False) -> numpy.ndarray[Any, Any]:
        """Append up to BATCH_TOKENS tokens to the memory; logits after the last, or a row for each."""
        if self._context is None:
            raise EngineUnavailable("The language model was closed.", "Start Footnote again.")
        count, start = len(tokens), len(self._kept)
        values = numpy.asarray(tokens, dtype=numpy.int32)
        self._positions[:count] = numpy.arange(start, start + count)
        self._flags[:count] = 1 if every else 0
        self._flags[count - 1] = 1
        batch = llama_cpp.llama_batch(
            n_tokens=count,
            token=values.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            logits=self._flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        watched = self._should_stop is not None and count > 1
        if watched:  # only while much is read: the callback runs once for each operation and takes Python's lock
            llama_cpp.llama_set_abort_callback(self._context, self._abort, ctypes.c_void_p(0))
        try:
            code = llama_cpp.llama_decode(self._context, batch)
        finally:
            if watched:
                llama_cpp.llama_set_abort_callback(self._context, _NEVER, ctypes.c_void_p(0))
        if code != 0:
            self._forget(start, force=True)  # parts of the batch may have stayed in the memory
            if code == 2:
                raise _Stopped
            raise EngineUnavailable(
                f"The language model failed (llama.cpp code {code}: {' '.join(list(_said)[-2:])}).",
                "Ask again; if it happens again, use a smaller model or a smaller FOOTNOTE_CONTEXT_TOKENS.",
            )
        self._kept += tokens
        rows = range(count) if every else [count - 1]
        logits = numpy.stack(
            [numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), shape=(self._words,)) for row in rows]
        )  # a copy: llama.cpp overwrites its own at the next call
        self._last = logits[-1]
        return logits if every else self._last

    def _forget(self, keep: int, force: bool = False) -> None:
        """Keep only the first `keep` tokens; none where this model's memory cannot be cut."""
        if keep >= len(self._kept) and not force:
            return
        if keep == 0 or not llama_cpp.llama_memory_seq_rm(self._memory, 0, keep, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            keep = 0
        del self._kept[keep:]
        self._last = None

    def _poll(self, _: Any) -> bool:
        now = time.monotonic()
        if self._should_stop is None or now - self._polled < POLL_S:
            return False
        self._polled = now
        return bool(self._should_stop())

    def _wear(self, adapter: Path) -> None:
        """Put a LoRA adapter on, for everything that is read from now on; its bytes become a part of the model's name."""
        if not adapter.is_file():
            raise ModelMissing(f"The adapter {adapter} does not exist.", "Name another adapter, or none.")
        header(adapter)
        _said.clear()
        self._adapter = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
        if not self._adapter:
            reason = list(_said)[-1].rpartition("adapter: ")[2] if _said else "llama.cpp gave no reason"
            raise ModelMissing(
                f"{adapter} is no adapter for {self.name}: {reason}.", "Name an adapter that was made for this model, or none."
            )
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))
        self.name = f"{self.name} + {adapter.stem} ({sha256(adapter)[:12]})"


class _Grammar:
    """A GBNF grammar that follows what was chosen."""

    def __init__(self, vocabulary: Any, rules: str, words: int) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, rules.encode("utf-8"), b"root")
        if not self._sampler:
            raise UsageError("The grammar cannot be read.", "Check it against llama.cpp's GBNF format.")
        self._table = numpy.zeros(words, dtype=[("id", numpy.int32), ("logit", numpy.float32), ("p", numpy.float32)])

    def best(self, logits: numpy.ndarray[Any, Any]) -> int:
        """The likeliest token that fits, which the grammar then takes as chosen."""
        token = int(logits.argmax())
        if not self._fitting(numpy.array([token]), logits)[0]:  # a look at one is a hundred times cheaper than at all
            everyone = numpy.arange(len(logits))
            fitting = self._fitting(everyone, logits)
            if not fitting.any():
                raise FootnoteError("The grammar allows no further word.", "Let its root rule end.")
            token = int(numpy.where(fitting, logits, -numpy.inf).argmax())
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return token

    def _fitting(self, tokens: numpy.ndarray[Any, Any], logits: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
        table = self._table[: len(tokens)]
        table["id"], table["logit"] = tokens, logits[tokens]
        entries = llama_cpp.llama_token_data_array(
            data=table.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data)), size=len(tokens), selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(entries))
        kept: numpy.ndarray[Any, Any] = table["logit"] > -numpy.inf
        return kept

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)


def _open(path: Path, settings: Settings) -> tuple[Any, Any]:
    """llama.cpp's model and context for one file. Raises ModelMissing with what llama.cpp said."""
    llama_cpp.llama_backend_init()
    _said.clear()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise ModelMissing(
            f"{path} cannot be loaded: {' '.join(list(_said)[-3:]) or 'llama.cpp gave no reason'}.",
            "Download it again, or name another GGUF file with FOOTNOTE_MODEL.",
        )
    threads = settings.threads or cores()
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = min(settings.context_tokens, llama_cpp.llama_model_n_ctx_train(model))
    parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        llama_cpp.llama_model_free(model)
        raise ModelMissing(
            f"{path} needs more memory than there is: {' '.join(list(_said)[-3:])}.",
            "Lower FOOTNOTE_CONTEXT_TOKENS or use a smaller model.",
        )
    return model, context


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two prompts share at their start."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return number
    return min(len(left), len(right))


def _log_probability(rows: numpy.ndarray[Any, Any], tokens: Sequence[int]) -> float:
    """Sum over tokens of log softmax(row)[token]."""
    top = rows.max(axis=1)
    sums = numpy.exp(rows - top[:, None]).sum(axis=1, dtype=numpy.float64)
    picked = rows[numpy.arange(len(tokens)), numpy.asarray(tokens)]
    return float((picked - top - numpy.log(sums)).sum())
