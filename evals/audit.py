"""Kept results of `evals run` → is each shown sentence supported by the very span it cites? Judged by code, and a sheet for people.

The code here shares nothing with the check that let the sentences through (`rag/cite.py`): it compares plain words in order. What it
cannot settle it leaves to the reader of the sheet, and says so.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from errors import UsageError

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
TURNS = re.compile(r"\b(?:not|no|never|nor|neither|none|without|unless|only|except|if|until|cannot|\w+n['’]t)\b", re.IGNORECASE)
SAME = "same words"  # the sentence is words of its quote, in their order, and leaves out none that turns its meaning
ROW = "row with its columns' names"  # a table row: what is not in the quote is a header of the same page's table
READ = "to be read"  # other words, or a turn of meaning left out
FALSE = "not in the source"  # a number that neither the quote nor a header of its page holds, or no such quote on that page
VERDICTS = (SAME, ROW, READ, FALSE)
YES, NO = "yes", "no"


@dataclass(frozen=True, slots=True)
class Audited:
    """One shown sentence. `code` is the verdict of this module, `supported` that of a person: "yes", "no" or "" (not read yet)."""

    set: str
    id: str
    question: str
    sentence: str
    how: str
    document: str
    page: str
    quote: str
    code: str
    supported: str = ""


def audit(result: dict[str, Any], page_text: Callable[[str, int | None], str]) -> Iterator[Audited]:
    """Every sentence of one result. `page_text`: (document, page) → stored text; raises KeyError where there is none.

    Raises UsageError for a result that does not say which citations belong to which sentence.
    """
    for row in result["rows"]:
        if "sentences" not in row:
            raise UsageError("This result was kept by an earlier version of evals run.", "Run it again.")
        for number, sentence in enumerate(row["sentences"]):
            cited = [each for each in row["citations"] if each["sentence"] == number]
            first: dict[str, Any] = cited[0] if cited else {"document": "", "page": None, "quote": ""}
            yield Audited(
                result["name"],
                row["id"],
                row["question"],
                sentence,
                row["how"][number],
                first["document"],
                str(first["page"] or ""),
                " … ".join(each["quote"] for each in cited),
                verdict(sentence, cited, page_text),
            )


def verdict(sentence: str, cited: Sequence[dict[str, Any]], page_text: Callable[[str, int | None], str]) -> str:
    """What the words alone say about `sentence` and the spans it cites: one of VERDICTS."""
    around = ""
    for each in cited:
        try:
            page = page_text(each["document"], each["page"])
        except KeyError:
            return FALSE
        if page[each["start"] : each["end"]] != each["quote"] or not each["quote"].strip():
            return FALSE
        around += "\n" + "\n".join(line for line in page.splitlines() if line.startswith("|"))
    if not cited:
        return FALSE
    quote = " ".join(each["quote"] for each in cited)
    said, source, headers = (_words(text) for text in (sentence, quote, around))
    left, turned = _in_order(said, source), Counter(_turns(quote)) != Counter(_turns(sentence))
    if left is not None:
        return READ if turned else SAME
    missing = [each for each in said if each not in source]
    if any(each[0].isdigit() and each not in headers for each in missing):
        return FALSE
    row = quote.lstrip().startswith("|") or " | " in quote
    return ROW if row and not turned and all(each in headers for each in missing) else READ


def _words(text: str) -> list[str]:
    return [each.casefold() for each in WORD.findall(text)]


def _turns(text: str) -> list[str]:
    return [each.casefold() for each in TURNS.findall(text)]


def _in_order(said: Iterable[str], source: Iterable[str]) -> list[str] | None:
    """`said` where its words stand in `source` in the same order; None where they do not."""
    rest = iter(source)
    said = list(said)
    return said if all(word in rest for word in said) else None


def sample(every: Sequence[Audited], count: int, seed: int) -> list[Audited]:
    """`count` sentences of `every`: all that the words alone do not settle first, the rest drawn evenly."""
    chance = random.Random(seed)
    unsure = [each for each in every if each.code in (READ, FALSE)]
    sure = [each for each in every if each.code not in (READ, FALSE)]
    chance.shuffle(unsure)
    chance.shuffle(sure)
    return [*unsure, *sure][:count]


def write_sheet(path: Path, rows: Sequence[Audited]) -> None:
    """A CSV that a spreadsheet opens; the last column is for people."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, [each.name for each in fields(Audited)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in rows)


def read_sheet(path: Path) -> list[Audited]:
    """Raises UsageError for a file that is no such sheet, or a word in the last column that is neither yes nor no."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = [Audited(**each) for each in csv.DictReader(stream)]
        except TypeError:
            raise UsageError(f"{path} is not a sheet of this audit.", "Make one with --sheet FILE.") from None
    rows = [replace(each, supported=each.supported.strip().lower()) for each in rows]
    odd = next((each for each in rows if each.supported not in ("", YES, NO)), None)
    if odd:
        raise UsageError(f"{path}: {odd.id} says {odd.supported!r}.", f"Write {YES} or {NO} in the column supported, or nothing.")
    return rows


def text(rows: Sequence[Audited]) -> str:
    """A table of sets by verdict, what people said, and each sentence that somebody or the words alone call unsupported."""
    lines = ["| set | sentences | " + " | ".join(VERDICTS) + " | read by a person | unsupported, they said |", "|---|" + "---|" * 7]
    for name in [*dict.fromkeys(each.set for each in rows), "all"]:
        some = [each for each in rows if name in (each.set, "all")]
        counts = [sum(each.code == one for each in some) for one in VERDICTS]
        read = [each for each in some if each.supported]
        cells = [name, len(some), *counts, len(read), sum(each.supported == NO for each in read)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [f"{each.set} {each.id}: {each.sentence}\n  {each.quote}" for each in rows if each.supported == NO or each.code == FALSE]
    return "\n".join(lines)
