"""Settings → the language model that answers: in this process, or on the server that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from config import Settings
from rag.types import Turn


class Model(Protocol):
    """What answers need of a language model; `LanguageModel` and `RemoteModel` give it."""

    name: str
    level: str
    context_tokens: int

    def tokenize(self, text: str) -> list[int]: ...

    def chat(self, messages: Sequence[Turn]) -> list[int]: ...

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
    ) -> Iterator[str]: ...

    def score(
        self, prompt_tokens: Sequence[int], continuations: Sequence[Sequence[int]], should_stop: Callable[[], bool] | None = None
    ) -> list[float]: ...

    def usage(self) -> dict[str, float]: ...

    def close(self) -> None: ...


def open_model(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Model:
    """The model that the settings name. `say` hears what takes a person's time. Raises ModelMissing or EngineUnavailable."""
    if settings.server_url:
        from rag.engine.remote import RemoteModel

        return RemoteModel(settings, say)
    from rag.engine.model import LanguageModel

    return LanguageModel(settings, say)
