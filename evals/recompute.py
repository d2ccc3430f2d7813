"""A computed sentence and the rows it cites → whether it comes out again. Nothing here is shared with the code that computed it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
# "Current ratio, 2024: 1.42 = 7,292 / 5,120; Total current assets 2024: 7,292; Total current liabilities 2024: 5,120 (in millions)."
COMPUTED = re.compile(
    r"(?P<name>.+?, [^:=]+?): (?P<result>-?[$€£¥]?\d[^=;]*?)(?: = (?P<calculation>[^;]+?))?"
    r"(?:; (?P<inputs>.+?)(?: \(in (?P<unit>\w+?)s\))?)?\."
)
INPUT = re.compile(r"(?P<label>.+?) (?P<year>(?:19|20)\d\d)?: (?P<amount>[\d,.]+)%?")
YEAR_OF = re.compile(r"^.*?(?=(?:19|20)\d\d|$)")  # what stands before the year in a column's name
DASH = re.compile(r"\|\s*[$€£]?\s*[—–-]\s*(?=\|)")  # how a table says nought
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")
CONSTANTS = frozenset(map(Decimal, (*range(1, 13), 365)))  # days, years averaged over, and 1 of a growth rate: no amounts of a row
DOES: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def recomputed(sentence: str, quotes: Sequence[str], pages: str) -> bool:
    """Whether the calculation that `sentence` shows gives its result, from amounts that stand in the rows quoted.

    Each amount must stand in a row that holds the words of its label, its year and unit on the pages cited (`pages`, their text),
    and the result must be right to its last digit.
    """
    match = COMPUTED.fullmatch(sentence)
    if match is None:
        return False
    rows = [_words(DASH.sub("| 0 |", each)) for each in quotes]
    inputs = [each for each in (INPUT.fullmatch(part) for part in (match["inputs"] or "").split("; ")) if each]
    if not inputs:
        label, _, year = match["name"].rpartition(", ")
        stated = (match["calculation"] or match["result"]).partition(" ")[0].lstrip("-$€£¥")
        inputs = [each for each in [INPUT.fullmatch(f"{label} {YEAR_OF.sub('', year)}: {stated}")] if each]
    for each in inputs:
        amount = _words(each["amount"])
        if not any(_in_order(_words(each["label"]), row) and _in_order(amount, row) for row in rows):
            return False
        if each["year"] and each["year"] not in pages:
            return False
    unit = match["unit"] or _unit(match["calculation"] or match["result"])
    if not inputs or (unit and not re.search(unit, pages, re.IGNORECASE)):
        return False
    told = {each["amount"] for each in inputs}
    used = FIGURE.findall(match["calculation"] or "") if match["inputs"] else []
    if any(each not in told and Decimal(each.replace(",", "")) not in CONSTANTS for each in used):
        return False
    result, done = match["result"], _calculated(match["calculation"] or match["result"], unit)
    shown = Decimal(re.sub(r"[^\d.-]", "", result.partition(" ")[0]))
    scale = 100 if "%" in result or "percentage" in result else 1 / _times(_unit(result))
    return abs(done * scale - shown) <= Decimal(5).scaleb(min(0, int(shown.as_tuple().exponent)) - 1)


def _calculated(text: str, unit: str) -> Decimal:
    """ "(253 + 282) / 2" or "$389 million" as a number; amounts without a unit of their own are in `unit` where nothing divides."""
    plain = re.sub(r"[$€£¥,]|(?:thousand|million|billion)s?", "", text).replace("^", "**").strip()
    value = _value(ast.parse(plain, mode="eval").body)
    return value if "/" in text or "*" in text else value * _times(unit)


def _value(node: ast.expr) -> Decimal:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Decimal(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in DOES:
        return DOES[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"no calculation: {ast.dump(node)}")


def _unit(text: str) -> str:
    match = re.search(r"(thousand|million|billion)", text)
    return match[1] if match else ""


def _times(unit: str) -> Decimal:
    return Decimal(10) ** {"": 0, "thousand": 3, "million": 6, "billion": 9}[unit]


def _words(text: str) -> list[str]:
    return [each.casefold() for each in WORD.findall(text)]


def _in_order(said: Iterable[str], source: Iterable[str]) -> bool:
    rest = iter(source)
    return all(word in rest for word in said)
