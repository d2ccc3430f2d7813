"""A page's stored text → the rows of its tables as amounts: label, value, unit, and the year or name of each column.

A column that nothing names, an amount that can be read in two ways and a unit that the page does not state stay unknown: whoever
computes with a row must refuse then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations

from ingest.types import Page

SCALES = {"thousand": Decimal(1_000), "million": Decimal(1_000_000), "billion": Decimal(1_000_000_000)}
HEADER_ROWS = 3  # at most, at the top of a table
ABOVE_LINES = 6  # of text above a table that may name its unit or its years
LEAST_TELLING = 100  # amounts below are equal by chance; rows of larger ones that two tables share are the same rows
LEAST_VOTES = 2  # rows that must say the same about the years of a table without a header

YEAR = re.compile(r"(?<![\d.,$€£])(?:19|20)\d\d(?!\d|[.,]\d)")
SHORT_YEAR = re.compile(r"\bFY\s?'?(\d\d)\b(?!\d)", re.IGNORECASE)
PART = re.compile(
    r"\b(?:three|six|nine|[369])[\s-]months?\b|\bquarter(?:ly|s)?\b|\bq[1-4]\b|\b[1-4]q\b|\b(?:13|14|26|27|39|40|thirteen|twenty-six|thirty-nine)"
    r"[\s-]weeks?\b|\bhalf[\s-]year\b|\bquartal\b",
    re.IGNORECASE,
)
WHOLE = re.compile(r"\byears?\b|\btwelve[\s-]months?\b|\b12[\s-]months?\b|\bfiscal\b|\b5[23][\s-]weeks?\b", re.IGNORECASE)
SCALE = re.compile(
    r"\b(?:in|of|amounts|dollars|euros?|usd|eur|gbp)\s+(?:u\.?s\.?\s+)?(?:\$\s*|€\s*|£\s*|dollars\s+|euros\s+)?(thousand|million|billion)s?\b"
    r"|^\W*(?:[$€£]\s*)?(thousand|million|billion)s\b|[$€£]\s*(thousand|million|billion)s?\b"
    r"|\b(?:tsd|mio|mrd)\b\.?\s*(?:€|euro?)|\bin\s+(?:tsd|mio|mrd)\b",
    re.IGNORECASE | re.MULTILINE,
)
GERMAN_SCALES = {"tsd": "thousand", "mio": "million", "mrd": "billion"}
CURRENCY = re.compile(r"[$€£¥]|\b(?:USD|EUR|GBP|CHF)\b")
MARK = r"(?:\s*(?:\((?:[a-z]|\d)\)|[*†‡¹²³]+))?"  # of a footnote, behind an amount
AMOUNT = re.compile(
    r"(?P<open>\()?\s*(?P<before>[$€£¥]|USD|EUR|GBP|CHF)?\s*(?P<inner>\()?\s*(?P<sign>[-−–])?\s*(?P<behind>[$€£¥])?\s*"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d+|\d+,\d{1,2}|\d+\.\d+|\.\d+|\d+)"
    r"\s*(?P<percent>%)?\s*(?P<after>[$€£¥]|USD|EUR|GBP|CHF)?\s*(?P<scale>thousand|million|billion)?\s*(?P<close>\))?\s*(?P<late>%)?"
    + MARK,
    re.IGNORECASE,
)
DASHES = frozenset(("—", "–", "-", "−", "nil"))
RULE = re.compile(r"\|[\s|:-]*--[\s|:-]*")  # between a header and its rows, in Markdown
NAME = re.compile(r"^(?P<name>[^:|]{1,60}): (?P<value>.+)$")
HEADING_WORDS = 14  # a line of at most so many words above a table may be its heading
# Words of a line that names nothing but the years of the columns below it.
PERIOD_WORDS = re.compile(
    r"\([^)]*\)|\b(?:for|the|as|of|at|and|years?|months?|weeks?|twelve|ended|ending|fiscal|on|end|in|except|par|value|millions?|thousands?"
    r"|share|per|data|january|february|march|april|may|june|july|august|september|october|november|december|fy|dollars)\b|[\W\d_]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Column:
    """What names a column: its header as it stands, and the year in it; `part` where it is less than a year ("three months")."""

    name: str = ""
    year: int | None = None
    part: str = ""


@dataclass(frozen=True, slots=True)
class Amount:
    """One cell: `text` as it stands, `value` as written (the row's unit is not multiplied in)."""

    text: str
    value: Decimal
    column: Column
    percent: bool = False
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Row text[start:end] of a page. `above` is what stands over its table, `group` the last row without amounts before it.

    `scale` is the unit the amounts are in ("million"), "" for plain units stated nowhere. `years_from` is where the years of the
    columns are told where the table itself does not: a row of another table of the document with the same amounts.
    """

    document_id: int
    page: int | None
    start: int
    end: int
    label: str
    group: str
    above: str
    scale: str
    amounts: tuple[Amount, ...]
    table: int  # offset of its table in the page's text
    years_from: Row | None = None

    @property
    def named(self) -> bool:
        """Every amount's column has a name."""
        return bool(self.amounts) and all(each.column.name for each in self.amounts)


def rows(document_id: int, pages: Iterable[Page]) -> list[Row]:
    """The rows with amounts of all tables of a document; tables without a header get their years from others with the same rows."""
    return _with_years([row for page in pages for row in _page_rows(document_id, page)])


def amount(cell: str) -> tuple[Decimal, bool, str] | None:
    """Value, whether it is a percentage, and currency of a cell; None where it is no amount, or could be two."""
    text = cell.strip()
    if text in DASHES or text.lstrip("$€£ ") in DASHES:
        return Decimal(0), False, ""
    match = AMOUNT.fullmatch(text)
    if match is None or bool(match["open"] or match["inner"]) != bool(match["close"]):
        return None
    digits = match["digits"]
    if re.fullmatch(r"\d{1,3}\.\d{3}", digits) and not digits.startswith("0"):
        return None  # a thousand and more to a German, one point something to an American
    if "," in digits and re.search(r",\d{1,2}$", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    value = Decimal(digits.replace(",", ""))
    if match["scale"]:
        value *= SCALES[match["scale"].lower()]
    negative = bool(match["close"] or match["sign"])
    currency = match["before"] or match["behind"] or match["after"] or ""
    return -value if negative else value, bool(match["percent"] or match["late"]), currency


def years(text: str) -> list[int]:
    """The years that `text` names, in order; "FY19" is one."""
    found = [(match.start(), int(match.group())) for match in YEAR.finditer(text)]
    found += [(match.start(), 2000 + int(match[1])) for match in SHORT_YEAR.finditer(text)]
    return [year for _, year in sorted(found)]


def _page_rows(document_id: int, page: Page) -> Iterator[Row]:
    if "|" not in page.text:
        return
    blocks, above, gap = list[tuple[list[str], list[tuple[int, int]]]](), list[str](), True
    at = 0
    for line in page.text.split("\n"):
        start, at = at, at + len(line) + 1
        if line.startswith("|") and len(line) > 1:
            if gap:
                blocks.append((above[-ABOVE_LINES:], []))
                gap = False
            blocks[-1][1].append((start, start + len(line.rstrip())))
            continue
        if line.strip() or not gap:
            gap = True
        if line.strip():
            if " | " in line:
                yield from _listed(document_id, page, start, line, above)
            else:
                above = [*above, line.strip()]
    columns: list[Column] = []
    for over, spans in blocks:
        found = list(_table(document_id, page, over, spans, columns))
        yield from found
        own = next((row.amounts for row in found if row.named), ())
        columns = [each.column for each in own] if all(each.column.year for each in own) else []


def _listed(document_id: int, page: Page, start: int, line: str, above: Sequence[str]) -> Iterator[Row]:
    """A spreadsheet's row: "City: Bremen | 2023: 3,900 | 2024: 4,200"."""
    labels, names, found = list[str](), list[str](), list[Amount]()
    for cell in line.strip().split(" | "):
        match = NAME.match(cell.strip())
        name, value = (match["name"].strip(), match["value"]) if match else ("", cell)
        read = amount(value)
        if read is None or (YEAR.fullmatch(value.strip()) and not years(name)):
            labels.append(value.strip())
            names.append(name)
        else:
            found.append(Amount(value.strip(), read[0], _column(name, ""), read[1], read[2]))
    if found and labels:
        over = "\n".join(above[-2:])
        end = start + len(line.rstrip())
        start += len(line) - len(line.lstrip())
        yield Row(document_id, page.number, start, end, " ".join(labels), " ".join(names), over, _scale(line, over), tuple(found), start)


def _table(document_id: int, page: Page, above: Sequence[str], spans: Sequence[tuple[int, int]], before: Sequence[Column]) -> Iterator[Row]:
    """The rows of one table. Without a header it goes on with the columns of the one `before` it, unless a line between names years."""
    spans = [(start, end) for start, end in spans if not RULE.fullmatch(page.text, start, end)]
    lines = [_cells(page.text[start:end]) for start, end in spans]
    height = _header_height(lines)
    names = _names(lines[:height])
    over = "\n".join(above)
    corner = " ".join(line[0] for line in lines[:height] if line)
    part = _part(f"{above[-1] if above else ''} {corner}") or _part(above[-2] if len(above) > 1 else "")
    columns = [_column(name, part) for name in names]
    told = [] if any(each.year for each in columns) else _years_above([*above, corner])
    scale = _scale(*reversed(above[-ABOVE_LINES:]), " ".join(names), corner) or _page_scale(page.text)
    goes_on = not height and not told and not any(_years_above([each]) for each in above)
    group = pending = ""
    if height and corner and not YEAR.search(corner):
        group = corner
    pending_start = -1
    for (start, end), line in zip(spans[height:], lines[height:], strict=True):
        label, cells = (line[0], line[1:]) if line else ("", [])
        read = [amount(cell) for cell in cells]
        if not any(cells):
            group = pending = label or group
            pending_start = start
            continue
        if not label and pending:
            label, start = pending, pending_start
        pending = ""
        filled = [(at, cell, value) for at, (cell, value) in enumerate(zip(cells, read, strict=True)) if cell]
        if not label or any(value is None for _, _, value in filled):
            continue  # a cell that is no amount: a text table, or one that the page garbles
        placed = _placed([at for at, _, _ in filled], columns, told, len(cells))
        if goes_on and len(before) == len(filled):
            placed = list(before)
        amounts = tuple(
            Amount(cell, value[0], column, value[1] or "%" in column.name, value[2])
            for (_, cell, value), column in zip(filled, placed, strict=True)
            if value is not None
        )
        yield Row(document_id, page.number, start, end, label, group, over, scale, amounts, spans[0][0])


def _cells(row: str) -> list[str]:
    """The cells of a row, with "$" and ")" that stand in cells of their own joined to their amounts."""
    joined: list[str] = []
    carried = ""
    for at, cell in enumerate(each.strip() for each in row.strip().strip("|").split("|")):
        if at and cell in ("$", "€", "£", "$ (", "("):
            carried = cell
        elif at and cell in (")", "%", ")%") and len(joined) > 1:
            before = next((each for each in range(len(joined) - 1, 0, -1) if joined[each]), 0)
            if before:
                joined[before] += cell
        else:
            joined.append(f"{carried} {cell}".strip() if cell and carried else cell)
            carried = "" if cell else carried
    return joined


def _header_height(lines: Sequence[Sequence[str]]) -> int:
    """Rows at the top that hold names and no amounts: years count as names."""
    height = 0
    for line in lines[:HEADER_ROWS]:
        cells = [cell for cell in line[1:] if cell]
        if not cells or any(amount(cell) is not None and not YEAR.fullmatch(cell) for cell in cells):
            break
        height += 1
        if any(years(cell) for cell in cells) and not all(YEAR.fullmatch(cell) is None and PART.search(cell) for cell in cells):
            break
    return height


def _names(header: Sequence[Sequence[str]]) -> list[str]:
    """A name for each column behind the label's; an upper header that spans several is repeated over them."""
    width = max((len(line) for line in header), default=1)
    names = [""] * (width - 1)
    for number, line in enumerate(header):
        last = ""
        spanning = number < len(header) - 1
        for at in range(1, width):
            cell = line[at] if at < len(line) else ""
            last = cell or (last if spanning else "")
            names[at - 1] = f"{names[at - 1]} {last}".strip() if last else names[at - 1]
    if len(header) > 1:  # an empty column under a spanning header has no name of its own
        names = [name if at + 1 < len(header[-1]) and header[-1][at + 1] else "" for at, name in enumerate(names)]
    return names


def _column(name: str, part: str) -> Column:
    found = years(name)
    own = _part(name)
    return Column(name, found[0] if len(set(found)) == 1 else None, own or ("" if WHOLE.search(name) else part))


def _part(text: str) -> str:
    match = PART.search(text)
    return " ".join(match.group().casefold().split()) if match else ""


def _placed(at: Sequence[int], columns: Sequence[Column], told: Sequence[int], width: int) -> list[Column]:
    """The columns of a row's filled cells: by position where row and header are as wide, else in order where there are as many."""
    named = [column for column in columns if column.name]
    if len(columns) == width and all(columns[each].name for each in at):
        return [columns[each] for each in at]
    if len(named) == len(at):
        return named
    if not named and len(told) == len(at):
        return [Column(str(year), year) for year in told]
    return [Column()] * len(at)


def _years_above(lines: Sequence[str]) -> list[int]:
    """Two or more years in a row in a line above the table that says nothing else: "December 31, 2017 2016"."""
    for line in reversed(lines):
        found = years(line)
        if len(found) > 1 and len(set(found)) == len(found) and not PART.search(line) and not PERIOD_WORDS.sub("", line):
            return found if found in (sorted(found), sorted(found, reverse=True)) else []
    return []


def _scale(*texts: str) -> str:
    for text in texts:
        match = SCALE.search(text)
        if match:
            word = next((each for each in match.groups() if each), "")
            return word.casefold() or next(scale for short, scale in GERMAN_SCALES.items() if short in match.group().casefold())
    return ""


def _page_scale(text: str) -> str:
    """The unit that a page states for all its tables: the only one in its lines above the tables."""
    heads = [line for line in text.splitlines() if len(line.split()) <= HEADING_WORDS and not line.startswith("| ")]
    found = {scale for line in heads if (scale := _scale(line))}
    return found.pop() if len(found) == 1 else ""


def _with_years(found: Sequence[Row]) -> list[Row]:
    """Rows whose table has no header take the years of rows elsewhere in the document that hold the same amounts in a row."""
    known: dict[tuple[Decimal, ...], list[tuple[Row, tuple[int, ...]]]] = {}
    for row in found:
        told = tuple(each.column.year for each in row.amounts if each.column.year and not each.column.part)
        if len(told) == len(row.amounts):
            for first, last in combinations(range(len(told) + 1), 2):
                if last - first > 1:
                    values = tuple(each.value for each in row.amounts[first:last])
                    known.setdefault(values, []).append((row, told[first:last]))
    votes: dict[tuple[int | None, int], dict[tuple[int, ...], dict[int, Row]]] = {}  # table → years → its row → the row that says so
    for row in found:
        values = tuple(each.value for each in row.amounts)
        if _nameless(row) and len(values) > 1 and all(abs(each) >= LEAST_TELLING for each in values):
            for other, some in known.get(values, ()):
                votes.setdefault((row.page, row.table), {}).setdefault(some, {}).setdefault(row.start, other)
    return [_told(row, votes.get((row.page, row.table), {})) for row in found]


def _nameless(row: Row) -> bool:
    return not any(each.column.name for each in row.amounts)


def _told(row: Row, votes: Mapping[tuple[int, ...], Mapping[int, Row]]) -> Row:
    """The row with the years that others tell, where they all tell the same and enough of them do."""
    if len(votes) != 1 or not _nameless(row):
        return row
    order, others = next(iter(votes.items()))
    if len(others) < LEAST_VOTES or len(order) != len(row.amounts):
        return row
    amounts = tuple(replace(each, column=Column(str(year), year)) for each, year in zip(row.amounts, order, strict=True))
    return replace(row, amounts=amounts, years_from=next(iter(others.values())))
