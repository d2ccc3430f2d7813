"""A question and the conversation before it → a question that stands alone.

Done by code: a follow-up that leans on what was said ("And for interns?", "How long does it take?") is given the earlier question's
topic words. What it puts in their place ("And in Bremen?" after "in Leith", "I meant E05") is left out of them. A question with enough
content of its own, and no word that points back, is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rag.types import Turn
from rag.words import words

POINTING = re.compile(
    r"\b(it|its|it's|they|them|their|theirs|that|this|those|these|he|she|he's|she's|him|her|his|hers|same|else|instead|then|afterwards|"
    r"(?:the|this|that|new|old|next|last|first|second|other|which) ones?|(?<!is )(?<!are )(?<!was )(?<!were )there(?! is| are| was| were)|"
    r"er|ihn|ihm|ihnen|dies\w*|dort|davon|dafür|dazu|damit|danach|daran|sie)\b",
    re.IGNORECASE,
)
OWNING = ("its", "their", "his", "her", "theirs", "hers", "that", "this", "those", "these", "sie", "same")
CLAUSE = re.compile(
    r",|\b(and|or|but|before|after|when|if|until|once|because|that|who|which|while|unless|than|und|oder|wenn|bevor|dass|weil|bis|nachdem)\b",
    re.IGNORECASE,
)
PERSON = re.compile(r"\b(he|she|he's|she's|him|her|his|hers|er|ihm|ihn|ihr)\b", re.IGNORECASE)
DETERMINING = re.compile(r"\b(of|for|in|on|with|about|by|at|from|to|is|are|was|does|did|has) (that|this|those|these)\b", re.IGNORECASE)
OPENING = re.compile(
    r"^\s*(and|but|or|so|also|what about|how about|what if|why|und|aber|oder|auch|was ist mit|wie ist es)\b", re.IGNORECASE
)
CORRECTION = re.compile(
    r"^(?:(?:no|nope|sorry|wait|actually|nein|entschuldigung|moment|halt)\b[\s,.;:–-]+)*(?:i|ich) (?:mean|meant|meine|meinte)\b[\s,.;:–-]*|"
    r"^(?:(?:no|nope|sorry|wait|actually|nein|entschuldigung|moment|halt)\s*[,.;:–-]+\s*)+",
    re.IGNORECASE,
)
PLACING = re.compile(
    r"^(in|on|at|for|from|by|with|without|after|before|during|under|until|since|between|among|outside|to|of|bei|für|im|nach|vor|mit|ohne|"
    r"ab|seit|von|zwischen|während)\b",
    re.IGNORECASE,
)
ASKING = re.compile(
    r"^\s*(who|whom|whose|what|which|when|where|why|how|wer|wen|wem|was|welche\w*|wann|wo|wohin|warum|wie)\b|"
    r"\b(is|are|was|were|do|does|did|has|have|had|can|can't|could|may|might|must|will|would|should|shall|am|be|"
    r"ist|sind|war|waren|wird|werden|hat|haben|kann|können|darf|dürfen|muss|müssen|soll|sollen|gibt|gilt)\b|^\s*(tell|show|list|explain|give|"
    r"describe|nenne|zeige|erkläre)\b",
    re.IGNORECASE,
)
EXISTS = re.compile(r"^(is|are) there\b|^gibt es\b", re.IGNORECASE)  # one word will do: "Is there a canteen?"
ENOUGH_WORDS = 2  # content words with which a question without pointers is taken to stand alone: "What do hotels cost?"
RICH_WORDS = 3  # content words with which a question that points back needs only the names of what it points to, where there are any
FEW_WORDS = 3  # content words of a question without a verb that is taken for a part of one, where it has a question mark
NOUN_BEFORE = 2  # content words before a pronoun, of which one may be what it stands for; a single one is mostly the verb
TURNS_BACK = 3  # earlier questions looked at


@dataclass(frozen=True, slots=True)
class _Term:
    """A word of the topic: `before` is the word in front of it, by which "in Leith" is known to be replaced by "in Bremen"."""

    form: str
    kind: str
    text: str
    before: str


def condense(question: str, history: Sequence[Turn]) -> str:
    """`question` itself, or with the topic of the questions before it in brackets."""
    asked = _pairs(history)[-TURNS_BACK:]
    if not asked or not _leans(question):
        return question
    topic: list[_Term] = []
    for earlier, _ in asked:
        topic = [*(_replaced(topic, earlier) if _leans(earlier) else ()), *_terms(_plain(earlier))]
    plain = _plain(question)
    own = {each.form: each.kind for each in words(plain)}
    left = [each for each in _replaced(topic, question) if each.form not in own]
    if not _fragment(question) and sum(kind != "function" for kind in own.values()) >= RICH_WORDS:
        left = [each for each in left if each.kind == "name"] or left
    added = [each.text for each in left]
    if PERSON.search(question):
        added += _people(asked[-1][1], {*own, *(each.form for each in topic)})
    return f"{plain} ({' '.join(dict.fromkeys(added))})" if added else question


def _fragment(question: str) -> bool:
    """"And in Bremen?", "For commercial use?", "I meant E05": no question of its own, it changes a part of the one before."""
    rest = OPENING.sub("", question)
    return CORRECTION.match(question) is not None or _bare(rest) or (rest != question and ASKING.search(rest) is None)


def _bare(question: str) -> bool:
    """No verb, and not a query in keywords ("hotel limit London") either: "For commercial use?", "Level 3?"."""
    few = sum(each.kind != "function" for each in words(question)) <= FEW_WORDS
    return ASKING.search(question) is None and bool(PLACING.match(question) or (few and question.rstrip().endswith("?")))


def _pairs(history: Sequence[Turn]) -> list[tuple[str, str]]:
    """(question, answer) of the conversation, oldest first."""
    pairs: list[tuple[str, str]] = []
    for turn in history:
        if turn.role == "user":
            pairs.append((turn.content.strip(), ""))
        elif pairs:
            pairs[-1] = (pairs[-1][0], turn.content)
    return pairs


def _plain(question: str) -> str:
    """Without "No, I meant …"."""
    return CORRECTION.sub("", question) or question


def _leans(question: str) -> bool:
    """Whether the question cannot be understood without what was said before."""
    content = [each for each in words(question) if each.kind != "function"]
    few = len(content) < ENOUGH_WORDS and not EXISTS.search(question) and not any(each.kind == "name" for each in content)
    return bool(
        OPENING.search(question)
        or CORRECTION.match(question)
        or _points_back(question)
        or few
        or _bare(question)
    )


def _points_back(question: str) -> bool:
    """A pronoun with nothing before it in the question that it could stand for.

    "it" and "them" stand for nothing in their own clause ("Who collects them?"); "its" and "that" may.
    """
    if DETERMINING.search(question):
        return True
    match = POINTING.search(question)
    if match is None:
        return False
    clauses = [each.start() for each in CLAUSE.finditer(question[: match.start()])]
    until = match.start() if match.group().lower() in OWNING else clauses[-1] if clauses else 0
    before = [each for each in words(question[:until]) if each.kind in ("content", "name")]
    return len(before) < NOUN_BEFORE and not any(each.kind == "name" for each in before)


def _terms(text: str) -> list[_Term]:
    """The words of a question that say what it is about."""
    found = words(text)
    terms = []
    for at, word in enumerate(found):
        if word.kind != "function":
            terms.append(_Term(word.form, word.kind, text[word.start : word.end], found[at - 1].form if at else ""))
    return terms


def _replaced(topic: Sequence[_Term], question: str) -> list[_Term]:
    """The topic without what the follow-up puts in its place: a number for a number, a name for a name in the same position."""
    mine = _terms(_plain(question))
    if not _fragment(question):
        return list(topic)
    kept = []
    for term in topic:
        same = [each for each in mine if each.kind == term.kind and each.kind in ("number", "name")]
        if any(each.kind == "number" or each.before in (term.before, "", "and", "und") for each in same) and not any(
            each.form == term.form for each in mine
        ):
            continue
        kept.append(term)
    return kept


def _people(answer: str, known: set[str]) -> list[str]:
    """Names of people in the answer: two names in a row."""
    found = words(answer)
    names: list[str] = []
    for one, other in zip(found, found[1:], strict=False):
        beside = answer[one.end : other.start] == " " and one.kind in ("name", "content")
        if beside and other.kind == "name" and answer[one.start].isupper():  # the first of a sentence is not known as a name
            names += [answer[each.start : each.end] for each in (one, other) if each.form not in known]
    return names
