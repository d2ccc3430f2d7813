"""A question and the conversation before it → a question that stands alone.

Done by code: a follow-up that leans on what was said ("And for interns?", "How long does it take?") is given the earlier question's
topic words. A question with enough content of its own, and no word that points back, is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.types import Turn
from rag.words import words

POINTING = re.compile(
    r"\b(it|its|they|them|their|theirs|that|this|those|these|he|she|him|her|his|hers|same|else|instead|"
    r"er|ihn|ihm|dies\w*|dort|davon|dafür)\b",
    re.IGNORECASE,
)
OPENING = re.compile(
    r"^\s*(and|but|or|so|also|what about|how about|what if|why|und|aber|oder|auch|was ist mit|wie ist es)\b", re.IGNORECASE
)
ENOUGH_WORDS = 2  # content words with which a question without pointers is taken to stand alone: "What do hotels cost?"
NOUN_BEFORE = 2  # content words before a pronoun, of which one may be what it stands for; a single one is mostly the verb
TURNS_BACK = 3  # earlier questions looked at


def condense(question: str, history: Sequence[Turn]) -> str:
    """`question` itself, or with the topic of the questions before it in brackets."""
    earlier = [turn.content for turn in history if turn.role == "user"][-TURNS_BACK:]
    if not earlier:
        return question
    own = [each for each in words(question) if each.kind != "function"]
    leans = OPENING.search(question) or _points_back(question) or len(own) < ENOUGH_WORDS
    if not leans:
        return question
    topic = _topic(earlier, {each.form for each in own})
    return f"{question} ({topic})" if topic else question


def _points_back(question: str) -> bool:
    """A pronoun with nothing before it in the question that it could stand for."""
    match = POINTING.search(question)
    if match is None:
        return False
    before = [each for each in words(question[: match.start()]) if each.kind in ("content", "name")]
    return len(before) < NOUN_BEFORE and not any(each.kind == "name" for each in before)


def _topic(earlier: Sequence[str], own: set[str]) -> str:
    """Content words of the last question that stood on its own feet, with those of the follow-ups after it."""
    chosen: list[str] = []
    seen = set(own)
    for text in reversed(earlier):
        for word in words(text):
            if word.kind != "function" and word.form not in seen:
                seen.add(word.form)
                chosen.append(text[word.start : word.end])
        if not (OPENING.search(text) or _points_back(text)):
            break
    return " ".join(chosen)
