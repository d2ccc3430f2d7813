"""Page text → spans of its sentences, in order. Works on form, not on language: no model, no word list but abbreviations.

A list item's marker ("- ") is left out of its sentence; every other visible character belongs to exactly one sentence.
A row of a table is one sentence, and so is a heading line.
"""

from __future__ import annotations

import re

# Words that end in a full stop without ending a sentence. Compared in lower case, without that full stop.
ABBREVIATIONS = frozenset(
    "mr mrs ms mx dr prof sr jr st rev hon gen col sgt capt lt rep sen gov pres "
    "e.g i.e eg ie etc vs cf al viz approx est esp incl excl resp ca c p.a "
    "inc ltd co corp plc llc dept div bros "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun "
    "a.m p.m u.s u.k e.u u.n ph.d b.a m.a d.c "
    "z.b d.h u.a bzw ggf evtl inkl exkl str tel bspw vgl sog mm mme mlle av env réf sra dra ud uds".split()
)
# Abbreviations only before a number: "No. 5" goes on, "No. You may not." are two sentences.
BEFORE_NUMBER = frozenset(
    "no nos nr art sec sect fig figs tab eq ch chap vol vols ed eds pp p par para app ref refs ver abs pág núm".split()
)
# Abbreviations that do end sentences often: only a lower-case word or a digit after them keeps the sentence going.
EITHER = frozenset("etc inc ltd co corp plc llc a.m p.m u.s u.k e.u u.n d.c usw al mar sun sat fri jan dec dept bros".split())
MONTHS = frozenset(
    "januar februar märz april mai juni juli august september oktober november dezember "
    "januari februari maart mei augustus janvier février mars avril juin juillet août septembre octobre novembre décembre".split()
)
WRAP_CHARACTERS = 55  # a line this long that does not end a sentence was wrapped by a typewriter, not by its author

_LINE = re.compile(r"[^\n]+")
_MARKER = re.compile(r"[ \t]*(?:[-*•‣▪◦–]|\[[ xX]\])[ \t]+")
_ITEM = re.compile(r"[ \t]*(?:[-*•‣▪◦–][ \t]|(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{2,5})[.)][ \t])")
_FIELD = re.compile(r"(?:Subject|From|To|Cc|Bcc|Date|Sent): ")
_STOP = re.compile(
    r"[。！？｡︒]+[」』”’）》〉】)\]]*"  # full-width stops need no space after them
    r"|[.!?…؟۔।॥]+[\"'”’»›)\]]*(?=\s|$)"
)
_WORD = re.compile(r"\w+")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘«/]+$")


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence of `text`, trimmed of surrounding whitespace, ascending and apart.

    `text` is a page as parsers give it: paragraphs parted by blank lines, headings, list items and table rows on their own lines.
    """
    found: list[tuple[int, int]] = []
    for start, end in units(text):
        marker = _MARKER.match(text, start, end)
        if marker and marker.end() < end:
            start = marker.end()
        if is_row(text, start, end):
            found.append((start, end))
        else:
            found.extend(_split(text, start, end))
    return found


def units(text: str) -> list[tuple[int, int]]:
    """Spans of what a sentence never crosses: paragraphs, list items, table rows, heading lines; trimmed, markers included."""
    found: list[tuple[int, int]] = []
    previous_end = -2
    for line in _LINE.finditer(text):
        start, end = line.span()
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        if found and line.start() == previous_end + 1 and _continues(text, found[-1], start, end):
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
        previous_end = line.end()
    return found


def is_row(text: str, start: int, end: int) -> bool:
    """Whether this line is a row of a table, "| a | b |" or "Name: Ada | Team: Sales"."""
    if text.startswith("|", start) and start + 1 < end:
        return True
    return text.find(" | ", start, end) >= 0 and text.find("\n", start, end) < 0


def _continues(text: str, unit: tuple[int, int], start: int, end: int) -> bool:
    """Whether the line start:end goes on with the unit before it (a wrapped line) or is a unit of its own."""
    last_line = text.rfind("\n", unit[0], unit[1]) + 1 or unit[0]
    if _ITEM.match(text, start, end) or _FIELD.match(text, start, end):
        return False
    if is_row(text, start, end) or is_row(text, last_line, unit[1]) or _FIELD.match(text, last_line, unit[1]):
        return False
    last = text[unit[1] - 1]
    if last in ",;-–—(":
        return True
    if text[start].islower():
        return last not in ".!?:。！？"
    if last in ".!?:。！？":
        return False
    return unit[1] - last_line >= WRAP_CHARACTERS


def _split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if stop.end() >= end:
            break
        if not _ends(text, begin, stop, end):
            continue
        found.append((begin, stop.end()))
        begin = stop.end()
        while begin < end and text[begin].isspace():
            begin += 1
    if begin < end:
        found.append((begin, end))
    return found


def _ends(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    """Whether a sentence ends at this stop; `begin` is where the sentence starts."""
    mark = stop.group()
    if mark[0] in "。！？｡︒؟۔।॥":
        return True
    after = stop.end()
    while after < end and text[after].isspace():
        after += 1
    following = text[after]
    if following.islower():
        return False
    if mark[0] in "!?":
        return True
    if mark[0] == "…" or mark.startswith(".."):
        return following.isupper() or following in '"“«'
    if following in "),;:]":
        return False
    before = _WORD_BEFORE.search(text, begin, stop.start())
    if before is None or len(mark) > 1:
        return True
    word = before.group()
    lower = word.lower()
    if lower in EITHER:
        return not following.isdigit()
    if lower in BEFORE_NUMBER:
        return not (following.isdigit() or following in "IVX")
    if lower in ABBREVIATIONS:
        return False
    if word.isdigit():
        if before.start() == begin:
            return False  # "1. Open the form": the number of a list item
        next_word = _WORD.match(text, after, end)
        return not (len(word) <= 2 and next_word is not None and next_word.group().lower() in MONTHS)
    if len(word) == 1 and word.isalpha():
        # "J. Smith" goes on, "plan B. Then" does not; a single letter at the start is the mark of a list item
        return (
            before.start() != begin and not (word.isupper() and following.isupper()) and not _initial(text, begin, before.start())
        )
    return not (re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word) and not following.isupper())


def _initial(text: str, begin: int, at: int) -> bool:
    """Whether the word before a single letter is capitalised, as a name is."""
    words = text[begin:at].split()
    return bool(words) and words[-1][:1].isupper()
