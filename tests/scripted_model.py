"""A language model that says what it was told to say: for fast tests of what happens to a model's words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rag.types import Turn


class ScriptedModel:
    """Has the interface of `rag.engine.Model`. One token a word; `generate` gives `script` word by word."""

    name = "scripted"
    context_tokens = 2000

    def __init__(self, script: str = "", level: str = "free", pause_s: float = 0.0) -> None:
        self.script = script
        self.pause_s = pause_s  # before each word, so that answers written at once overlap
        self.level = level
        self.prompts: list[str] = []
        self.expected: list[int] = []  # tokens of each start that it was to read ahead
        self.pieces = 0  # handed out so far
        self._own = threading.local()

    def tokenize(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def chat(self, messages: Sequence[Turn]) -> list[int]:
        self.prompts.append("\n".join(each.content for each in messages))
        return self.tokenize(self.prompts[-1])

    def generate(
        self, tokens: Sequence[int], *, max_tokens: int, should_stop: Callable[[], bool] | None = None,
        choices: Sequence[str] | None = None, grammar: str | None = None,
    ) -> Iterator[str]:
        for number, word in enumerate(self.script.split(" ")):
            if number == max_tokens or (should_stop is not None and should_stop()):
                return
            time.sleep(self.pause_s)
            self.pieces += 1
            self._own.pieces = getattr(self._own, "pieces", 0) + 1
            yield word if number == 0 else f" {word}"

    def score(
        self, prompt_tokens: Sequence[int], continuations: Sequence[Sequence[int]], should_stop: Callable[[], bool] | None = None
    ) -> list[float]:
        return [-1.0] * len(continuations)

    def keep(self, tokens: Sequence[int]) -> None:
        pass

    def expect(self, tokens: Sequence[int]) -> Callable[[], None]:
        self.expected.append(len(tokens))
        return lambda: None

    def usage(self) -> dict[str, float]:
        return {"answer_tokens": float(getattr(self._own, "pieces", 0))}

    def close(self) -> None:
        return None
