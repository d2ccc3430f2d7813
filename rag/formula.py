"""A question → the amount it asks to be looked up or computed: a formula over line items, each of a year; None where it asks for none.

Names of line items and ratios are those of everyday accounting. A formula that the question gives itself counts before a definition
here. What is not understood to the last word is `Unclear`: then nothing is computed, and no other amount may stand in for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from types import MappingProxyType

from rag.tables import PART, years
from rag.words import FUNCTION_WORDS, stem, words

WORDS_FOR_NUMBERS = {"zero": 0, "no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
LONGEST = 10  # years that an average or a growth rate may span


@dataclass(frozen=True, slots=True)
class Item:
    """A line item of a year; `name` is a key of ITEMS, or the label of a row in its own words."""

    name: str
    year: int


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal


@dataclass(frozen=True, slots=True)
class Operation:
    """`sign` is one of + - * / ^."""

    sign: str
    left: Node
    right: Node


Node = Item | Number | Operation


@dataclass(frozen=True, slots=True)
class Asked:
    """`called`: what the result is, in the question's words. `unit`: "%", "million" and so on, "" where the question names none.

    `kind`: lookup, amount, percent, points, ratio or days; `change`: of an amount from one year to another. `places` of decimals
    asked for, None where none are. `rest`: words of the question that are neither the amount's nor its year's: the document's name
    must account for them.
    """

    formula: Node
    called: str
    kind: str
    years: tuple[int, ...]
    unit: str = ""
    places: int | None = None
    rest: frozenset[str] = frozenset()
    change: bool = False


@dataclass(frozen=True, slots=True)
class Unclear:
    """An amount is asked for that has to be computed, but not in words that are understood here. `words`: those that name it."""

    why: str
    words: frozenset[str] = frozenset()
    most: bool = False  # amounts would have to be compared: no single row of a table can say which is the highest
    percent: bool = False  # a percentage is asked for
    change: bool = False  # whether an amount changed from one year to another is asked
    years: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LineItem:
    """How questions and rows call a line item, as patterns of a whole normalised label, the plainest first.

    `cost`: money that goes out, so that its sign on the page only says so. `statement`: where it stands.
    """

    statement: str
    labels: tuple[str, ...]
    asked: str = ""  # further ways in which only questions say it
    cost: bool = False


_PPE = r"property(?:,? plant,?)? and equipment"
_OF_OWNERS = r"attributable to (?!.*(?:noncontrolling|non controlling|minority)).*"
_PROFIT = r"(?:income|earnings|profit)"
ITEMS: dict[str, LineItem] = {
    "revenue": LineItem(
        "income",
        (
            "total (?:net )?(?:operating )?revenues?",
            "(?:total )?net sales",
            "(?:net )?(?:operating )?revenues?(?: net)?",
            "total (?:net )?sales",
            "net revenues?",
            "sales",
            "sales and revenues",
            "turnover",
            "umsatzerlöse",
        ),
        "top line|total revenues? and sales|net sales revenues?|annual revenues?",
    ),
    "cost of goods sold": LineItem(
        "income",
        (
            "total costs? of (?:goods sold|sales|revenues?|products sold)",
            "costs? of (?:goods sold|sales|revenues?|products sold)",
            "costs? of (?:goods|products|merchandise)(?: and services)?(?: sold)?",
            "total costs? of .*sold",
            "costs? of sales and .*",
        ),
        "cogs",
        cost=True,
    ),
    "gross profit": LineItem("income", ("gross profit", "gross margin")),
    "operating income": LineItem(
        "income",
        (
            f"(?:total )?(?:consolidated )?operating {_PROFIT}",
            f"{_PROFIT} from operations",
            f"{_PROFIT} from operating activities",
        ),
        "ebit|operating result",
    ),
    "net income": LineItem(
        "income",
        (
            f"net {_PROFIT}",
            f"net {_PROFIT} {_OF_OWNERS}",
            f"{_PROFIT} for the (?:year|period)",
            f"(?:consolidated )?net {_PROFIT}(?: including (?:noncontrolling|non controlling|minority) interests?)?",
        ),
        f"net {_PROFIT}s?|bottom line|net {_PROFIT} {_OF_OWNERS}",
    ),
    "income before taxes": LineItem(
        "income",
        (
            f"(?:{_PROFIT} )?(?:from continuing operations )?before (?:provision for )?(?:income )?tax(?:es)?(?: expense)?.*",
            f"{_PROFIT} before (?:provision for )?(?:income )?tax(?:es)?(?: expense)?.*",
            f"{_PROFIT} from continuing operations before (?:provision for )?(?:income )?tax(?:es)?(?: expense)?.*",
            "pretax income",
        ),
        "pre ?tax (?:income|profit|earnings)|ebt",
    ),
    "income tax": LineItem(
        "income",
        (
            "(?:total )?(?:provision for |expense for )?income tax(?:es)?(?: expense| provision)?",
            "tax expense",
            "income tax expense benefit",
            "provision benefit for (?:income )?taxes(?: on income)?",
            "(?:provision for )?taxes on income",
            "income taxes from continuing operations",
        ),
    ),
    "interest expense": LineItem("income", ("(?:total )?interest expense", "interest expense net"), cost=True),
    "research and development": LineItem(
        "income",
        (
            "research and development(?: expenses?| costs?)?",
            "research development and .*",
        ),
        "r and d(?: expenses?| costs?| spending)?",
        cost=True,
    ),
    "selling, general and administrative": LineItem(
        "income",
        (
            "selling,? (?:informational,? )?general,? and administrative(?: expenses?| costs?)?",
            "selling general and administrative expenses?",
        ),
        "sg and a(?: expenses?| costs?)?",
        cost=True,
    ),
    "depreciation and amortization": LineItem(
        "cash",
        (
            "(?:total )?depreciation and amortization(?: expense)?",
            "depreciation,? (?:depletion,? )?(?:and )?amortization.*",
        ),
        "d and a(?: expense)?",
        cost=True,
    ),
    "cash from operations": LineItem(
        "cash",
        (
            "(?:total )?(?:net )?cash (?:flows? )?(?:provided by|from|generated by|used in)(?: used in)? "
            "(?:operating activities|operations)"
            "(?: of continuing operations)?",
        ),
        r"(?:net )?(?:operating cash flows?|cash flows? from (?:operations|operating activities)|cash from operations|cfo)",
    ),
    "cash from investing": LineItem(
        "cash",
        ("(?:total )?(?:net )?cash (?:flows? )?(?:provided by|from|used in|used for)(?: used in)? investing activities",),
        "investing cash flows?|cash flows? from investing(?: activities)?",
    ),
    "cash from financing": LineItem(
        "cash",
        ("(?:total )?(?:net )?cash (?:flows? )?(?:provided by|from|used in|used for)(?: used in)? financing activities",),
        "financing cash flows?|cash flows? from financing(?: activities)?",
    ),
    "capital expenditures": LineItem(
        "cash",
        (
            "(?:total )?capital expenditures?(?: for .*)?",
            f"(?:purchases?|additions?|acquisitions?) (?:of|to) {_PPE}.*",
            "(?:purchases?|additions?|acquisitions?) (?:of|to) (?:land|plant|buildings),? .*equipment.*",
            f"payments? for (?:acquisition of )?{_PPE}.*",
            "capital expenditures? .*",
        ),
        "cap ?ex|capital (?:spending|expenditures?)(?: amount| spend)?",
        cost=True,
    ),
    "dividends paid": LineItem(
        "cash",
        (
            "(?:cash )?dividends?(?: paid)?(?: to (?:shareholders|shareowners|stockholders|common .*))?",
            "(?:cash )?dividends? paid .*",
            "(?:payments? of|payments? for) (?:cash )?dividends?.*",
            "(?:common stock )?(?:cash )?dividends? paid",
        ),
        "cash dividends?|(?:total )?(?:cash )?dividends?(?: paid)?(?: out)?(?: to shareholders)?",
        cost=True,
    ),
    "share repurchases": LineItem(
        "cash",
        (
            "(?:repurchases?|purchases?) of (?:common|treasury|company) (?:stock|shares?).*",
            "(?:common )?(?:stock|share) repurchases?.*",
            "common stock repurchased.*",
            "purchases of stock for treasury",
            "treasury stock purchases?.*",
            "repurchase of (?:shares|stock)",
        ),
        "(?:stock|share) (?:repurchases?|buy ?backs?)|repurchases? of (?:common )?(?:stock|shares)",
        cost=True,
    ),
    "current assets": LineItem("balance", ("total current assets", "current assets"), "total current assets"),
    "current liabilities": LineItem("balance", ("total current liabilities", "current liabilities"), "total current liabilities"),
    "total assets": LineItem("balance", ("total assets",), "(?:total )?assets"),
    "total liabilities": LineItem("balance", ("total liabilities",), "total liabilities"),
    "equity": LineItem(
        "balance",
        (
            "total (?:stockholders|shareholders|shareowners)['’]? ?(?:equity|investment)",
            "total .*(?:stockholders|shareholders|shareowners)['’]? equity",
            "total equity",
            f"equity {_OF_OWNERS}",
            "(?:stockholders|shareholders|shareowners)['’]? equity",
        ),
        "(?:total )?(?:stockholders|shareholders|shareowners)?['’]? ?equity",
    ),
    "inventory": LineItem(
        "balance",
        ("(?:total )?(?:merchandise )?inventor(?:y|ies)(?: net)?", "inventories .*"),
        "(?:total )?(?:merchandise )?inventor(?:y|ies)",
    ),
    "receivables": LineItem(
        "balance",
        (
            "(?:trade |customer )?(?:accounts |trade )?receivables?(?: net)?",
            "(?:trade )?(?:accounts )?receivables?,? (?:net|less|trade).*",
            "customers? receivables?.*",
        ),
        "(?:net )?(?:trade |accounts )?receivables?|(?:net )?ar",
    ),
    "payables": LineItem(
        "balance",
        (
            "(?:trade )?accounts payable(?: trade)?",
            "trade payables?",
            "accounts payable and accrued (?:expenses|liabilities)",
        ),
        "(?:trade )?(?:accounts )?payables?",
    ),
    "property, plant and equipment": LineItem(
        "balance",
        (
            f"(?:total )?{_PPE} (?:net|less|at cost net).*|(?:total )?net {_PPE}",
            f"(?:total )?{_PPE}",
            "net property.*",
            "(?:net )?fixed assets(?: net)?",
            "land,? buildings,? and equipment(?: net)?",
            "total net property.*",
        ),
        "(?:net )?pp ?(?:and|n) ?e(?: net)?|(?:net )?fixed assets",
    ),
    "cash": LineItem(
        "balance", ("cash and cash equivalents", "cash,? cash equivalents.*", "cash"), "cash(?: and cash equivalents)?|cash balance"
    ),
    "short-term investments": LineItem(
        "balance", ("(?:short term|current) (?:investments|marketable securities)", "marketable securities(?: current)?")
    ),
    "goodwill": LineItem("balance", ("goodwill(?: net)?",)),
    "long-term debt": LineItem(
        "balance",
        (
            "long term debt(?: net)?(?: less current (?:portion|maturities))?",
            "long term debt,? (?:net|less|excluding|due after|maturing).*",
        ),
    ),
    "retained earnings": LineItem("balance", ("retained earnings.*", "reinvested earnings")),
}


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure by a standard definition: `formula` in the language of `parse`, `asked` the pattern of its name."""

    asked: str
    formula: str
    kind: str


