"""A question for an amount, and the documents it names → the amount, looked up or computed from rows of their tables; or why not.

Rows are looked for in all tables of the documents, not only in the passages found. Whatever is ambiguous (two rows that say otherwise,
a column without a year, units that do not fit, a word of the question that nothing accounts for) is not computed with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, DecimalException, localcontext
from typing import TYPE_CHECKING

from rag.cite import citation
from rag.formula import ITEMS, MEASURES, RISE, Asked, Item, Node, Number, Operation, Unclear, asked, asked_words, items, parse
from rag.retrieve import name_words, named
from rag.tables import HEADING_WORDS, PERIOD_WORDS, SCALES, Amount, Row, rows
from rag.types import Hit, Sentence
from rag.words import stem, words

if TYPE_CHECKING:
    from ingest.open import Index
    from ingest.types import Page

PLACES = {"percent": 1, "points": 1, "ratio": 2, "days": 2}  # decimals shown where the question asks for none
AMOUNT_PLACES = 3  # decimals of an amount in another unit than the page's
DIGITS = 28  # of decimal arithmetic
LEAST_NAME = 3  # letters of a word with which a longer name may begin or end: "jpm" of "jpmorgan"
LEAST_WITHIN = 5  # of one that may stand inside it: "water" in "americanwaterworks"
TITLES = {
    "balance": re.compile(r"\bbalance sheets?\b|\bstatements? of financial (?:position|condition)\b", re.IGNORECASE),
    "income": re.compile(
        r"\bstatements? of (?:consolidated )?(?:net )?(?:income|earnings|operations|profit)\b|\bincome statements?\b|\bprofit and loss\b",
        re.IGNORECASE,
    ),
    "cash": re.compile(r"\bstatements? of (?:consolidated )?cash flows?\b|\bcash flow statements?\b", re.IGNORECASE),
}
TYPICAL = {  # rows of which a statement holds two at least
    "balance": re.compile(r"^total (?:current )?(?:assets|liabilities)|^(?:retained|reinvested) earnings|^goodwill|payable", re.IGNORECASE),
    "income": re.compile(
        r"^(?:consolidated )?(?:net|operating) (?:income|earnings|profit)|income tax|per share|^(?:total |net )*(?:revenue|sales)",
        re.IGNORECASE,
    ),
    "cash": re.compile(r"(?:operating|investing|financing) activities|^depreciation", re.IGNORECASE),
}
TAX = "income tax"  # the only cost that may well be negative: a table's other costs tell whether brackets mean that
NOT_WHOLE = re.compile(r"\bparent\b|\bregistrant\b|\bguarantors?\b|\bcondensed financial information\b|\bpro forma\b", re.IGNORECASE)
PLANNED = re.compile(
    r"\b(?:budget\w*|forecasts?|outlook|guidance|targets?|planned|projected|projections?|estimated?|pro forma)\b", re.IGNORECASE
)
PER_UNIT = re.compile(r"(?<!except )(?<!except for )\bper (?:\w+ ){0,2}(?:share|unit)\b", re.IGNORECASE)
WINTER = re.compile(r"\b(?:jan(?:uary)?|feb(?:ruary)?)\b", re.IGNORECASE)
NOTE = re.compile(r"\s*\((?:notes? )?[^()]*\)|\s+\d{1,2}$", re.IGNORECASE)  # "(Note 18)", "(loss)", a footnote's number
DISCLOSED = re.compile(r",? (?:net of|less|including|excluding|inclusive of)\b[^|]*\d.*$", re.IGNORECASE)  # "…, net of tax of $7 and $1"


MayQuote = Callable[[str, str, bool], bool]  # of a sentence as it is read, with what stands above its passage; true for a table's row


@dataclass(frozen=True, slots=True)
class Figure:
    """What became of a question for an amount.

    `sentence` is the answer, with `hits` to number its citations by. Without one, `note` says why, and only passages for which
    `may_quote` is true may be quoted instead.
    """

    sentence: Sentence | None
    hits: tuple[Hit, ...]
    note: str = ""
    may_quote: MayQuote | None = None


class _Unknown(Exception):
    """Why an amount is not known: never leaves this module."""


def figure(question: str, index: Index, allowed: Set[int], hits: Sequence[Hit]) -> Figure | None:
    """The amount that `question` asks for, from tables of the documents `allowed`; None where it asks for none.

    Looked at are the documents that the question calls by name and year, else by name, else those of `hits`.
    """
    wanted = asked(question)
    if wanted is None:
        return _by_words(question, index, hits)
    if isinstance(wanted, Unclear):
        return Figure(None, tuple(hits), wanted.why, _quotable_unclear(wanted))
    names = {
        each: name_words(f"{(document := index.catalog.document(each)).path.rpartition('.')[0]} {document.title}")
        for each in sorted(allowed)
    }
    by_name = [each for each, own in names.items() if wanted.rest and all(_accounted(word, own) for word in wanted.rest)]
    by_year = [each for each in by_name if any(str(year) in names[each] for year in wanted.years)]
    found = list(dict.fromkeys(hit.passage.document_id for hit in hits))
    titled = sorted(named(f"{question} {wanted.years[-1]}", [index.catalog.document(each) for each in names]))
    called = by_year or titled or by_name or found
    fitting = [each for each in called if all(_accounted(word, names[each]) for word in wanted.rest)]
    if not fitting and (wanted.change or (wanted.kind == "lookup" and called == found)):
        return None  # about something else than a line item of a company: its words are for the search
    newest = [each for each in fitting if str(wanted.years[-1]) in names[each]]
    why = ""
    for some in dict.fromkeys((tuple(newest), tuple(fitting))):
        if some:
            try:
                tables = _Tables({each: index.catalog.pages(each) for each in some})
                return Figure(*_computed(wanted, tables, index, hits))
            except _Unknown as error:
                why = why or str(error)
    unknown = sorted(word for word in wanted.rest if not any(_accounted(word, names[each]) for each in called))
    why = why or f"nothing accounts for {', '.join(map(repr, unknown)) or 'all words of the question'}"
    return Figure(None, tuple(hits), f"Not computed: {why}.", _quotable(wanted))


def _by_words(question: str, index: Index, hits: Sequence[Hit]) -> Figure | None:
    """The cell of a table on the pages of `hits` to which every word of a question with a year leads: "repair costs in Bremen in 2024".

    Each word stands in the row, its column's name or above the table; the row's label has no word besides. None where there are
    no such cells, or cells with different amounts.
    """
    wanted = asked_words(question)
    if wanted is None:
        return None
    cells: list[tuple[Row, Amount]] = []
    for document, page in dict.fromkeys((hit.passage.document_id, hit.passage.page) for hit in hits):
        name = index.catalog.document(document)
        of_document = _stems(f"{name.path.rpartition('.')[0]} {name.title}")
        for row in rows(document, [index.catalog.page(document, page)]):
            label = _stems(row.label)
            above = _stems(f"{row.above} {row.group}") | of_document
            for cell in row.amounts:
                column = _stems(cell.column.name)
                there = label | column | above
                told = _stems(PERIOD_WORDS.sub(" ", cell.column.name)) <= wanted | above  # no "budget", where none was asked for
                if wanted <= there and label and label <= wanted and told and column and (column & wanted or len(row.amounts) == 1):
                    cells.append((row, cell))
    if not cells or len({(cell.value, row.scale) for row, cell in cells}) > 1:
        return None
    row, cell = cells[0]
    try:
        cited, sources = _cited([(row, cell)], index, hits)
    except _Unknown:
        return None
    key = f"{cell.text}{f' {row.scale}' if row.scale and not cell.percent else ''}"
    text = f"{row.label}, {cell.column.name}: {key}."
    return Figure(Sentence(text, tuple(citation(sources[n - 1], n, start, end) for n, start, end in cited), "computed", key), sources)


def _stems(text: str) -> set[str]:
    """Forms of the words and numbers of a text that are not function words."""
    return {each.form for each in words(text.replace("_", " ")) if each.kind != "function"}


class _Tables:
    """The rows of some documents, and which pages hold which financial statement."""

    def __init__(self, pages: dict[int, list[Page]]) -> None:
        self.rows = [row for document, some in pages.items() for row in rows(document, some)]
        self._winter = {document for document, some in pages.items() if _named_a_year_later(some, self.rows)}
        labels: dict[tuple[int, int | None], set[str]] = {}
        heads: dict[tuple[int, int | None], str] = {}
        for document, some in pages.items():
            for page in some:
                lines = [line for line in page.text.splitlines() if len(line.split()) <= HEADING_WORDS and not line.startswith("|")]
                heads[document, page.number] = "\n".join(lines)
        for row in self.rows:
            labels.setdefault((row.document_id, row.page), set()).update((row.label, row.group))
        typical = {
            (place, kind): sum(bool(TYPICAL[kind].search(each)) for each in some) for place, some in labels.items() for kind in TITLES
        }
        self._tier = {
            (place, kind): 1 if TITLES[kind].search(heads[place]) else 2
            for (place, kind), count in typical.items()
            if count > 1 and not NOT_WHOLE.search(heads[place])
        }
        self._whole = {place: max(typical[place, kind] for kind in TITLES) for place in labels}  # a statement rather than an extract
        currencies: dict[int, set[str]] = {}
        for row in self.rows:
            currencies.setdefault(row.document_id, set()).update(each.currency for each in row.amounts if each.currency)
        self.currency = {document: some.pop() for document, some in currencies.items() if len(some) == 1}

    def tier(self, row: Row, statement: str) -> int:
        """1 in a table of that statement, 2 in one like it, 3 elsewhere."""
        return self._tier.get(((row.document_id, row.page), statement), 3)

    def find(self, item: Item) -> tuple[Row, Amount]:
        """The row and the cell that say what `item` was. Raises _Unknown."""
        known = ITEMS.get(item.name)
        patterns = [re.compile(each) for each in known.labels] if known else [re.compile(re.escape(plain(item.name)))]
        matching: list[tuple[int, int, Row]] = []
        for row in self.rows:
            label = plain(row.label)
            at = next((number for number, each in enumerate(patterns) if each.fullmatch(label)), None)
            if at is not None and not PER_UNIT.search(f"{row.label} {row.group}"):
                matching.append((self.tier(row, known.statement) if known else 3, at, row))
        matching.sort(key=lambda each: each[:2])
        unnamed: set[Decimal] = set()  # amounts of better rows whose columns nobody names: a row that is less good must agree
        for tier, at in dict.fromkeys(each[:2] for each in matching):
            some = [row for *place, row in matching if place == [tier, at]]
            cells = [
                (row, each)
                for row in some
                for each in row.amounts
                if each.column.year == item.year and not each.column.part and not each.percent and not _planned(row, each)
            ]
            cells = [each for each in cells if not unnamed or each[1].value in unnamed]
            if any(row.document_id in self._winter and WINTER.search(cell.column.name) for row, cell in cells):
                raise _Unknown(f"the documents count the year that ended in early {item.year} as {item.year - 1}")
            if cells:
                return self._agreed(cells, item)
            if tier < 3:
                unnamed |= {each.value for row in some if not row.named for each in row.amounts}
        raise _Unknown(f"no table row says what {item.name} was in {item.year}")

    def _agreed(self, cells: Sequence[tuple[Row, Amount]], item: Item) -> tuple[Row, Amount]:
        first = cells[0]
        if any(cell.value * _factor(row) != first[1].value * _factor(first[0]) for row, cell in cells):
            told = sorted({cell.text for _, cell in cells})
            raise _Unknown(f"rows differ about {item.name} in {item.year}: {', '.join(told)}")
        row, cell = max(cells, key=lambda each: self._whole.get((each[0].document_id, each[0].page), 0))
        if item.name == TAX and cell.value < 0 and self._costs_negative(row):
            return row, replace(cell, value=abs(cell.value))
        return row, cell

    def _costs_negative(self, row: Row) -> bool:
        """The table that `row` stands in writes what is spent in brackets: its costs of sales are negative."""
        spent = [re.compile(each) for each in ITEMS["cost of goods sold"].labels]
        return any(
            other.page == row.page
            and other.table == row.table
            and all(each.value <= 0 for each in other.amounts)
            and any(each.fullmatch(plain(other.label)) for each in spent)
            for other in self.rows
            if other.document_id == row.document_id
        )


def plain(label: str) -> str:
    """A row's label without notes, case and punctuation."""
    text = DISCLOSED.sub("", NOTE.sub("", label.casefold().replace("’", "'")))
    text = re.sub(r"[-–—/&:;.,]", lambda match: " and " if match.group() == "&" else " ", NOTE.sub("", text))
    return " ".join(text.split())


