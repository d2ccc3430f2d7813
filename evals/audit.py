"""Kept results of `evals run` → is each shown sentence supported by the very span it cites? Judged by code, and a sheet for people.

The code here shares nothing with the check that let the sentences through (`rag/cite.py`): it compares plain words in order. What it
cannot settle it leaves to the reader of the sheet, and says so. What people said is kept by a hash of question, sentence and quote, so
that a later audit asks only about what is new.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from errors import UsageError
from evals.recompute import recomputed
from evals.results import table

YEAR = re.compile(r"\b(?:19|20)\d\d\b")
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
TURNS = re.compile(r"\b(?:not|no|never|nor|neither|none|without|unless|only|except|if|until|cannot|\w+n['’]t)\b", re.IGNORECASE)
SAME = "same words"  # the sentence is words of its quote, in their order, and leaves out none that turns its meaning
ROW = "row with its columns' names"  # a table row: what is not in the quote is a header of the same page's table
DONE = "recomputed from its rows"  # a computed amount: done again here from the quotes, with the same result
READ = "to be read"  # other words, or a turn of meaning left out
FALSE = "not in the source"  # a number that neither the quote nor a header of its page holds, or no such quote on that page
VERDICTS = (SAME, ROW, DONE, READ, FALSE)
YES, PARTLY, NO = "yes", "partly", "no"
SAID = ("supported", "answers", "note")  # what a person writes
AROUND = 300  # characters of the page on either side of the first span: a heading or a condition there may turn its meaning


@dataclass(frozen=True, slots=True)
class Audited:
    """One shown sentence. `code` is the verdict of this module; what a person said: `supported` by its span "yes" or "no", `answers` the
    question "yes", "partly" or "no", both "" until it is read."""

    set: str
    id: str
    question: str
    sentence: str
    how: str
    document: str
    page: str
    before: str
    quote: str
    after: str
    code: str
    supported: str = ""
    answers: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        """The same for the same sentence, shown for the same question out of the same span."""
        return hashlib.sha256("\n".join((self.question, self.sentence, self.quote)).encode()).hexdigest()[:16]


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
            before, after = _around(first, page_text) if cited else ("", "")
            yield Audited(
                result["name"],
                row["id"],
                row["question"],
                sentence,
                row["how"][number],
                first["document"],
                str(first["page"] or ""),
                before,
                " … ".join(each["quote"] for each in cited),
                after,
                _computed(sentence, cited, page_text) if row["how"][number] == "computed" else verdict(sentence, cited, page_text),
            )


def _around(cited: dict[str, Any], page_text: Callable[[str, int | None], str]) -> tuple[str, str]:
    """The text of the page before and after the span."""
    try:
        page = page_text(cited["document"], cited["page"])
    except KeyError:
        return "", ""
    return page[max(0, cited["start"] - AROUND) : cited["start"]], page[cited["end"] : cited["end"] + AROUND]


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
    return ROW if row and not turned and all(each in headers for each in missing) and not _titled(sentence, around) else READ


def _titled(sentence: str, tables: str) -> bool:
    """The row is called by the first cell of a header whose other cells are years. That is often the title of the first rows only:
    `| Operating activities | 2023 | 2022 |` does not make "Net increase in cash" one of the operating activities."""
    name = _words(sentence.partition(":")[0])
    for line in tables.splitlines():
        first, _, others = line.strip().strip("|").partition("|")
        if name and _words(first) == name and YEAR.search(others):
            return True
    return False


def _computed(sentence: str, cited: Sequence[dict[str, Any]], page_text: Callable[[str, int | None], str]) -> str:
    """Whether a computed amount comes out again from the rows it cites."""
    quotes = " ".join(each["quote"] for each in cited)
    if verdict(quotes, cited, page_text) == FALSE:
        return FALSE
    pages = "\n".join(page_text(each["document"], each["page"]) for each in cited)
    return DONE if recomputed(sentence, [each["quote"] for each in cited], pages) else FALSE


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
    """All sentences of `count` answers: those that are not words of their quote first, the rest drawn from each set in turn."""
    answers: dict[tuple[str, str], list[Audited]] = {}
    for each in every:
        answers.setdefault((each.set, each.id), []).append(each)
    chance = random.Random(seed)
    unsure: list[list[Audited]] = []
    sure: dict[str, list[list[Audited]]] = {}
    for (name, _), sentences in answers.items():
        settled = all(each.code == SAME for each in sentences)
        (sure.setdefault(name, []) if settled else unsure).append(sentences)
    chance.shuffle(unsure)
    for some in sure.values():
        chance.shuffle(some)
    turns = [some[turn] for turn in range(max(map(len, sure.values()), default=0)) for some in sure.values() if turn < len(some)]
    return [each for sentences in [*unsure, *turns][:count] for each in sentences]


def write_sheet(path: Path, rows: Sequence[Audited]) -> None:
    """A CSV that a spreadsheet opens; the last columns are for people."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, [each.name for each in fields(Audited)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in rows)