MEASURES: dict[str, Measure] = {
    "gross margin": Measure(
        r"gross (?:profit )?margins?(?: ratio)?|gross profit (?:ratio|percentage)", "gross profit / revenue", "percent"
    ),
    "operating margin": Measure(r"operating (?:(?:profit|income) )?margins?|ebit margins?", "operating income / revenue", "percent"),
    "net profit margin": Measure(r"net (?:(?:profit|income|earnings) )?margins?|profit margins?", "net income / revenue", "percent"),
    "EBITDA margin": Measure(r"ebitda(?: %)? margins?", "EBITDA / revenue", "percent"),
    "EBITDA": Measure(r"ebitda", "operating income + depreciation and amortization", "amount"),
    "free cash flow margin": Measure(r"(?:free cash flow|fcf) margins?", "free cash flow / revenue", "percent"),
    "free cash flow": Measure(r"free cash flows?|fcf", "cash from operations - capital expenditures", "amount"),
    "free cash flow conversion": Measure(r"(?:free cash flow|fcf) conversion(?: ratio| rate)?", "free cash flow / net income", "percent"),
    "current ratio": Measure(r"current ratio|working capital ratio", "current assets / current liabilities", "ratio"),
    "quick ratio": Measure(
        r"quick ratio|acid test(?: ratio)?", "(cash + short-term investments + receivables) / current liabilities", "ratio"
    ),
    "cash ratio": Measure(r"cash ratio", "(cash + short-term investments) / current liabilities", "ratio"),
    "working capital": Measure(r"(?:net )?working capital", "current assets - current liabilities", "amount"),
    "asset turnover": Measure(r"(?:total )?assets? turnover(?: ratio)?", "revenue / average total assets", "ratio"),
    "fixed asset turnover": Measure(
        r"(?:net )?fixed assets? turnover(?: ratio)?", "revenue / average property, plant and equipment", "ratio"
    ),
    "inventory turnover": Measure(r"inventory turnover(?: ratio)?|stock turnover", "cost of goods sold / average inventory", "ratio"),
    "receivables turnover": Measure(r"(?:accounts )?receivables? turnover(?: ratio)?", "revenue / average receivables", "ratio"),
    "payables turnover": Measure(r"(?:accounts )?payables? turnover(?: ratio)?", "cost of goods sold / average payables", "ratio"),
    "days sales outstanding": Measure(r"days sales outstanding|dso", "365 * average receivables / revenue", "days"),
    "days inventory outstanding": Measure(
        r"days (?:of )?(?:inventory|sales in inventory)(?: outstanding)?|dio|dsi", "365 * average inventory / cost of goods sold", "days"
    ),
    "days payable outstanding": Measure(r"days payables? outstanding|dpo", "365 * average payables / cost of goods sold", "days"),
    "cash conversion cycle": Measure(
        r"cash conversion cycle|ccc",
        "365 * average inventory / cost of goods sold + 365 * average receivables / revenue - 365 * average payables / cost of goods sold",
        "days",
    ),
    "return on assets": Measure(r"return on (?:total )?assets|roa", "net income / average total assets", "percent"),
    "return on equity": Measure(r"return on (?:\w+ )?equity|roe", "net income / average equity", "percent"),
    "effective tax rate": Measure(r"effective (?:income )?tax rate", "income tax / income before taxes", "percent"),
    "dividend payout ratio": Measure(r"(?:dividend )?payout ratio", "dividends paid / net income", "ratio"),
    "retention ratio": Measure(r"(?:earnings )?retention ratio", "(net income - dividends paid) / net income", "ratio"),
    "interest coverage": Measure(r"interest coverage(?: ratio)?|times interest earned", "operating income / interest expense", "ratio"),
    "operating cash flow ratio": Measure(r"operating cash flow ratio", "cash from operations / current liabilities", "ratio"),
    "equity ratio": Measure(r"equity ratio", "equity / total assets", "ratio"),
    "equity multiplier": Measure(r"equity multiplier", "total assets / equity", "ratio"),
    "gross profit": Measure(r"gross profit", "revenue - cost of goods sold", "amount"),  # where no row states it
}
RATIO_WORDS = re.compile(
    r"\b(?:ratio|margins?|turnover ratio|cagr|growth rate|percent(?:age)? (?:of|change)|% of|% change|as a (?:%|percent\w*)|rate of return|"
    r"compound annual|year[ -]over[ -]year|yoy|return on (?:assets|equity|capital)|\d year average|days \w+ outstanding|"
    r"what (?:%|percent\w*|share|fraction) of)(?=\W|$)",
    re.IGNORECASE,
)
MOST = re.compile(
    r"\b(?:which|what|who|where)\b.*\b(?:(?:highest|lowest|largest|smallest|biggest|greatest)\b|the (?:most|least|best|worst)\b)",
    re.IGNORECASE,
)
WHY = re.compile(
    r"\b(?:why|drove|driv(?:es?|en|ers?|ing)|reasons?|explain|because)\b|\bwhat (?:caused|led|happened|changed)\b", re.IGNORECASE
)
RISE = re.compile(
    r"\b(?:improv\w*|expand\w*|worsen\w*|grow\w*|grew|increas\w*|decreas\w*|declin\w*|drop\w*|f[ae]ll|fallen|r[io]se|risen|shr[aiu]nk|chang\w+|reduc\w+)\b",
    re.IGNORECASE,
)
# Where the clause that asks begins: at the sentence's start, or behind an introduction ("In agreement with the balance sheet, what is").
ASKS = re.compile(
    r"(^|[,:;]\s+(?:and\s+)?)(?:(?:by |approximately |roughly )?(?:what|how (?:much|many|big|large|high)|which)\b|give|state|name|tell me|"
    r"calculate|compute|determine|find|was|were|did|does|do|has|have|is|are)\b",
    re.IGNORECASE,
)
IN_SOURCE = re.compile(
    r"\s+(?:in|from|on|using|per|according to|based on|by)\s+(?:\w+\s+){0,3}?"
    r"(?:(?:statements?(?: of [\w ]+?)?|balance sheets?|p&l)|data)(?=\W*$)",
    re.IGNORECASE,
)
AMOUNT_ASKED = re.compile(r"^\W*(?:what (?:is|was|were|are)|how (?:much|many|high|large|big))\b", re.IGNORECASE)
NO_CONTENT = frozenset(stem(each) for each in "amount value total fiscal fy year much many high large big spent".split())
DEFINED = re.compile(
    r"(?:\b(?:is|are|was|be)\s+)?\b(?:defined|calculated|computed|measured)\s+as(?:\s+follows)?:?\s+(?P<formula>.+)"
    r"|\bdefine\s+(?P<called>.+?)\s+as:?\s+(?P<other>.+)",
    re.IGNORECASE | re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
# Clauses that say where the answer stands, and how it is to be given: neither is part of what is asked.
SOURCE = re.compile(
    r"\b(?:statements?|balance sheets?|information|details?|data|perspective|line items?|reported in|p&l|10-?[kq]|"
    r"annual reports?|filings?)\b",
    re.IGNORECASE,
)
UNIT = re.compile(
    r"\b(?:in|units? of)\s+(?:\w+\s+)?(?:(?:US|U\.S\.)\s*)?(?:USD|EUR|GBP|dollars?|euros?|\$|€|£)?\s*(thousand|million|billion)s?\b",
    re.IGNORECASE,
)
PLACES = re.compile(r"\b(zero|no|one|two|three|four|five|\d)\s+(?:decimals?|digits? after)\b", re.IGNORECASE)
SIGN_BETWEEN = re.compile(r" (?:less|minus|plus|divided by) (?:the )?")
SHARE = re.compile(r"\b(?:as (?:an? )?)?(?:%|percent(?:age)?|share|fraction) of (?:(?:total|net|its|their|the) )*")
PERCENT = re.compile(r"\bin (?:units of )?percent\w*|\bas a (?:%|percent\w*)|\(as a %\)|\(in %\)|\bin %|% terms", re.IGNORECASE)
# Words that say nothing about which amount is meant.
GENERIC = FUNCTION_WORDS | frozenset(
    """total amount value figure number level year years end ended ending fiscal fy full annual company companies firm corporation corp inc
    co group reported report according based using please answer much many big large high money pay paid spend spent spends record recorded
    generate generated earn earned incur incurred calculate compute determine give state find extract average between since until
    period periods usd us dollar dollars million millions billion billions thousand thousands percent percentage units unit approximately
    roughly about primarily respectively there any only per overall consolidated did does have has there's respect given terms
    compared versus vs relative basis points over past last three two four five change changes changed growth grow grew increase increased
    decrease decreased decline declined drop dropped fall fell rise rose risen year-end date line item items result results out make made
    was were is are rate ratio yes no improve improved improving improvement expand expanded worsen worsened growing increasing decreasing
    cagr compound compounded unadjusted basis close opening beginning closing following question
    positive negative healthy reasonably reasonable liquidity profile strong weak good sound""".split()
)


def asked(question: str) -> Asked | Unclear | None:
    """What `question` asks to be looked up or computed; None where it asks for no amount of a named line item and year."""
    plain = " ".join(question.replace("’", "'").replace("–", "-").replace("—", "-").split())
    main, definitions = _parts(plain)
    if main is None or WHY.search(main):
        return None
    when = _years(main) or _years(plain)
    found = _found(_normal(main))
    unclear = partial(Unclear, words=_content(main), percent=bool(re.search(r"%|percent", main, re.IGNORECASE)), years=when)
    if not when:
        return unclear("No year is named.") if definitions else None
    if MOST.search(main):
        line = " ".join(_normal(main)[start:end] for start, end, *_ in found)
        return Unclear("Amounts would have to be compared.", frozenset(line.split()), most=True, years=when)
    if PART.search(main) and (found or RATIO_WORDS.search(main)):
        return unclear("A part of a year is asked about.")
    try:
        made = _formula(main, definitions, found, when)
    except _NotUnderstood as error:
        return unclear(str(error))
    if made is None:
        if RATIO_WORDS.search(main) or definitions:
            return unclear("It would have to be computed in a way that is not known here.")
        if RISE.search(main) and len(when) > 1:
            return unclear("Amounts of several years would have to be compared.", percent=False, change=True)
        return None
    formula, kind, called, rest = made
    if kind in ("ratio", "amount") and PERCENT.search(plain) and isinstance(formula, Operation) and formula.sign == "/":
        kind = "percent"
    left = frozenset(each for each in re.findall(r"[^\W\d_][\w']*", rest) if each not in GENERIC and len(each) > 1)
    places = PLACES.search(plain)
    change = kind == "amount" and called.startswith("change in ")
    return Asked(formula, called, kind, when, _unit(plain), _count(places[1]) if places else None, left, change)


def _parts(plain: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The clause that asks, without clauses about sources, and the definitions given: what is defined, and the formula in words."""
    definitions: list[tuple[str, str]] = []
    main: str | None = None
    for sentence in SENTENCE_END.split(plain):
        given = DEFINED.search(sentence)
        if given:
            called = given["called"] or sentence[: given.start()]
            definitions.append((_normal(called), (given["formula"] or given["other"]).strip().rstrip(".?")))
            sentence = sentence[: given.start()] if given["formula"] else ""
        asks = [each.end(1) for each in ASKS.finditer(sentence)]
        if main is None and asks:
            main = _without_sources(sentence[asks[0] :])
    return main, definitions


def _without_sources(clause: str) -> str:
    clause = re.sub(r"\((?:in|as|from|using)\b[^()]*\)", " ", clause)
    first, *others = re.split(r",\s+(?!(?:plant|general|and)\b)", clause)
    text = ", ".join([first, *(each for each in others if not SOURCE.search(each))])
    return IN_SOURCE.sub("", text).strip()


def _years(text: str) -> tuple[int, ...]:
    """Years named, ascending; a range counts as all its years: "FY2017 - FY2019"."""
    short = re.sub(r"\bFY\s?'?(\d\d)(?!\d)", r"FY20\1", text, flags=re.IGNORECASE)
    spaced = re.sub(r"\bFY\s?(?=(?:19|20)\d\d)", " ", short, flags=re.IGNORECASE)
    found = set(years(spaced))
    for match in re.finditer(r"((?:19|20)\d\d)\s*(?:-|to|through|and|until)\s*((?:19|20)\d\d)", spaced):
        first, last = int(match[1]), int(match[2])
        if first < last <= first + LONGEST and not (match.group().find("and") > 0):
            found |= set(range(first, last + 1))
    return tuple(sorted(found))


def _normal(text: str) -> str:
    text = re.sub(r"\b(?:FY|fiscal(?: year)?)\s?'?\d{2,4}\b|\b(?:19|20)\d\d\b", " ", text, flags=re.IGNORECASE)
    text = text.casefold().replace("&", " and ").replace("-", " ")
    text = re.sub(r"'s?(?!\w)", "", text)
    return " ".join(re.sub(r"[^\w%,'/ ]", " ", text).replace(",", " ").split())


def _patterns() -> Iterator[tuple[str, str, re.Pattern[str]]]:
    for name, measure in MEASURES.items():
        if name != "gross profit":
            yield "measure", name, re.compile(rf"(?<![\w])(?:{measure.asked})(?![\w])")
    for name, item in ITEMS.items():
        some = [each for each in (item.asked, *item.labels) if each and ".*" not in each]
        some.append(re.escape(_normal(name)))
        yield "item", name, re.compile(rf"(?<![\w])(?:{'|'.join(each.replace(',?', '') for each in some)})(?![\w])")


PATTERNS = tuple(_patterns())


def _found(text: str) -> list[tuple[int, int, str, str]]:
    """(start, end, kind, name) of the names in a normalised text; the longest where they overlap, in order."""
    every = [
        (match.start(), match.end(), kind, name)
        for kind, name, pattern in PATTERNS
        for match in pattern.finditer(text)
        if match.group().strip()
    ]
    every.sort(key=lambda each: (each[0] - each[1], each[2] != "measure", each[0]))
    kept: list[tuple[int, int, str, str]] = []
    for each in every:
        if all(each[1] <= other[0] or each[0] >= other[1] for other in kept):
            kept.append(each)
    return sorted(kept)


def asked_words(question: str) -> frozenset[str] | None:
    """The words, as stems, and years that lead to an amount of a year: "What were the 2024 repair costs in Bremen?"; None for others."""
    main, definitions = _parts(" ".join(question.split()))
    if main is None or definitions or WHY.search(main) or MOST.search(main) or RISE.search(main) or RATIO_WORDS.search(main):
        return None
    when = _years(main)
    if len(when) != 1 or PART.search(main) or not AMOUNT_ASKED.search(main):
        return None
    forms = {each.form for each in words(main) if each.kind != "function"} - NO_CONTENT
    return frozenset(forms | {str(when[0])})


def _formula(
    main: str, definitions: list[tuple[str, str]], found: list[tuple[int, int, str, str]], when: tuple[int, ...]
) -> tuple[Node, str, str, str] | None:
    """The formula with its kind and name, and the question's text without the names in it; None where it names no known amount."""
    text = _normal(main)
    share = SHARE.search(text)
    own = dict(definitions)
    names = {name for *_, name in found}
    asked_for = next((called for called in own if _defines(called, text, names)), None)
    if asked_for is not None:
        definition = own.pop(asked_for)
        called = text[found[0][0] : found[0][1]] if found else asked_for
        usual = MEASURES[found[0][3]].kind if found and found[0][2] == "measure" else ""
        kind = usual if usual in ("days", "amount") else "ratio" if re.search(r"[/÷]|divided", definition) else "amount"
        node, kind, called = _over_years(text, lambda year: parse(definition, year, own), kind, called, when)
        return node, kind, called, _cut(text, found)
    if share or re.search(r"(?:%|percent(?:age)?|share|fraction) of\b", text):
        if share is None or len(found) != 2 or not found[0][0] < share.start() < found[1][0]:
            raise _NotUnderstood("Which amount is to be divided by which is not clear.")
        over, under = (each[3] for each in found)
        called = " as % of ".join(text[start:end] for start, end, *_ in found)
        node, kind, called = _over_years(
            text, lambda year: Operation("/", parse(over, year, own), parse(under, year, own)), "percent", called, when
        )
        return node, kind, called, _cut(text, [*found, (share.start(), share.end(), "", "")])
    if len(found) == 2 and len(names) == 2 and SIGN_BETWEEN.fullmatch(text[found[0][1] : found[1][0]]):
        called = text[found[0][0] : found[1][1]]
        node, kind, called = _over_years(text, lambda year: parse(called, year, own), "amount", called, when)
        return node, "ratio" if isinstance(node, Operation) and node.sign == "/" else kind, called, _cut(text, found)
    if len(names) != 1:
        return None
    start, end, what, name = found[0]  # the others say the same: "return on assets (ROA)"
    formula, kind = (MEASURES[name].formula, MEASURES[name].kind) if what == "measure" else (name, "lookup")
    margin = re.match(r"(?: %)? margins?\b", text[end:])
    if what == "item" and margin:
        formula, kind, end = f"{name} / revenue", "percent", end + margin.end()
    elif what == "item" and re.match(r" (?:per|to|ratio|turnover|yield|rate)\b", text[end:]):
        raise _NotUnderstood("It is asked for in relation to something that is not known here.")
    node, kind, called = _over_years(text, lambda year: parse(formula, year, own), kind, text[start:end], when)
    return node, kind, called, _cut(text, [(start, end, what, name), *found[1:]])


def _defines(called: str, text: str, names: Set[str]) -> bool:
    """The definition of `called` is one of all that the question asks for, not only of a part: "EBITDA" of "EBITDA less capex"."""
    if not names:
        return called in text
    return len(names) == 1 and not names.isdisjoint(name for *_, name in _found(called))


class _NotUnderstood(Exception):
    """Why a formula could not be read: never leaves this module."""


def _over_years(text: str, make: Callable[[int], Node], kind: str, called: str, when: tuple[int, ...]) -> tuple[Node, str, str]:
    """The formula for the years asked: of one year, an average of several, a growth rate, or a difference."""
    first, last = when[0], when[-1]
    if re.search(r"\bcagr\b|compound(?:ed)? annual", text):
        if first == last:
            raise _NotUnderstood("A growth rate over several years needs the first and the last.")
        share = Operation("/", Number(Decimal(1)), Number(Decimal(last - first)))
        return (
            Operation("-", Operation("^", Operation("/", make(last), make(first)), share), Number(Decimal(1))),
            "percent",
            f"CAGR of {called}",
        )
    spans = len(when) > 1
    average = re.search(r"\baverage\b|\bmean\b", text) and spans
    if average:
        total = make(first)
        for year in range(first + 1, last + 1):
            total = Operation("+", total, make(year))
        return Operation("/", total, Number(Decimal(last - first + 1))), "amount" if kind == "lookup" else kind, f"average {called}"
    rise = RISE.search(text)
    if rise or re.search(r"\bdifference\b", text):
        before = first if spans else last - 1
        change = Operation("-", make(last), make(before))
        relative = re.search(r"%|percent|\brate\b|year over year|yoy|\bgrowth\b", text) and kind in ("lookup", "amount")
        if relative:
            return Operation("/", change, make(before)), "percent", f"change in {called}"
        return change, "points" if kind == "percent" else "amount" if kind == "lookup" else kind, f"change in {called}"
    if spans:
        raise _NotUnderstood("Several years are named, but not what is to be done with them.")
    return make(last), kind, called


def _cut(text: str, found: list[tuple[int, int, str, str]]) -> str:
    for start, end, *_ in found:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _unit(text: str) -> str:
    match = UNIT.search(text)
    return match[1].casefold() if match else ""


def _count(word: str) -> int:
    return int(word) if word.isdigit() else WORDS_FOR_NUMBERS[word.casefold()]


def _content(text: str) -> frozenset[str]:
    return frozenset(each for each in re.findall(r"[^\W\d_]\w*", _normal(text)) if each not in GENERIC)


SIGNS = (
    (r"\bdivided by\b", " / "),
    (r"\b(?:less|minus)\b", " - "),
    (r"\bplus\b", " + "),
    (r"\b(?:times|multiplied by)\b", " * "),
    ("[÷]", " / "),
    ("[×]", " * "),
    (r"[\[{]", " ( "),
    (r"[\]}]", " ) "),
)


def parse(text: str, year: int, own: Mapping[str, str] = MappingProxyType({})) -> Node:
    """A formula in words and signs → its tree: "FY2019 revenue / (average PP&E between FY2018 and FY2019)".

    Items without a year are of `year`; "average" without years is of `year` and the one before. `own` are names that the question
    defines, with their formulas. Raises _NotUnderstood.
    """
    text = " ".join(text.replace("–", "-").split())
    text = re.sub(r"\(\s*(?:from|in|as|i\.e\.?|per)\b[^()]*\)", " ", text, flags=re.IGNORECASE)
    for pattern, sign in SIGNS:
        text = re.sub(pattern, sign, text, flags=re.IGNORECASE)
    text = re.sub(r"\b((?:19|20)\d\d)\s+-\s+(?=(?:FY)?\s?(?:19|20)\d\d)", r"\1 to ", text)
    text = re.sub(r"([+*/()])", r" \1 ", text)
    tokens: list[str] = []
    for piece in re.split(r"(?<=\s)([-+*/()^])(?=\s|$)|^([-+*/()^])(?=\s)", f" {text} "):
        if piece and piece.strip():
            tokens.append(piece.strip().strip(",;:"))
    node, rest = _sum(tokens, year, own)
    if rest:
        raise _NotUnderstood(f"The formula cannot be read from {rest[0]!r} on.")
    return node


def _sum(tokens: list[str], year: int, own: Mapping[str, str]) -> tuple[Node, list[str]]:
    node, tokens = _product(tokens, year, own)
    while tokens and tokens[0] in "+-":
        right, rest = _product(tokens[1:], year, own)
        node, tokens = Operation(tokens[0], node, right), rest
    return node, tokens


def _product(tokens: list[str], year: int, own: Mapping[str, str]) -> tuple[Node, list[str]]:
    node, tokens = _factor(tokens, year, own)
    while tokens and tokens[0] in "*/":
        right, rest = _factor(tokens[1:], year, own)
        node, tokens = Operation(tokens[0], node, right), rest
    return node, tokens


def _factor(tokens: list[str], year: int, own: Mapping[str, str]) -> tuple[Node, list[str]]:
    if not tokens or tokens[0] in ("+", "-", "*", "/", ")"):
        raise _NotUnderstood("The formula is not complete.")
    if tokens[0] == "(":
        node, rest = _sum(tokens[1:], year, own)
        if not rest or rest[0] != ")":
            raise _NotUnderstood("A bracket of the formula is not closed.")
        return node, rest[1:]
    if tokens[0].casefold() in ("average", "average of", "the average of") and len(tokens) > 1 and tokens[1] == "(":
        both = [_factor(tokens[1:], each, own) for each in (year - 1, year)]
        return Operation("/", Operation("+", both[0][0], both[1][0]), Number(Decimal(2))), both[1][1]
    return _item(tokens[0], year, own), tokens[1:]


def _item(phrase: str, year: int, own: Mapping[str, str]) -> Node:
    if re.fullmatch(r"\d+(?:\.\d+)?(?: days)?", phrase):
        return Number(Decimal(phrase.split()[0]))
    when = _years(phrase)
    words = _normal(
        re.sub(
            r"\b(?:between|from|for|in|of|at|as of|during)\b(?=\W*(?:(?:FY|fiscal(?: year)?)\s?)?(?:19|20)\d\d).*",
            " ",
            phrase,
            flags=re.IGNORECASE,
        )
    )
    words = re.sub(r" (?:from|in|on|per) the (?:[\w ]+ )?(?:statement|sheet)s?(?: of [\w ]+)?$", "", words)
    words = re.sub(r"^(?:the |a )+|\b(?:unadjusted|reported|year end|amount of)\b ?", "", words).strip()
    average = re.match(r"average (?:of )?(?:the )?", words)
    change = re.match(r"(?:the )?(?:change|increase) in (?:the )?", words)
    name = words[average.end() :] if average else words[change.end() :] if change else words
    if not name:
        raise _NotUnderstood("The formula names no amount.")
    pair = (when[0], when[-1]) if len(when) > 1 else (year - 1, year)
    if average:
        return Operation("/", Operation("+", _one(name, pair[1], own), _one(name, pair[0], own)), Number(Decimal(2)))
    if change:
        return Operation("-", _one(name, pair[1], own), _one(name, pair[0], own))
    if len(when) > 1:
        raise _NotUnderstood(f"{phrase!r} names several years.")
    return _one(name, when[0] if when else year, own)


def _one(name: str, year: int, own: Mapping[str, str]) -> Node:
    if name in own:
        return parse(own[name], year, {each: formula for each, formula in own.items() if each != name})
    for kind, known, pattern in PATTERNS:
        if pattern.fullmatch(name):
            return Item(known, year) if kind == "item" else parse(MEASURES[known].formula, year)
    return Item(name, year)


def items(node: Node) -> list[Item]:
    """The line items of a formula, each once, in order."""
    if isinstance(node, Operation):
        return list(dict.fromkeys([*items(node.left), *items(node.right)]))
    return [node] if isinstance(node, Item) else []