def _planned(row: Row, cell: Amount) -> bool:
    """The amount is a plan or a guess: its column or a heading above the table says so."""
    heads = [each for each in row.above.splitlines() if len(each.split()) <= HEADING_WORDS // 2]
    return any(PLANNED.search(each) for each in (cell.column.name, *heads))


def _factor(row: Row) -> Decimal:
    return SCALES.get(row.scale, Decimal(1))


def _named_a_year_later(pages: Iterable[Page], some: Sequence[Row]) -> bool:
    """The document calls a year by the one in which it began: its "fiscal 2022" ended in January 2023."""
    last = max((each.column.year or 0 for row in some for each in row.amounts if WINTER.search(each.column.name)), default=0)
    if not last:
        return False
    text = "\n".join(page.text for page in pages)
    counts = [len(re.findall(rf"\bfiscal (?:year )?{year}\b", text, re.IGNORECASE)) for year in (last - 2, last)]
    return counts[0] > counts[1]  # it speaks of the year under report and the one before: which of the two pairs are they?


def _accounted(word: str, names: Set[str]) -> bool:
    """The word is one of a document's name, or part of a name written in one word: "best" of "bestbuy"."""
    form = stem(word)
    return (
        form in names
        or (len(form) >= LEAST_NAME and any(each.startswith(form) or each.endswith(form) for each in names))
        or (len(form) >= LEAST_WITHIN and any(form in each for each in names))
    )


def _computed(wanted: Asked, tables: _Tables, index: Index, hits: Sequence[Hit]) -> tuple[Sentence, tuple[Hit, ...]]:
    formula = wanted.formula
    found = dict[Item, tuple[Row, Amount]]()
    for item in items(formula):
        try:
            found[item] = tables.find(item)
        except _Unknown:
            if item.name not in MEASURES or parse(MEASURES[item.name].formula, item.year) == item:
                raise
            formula = _put(formula, item, parse(MEASURES[item.name].formula, item.year))
            found.update({each: tables.find(each) for each in items(formula) if each not in found})
    used = {item: found[item] for item in items(formula)}
    scales = {row.scale for row, _ in used.values()}
    if len(scales) != 1:
        raise _Unknown("the rows are in different units, or one does not state its unit")
    (scale,) = scales
    with localcontext() as context:
        context.prec = DIGITS
        try:
            value = _value(formula, {item: _signed(item, cell) for item, (_, cell) in used.items()})
        except DecimalException:
            raise _Unknown("it would mean to divide by zero") from None
    cited, sources = _cited(used.values(), index, hits)
    (row, _) = next(iter(used.values()))
    text, key = _worded(wanted, formula, value, scale, used, tables.currency.get(row.document_id, ""))
    return Sentence(
        text, tuple(citation(sources[number - 1], number, start, end) for number, start, end in cited), "computed", key
    ), sources


def _put(node: Node, item: Item, instead: Node) -> Node:
    if isinstance(node, Operation):
        return Operation(node.sign, _put(node.left, item, instead), _put(node.right, item, instead))
    return instead if node == item else node


def _signed(item: Item, cell: Amount) -> Decimal:
    known = ITEMS.get(item.name)
    return abs(cell.value) if known and known.cost else cell.value


def _value(node: Node, values: dict[Item, Decimal]) -> Decimal:
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Item):
        return values[node]
    left, right = _value(node.left, values), _value(node.right, values)
    if node.sign == "/":
        if right < 0:
            raise _Unknown("a share of a negative amount says nothing")
        return left / right
    if node.sign == "^":
        if left < 0:
            raise _Unknown("a growth rate from or to a negative amount says nothing")
        return left**right
    return left + right if node.sign == "+" else left - right if node.sign == "-" else left * right


