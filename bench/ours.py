"""This checkout's engine in a process of its own, as the app runs it. `python -m bench.ours`, for bench/apart.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import config
from bench import apart
from rag.engine.files import converted
from rag.engine.model import LanguageModel
from rag.types import Turn


class Ours:
    """The settings are those of this process's environment."""

    def __init__(self) -> None:
        settings = config.load()
        self._model = LanguageModel(settings, _say, file=converted(settings, _say))

    def write(self, messages: Sequence[Mapping[str, str]], most: int) -> Iterator[str]:
        """Pieces of an answer; laying the messages into the template counts, as it does for every peer that gets messages."""
        turns = [Turn(each["role"], each["content"]) for each in messages]
        return self._model.generate(self._model.chat(turns), max_tokens=most)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _make(_: dict[str, Any]) -> Any:
    return Ours().write


if __name__ == "__main__":
    apart.serve(_make)
