"""Question sets → the prompts that engines are compared on: a cold column and a workplace column, the same tokens for everybody.

Cold: no two prompts share a passage. Workplace: questions drawn by Zipf's law, so that a given share of the tokens stood at the start of an
earlier prompt. Everything follows from the seed.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from errors import UsageError
from rag.types import Turn

SEED = 7
SHARED = 0.70  # of the workplace's prompt tokens, nearest exponent
EXPONENTS = tuple(number / 20 for number in range(2, 61))  # tried for it: 0.1 to 3
POOL = 100  # different questions of the workplace
WARM = 12  # workplace questions asked before anything is measured
PEOPLE = 8
ONE_COLD, ONE_WORKPLACE = 2, 4  # questions of the one person in a round; there are few cold ones, and workplace ones differ more
ANSWER_TOKENS = 100
PROMPT_TOKENS = 1600  # room; a passage takes up to 190 tokens, so prompts have about 1,500
LONG_TOKENS = 2100  # room of the one that is admitted while somebody's answer is written
FOLLOW_UP = "Say the same again for a new colleague, in other words."
STORY = "Tell a long story about a town by the sea. Write at least a thousand words."  # a stream that lasts


@dataclass(frozen=True, slots=True)
class Ask:
    """One question as engines get it; `tokens` are the messages in the model's own template."""

    collection: str
    question: str
    messages: tuple[Turn, ...]
    tokens: tuple[int, ...]
    passages: frozenset[tuple[str, int]] = frozenset()  # collection and number of each passage in the prompt


@dataclass(frozen=True, slots=True)
class Round:
    """What every engine is asked once, in this order. Two of `follow`: a conversation begins, another person asks in between."""

    one_cold: tuple[Ask, ...]
    one_workplace: tuple[Ask, ...]
    follow: tuple[Ask, Ask]
    crowd_cold: tuple[Ask, ...]
    crowd_workplace: tuple[Ask, ...]
    long: Ask


@dataclass(frozen=True, slots=True)
class Workload:
    """`shared` is measured on what the rounds ask: the share of workplace tokens that began an earlier workplace prompt alike, and
    `seen` the share of their passages that an earlier one held."""

    rounds: tuple[Round, ...]
    warm: tuple[Ask, ...]
    heat: tuple[Ask, ...]  # two crowds of the workplace, of four each, for choosing each peer's best options
    exponent: float
    shared: float
    seen: float


Find = Callable[[tuple[str, str], int], Ask]  # (collection, question), room in tokens → what engines are asked


def workload(questions: Sequence[tuple[str, str]], find: Find, rounds: int, seed: int = SEED) -> Workload:
    """The prompts of all rounds. Raises UsageError where the sets have too few questions whose passages differ."""
    shuffled = list(questions)
    random.Random(seed).shuffle(shuffled)
    count = WARM + rounds * (ONE_WORKPLACE + PEOPLE)
    pool = [find(each, PROMPT_TOKENS) for each in shuffled[: min(POOL, len(shuffled) // 3)]]
    exponent, drawn = workplace(pool, count, WARM, seed)
    heat = zipf(pool, PEOPLE, exponent, seed + 1)  # asked of engines that are closed afterwards: it does not count as asked before
    taken = {each for ask in (*drawn, *heat) for each in ask.passages}
    rest = iter(shuffled[len(pool) :])
    long = list(cold(rest, find, LONG_TOKENS, rounds, taken))
    alone = cold(rest, find, PROMPT_TOKENS, rounds * (ONE_COLD + 2 + PEOPLE), taken)
    asked = iter(drawn[WARM:])
    made = tuple(
        Round(
            tuple(itertools.islice(alone, ONE_COLD)), tuple(itertools.islice(asked, ONE_WORKPLACE)), (next(alone), next(alone)),
            tuple(itertools.islice(alone, PEOPLE)), tuple(itertools.islice(asked, PEOPLE)), long[number],
        )
        for number in range(rounds)
    )  # fmt: skip
    return Workload(made, tuple(drawn[:WARM]), tuple(heat), exponent, *shared(drawn, WARM))


def cold(questions: Iterator[tuple[str, str]], find: Find, room: int, count: int, taken: set[tuple[str, int]]) -> Iterator[Ask]:
    """`count` of the questions whose passages are in nobody else's prompt; theirs are added to `taken`."""
    found = 0
    while found < count:
        question = next(questions, None)
        if question is None:
            raise UsageError(
                f"{found} of {count} questions with passages of their own were found.",
                "Measure more or larger sets, or fewer rounds (--limit).",
            )
        ask = find(question, room)
        if ask.passages and not ask.passages & taken:
            taken |= ask.passages
            found += 1
            yield ask


def workplace(pool: Sequence[Ask], count: int, warm: int, seed: int) -> tuple[float, list[Ask]]:
    """The exponent that comes nearest to SHARED after the first `warm`, and `count` questions drawn with it."""
    tried = {exponent: zipf(pool, count, exponent, seed) for exponent in EXPONENTS}
    exponent = min(tried, key=lambda each: abs(shared(tried[each], warm)[0] - SHARED))
    return exponent, tried[exponent]


def zipf(pool: Sequence[Ask], count: int, exponent: float, seed: int) -> list[Ask]:
    """Drawn with repetition: the k-th of the pool comes up in proportion to 1 / k ** exponent."""
    steps = list(itertools.accumulate(1 / rank**exponent for rank in range(1, len(pool) + 1)))
    drawing = random.Random(seed)
    return [pool[min(bisect.bisect(steps, drawing.random() * steps[-1]), len(pool) - 1)] for _ in range(count)]


def shared(asks: Sequence[Ask], since: int = 0) -> tuple[float, float]:
    """Of the prompts from number `since` on: share of tokens that an earlier prompt begins with, share of passages in an earlier prompt."""
    tokens = passages = common = seen = 0
    earlier: dict[tuple[int, ...], None] = {}
    known: set[tuple[str, int]] = set()
    for number, ask in enumerate(asks):
        if number >= since:
            tokens += len(ask.tokens)
            passages += len(ask.passages)
            common += len(ask.tokens) if ask.tokens in earlier else max((prefix(ask.tokens, each) for each in earlier), default=0)
            seen += len(ask.passages & known)
        earlier[ask.tokens] = None
        known |= ask.passages
    return common / max(1, tokens), seen / max(1, passages)


def prefix(one: Iterable[int], other: Iterable[int]) -> int:
    """Tokens that both begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
