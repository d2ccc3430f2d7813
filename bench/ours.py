"""This checkout's engine in a process of its own, as the app runs it. `python -m bench.ours`, for bench/apart.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import config
from bench import apart
from rag.engine.files import converted
from rag.engine.model import LanguageModel
from rag.types import Turn


def engine(_: Mapping[str, Any]) -> Callable[[Sequence[Mapping[str, str]], int], Iterator[str]]:
    """What writes an answer to messages, with the settings of this process's environment; laying them into the template counts, as it
    does for every peer that gets messages."""
    settings = config.load()
    model = LanguageModel(settings, _say, file=converted(settings, _say))

    def write(messages: Sequence[Mapping[str, str]], most: int) -> Iterator[str]:
        turns = [Turn(each["role"], each["content"]) for each in messages]
        return model.generate(model.chat(turns), max_tokens=most)

    return write


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    apart.serve(engine)
