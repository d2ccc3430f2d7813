"""Triples → packs: a few passages as the app's prompt lays them out, and several questions about them, each with its answer.

The answer to learn is one sentence of a passage, so that it passes the check of level "compressed", or "The documents do not say."
The questions of a pack share its passages, so those are read once for all of them: that makes training on a processor three
times faster than one question at a time.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ingest.sentences import sentences
from ingest.types import Passage
from rag.cite import support
from rag.prompt import NOT_FOUND, prompt
from rag.types import Hit, Turn
from tune.cloze import cloze
from tune.data import Triple, normalised, supporting_sentence

PASSAGES = (2, 5)  # fewest and most passages of a pack; the app shows five
LETTERS = (220, 700)  # shortest and longest stretch of a passage shown, in characters; the app's passages have about 800
QUESTIONS = 6  # of a pack
NULL_SHARE = 0.17  # questions that the passages do not answer; when half were, the first 800 examples taught only to refuse
MADE_SHARE = 0.3  # questions made from a sentence, of those that are answered
SAME_DOCUMENT = 0.5  # chance that a further passage is of the first one's document: the hardest ones to tell apart
ROOM = 1400  # tokens that a pack's prompt may take: never reached, but a limit is asked for
LONG_WORDS = 30  # answers with more words lose what the answer does not need, where the check still passes
# Share of each source among the first passages of packs. Privacy policies answer the same vague questions, so they come seldom.
SHARES = {"squad2": 0.35, "covidqa": 0.27, "policyqa": 0.13, "pubmedqa": 0.15}
OTHER_SHARE = 0.3  # of all sources that SHARES does not name, such as a company's own documents
LEFT_OUT = re.compile(r"\s*\([^()]*\)|\s*\[[\d,\s–-]+\]")
OPENING = re.compile(r"^(?:Moreover|Furthermore|In addition|Additionally|For example|Also|Finally), (?=\w)")
TAIL = re.compile(r",? (?:which|who|where|while|whereas|although|as well as)\b|;|, (?:and|but|or|with|including|such as) ")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the words that answer it; `answered` is false where they are "The documents do not say."."""

    question: str
    target: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Pack:
    """Passages in the order in which the prompt numbers them, and what is asked about them."""

    hits: tuple[Hit, ...]
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pack as the model reads it: `prefix` once, then each branch as if it alone followed; `answers` are its last tokens."""

    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]  # how many tokens at the end of each branch are the answer


class Shelf:
    """The passages of a training file with what is asked about each, by source and document."""

    def __init__(self, triples: Sequence[Triple]) -> None:
        self.asked: dict[tuple[str, str, str], list[Triple]] = defaultdict(list)
        for each in triples:
            self.asked[each.source, each.group, each.passage].append(each)
        self.by_source: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        self.by_group: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
        for key in self.asked:
            self.by_source[key[0]].append(key)
            self.by_group[key[:2]].append(key)
        others = [source for source in self.by_source if source not in SHARES]
        self.sources = list(self.by_source)
        self.weights = [SHARES.get(source) or OTHER_SHARE / len(others) for source in self.sources]

    def pack(self, chance: random.Random) -> Pack | None:
        """A random pack; None where nothing can be asked about what was drawn."""
        keys = self._passages(chance)
        shown = {key: _stretch(key[2], chance) for key in keys}
        hits = tuple(_hit(key, shown[key], chance) for key in keys)
        written, made, missing = self._questions(keys, shown, chance)
        chance.shuffle(written)
        chance.shuffle(made)
        chance.shuffle(missing)
        asked: list[Asked] = []
        for _ in range(QUESTIONS):
            kind = chance.random()
            pile = missing if kind < NULL_SHARE else made if kind < NULL_SHARE + MADE_SHARE * (1 - NULL_SHARE) else written
            pile = pile or (written or made if pile is not missing else [])
            if pile:
                asked.append(pile.pop())
        return Pack(hits, tuple(asked)) if asked else None

    def _passages(self, chance: random.Random) -> list[tuple[str, str, str]]:
        first = chance.choice(self.by_source[chance.choices(self.sources, self.weights)[0]])
        keys = [first]
        near = [each for each in self.by_group[first[:2]] if not _alike(each[2], first[2])]
        for _ in range(chance.randint(*PASSAGES) - 1):
            if near and chance.random() < SAME_DOCUMENT:
                key = chance.choice(near)
            else:
                key = chance.choice(self.by_source[chance.choices(self.sources, self.weights)[0]])
            same_answers = key[0] == "policyqa" and any(each[0] == "policyqa" and each[1] != key[1] for each in keys)
            if not same_answers and not any(_alike(key[2], each[2]) for each in keys):
                keys.append(key)
        chance.shuffle(keys)
        return keys

    def _questions(
        self, keys: Sequence[tuple[str, str, str]], shown: dict[tuple[str, str, str], str], chance: random.Random
    ) -> tuple[list[Asked], list[Asked], list[Asked]]:
        """(written by people, made from sentences, unanswered) questions that may be asked about these passages."""
        written: list[Asked] = []
        made: list[Asked] = []
        missing: list[Asked] = []
        texts = {key: normalised(shown[key]) for key in keys}
        marked: dict[tuple[str, str], int] = defaultdict(int)  # passages here that answer the question, by their marks
        for key in keys:
            for triple in self.asked[key]:
                marked[triple.group, triple.question] += triple.answer is not None
        for key in keys:
            elsewhere = " ".join(texts[each] for each in keys if each != key)
            for triple in self.asked[key]:
                if triple.answer is None:
                    missing.append(Asked(triple.question, NOT_FOUND, False))
                    continue
                answer = normalised(triple.answer)
                if marked[triple.group, triple.question] > 1 or not answer or f" {answer} " in f" {elsewhere} ":
                    continue
                sentence = answering(triple, shown[key])
                if sentence:
                    written.append(Asked(triple.question, shortened(sentence, triple.answer), True))
                elif key[0] != "policyqa" and f" {answer} " not in f" {texts[key]} ":
                    missing.append(Asked(triple.question, NOT_FOUND, False))  # the sentence that answers was cut away
            for question, start, end in cloze(shown[key], sentences(shown[key]), 2, chance):
                left, right = next((span for span in sentences(shown[key]) if span[0] <= start < span[1]), (0, 0))
                sentence = " ".join(shown[key][left:right].split())
                if end <= right and len(sentence.split()) >= 6:
                    made.append(Asked(question, shortened(sentence, shown[key][start:end]), True))
        for _ in range(2):  # questions about another document altogether
            other = chance.choice(self.by_source[chance.choice([each for each in self.sources if each != "policyqa"] or self.sources)])
            if all(other[:2] != key[:2] for key in keys):
                missing.append(Asked(chance.choice(self.asked[other]).question, NOT_FOUND, False))
        return written, made, missing


def answering(triple: Triple, text: str) -> str:
    """The one sentence of `text`, a stretch of the triple's passage, that holds the answer; "" where none does."""
    if triple.start is None:
        span = supporting_sentence(triple)
    else:
        span = (triple.start, triple.start + len((triple.answer or "").rstrip(" .")))
    at = triple.passage.find(text)
    if span is None or at < 0:
        return ""
    start, end = span[0] - at, span[1] - at
    for left, right in sentences(text):
        if left <= start and end <= right and len(text[left:right].split()) >= 4:
            return " ".join(text[left:right].split())
    return ""