def _cited(used: Iterable[tuple[Row, Amount]], index: Index, hits: Sequence[Hit]) -> tuple[list[tuple[int, int, int]], tuple[Hit, ...]]:
    """(number of the hit, start, end in its passage) of each row, and the hits: the rows' passages first, then those found."""
    places = list(
        dict.fromkeys((each.document_id, each.page, each.start, each.end) for row, _ in used for each in (row, row.years_from) if each)
    )
    sources: list[Hit] = []
    cited: list[tuple[int, int, int]] = []
    for document, page, start, end in places:
        passage = next(
            (each for each in index.catalog.passages_of(document) if each.page == page and each.start <= start and end <= each.end), None
        )
        if passage is None:
            raise _Unknown("a row stands across two passages")
        number = next((at for at, hit in enumerate(sources, 1) if hit.passage.id == passage.id), 0)
        if not number:
            sources.append(next((hit for hit in hits if hit.passage.id == passage.id), Hit(passage, 1.0, "tables")))
            number = len(sources)
        cited.append((number, start - passage.start, end - passage.start))
    taken = {hit.passage.id for hit in sources}
    rest = [hit for hit in hits if hit.passage.id not in taken]
    return cited, (*sources, *rest[: max(0, len(hits) - len(sources))])


def _worded(
    wanted: Asked, formula: Node, value: Decimal, scale: str, used: dict[Item, tuple[Row, Amount]], currency: str
) -> tuple[str, str]:
    """The sentence, and the result alone: "Current ratio, 2024: 1.42 = 7,292 / 5,120; Total current assets 2024: 7,292; …"."""
    when = str(wanted.years[0]) if len(wanted.years) == 1 else f"{wanted.years[0]} to {wanted.years[-1]}"
    result = _result(wanted, formula, value, scale, currency)
    single = isinstance(formula, Item)
    name = next(iter(used.values()))[0].label if single else wanted.called[:1].upper() + wanted.called[1:]
    unit = f" {scale}" if scale else ""
    if single:
        ((item, (_, cell)),) = used.items()
        signed = _signed(item, cell)
        own = f"{'-' if signed < 0 else ''}{currency}{abs(signed):,}{unit}"
        return f"{name}, {when}: {result}{'' if own == result else f' = {own}'}.", result
    inputs = "; ".join(f"{row.label} {item.year}: {_digits(cell)}" for item, (row, cell) in used.items())
    return f"{name}, {when}: {result} = {_expression(formula, used)}; {inputs}{f' (in {scale}s)' if scale else ''}.", result