def read_sheet(path: Path) -> list[Audited]:
    """Raises UsageError for a file that is no such sheet, or an unknown word in the columns for people."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = [Audited(**each) for each in csv.DictReader(stream)]
        except TypeError:
            raise UsageError(f"{path} is not a sheet of this audit.", "Make one with --sheet FILE.") from None
    rows = [replace(each, supported=each.supported.strip().lower(), answers=each.answers.strip().lower()) for each in rows]
    for each in rows:
        for column, known in (("supported", ("", YES, NO)), ("answers", ("", YES, PARTLY, NO))):
            if getattr(each, column) not in known:
                cure = f"Write {', '.join(known[1:])} in the column {column}, or nothing."
                raise UsageError(f"{path}: {each.id} says {getattr(each, column)!r}.", cure)
    return rows


def judged(rows: Sequence[Audited], path: Path) -> list[Audited]:
    """`rows` with what people said about the same sentences earlier, as kept in `path`."""
    said = _kept(path)
    return [replace(each, **said[each.key]) if each.key in said and not each.supported else each for each in rows]


def keep(rows: Sequence[Audited], path: Path) -> int:
    """Adds what people said to `path`: hashes and judgements, no question and no text. Returns how many sentences it holds."""
    said = _kept(path)
    said.update({each.key: {column: getattr(each, column) for column in SAID} for each in rows if each.supported})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("key", *SAID), lineterminator="\n")
        writer.writeheader()
        writer.writerows({"key": key, **said[key]} for key in sorted(said))
    return len(said)


def _kept(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if any(set(each) != {"key", *SAID} for each in rows):
        raise UsageError(f"{path} holds no judgements of this audit.", "Name a file that --judged made, or a new one.")
    return {each.pop("key"): each for each in rows}


def text(rows: Sequence[Audited]) -> str:
    """A table of sets by verdict, what people said, and each sentence that somebody or the words alone call unsupported."""
    head = ("set", "answers", "sentences", *VERDICTS, "read by a person", "unsupported", "answers the question", "partly", "not")
    lines: list[tuple[object, ...]] = []
    for name in [*dict.fromkeys(each.set for each in rows), "all"]:
        some = [each for each in rows if name in (each.set, "all")]
        read = [each for each in some if each.supported]
        verdicts = [sum(each.code == one for each in some) for one in VERDICTS]
        answering = [sum(each.answers == one for each in read) for one in (YES, PARTLY, NO)]
        unsupported = sum(each.supported == NO for each in read)
        lines.append((name, len({(each.set, each.id) for each in some}), len(some), *verdicts, len(read), unsupported, *answering))
    wrong = [f"{each.set} {each.id}: {each.sentence}\n  {each.quote}" for each in rows if each.supported == NO or each.code == FALSE]
    return "\n".join([table(head, lines), *wrong])
