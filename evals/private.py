"""Text → the same text with personal data covered: letters become x, figures 0, and every offset stays what it was.

By form only: e-mail addresses, phone numbers, bank accounts, cards, social security numbers, and what stands after "Name:" and the
like. A name in the middle of a sentence is not found: nobody's name may be in a data set only if nobody's was in the documents.
"""

from __future__ import annotations

import re

KINDS: dict[str, re.Pattern[str]] = {
    "e-mail": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "bank account": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"\b(?:\d[ -]?){13,19}(?<=\d)\b"),
    "social security": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "phone": re.compile(r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{2,5}(?:[ ./-]\d{2,5}){1,4}(?![\w%]|[.,]\d)"),
    "field": re.compile(
        r"(?im)(?<=name: )[^|\n]+|(?<=born: )[^|\n]+|(?<=date of birth: )[^|\n]+|(?<=home address: )[^|\n]+|(?<=salary of )\w+ \w+"
    ),
}
PHONE_DIGITS = (8, 15)  # fewer are years, amounts and section numbers; more are no phone number
LETTER, FIGURE = re.compile(r"[^\W\d_]"), re.compile(r"\d")


def personal(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what may belong to a person, in order, overlaps left out."""
    found: list[tuple[int, int, str]] = []
    for kind, pattern in KINDS.items():
        for match in pattern.finditer(text):
            digits = sum(each.isdigit() for each in match.group())
            if kind == "phone" and not (PHONE_DIGITS[0] <= digits <= PHONE_DIGITS[1] and not _figure(match.group())):
                continue
            if kind == "card" and not _luhn(match.group()):
                continue
            if not any(match.start() < end and start < match.end() for start, end, _ in found):
                found.append((*match.span(), kind))
    return sorted(found)


def covered(text: str) -> str:
    """`text` with what is personal covered, of the same length."""
    for start, end, _ in personal(text):
        text = text[:start] + FIGURE.sub("0", LETTER.sub("x", text[start:end])) + text[end:]
    return text


def _figure(text: str) -> bool:
    """Whether this is a date, a span of years or a number with its thousands apart."""
    return re.fullmatch(r"(?:\d{1,3}(?: \d{3})+|\d{4}[./-]\d{2}[./-]\d{2}|\d{2}[./-]\d{2}[./-]\d{4}|\d{4}[ -]\d{4})", text) is not None


def _luhn(text: str) -> bool:
    """Whether the check digit of a card number is right: other long numbers are left alone."""
    digits = [int(each) for each in reversed(text) if each.isdigit()]
    return sum(digits[0::2]) % 10 == -sum(sum(divmod(2 * each, 10)) for each in digits[1::2]) % 10
