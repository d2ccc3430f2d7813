"""A prompt → the words of a model on an OpenAI-compatible server (llama-server, vLLM), for when one machine is outgrown.

The only place that opens a connection to another machine, and only to the one that `server_url` names. What such a server
cannot do is done approximately and said here: tokens are counted by the server where it has /tokenize, otherwise guessed high;
choices are asked for and then checked; scores of given texts are all equal.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import itertools
import json
import math
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from config import Settings
from errors import EngineUnavailable, FootnoteError, UsageError
from rag.types import Turn

CHARACTERS_A_TOKEN = 3  # fewer than in most languages, so that a guess is too high rather than too low
MESSAGE_TOKENS = 8  # of a chat template around one message, guessed
TEMPLATE_TOKENS = 40  # that a template may add where no system message is given: SmolLM2's own takes 21
CONNECT_S = 10.0
SILENCE_S = 120.0  # a busy server reads a long prompt before its first word
POLL_S = 0.05  # between two looks at should_stop while nothing comes
KEPT_PROMPTS = 64  # prompts that `generate` can still be asked for; one answer needs one


class RemoteModel:
    """A model behind `server_url`, with the interface of `LanguageModel`."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda _: None) -> None:
        parts = urlsplit(settings.server_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"server_url = {settings.server_url!r} is no address.", "Example: FOOTNOTE_SERVER_URL=http://localhost:8080")
        base = settings.server_url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {settings.server_key}"} if settings.server_key else {}
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),  # an answer has a connection that can be cut
        )
        self._where = parts.netloc.rpartition("@")[2]
        self._model = settings.server_model
        self._seed = settings.seed
        self.name = f"{self._model or 'model'} at {self._where}"
        self.level = settings.model_level or "free"
        self.context_tokens = settings.context_tokens
        self._mine = threading.local()
        self._prompts: OrderedDict[int, list[dict[str, str]]] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._counts_tokens = self._has_tokenize()
        self._lays_out = self._counts_tokens and self._laid([{"role": "user", "content": "a"}]) is not None
        say(f"Answers are written by {self.name}: questions and passages are sent there.")

    def tokenize(self, text: str) -> list[int]:
        """The server's tokens, or as many zeros as there are at most."""
        if self._counts_tokens:
            try:
                response = self._http.post("/tokenize", json={"content": text, "model": self._model, "prompt": text})
                found = response.json().get("tokens")
                if isinstance(found, list):
                    return [each if isinstance(each, int) else 0 for each in found]
            except (httpx.HTTPError, ValueError, AttributeError):
                pass  # a guess is always possible
        return [0] * math.ceil(len(text.encode()) / CHARACTERS_A_TOKEN if not text.isascii() else len(text) / CHARACTERS_A_TOKEN)

    def chat(self, messages: Sequence[Turn]) -> list[int]:
        """As many tokens as the prompt is counted to have; the first is a number by which `generate` knows the messages.

        The server applies its own template; what it does with control tokens in a document is the server's affair.
        """
        body = [{"role": turn.role, "content": turn.content} for turn in messages]
        laid = self._laid(body) if self._lays_out else None
        if laid is not None:
            count = len(self.tokenize(laid)) + 1  # the token that begins a text is not in it
        else:
            count = sum(len(self.tokenize(turn.content)) + MESSAGE_TOKENS for turn in messages) + TEMPLATE_TOKENS
        number = next(self._numbers)
        with self._lock:
            self._prompts[number] = body
            while len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        return [-number, *[0] * count]

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Iterator[str]:
        """Pieces of the answer as the server sends them. Raises EngineUnavailable, FootnoteError for a long prompt."""
        if len(tokens) >= self.context_tokens:
            raise FootnoteError(
                f"The prompt has about {len(tokens)} tokens, but the window is {self.context_tokens}.",
                "Use fewer passages (-k), or raise FOOTNOTE_CONTEXT_TOKENS to what the server offers.",
            )
        messages = self._prompts.get(-tokens[0]) if tokens and tokens[0] < 0 else None
        if messages is None:
            raise ValueError("these tokens are no prompt of this model's chat()")
        if choices is None:
            yield from self._stream(messages, max_tokens, should_stop, grammar)
            return
        if not choices:
            raise ValueError("choices is empty")
        listed = "\n".join(choices)
        asked = [*messages, {"role": "user", "content": f"Reply with exactly one of these lines and nothing else:\n{listed}"}]
        said = "".join(self._stream(asked, max_tokens, should_stop, None)).strip()
        if should_stop is None or not should_stop():
            yield max(choices, key=lambda choice: difflib.SequenceMatcher(None, said, choice).ratio())

    def score(
        self, prompt_tokens: Sequence[int], continuations: Sequence[Sequence[int]], should_stop: Callable[[], bool] | None = None
    ) -> list[float]:
        """No opinion: such servers do not weigh given texts, so all are equal."""
        return [0.0] * len(continuations)

    def keep(self, tokens: Sequence[int]) -> None:
        """Nothing: what such a server keeps is its own affair."""

    def expect(self, tokens: Sequence[int]) -> Callable[[], None]:
        """Nothing: such a server reads a prompt when it is asked to answer it."""
        return lambda: None

    def usage(self) -> dict[str, float]:
        """Counters of what the calling thread asked for, as the server told them; one that was stopped tells nothing."""
        return dict(self._counts())

    def _counts(self) -> dict[str, float]:
        if not hasattr(self._mine, "counts"):
            self._mine.counts = dict.fromkeys(("prompt_tokens", "reused_tokens", "answer_tokens", "prompt_s", "answer_s"), 0.0)
        counts: dict[str, float] = self._mine.counts
        return counts

    def close(self) -> None:
        self._http.close()

    def _has_tokenize(self) -> bool:
        try:
            response = self._http.post("/tokenize", json={"content": "a", "model": self._model, "prompt": "a"})
            return response.status_code == 200 and isinstance(response.json().get("tokens"), list)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, AttributeError):
            return False

    def _laid(self, body: Sequence[dict[str, str]]) -> str | None:
        """The messages in the server's own template, which llama-server tells and others do not."""
        try:
            response = self._http.post("/apply-template", json={"messages": list(body)})
            found = response.json().get("prompt") if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError, AttributeError):
            return None  # it is guessed then
        return found if isinstance(found, str) else None

    def _stream(
        self, messages: Sequence[dict[str, str]], max_tokens: int, should_stop: Callable[[], bool] | None, grammar: str | None
    ) -> Iterator[str]:
        body: dict[str, Any] = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": self._seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._model:
            body["model"] = self._model
        if grammar:
            body["grammar"] = grammar  # llama-server's name for it; others ignore it, and callers check what comes
        said: queue.SimpleQueue[dict[str, Any] | FootnoteError | None] = queue.SimpleQueue()
        wire: list[socket.socket] = []
        counts, started, first = self._counts(), time.monotonic(), 0.0
        threading.Thread(target=self._listen, args=(body, said, wire), daemon=True).start()
        try:
            while should_stop is None or not should_stop():
                try:
                    event = said.get(timeout=POLL_S if should_stop is not None else None)
                except queue.Empty:
                    continue  # the server reads the prompt, and sends nothing at all until it has
                if event is None:
                    return
                if isinstance(event, FootnoteError):
                    raise event
                usage = event.get("usage")
                if isinstance(usage, dict):
                    reused = float((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
                    counts["prompt_tokens"] += float(usage.get("prompt_tokens") or 0) - reused
                    counts["reused_tokens"] += reused
                    counts["answer_tokens"] += float(usage.get("completion_tokens") or 0)
                for choice in event.get("choices") or ():
                    piece = (choice.get("delta") or {}).get("content")
                    if piece:
                        first = first or time.monotonic()
                        yield str(piece)
        finally:
            for each in wire:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # the server sees that nobody listens, and stops; nothing where it had ended
            ended = time.monotonic()
            counts["prompt_s"] += (first or ended) - started
            counts["answer_s"] += ended - (first or ended)

    def _listen(self, body: dict[str, Any], said: queue.SimpleQueue[Any], wire: list[socket.socket]) -> None:
        """In a thread of its own, since a connection that waits cannot be asked whether to go on: events, then None or an error."""

        def connected(name: str, found: dict[str, Any]) -> None:
            if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                wire[:] = [found["return_value"].get_extra_info("socket")]

        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body, extensions={"trace": connected}) as response:
                if response.status_code != 200:
                    response.read()
                    said.put(self._refused(response))
                    return
                for event in _events(response.iter_bytes()):
                    if event.get("error"):
                        said.put(self._broke_off(event["error"]))
                        return
                    said.put(event)
            said.put(None)
        except httpx.HTTPError as error:
            said.put(self._unreachable(error))
        except (OSError, RuntimeError) as error:  # the connection or the client was closed meanwhile
            said.put(EngineUnavailable(f"The connection to {self._where} was closed ({error!r}).", "Ask again."))

    def _broke_off(self, error: Any) -> EngineUnavailable:
        told = error.get("message") if isinstance(error, dict) else error
        return EngineUnavailable(f"The model server at {self._where} broke off: {str(told)[:200]}", "Ask again; see the server's own log.")

    def _unreachable(self, error: httpx.HTTPError) -> EngineUnavailable:
        what = "does not answer" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
        return EngineUnavailable(
            f"The model server at {self._where} {what} ({type(error).__name__}).",
            "Check that it runs, or clear FOOTNOTE_SERVER_URL to use the model on this machine.",
        )

    def _refused(self, response: httpx.Response) -> EngineUnavailable:
        cures = {
            401: "Check FOOTNOTE_SERVER_KEY.",
            403: "Check FOOTNOTE_SERVER_KEY.",
            404: "Check FOOTNOTE_SERVER_MODEL and FOOTNOTE_SERVER_URL.",
        }
        said = " ".join(response.text.split())[:200]
        return EngineUnavailable(
            f"The model server at {self._where} refused (status {response.status_code}): {said}",
            cures.get(response.status_code, "See the server's own log; the window it was started with may be too small."),
        )


def _events(data: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events."""
    decoder, held = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for part in data:
        held += decoder.decode(part)
        *lines, held = held.split("\n")
        for line in lines:
            text = line.removeprefix("data:").strip()
            if line.startswith("data:") and text != "[DONE]":
                try:
                    event = json.loads(text)
                except json.JSONDecodeError:
                    continue  # a comment or a keep-alive
                if isinstance(event, dict):
                    yield event
