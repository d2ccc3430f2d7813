"""Question and hits → a prompt that fits the model's window, counted in tokens. A passage that does not fit is left out, never cut.

Its wording comes from a file in prompts/, or from the admin's own in the data folder. Which one is live is a recorded decision, made by
`python -m evals prompts`; the decision holds the text that was measured, so a file that is edited later changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from string import Template
from typing import Any

from config import ROOT
from errors import UsageError
from rag.types import Hit, Prompt, Turn

NOT_FOUND = "The documents do not say."
FOLDER = ROOT / "prompts"
SHIPPED = "answer"  # live until a decision says otherwise
DECISIONS = "decisions.jsonl"  # in the data folder's prompts/, beside the admin's own files
VERSION = re.compile(r"<!-- version (\d+) -->\n")
NAME = re.compile(r"[A-Za-z0-9][\w-]*")
NEEDED, ALLOWED = {"passages", "question"}, {"passages", "question", "not_found"}
CURE = "See prompts/README.md."


@dataclass(frozen=True, slots=True)
class Wording:
    """What a prompt file says: messages (role, template), and the whole text as it was read."""

    name: str
    version: int
    text: str
    messages: tuple[tuple[str, Template], ...]

    @property
    def label(self) -> str:
        """ "answer v1": what receipts and results carry."""
        return f"{self.name} v{self.version}"


def prompt(
    question: str, hits: Sequence[Hit], chat: Callable[[Sequence[Turn]], list[int]], room: int, wording: Wording | None = None
) -> Prompt:
    """The prompt with as many of `hits`, best first, as fit into `room` tokens.

    Args:
        chat: messages → tokens, by the model's own chat template.
        room: tokens of the window that the prompt may take.
        wording: what it says around them; None: the prompt that Footnote comes with.

    Raises UsageError when not even the question and one passage fit.
    """
    wording = wording or opened(SHIPPED)
    for kept in range(len(hits), 0, -1):
        messages = _messages(question, hits[:kept], wording)
        tokens = chat(messages)
        if len(tokens) <= room:
            return Prompt(messages, tuple(hits[:kept]), tuple(tokens), wording.label, wording.text)
    raise UsageError(
        f"The question and one passage take more than the {room} tokens that the model's window leaves.",
        "Ask a shorter question, or raise context_tokens in footnote.toml.",
    )


def opening(hits: Sequence[Hit], chat: Callable[[Sequence[Turn]], list[int]], wording: Wording) -> list[int]:
    """The tokens that prompts begin with whatever is asked: the instructions, then the first of `hits` if there is one."""
    if hits:
        one, other = chat(_messages("Who?", hits[:1], wording)), chat(_messages("Is it?", [hits[0], hits[0]], wording))
    else:
        plain = _messages("Who?", (), wording)
        one, other = (chat([Turn(turn.role, mark if turn.role == "user" else turn.content) for turn in plain]) for mark in "ab")
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def live(home: Path) -> Wording:
    """The prompt that people are answered with: the last one adopted and not taken back, in the words in which it was adopted."""
    standing = adopted(decisions(home))
    return standing[-1] if standing else opened(SHIPPED)


def adopted(made: Sequence[Mapping[str, Any]]) -> list[Wording]:
    """The prompts that decisions adopted and did not take back, the live one last; empty: the shipped one is live."""
    standing: list[Wording] = []
    for each in made:
        if each["action"] == "adopted":
            standing.append(parsed(each["prompt"], each["text"]))
        elif standing:
            standing.pop()
    return standing


def decisions(home: Path) -> list[dict[str, Any]]:
    """Every decision about prompts, oldest first. Raises UsageError where they cannot be read: which one is live is not guessed."""
    path = home / "prompts" / DECISIONS
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        adopted(found)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "Restore it from a backup, or move it away: the prompt that Footnote comes with is live then."
        raise UsageError(f"{path} cannot be read ({error!r}).", cure) from None
    return found


def opened(name: str, home: Path | None = None) -> Wording:
    """The prompt file NAME.md of Footnote, or of the data folder `home`. Raises UsageError where there is none, or it is not one."""
    if NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name of a prompt.", "Letters, digits, - and _; the file is NAME.md.")
    places = [FOLDER / f"{name}.md", *([home / "prompts" / f"{name}.md"] if home else [])]
    found = [each for each in places if each.is_file() and each.stem != "README"]
    if len(found) > 1:
        raise UsageError(f"{found[1]} has the name of a prompt that Footnote comes with.", "Rename it.")
    if not found:
        raise UsageError(f"There is no prompt {name}: looked for {' and '.join(map(str, places))}.", CURE)
    try:
        return parsed(name, found[0].read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{found[0]} cannot be read ({error}).", CURE) from None


@cache
def parsed(name: str, text: str) -> Wording:
    """Version and messages of a prompt file's text. Raises UsageError for a text that is none: nothing is found out while answering."""
    version = VERSION.match(text)
    sections = re.split(r"^# (system|user)\n", text, flags=re.MULTILINE)
    if version is None or len(sections) < 3:
        raise UsageError(f"The prompt {name} has no version line or no message.", CURE)
    messages = tuple((role, Template(body.strip())) for role, body in zip(sections[1::2], sections[2::2], strict=True))
    if not all(template.is_valid() for _, template in messages):
        raise UsageError(f"The prompt {name} has a $ that begins no variable.", "Write $$ for a dollar sign.")
    named = {each for _, template in messages for each in template.get_identifiers()}
    if not NEEDED <= named <= ALLOWED:
        wrong = sorted((NEEDED - named) | (named - ALLOWED))
        raise UsageError(f"The prompt {name} lacks, or has too many, variables: ${', $'.join(wrong)}.", CURE)
    return Wording(name, int(version[1]), text, messages)


def _messages(question: str, hits: Sequence[Hit], wording: Wording) -> tuple[Turn, ...]:
    passages = "\n\n".join(f"[{n}] {_source(hit)}\n{hit.passage.text.strip()}" for n, hit in enumerate(hits, 1))
    values = {"passages": passages, "question": question, "not_found": NOT_FOUND}
    return tuple(Turn(role, text.substitute(values)) for role, text in wording.messages)


def _source(hit: Hit) -> str:
    passage = hit.passage
    return " · ".join(filter(None, (passage.location, passage.section, passage.date)))
