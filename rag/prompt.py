"""Question and hits → a prompt that fits the model's window, counted in tokens. A passage that does not fit is left out, never cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from string import Template

from config import ROOT
from errors import UsageError
from rag.types import Hit, Prompt, Turn

NOT_FOUND = "The documents do not say."
FOLDER = ROOT / "prompts"
VERSION = re.compile(r"<!-- version (\d+) -->\n")


def prompt(question: str, hits: Sequence[Hit], chat: Callable[[Sequence[Turn]], list[int]], room: int, name: str = "answer") -> Prompt:
    """The prompt with as many of `hits`, best first, as fit into `room` tokens.

    Args:
        chat: messages → tokens, by the model's own chat template.
        room: tokens of the window that the prompt may take.

    Raises UsageError when not even the question and one passage fit.
    """
    version, parts = template(name)
    for kept in range(len(hits), 0, -1):
        passages = "\n\n".join(f"[{n}] {_source(hit)}\n{hit.passage.text.strip()}" for n, hit in enumerate(hits[:kept], 1))
        values = {"passages": passages, "question": question, "not_found": NOT_FOUND}
        messages = tuple(Turn(role, text.substitute(values)) for role, text in parts)
        tokens = chat(messages)
        if len(tokens) <= room:
            return Prompt(messages, tuple(hits[:kept]), tuple(tokens), f"{name} v{version}")
    raise UsageError(
        f"The question and one passage take more than the {room} tokens that the model's window leaves.",
        "Ask a shorter question, or raise context_tokens in footnote.toml.",
    )


@cache
def template(name: str) -> tuple[int, tuple[tuple[str, Template], ...]]:
    """Version and messages (role, template) of a prompt file. Raises UsageError for a file that is not one."""
    path: Path = FOLDER / f"{name}.md"
    text = path.read_text(encoding="utf-8")
    version = VERSION.match(text)
    sections = re.split(r"^# (system|user)\n", text, flags=re.MULTILINE)
    if version is None or len(sections) < 3:
        raise UsageError(f"prompts/{name}.md has no version line or no message.", "See prompts/README.md.")
    parts = zip(sections[1::2], sections[2::2], strict=True)
    return int(version[1]), tuple((role, Template(body.strip())) for role, body in parts)


def _source(hit: Hit) -> str:
    passage = hit.passage
    return " · ".join(filter(None, (passage.location, passage.section, passage.date)))