def _result(wanted: Asked, formula: Node, value: Decimal, scale: str, currency: str) -> str:
    if wanted.kind in ("percent", "points"):
        places = PLACES[wanted.kind] if wanted.places is None else wanted.places
        sign = "%" if wanted.kind == "percent" else " percentage points"
        return f"{_rounded(value * 100, places)}{sign}"
    if wanted.kind in ("ratio", "days"):
        return _rounded(value, PLACES[wanted.kind] if wanted.places is None else wanted.places) + (" days" if wanted.kind == "days" else "")
    if wanted.unit and not scale:
        raise _Unknown("the page does not state the unit of its amounts")
    unit = wanted.unit or scale
    value = value * SCALES.get(scale, Decimal(1)) / SCALES.get(unit, Decimal(1))
    exact = format(value.normalize(), "f") if value else "0"
    places = min(len(exact.partition(".")[2]), AMOUNT_PLACES) if wanted.places is None else wanted.places
    if unit == scale and wanted.places is None and isinstance(formula, Item):
        places = len(exact.partition(".")[2])
    text = _rounded(value, places)
    return f"{'-' if text.startswith('-') else ''}{currency}{text.lstrip('-')}{f' {unit}' if unit else ''}"


def _rounded(value: Decimal, places: int) -> str:
    return f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):,}"


