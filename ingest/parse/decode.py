"""Bytes of a text file → str: byte order marks, UTF-16 without one, UTF-8, then the likeliest legacy encoding."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

FEW_BYTES = 60  # too few to tell encodings apart; the commonest is taken
GUESS_BYTES = 200_000  # enough for a stable guess; guessing time grows with the sample
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""")


def decode(data: bytes, declared: bool = False) -> str:
    """`data` as text; `declared` also believes what HTML or XML says about itself near its beginning. Never raises."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    wide = utf16_without_mark(data)
    if wide:
        return data.decode(wide, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 4 and len(data) > 64:  # cut in the middle of the last character
            return data.decode("utf-8", "replace")
    if declared:
        found = _DECLARED.search(data[:4096])
        if found:
            try:
                return data.decode(found.group(1).decode("ascii"), "replace")
            except (LookupError, UnicodeError):
                pass
    if b"\x1b$" in data[:GUESS_BYTES] or b"\x1b(" in data[:GUESS_BYTES]:
        try:
            return data.decode("iso2022_jp")
        except UnicodeDecodeError:
            pass
    if len(data) < FEW_BYTES:
        return data.decode("cp1252", "replace")
    best = from_bytes(data[:GUESS_BYTES]).best()
    encoding = best.encoding if best is not None else "cp1252"
    return data.decode(encoding, "replace")


def utf16_without_mark(data: bytes) -> str:
    """ "utf-16-le" or "utf-16-be" where every other byte of the beginning is mostly zero, else ""."""
    sample = data[:2000]
    half = len(sample) // 2
    if half < 4:
        return ""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return ""
