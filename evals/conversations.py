"""Single questions with known answers → short conversations, by code.

What two questions about a document share becomes a pronoun in the second, or is left out of it. They are synthetic: they show what a
follow-up loses when its subject is not named, not how people talk. Compare settings with them, and take absolute scores from
conversations that people had.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from evals.questions import Question
from rag.words import Word, words

TURNS = 4  # questions of one conversation at most, a change of topic included
CHANGES = 0.25  # share of conversations that end with a question about another document
ALIKE_WORDS = 3  # words that two questions must begin with alike for the rest to be asked alone
REST_WORDS = 6  # words of such a rest at most
ARTICLES = ("the", "der", "die", "das", "den", "dem", "des")
COUNTED = ("many", "much", "what", "which", "all", "some", "non")  # a word after one of these is no whole phrase
PLACING = ("in", "on", "at", "of", "for", "from", "by", "with", "to", "during", "under", "after", "before", "für", "bei", "von", "mit")
ASKS = re.compile(r"\b(?:do|does|did|is|are|was|were|has|have|had|can|could|may|must|will|would|should)\s+$", re.IGNORECASE)
NOT_SAID = "The documents do not say."


def conversations(questions: Sequence[Question], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Up to `count` follow-ups as lines of a question set, each with its conversation before it and the question it was made from.

    The same questions and seed give the same follow-ups. A kind of follow-up is `pronoun`, `ellipsis` or `change` (of the topic).
    """
    chance = random.Random(seed)
    by_document: dict[str, list[Question]] = {}
    for each in questions:
        name = each.gold[0].document if each.gold else each.related
        if name and not each.history:
            by_document.setdefault(name, []).append(each)
    names = sorted(by_document)
    chains = []
    for name in names:
        chance.shuffle(by_document[name])
        chains += [(name, chain) for chain in _chains(by_document[name])]
    chance.shuffle(chains)
    made: list[dict[str, Any]] = []
    for number, (name, chain) in enumerate(chains, 1):
        if len(made) >= count:
            break
        others = [each for each in names if each != name]
        if others and chance.random() < CHANGES:
            other = chance.choice(by_document[chance.choice(others)])
            chain = [*chain, (other, other.question, "change")]
        made += _lines(f"s{number:04d}", chain)
    return made[:count]


def follow_up(before: str, question: str) -> tuple[str, str] | None:
    """(kind, `question` as it could be asked after `before`); None where the two share nothing that could be left out."""
    return _ellipsis(before, question) or _pronoun(before, question)


def _chains(questions: list[Question]) -> Iterator[list[tuple[Question, str, str]]]:
    """(question, as it is asked, kind) by conversation; every question is used once at most."""
    left = list(questions)
    while left:
        first = left.pop(0)
        chain = [(first, first.question, "first")]
        while len(chain) < TURNS - 1:
            found = next(
                ((each, asked) for each in left if (asked := follow_up(chain[-1][0].question, each.question)) is not None), None
            )
            if found is None:
                break
            each, (kind, wording) = found
            left.remove(each)
            chain.append((each, wording, kind))
        if len(chain) > 1:
            yield chain


def _lines(name: str, chain: Sequence[tuple[Question, str, str]]) -> Iterator[dict[str, Any]]:
    history: list[dict[str, str]] = []
    for number, (question, asked, kind) in enumerate(chain, 1):
        if number > 1:
            yield {
                "id": f"{name}.{number}", "conversation": name, "kind": kind, "question": asked, "rewrite": question.question,
                "answers": list(question.answers), "answerable": question.answerable, "related_doc": question.related,
                "gold": [
                    {"doc": each.document, "page": each.page, "section": each.section, "text": each.text} for each in question.gold
                ],
                "history": list(history),
            }
        answer = question.answers[0] if question.answers else NOT_SAID
        history += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _ellipsis(before: str, question: str) -> tuple[str, str] | None:
    """"What is the price of A?", "What is the price of B?" → "And of B?": what differs must hang on a preposition."""
    one, other = before.rstrip(" ?").split(), question.rstrip(" ?").split()
    pairs = enumerate(zip(one, other, strict=False))
    alike = next((at for at, (a, b) in pairs if a.casefold() != b.casefold()), min(len(one), len(other)))
    same = alike
    while 0 < same < len(other) and other[same].lower() not in PLACING and (other[same] in ("a", "an", "the") or same == alike):
        same -= 1  # the preposition, and an article after it, may be among what they share
    rest = other[same:]
    if same < ALIKE_WORDS or not 0 < len(rest) <= REST_WORDS or rest[0].lower() not in PLACING:
        return None
    return "ellipsis", f"And {' '.join(rest)}?"


def _pronoun(before: str, question: str) -> tuple[str, str] | None:
    """The longest noun phrase that both name becomes "it", "its", "they", "them" or "there"."""
    known = {tuple(each.form for each in some) for some in _phrases(before)}
    shared = [some for some in _phrases(question) if tuple(each.form for each in some) in known]
    if not shared:
        return None
    phrase = max(shared, key=len)
    start, end = phrase[0].start, phrase[-1].end
    left, right = question[:start], question[end:]
    last = phrase[-1]
    own = question[last.start : last.end]
    if right.startswith(("'s", "’s")) or own.endswith(("'s", "’s")):
        pronoun, right = "its", right.removeprefix("'s").removeprefix("’s")
    elif match := re.search(r"\b(?:in|at)\s+$", left, re.IGNORECASE):
        pronoun, left = "there", left[: match.start()]
    elif own.endswith("s") and not own.endswith(("ss", "us", "is")):
        pronoun = "they" if ASKS.search(left) else "them"
    else:
        pronoun = "it"
    asked = f"{left}{pronoun}{right}"
    if not any(each.kind not in ("function", "condition") for each in words(asked)):
        return None
    return "pronoun", asked[0].upper() + asked[1:]


def _phrases(text: str) -> Iterator[list[Word]]:
    """Runs of neighbouring words that may be a noun phrase: a name, or what follows a definite article, cut at function words."""
    found = words(text)
    for start, first in enumerate(found):
        article = first.form in ARTICLES
        if not article and first.kind != "name":
            continue
        for end in range(start + 1 + article, len(found) + 1):
            some = found[start:end]
            inner = some[article:]
            if any(each.form in ARTICLES or each.kind in ("negation", "condition") for each in inner):
                break
            if any(each.kind == "function" and each.form != "of" for each in inner) or text[some[0].end : some[-1].start].count("?"):
                break
            if inner[-1].kind != "function" and _whole(found, start, end, text):
                yield some


def _whole(found: Sequence[Word], start: int, end: int, text: str) -> bool:
    """No word beside found[start:end] belongs to the same phrase: no article or name before it, no name or noun after it."""
    before = found[start - 1] if start else None
    after = found[end] if end < len(found) else None
    if before is not None and (before.form in (*ARTICLES, *COUNTED) or before.kind in ("name", "number")):
        return False
    if after is None or text[found[end - 1].start : after.start].rstrip().endswith(("'s", "’s")):
        return True
    subject = found[end - 1].kind == "name" and ASKS.search(text[: found[start].start]) is not None  # its verb comes next
    return after.kind == "function" or (after.kind == "content" and subject)