def _digits(cell: Amount) -> str:
    return f"{abs(cell.value):,}"


def _expression(node: Node, used: dict[Item, tuple[Row, Amount]]) -> str:
    """The calculation with the amounts in their places: "365 * ((253 + 282) / 2) / 6,489"."""
    if isinstance(node, Operation):
        sides = []
        for child in (node.left, node.right):
            text = _expression(child, used)
            lighter = isinstance(child, Operation) and not (
                (node.sign in "+-" and child.sign in "*/") or (child is node.left and child.sign in "+-" and node.sign in "+-")
            )
            sides.append(f"({text})" if lighter else text)
        return f" {node.sign} ".join(sides)
    value = node.value if isinstance(node, Number) else _signed(node, used[node][1])
    return f"{value:,}" if value >= 0 else f"({value:,})"


def _quotable(wanted: Asked) -> MayQuote:
    """A passage may answer instead where its sentence itself names the amount and a year asked for."""
    said_so = f"{wanted.called} {' '.join(wanted.rest)}" if wanted.kind == "lookup" else wanted.called
    needed = {each.form for each in words(said_so) if each.kind not in ("function", "number")} - {"change", "averag"}

    def may(said: str, around: str, row: bool) -> bool:
        there = {each.form for each in words(f"{said} {around}")}
        return needed <= there and any(str(year) in there for year in wanted.years) and bool(re.search(r"\d", said))

    return may


def _quotable_unclear(wanted: Unclear) -> MayQuote:
    """A sentence may answer instead where it says itself what would have to be computed; no row of a table can."""
    needed = {stem(each) for each in wanted.words}
    years = {str(each) for each in wanted.years}

    def may(said: str, around: str, row: bool) -> bool:
        there = {each.form for each in words(said)}
        if wanted.change:
            return bool(RISE.search(said)) or years <= there
        if wanted.most:
            return not row and needed <= there
        told = there | {each.form for each in words(around)}
        return not row and 2 * len(needed & there) >= len(needed) and bool(years & told) and (not wanted.percent or "%" in there)

    return may
