"""A prompt's tokens → the model's words, for many callers at once, in this process through llama.cpp.

Decoding is greedy unless a temperature is asked for: the same prompt gives the same words, but for near ties, which what else is read in
the same step may tip. What a prompt shares with another that was read before, or is being read now, is read once: see scheduler.py.
"""

from __future__ import annotations

import codecs
import ctypes
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy

from config import Settings
from errors import FootnoteError, UsageError
from rag.engine import fit, template
from rag.engine.context import Context, Logits, Weights
from rag.engine.files import ModelFile, model_file, sha256
from rag.engine.grammar import Grammar, of_schema
from rag.engine.scheduler import Request, Scheduler, Steps
from rag.types import Turn

SCORED_TOKENS = 64  # tokens scored in one call; each needs a row of the vocabulary (200 KB for the bundled model)
POLL_S = 0.05  # seconds between two looks at should_stop while nothing comes
LEVELS = ("verbatim", "compressed", "free")


class LanguageModel:
    """A GGUF model. `level` says how free its wording may be: verbatim, compressed or free. Threads may share it."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None] = lambda _: None,
        *,
        file: ModelFile | None = None,
        adapter: Path | None = None,
    ) -> None:
        self._file = file or model_file(settings, say)
        self.name = self._file.name
        self.level = settings.model_level or ("verbatim" if self._file.bundled else "free")
        if self.level not in LEVELS:
            raise UsageError(f"model_level = {self.level!r} is no level.", f"Use one of: {', '.join(LEVELS)}.")
        self._weights = Weights(self._file.path)
        try:
            if adapter is not None:
                self._weights.adapter(adapter)
                self.name = f"{self.name} + {adapter.stem} ({sha256(adapter)[:12]})"
            self._adapter = adapter
            self.context_tokens = min(settings.context_tokens, self._weights.trained_tokens)
            self.shape = fit.shape(self._weights, self._file, settings, say)
            self._scheduler = Scheduler(lambda: Context(self._weights, self.shape), fit.store_bytes(self._weights, settings))
        except FootnoteError:
            self._weights.close()
            raise
        self._vocabulary = self._weights.vocabulary
        self._mine = threading.local()
        self._closed = False
        self._bos = self._word(llama_cpp.llama_vocab_bos(self._vocabulary))
        self._eos = self._word(llama_cpp.llama_vocab_eos(self._vocabulary))
        said = llama_cpp.llama_model_chat_template(self._weights.model, None)
        self._template = template.default(said.decode("utf-8") if said else None)
        self._read(self._tokenise("Hello", control=False) or [0])  # touches the weights and starts the threads
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
        schema: str | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        adapter: Path | None = None,
    ) -> Iterator[str]:
        """The continuation of `tokens`, in pieces that are whole characters, until the model ends its turn.

        Args:
            max_tokens: most tokens to write; the window may allow fewer.
            should_stop: asked between pieces and every POLL_S; when it says yes, the pieces end.
            choices: the result is exactly one of these strings, in one piece, found by walking their tokens.
            grammar: GBNF with a rule `root`; every piece fits it. `schema` is a JSON schema, to the same end.
            temperature: 0 takes the likeliest token; above, tokens are drawn, and `seed` decides how.
            adapter: a LoRA adapter for this request, instead of the one that the model wears.

        Raises FootnoteError where the prompt does not fit the window, UsageError for a grammar that cannot be read.
        """
        prompt = list(tokens)
        self._fits(prompt)
        if choices is not None:
            ways = self._ways(prompt, choices)
            request = self._request(prompt, lambda each: self._choose(each, choices, ways), adapter)
        else:
            room = min(max_tokens, self.context_tokens - len(prompt))
            rules = of_schema(schema) if schema else grammar
            request = self._request(prompt, lambda each: self._write(each, room, rules, temperature, seed), adapter)
        yield from self._pieces(request, should_stop)

    def score(
        self, prompt_tokens: Sequence[int], continuations: Sequence[Sequence[int]], should_stop: Callable[[], bool] | None = None
    ) -> list[float]:
        """Mean log-probability (natural, a token) of each continuation after the prompt; the prompt is read once.

        An empty continuation scores minus infinity. When `should_stop` says yes the rest score minus infinity.
        """
        prompt = list(prompt_tokens)
        longest = max(continuations, key=len, default=[])
        self._fits([*prompt, *longest])
        scores = [-numpy.inf] * len(continuations)
        request = self._request(prompt, lambda each: self._weigh(each, continuations, scores))
        for _ in self._pieces(request, should_stop):
            pass
        return [float(each) for each in scores]

    def distributions(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Log-probabilities of every next word after each token, in blocks of rows (tokens, vocabulary); for comparing models."""
        self._fits(tokens)
        blocks = [list(tokens[start : start + SCORED_TOKENS]) for start in range(0, len(tokens), SCORED_TOKENS)]

        def steps(request: Request) -> Steps:
            for number, block in enumerate(blocks):
                request.tokens += block if number else []
                request.say((yield len(block)).copy())

        for rows in self._pieces(self._request(blocks[0], steps), None):
            top = rows.max(axis=1, keepdims=True)
            yield rows - top - numpy.log(numpy.exp(rows - top).sum(axis=1, keepdims=True, dtype=numpy.float64))

    def expect(self, tokens: Sequence[int]) -> Callable[[], None]:
        """Read the start of a prompt that will probably be asked for, while nobody else needs the model; returns what ends that."""
        request = Request(list(tokens), _reading, self._adapter, patient=True)
        self._scheduler.submit(request)
        return lambda: self._scheduler.stop(request)

    def keep(self, tokens: Sequence[int]) -> None:
        """Read the start of all prompts, and never forget it."""

        for _ in self._pieces(Request(list(tokens), _reading, self._adapter, pinned=True), None):
            pass

    def resident(self, tokens: Sequence[int]) -> int:
        """How many of a prompt's first tokens are kept and would not be read again."""
        return self._scheduler.resident(tokens, self._adapter)

    def usage(self) -> dict[str, float]:
        """Counters of what the calling thread asked for since the start.

        prompt_tokens (read), reused_tokens (not read again), answer_tokens; prompt_s and answer_s, the seconds in which it was read and
        written; compute_s, its share of these by tokens.
        """
        return dict(self._counts())

    def state(self) -> dict[str, int]:
        """Who uses the model and what it keeps: running, waiting, kept_tokens, kept_bytes, steps."""
        return self._scheduler.state()

    def clear(self) -> None:
        """Forget every prompt that no running request needs, so that the next one is read from its beginning."""
        self._scheduler.clear()

    def close(self) -> None:
        """Free the model; nothing may be asked of it afterwards."""
        if not self._closed:
            self._closed = True
            self._scheduler.close()
            self._weights.close()

    # ---- between the caller's thread and the engine's

    def _request(self, prompt: list[int], steps: Callable[[Request], Steps], adapter: Path | None = None) -> Request:
        if adapter is not None:
            self._weights.adapter(adapter)
        return Request(prompt, steps, adapter or self._adapter)

    def _pieces(self, request: Request, should_stop: Callable[[], bool] | None) -> Iterator[Any]:
        """What a request says, until it ends or the caller wants no more."""
        self._scheduler.submit(request)
        try:
            while should_stop is None or not should_stop():
                try:
                    piece = request.out.get(timeout=POLL_S if should_stop is not None else None)
                except queue.Empty:
                    continue
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self._scheduler.stop(request)
            counts = self._counts()
            for name, value in request.counts.items():
                counts[name] += value

    def _counts(self) -> dict[str, float]:
        if not hasattr(self._mine, "counts"):
            self._mine.counts = dict.fromkeys(("prompt_tokens", "reused_tokens", "answer_tokens", "prompt_s", "answer_s", "compute_s"), 0.0)
        found: dict[str, float] = self._mine.counts
        return found

    def _read(self, tokens: list[int]) -> None:
        for _ in self._pieces(self._request(tokens, _reading), None):
            pass

    def _fits(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a prompt needs at least one token")
        if len(tokens) >= self.context_tokens:
            raise FootnoteError(
                f"The prompt has {len(tokens)} tokens, but the language model's window is {self.context_tokens}.",
                "Use fewer passages (-k), or raise FOOTNOTE_CONTEXT_TOKENS up to what the model was trained for.",
            )

    # ---- on the engine's thread

    def _write(self, request: Request, room: int, rules: str | None, temperature: float, seed: int) -> Steps:
        logits = (yield 1)[-1]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        grammar = Grammar(self._weights, rules) if rules else None
        random = numpy.random.default_rng(seed)
        try:
            for number in range(room):
                token = _picked(logits, grammar, temperature, random)
                if self._ends(token):
                    return
                request.counts["answer_tokens"] += 1
                piece = decoder.decode(self._bytes(token))  # the bytes of a character that is not whole yet wait here
                if piece:
                    request.say(piece)
                if number + 1 < room:
                    request.tokens.append(token)
                    logits = (yield 1)[-1]
        finally:
            if grammar:
                grammar.close()

    def _ways(self, prompt: list[int], choices: Sequence[str]) -> list[list[int]]:
        if not choices:
            raise ValueError("choices is empty")
        ways = [self._tokenise(choice, control=False) for choice in choices]
        self._fits([*prompt, *max(ways, key=len)])
        return ways

    def _choose(self, request: Request, choices: Sequence[str], ways: Sequence[list[int]]) -> Steps:
        """Walk the tokens that the choices share; where they part, take the way the model finds likelier."""
        start, walked = len(request.tokens), 0
        left = dict(enumerate(ways))
        while len(left) > 1:
            ended = [number for number, way in left.items() if len(way) == walked]
            going = sorted({way[walked] for way in left.values() if len(way) > walked})
            if not going:
                break  # the same string given twice
            best = going[0]
            if len(going) > 1 or ended:
                request.tokens += next(iter(left.values()))[len(request.tokens) - start : walked]
                logits = (yield 1)[-1]
                best = going[int(logits[going].argmax())]
                if ended and self._end_logit(logits) >= float(logits[best]):
                    left = {ended[0]: left[ended[0]]}
                    break
            left = {number: way for number, way in left.items() if len(way) > walked and way[walked] == best}
            walked += 1
        chosen = next(iter(left))
        request.counts["answer_tokens"] += walked
        request.say(choices[chosen])

    def _end_logit(self, logits: Logits) -> float:
        ends = {llama_cpp.llama_vocab_eos(self._vocabulary), llama_cpp.llama_vocab_eot(self._vocabulary)}
        return max((float(logits[each]) for each in ends if each >= 0), default=-numpy.inf)

    def _weigh(self, request: Request, continuations: Sequence[Sequence[int]], scores: list[float]) -> Steps:
        prompt = len(request.tokens)
        first = (yield 1)[-1:].copy()
        for number, continuation in enumerate(continuations):
            if not continuation:
                continue
            total = _log_probability(first, continuation[:1])
            for start in range(0, len(continuation) - 1, SCORED_TOKENS):
                given = continuation[start : start + SCORED_TOKENS][: len(continuation) - 1 - start]
                request.tokens += given
                total += _log_probability((yield len(given)), continuation[start + 1 : start + 1 + len(given)])
            self._scheduler.cut(request, prompt)
            scores[number] = total / len(continuation)


def _reading(_: Request) -> Steps:
    yield 1


def _picked(logits: Logits, grammar: Grammar | None, temperature: float, random: numpy.random.Generator) -> int:
    if temperature <= 0:
        token = grammar.best(logits) if grammar else int(logits.argmax())
    else:
        allowed = grammar.masked(logits) if grammar else logits
        weights = numpy.exp((allowed - allowed.max()).astype(numpy.float64) / temperature).cumsum()
        token = int(numpy.searchsorted(weights, random.random() * weights[-1], side="right"))
    if grammar:
        grammar.accept(token)
    return token


def _log_probability(rows: Logits, tokens: Sequence[int]) -> float:
    """Sum over tokens of log softmax(row)[token]."""
    top = rows.max(axis=1)
    sums = numpy.exp(rows - top[:, None]).sum(axis=1, dtype=numpy.float64)
    picked = rows[numpy.arange(len(tokens)), numpy.asarray(tokens)]
    return float((picked - top - numpy.log(sums)).sum())