def shortened(sentence: str, answer: str) -> str:
    """A long sentence less its brackets, its opening word and a tail, as far as the answer stays and the check passes."""
    if len(sentence.split()) <= LONG_WORDS:
        return sentence
    best = sentence
    for make in (lambda text: LEFT_OUT.sub("", text), _without_opening, *(_without_tail(n) for n in range(3))):
        shorter = make(best)
        if len(shorter) < len(best) and len(shorter.split()) >= 8 and normalised(answer) in normalised(shorter):
            found = support(shorter, [sentence], "compressed")
            if found is not None:
                best = shorter
    return best


def _without_opening(text: str) -> str:
    rest = OPENING.sub("", text)
    return rest[:1].upper() + rest[1:]


def _without_tail(number: int) -> Callable[[str], str]:
    """Cuts at the `number`-th place from the end where a clause may be left out."""

    def cut(text: str) -> str:
        places = [match.start() for match in TAIL.finditer(text)]
        return text[: places[-1 - number]].rstrip(" ,;") + "." if len(places) > number else text

    return cut


def _alike(left: str, right: str) -> bool:
    """Whether two passages are the same or overlap."""
    return left[:80] in right or right[:80] in left


def _stretch(passage: str, chance: random.Random) -> str:
    """Whole sentences of the passage, of a random length between LETTERS, from a random place."""
    spans = sentences(passage)
    letters = chance.uniform(*LETTERS)
    if len(passage) <= letters or len(spans) < 2:
        return passage.strip()
    first = chance.randrange(len(spans))
    last = first
    while True:
        sides = [side for side, there in ((-1, first > 0), (1, last + 1 < len(spans))) if there]
        side = chance.choice(sides) if sides else 0
        left, right = first - (side < 0), last + (side > 0)
        if not sides or spans[right][1] - spans[left][0] > letters:
            return passage[spans[first][0] : spans[last][1]]
        first, last = left, right


def _hit(key: tuple[str, str, str], text: str, chance: random.Random) -> Hit:
    kind = chance.choice(("pdf", "docx", "md", "html"))
    name = re.sub(r"[^\w.-]+", "-", key[1]).strip("-").lower() or "document"
    page = chance.randint(1, 40) if kind == "pdf" else None
    return Hit(Passage(0, f"{name}.{kind}", 0, name, page, "", text, 0, len(text)), 0.0, "both")


def tokens(pack: Pack, chat: Callable[[Sequence[Turn]], list[int]], tokenize: Callable[[str], list[int]], end: int) -> Tokens:
    """The pack through the app's own prompt and the model's own chat template; what all its prompts share is the prefix."""
    prompts = [prompt(each.question, pack.hits, chat, ROOM).tokens for each in pack.asked]
    answers = [(*tokenize(each.target), end) for each in pack.asked]
    shortest = min(len(each) for each in prompts)
    shared = next((at for at in range(shortest) if len({each[at] for each in prompts}) > 1), shortest - 1)
    return Tokens(
        tuple(prompts[0][:shared]),
        tuple((*asked[shared:], *answer) for asked, answer in zip(prompts, answers, strict=True)),
        tuple(len(each) for each in answers),
    )


def prompt_name() -> str:
    """File and version of the prompt that packs are laid out by, such as "answer v1"."""
    hit = _hit(("", "any", "text"), "text", random.Random(0))
    return prompt("?", (hit,), lambda _: [0], 1).name
