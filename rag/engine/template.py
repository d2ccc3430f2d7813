"""Messages → the tokens of a model's own chat template; what people and documents wrote never becomes a control token.

The template is rendered with a placeholder for each message, split at the placeholders, and only its own words are
tokenised with control tokens allowed. A document that contains "<|im_end|>" therefore cannot end its turn.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from errors import ModelMissing
from rag.types import Turn

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)  # for files that carry no template of their own


class _Refused(Exception):
    """The template itself refuses these messages, as some do with a system message."""


def pieces(template: str, messages: Sequence[Turn], bos: str, eos: str) -> list[tuple[str, bool]]:
    """(text, whether it is the template's own) in order: what is to be tokenised apart.

    A template without room for a system message gets its words at the start of the first question.
    """
    try:
        return _rendered(template, messages, bos, eos)
    except _Refused:
        if not messages or messages[0].role != "system" or len(messages) < 2:
            raise ModelMissing("The model's chat template refuses this conversation.", "Use an instruct model.") from None
    merged = Turn(messages[1].role, f"{messages[0].content}\n\n{messages[1].content}")
    try:
        return _rendered(template, [merged, *messages[2:]], bos, eos)
    except _Refused as refusal:
        raise ModelMissing(f"The model's chat template refuses this conversation: {refusal}.", "Use an instruct model.") from None


def _rendered(template: str, messages: Sequence[Turn], bos: str, eos: str) -> list[tuple[str, bool]]:
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]  # private-use characters: no template writes them
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        text = environment.from_string(template).render(
            messages=[{"role": turn.role, "content": mark} for turn, mark in zip(messages, marks, strict=True)],
            add_generation_prompt=True,
            bos_token=bos,
            eos_token=eos,
            tools=None,
            documents=None,
            enable_thinking=False,
            raise_exception=_raise,
            strftime_now=lambda form: datetime.datetime.now().astimezone().strftime(form),
        )
    except jinja2.TemplateError as error:
        raise ModelMissing(
            f"The model's chat template cannot be read: {error}.", "Use another GGUF file of this model."
        ) from None
    result: list[tuple[str, bool]] = []
    for mark, turn in zip(marks, messages, strict=True):
        before, found, text = text.partition(mark)
        if not found:
            raise _Refused(f"it leaves out the {turn.role} message")
        result += [(before, True), (turn.content, False)]
    return [*result, (text, True)]


def _raise(message: str) -> None:
    raise _Refused(message)


def tokens(parts: Sequence[tuple[str, bool]], tokenise: Callable[[str, bool], list[int]]) -> list[int]:
    """The pieces' tokens, joined. `tokenise(text, control)` reads control tokens only where `control` is true."""
    joined: list[int] = []
    for text, own in parts:
        if text:
            joined += tokenise(text, own)
    return joined


def default(template: str | None) -> str:
    """The file's own template, or ChatML where it has none."""
    return template or CHATML
