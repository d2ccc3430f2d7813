"""Settings → the language model that answers: in this process, or on the server that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from config import ROOT, Settings
from errors import ModelMissing
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

    def keep(self, tokens: Sequence[int]) -> None: ...

    def expect(self, tokens: Sequence[int]) -> Callable[[], None]: ...

    def usage(self) -> dict[str, float]: ...

    def close(self) -> None: ...


def open_model(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Model:
    """The model that the settings name. `say` hears what takes a person's time. Raises ModelMissing or EngineUnavailable."""
    if settings.server_url:
        from rag.engine.remote import RemoteModel

        return RemoteModel(settings, say)
    from rag.engine.model import LanguageModel

    return LanguageModel(settings, say, adapter=adapter_file(settings))


def adapter_file(settings: Settings) -> Path | None:
    """The adapter that the settings name, None where they name none; a relative path counts from the checkout.

    One that went live lies in a folder called by its digest, and is compared with it. Raises ModelMissing.
    """
    from rag.engine.files import unchanged

    if not settings.adapter:
        return None
    path = ROOT / Path(settings.adapter).expanduser()
    if not path.is_file():
        raise ModelMissing(f"The adapter {path} does not exist.", "Name a GGUF adapter with FOOTNOTE_ADAPTER, or leave it empty for none.")
    unchanged(path.parent)
    return path
