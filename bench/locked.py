"""`Llama` of llama-cpp-python behind a lock, in a process of its own: what an app does that shares one model among its threads.

`python -m bench.locked`, for bench/apart.py. Nothing of `rag` is imported: it would set how threads wait, which a peer has by default.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llama_cpp

from bench import apart


class Locked:
    """One `Llama`; options are its own, see llama-cpp-python."""

    def __init__(self, path: str, **options: Any) -> None:
        self._llama = llama_cpp.Llama(model_path=path, verbose=False, **options)
        self._lock = threading.Lock()

    def write(self, messages: Sequence[Mapping[str, str]], most: int) -> Iterator[str]:
        """Pieces of an answer, greedily, as `create_chat_completion` streams them."""
        said: Any = list(messages)
        with self._lock:
            events: Any = self._llama.create_chat_completion(
                messages=said, max_tokens=most, temperature=0.0, repeat_penalty=1.0, stream=True
            )
            for event in events:
                yield event["choices"][0]["delta"].get("content") or ""

    def read_last(self, count: int) -> tuple[int, ...]:
        """The first `count` tokens of what was read last: whether its prompt was the same as ours."""
        return tuple(int(each) for each in self._llama.input_ids[:count])

    def close(self) -> None:
        self._llama.close()


if __name__ == "__main__":
    apart.serve(lambda options: Locked(**options).write)
