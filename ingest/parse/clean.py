"""Any text → text that can be stored, searched and quoted: NFC, newlines only, nothing invisible, no trailing spaces."""

from __future__ import annotations

import re
import unicodedata

# Characters that would make two equal-looking texts differ, hide text from a reader, or reorder it on screen: controls,
# soft hyphens, zero-width and bidirectional marks, tags, variation selectors, surrogates, private use, U+FFFE and U+FFFF.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r" +(?=\n|$)")
_EMPTY_LINES = re.compile(r"\n{3,}")
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_HAS_LIGATURE = re.compile("[\ufb00-\ufb06]")


def clean(text: str) -> str:
    """`text` as it is stored; line structure is kept, at most one empty line stays between lines."""
    text = _BREAKS.sub("\n", text)
    if not text.isascii():
        text = _SPACES.sub(" ", text)
        if _HAS_LIGATURE.search(text):
            text = text.translate(_LIGATURES)
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    else:
        text = _INVISIBLE.sub("", text.replace("\t", " "))
    return _EMPTY_LINES.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def clean_line(text: str) -> str:
    """`text` as one line with single spaces."""
    return " ".join(clean(text).split())
