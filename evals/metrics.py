"""What was found or shown, and what would have been right → scores from 0 to 1 for one question.

Rankings are scored by ir_measures (trec_eval's definitions); exact match and F1 follow SQuAD 2.0's.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import ir_measures
from ir_measures import RR, R, nDCG

from evals.units import Unit

RANKED = {"recall@1": R @ 1, "recall@5": R @ 5, "recall@10": R @ 10, "nDCG@10": nDCG @ 10, "MRR": RR}
NUMBER_TOLERANCE = 0.01  # relative; filings round, and so do people
SCALES = {
    "thousand": 1e3, "k": 1e3, "million": 1e6, "millions": 1e6, "mn": 1e6, "m": 1e6,
    "billion": 1e9, "billions": 1e9, "bn": 1e9, "b": 1e9, "trillion": 1e12,
}
NUMBER = re.compile(
    r"(?P<open>\()?(?P<sign>[-−–])?\s?[$€£¥]?\s?(?<![\w.,])(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?P<close>\))?"
    r"(?:\s?(?P<scale>thousand|millions?|billions?|trillion|mn|bn|[kmb])\b)?",
    re.IGNORECASE,
)
YEAR = re.compile(r"(?:FY\s?)?(?:19|20)\d\d")
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DATE = re.compile(rf"\b(?:{MONTHS})\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?!,\d{{3}})|\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:{MONTHS})\b")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def ranking_scores(rankings: Mapping[str, Sequence[Unit]], golds: Mapping[str, frozenset[Unit]]) -> dict[str, dict[str, float]]:
    """Question id → measure → score, for every id of `golds`. An id without gold units (not in the index) scores 0."""
    relevant = {id: {repr(unit): 1 for unit in units} for id, units in golds.items() if units}
    run = {id: {repr(unit): -float(rank) for rank, unit in enumerate(rankings.get(id, ()))} or {"": 0.0} for id in relevant}
    scores = {id: dict.fromkeys(RANKED, 0.0) for id in golds}
    names = {measure: name for name, measure in RANKED.items()}
    if relevant:
        for each in ir_measures.iter_calc(list(RANKED.values()), relevant, run):
            scores[each.query_id][names[each.measure]] = float(each.value)
    return scores


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and runs of white space, as SQuAD compares."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(shown: str, answers: Sequence[str]) -> float:
    """1 where the shown text is one of `answers`; both empty ("not in the documents") is right too."""
    if not answers:
        return float(not normalised(shown))
    return float(any(normalised(shown) == normalised(each) for each in answers))


def f1(shown: str, answers: Sequence[str]) -> float:
    """Best overlap of words with one of `answers`: the harmonic mean of the shares of both that are common."""
    given = normalised(shown).split()
    return max((_f1(given, normalised(each).split()) for each in answers), default=float(not given))


def contains(shown: str, answers: Sequence[str]) -> float:
    """1 where the words of one of `answers` stand in the shown text, in a row."""
    text = f" {normalised(shown)} "
    return float(any(f" {wanted} " in text for each in answers if (wanted := normalised(each))))


def word_recall(shown: str, answers: Sequence[str]) -> float:
    """Share of the words of an answer that the shown text holds, of the best answer: for answers that are whole sentences."""
    words = Counter(normalised(shown).split())
    shares = [sum((Counter(wanted) & words).values()) / len(wanted) for each in answers if (wanted := normalised(each).split())]
    return max(shares, default=0.0)


def numbers(text: str) -> list[float]:
    """The amounts in `text`: thousands separators gone, "million" multiplied out, (12) negative, years and days of a date left out."""
    found = []
    for match in NUMBER.finditer(DATE.sub(" ", text)):
        digits = match["digits"]
        if YEAR.fullmatch(digits) and not match["scale"]:
            continue
        value = float(digits.replace(",", "")) * SCALES.get((match["scale"] or "").lower(), 1.0)
        negative = match["sign"] or (match["open"] and match["close"])
        found.append(-value if negative else value)
    return found


def number_verdict(shown: str, answers: Sequence[str]) -> str:
    """"right" where the first amount of an answer is shown, within 1 %; "wrong" where only others are; "none" where no amount is.

    A filing's table states millions without saying so beside each number: a factor of a thousand, million or billion is
    allowed, and signs are not compared. "" where no answer states an amount.
    """
    wanted = [found[0] for each in answers if (found := numbers(each))]
    if not wanted:
        return ""
    given = numbers(shown)
    if not given:
        return "none"
    return "right" if any(_close(one, other) for one in wanted for other in given) else "wrong"


def _close(wanted: float, given: float) -> bool:
    factors = (1.0, 1e3, 1e6, 1e9, 1e-3, 1e-6, 1e-9)
    return any(abs(abs(given) * factor - abs(wanted)) <= NUMBER_TOLERANCE * abs(wanted) for factor in factors)


def _f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def citation_scores(cited: Iterable[frozenset[Unit]], golds: Sequence[frozenset[Unit]]) -> tuple[float, float, float] | None:
    """Precision (citations that stand for a gold), recall (golds cited), and 1 where any was; None without citations."""
    cited = list(cited)
    if not cited or not golds:
        return None
    right = sum(any(units & gold for gold in golds) for units in cited)
    reached = sum(any(units & gold for units in cited) for gold in golds)
    return right / len(cited), reached / len(golds), float(right > 0)
