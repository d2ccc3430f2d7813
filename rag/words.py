"""Text → the words that carry its claims: content words, numbers with units, names, negations and conditions, with offsets.

English and German function words are known; in other languages every word counts as content, which only makes checks stricter.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

FUNCTION_WORDS = frozenset(
    """a an the and or but of to in on at by for from with as is are was were be been being am do does did done has have had having
    it its this that these those there here he she they them his her their theirs you your yours we us our ours i me my mine who whom
    whose which what when where why how than then so such also too very can could will would shall should may might must about into
    over under between through during per via each any all some both other another more most much many own same s t d ll re ve
    der die das den dem des ein eine einen einem einer eines und oder aber von zu zum zur im in an am auf bei für mit als ist sind war
    waren wird werden wurde sein hat haben es sie er wir ihr ihre ihren ihrem sich dass wie was wer wann wo welche welcher welches
    auch noch nach aus über pro je""".split()
)
# Words whose loss or gain turns a statement around. Modal strength ("must", "may") is among them: advice is not a duty.
NEGATIONS = frozenset(
    """not no never none nor neither cannot without nothing nobody nowhere n't isn't aren't wasn't weren't don't doesn't didn't won't
    wouldn't can't couldn't shouldn't mustn't needn't hasn't haven't hadn't nicht kein keine keinen keinem keiner keines nie niemals
    ohne weder""".split()
)
CONDITIONS = frozenset(
    """if unless only except excluding until provided otherwise however least maximum minimum wenn falls außer nur sofern bis
    mindestens höchstens maximal""".split()
)
NUMBER_WORDS = {
    word: str(value)
    for value, words in {
        0: "zero null", 1: "one eins", 2: "two zwei", 3: "three drei", 4: "four vier", 5: "five fünf", 6: "six sechs", 7: "seven sieben",
        8: "eight acht", 9: "nine neun", 10: "ten zehn", 11: "eleven elf", 12: "twelve zwölf", 13: "thirteen", 14: "fourteen",
        15: "fifteen", 16: "sixteen", 17: "seventeen", 18: "eighteen", 19: "nineteen", 20: "twenty zwanzig", 30: "thirty dreißig",
        40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety",
    }.items()
    for word in words.split()
}
UNITS = {
    "percent": "%", "prozent": "%", "dollar": "$", "dollars": "$", "usd": "$", "euro": "€", "euros": "€", "eur": "€", "gbp": "£",
}
# Common irregular forms → the form that `stem` makes of the rest. "left" and "found" stay as they are: they are words of their own.
IRREGULAR = {
    form: base
    for base, forms in {
        "driv": "drove driven", "writ": "wrote written", "tak": "took taken", "giv": "gave given", "pay": "paid", "send": "sent",
        "hold": "held", "keep": "kept", "mak": "made", "buy": "bought", "bring": "brought", "sell": "sold", "tell": "told",
        "say": "said", "go": "went gone", "get": "got gotten", "know": "knew known", "see": "saw seen", "speak": "spoke spoken",
        "choos": "chose chosen", "begin": "began begun", "becom": "became", "com": "came", "fall": "fell fallen", "grow": "grew grown",
        "hid": "hidden", "lead": "led", "lend": "lent", "los": "lost", "meet": "met", "ris": "rose risen", "run": "ran",
        "show": "shown", "spend": "spent", "stand": "stood", "steal": "stole stolen", "teach": "taught", "think": "thought",
        "understand": "understood", "wear": "wore worn", "win": "won", "break": "broke broken", "build": "built", "catch": "caught",
        "draw": "drew drawn", "eat": "ate eaten", "feel": "felt", "forget": "forgot forgotten",
        "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet",
    }.items()
    for form in forms.split()
}
ENDINGS = (
    ("ies", "y"), ("ied", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ing", ""), ("ed", ""), ("s", ""),
)  # the first that fits is cut
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|[%$€£¥°]")


@dataclass(frozen=True, slots=True)
class Word:
    """`form` is what compares; `kind`: content, number, name, negation, condition, function."""

    form: str
    kind: str
    start: int
    end: int

    @property
    def critical(self) -> bool:
        """A statement with this word changed is another statement."""
        return self.kind in ("number", "name", "negation", "condition")


def words(text: str) -> list[Word]:
    """The words of `text` in order, with character offsets."""
    found = []
    for match in WORD.finditer(text):
        raw = match.group()
        folded = unicodedata.normalize("NFKC", raw).casefold().replace("’", "'")
        if raw[0].isdigit():
            form, kind = _number(raw), "number"
        elif raw in "%$€£¥°":
            form, kind = raw, "number"
        elif folded in UNITS:
            form, kind = UNITS[folded], "number"
        elif folded in NUMBER_WORDS and folded not in ("one", "null"):  # "one" is mostly a pronoun, "null" mostly a name
            form, kind = NUMBER_WORDS[folded], "number"
        elif folded in NEGATIONS or folded.endswith("n't"):
            form, kind = "not", "negation"
        elif folded in CONDITIONS:
            form, kind = folded, "condition"
        elif folded in FUNCTION_WORDS:
            form, kind = folded, "function"
        else:
            form = stem(folded.removesuffix("'s").removesuffix("'"))
            kind = "name" if raw[0].isupper() and not _opens_sentence(text, match.start()) else "content"
        found.append(Word(form, kind, match.start(), match.end()))
    return found


def content(text: str) -> list[str]:
    """Forms of the words that are not function words."""
    return [each.form for each in words(text) if each.kind != "function"]


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A light English stem, so that "carries", "carried" and "carry" compare; other languages lose an ending at most."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 3 or not word.isascii():
        return word
    for ending, put in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) + len(put) >= 3:
            if ending == "s" and word.endswith(("ss", "us", "is")):
                break
            cut = word[: len(word) - len(ending)] + put
            if ending in ("ing", "ed") and len(cut) > 3 and cut[-1] == cut[-2] and cut[-1] not in "lsz":
                cut = cut[:-1]
            return cut.removesuffix("e")
    return word.removesuffix("e")


def _number(raw: str) -> str:
    """1,200.50 → 1200.5; a single separator before exactly three digits is taken for thousands: 1.200 and 1,200 → 1200."""
    if re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", raw):
        return raw.replace(",", "").replace(".", "").lstrip("0") or "0"
    whole, _, fraction = raw.replace(",", ".").rpartition(".")
    if not whole:
        return raw.lstrip("0") or "0"
    whole, fraction = whole.replace(".", "").lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _opens_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t\"'“”‘’([*_#>-–—•")
    return not before or before[-1] in ".!?:;|\n"
