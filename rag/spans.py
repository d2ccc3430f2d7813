"""Sentences of the sources → a grammar that lets a model write nothing but them, whole or with clauses left out.

llama.cpp applies it to every word (span-constrained decoding), so at the level compressed nothing can be invented. What is left out, of
its brackets and its end, is the model's choice, except that a "not", an "unless" or an "only" stays; the check then looks at the
sentence like at any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.words import words

CUT = re.compile(r"[,;:](?=\s)|\s(?=\()|(?<=\))(?=\s)|\s(?=[–—]\s)")  # where a clause begins, with the sign that stands before it
LEADING = re.compile(
    r"(?:\w+ing|\w+ed|when|while|although|though|if|because|since|as|after|before|once|until|unless|whereas|given|in|on|at|by|for|from|"
    r"during|with|without|under|over|among|between|to|despite|due|because|like|unlike|however|moreover|furthermore|therefore|thus)\b",
    re.IGNORECASE,
)  # a sentence's first clause that begins so says nothing by itself
LEAST_WORDS = 4  # of a first clause that may stand alone
MOST_SENTENCES = 2  # of an answer


def spans(sentences: Sequence[str]) -> str:
    """A GBNF grammar: one or two of `sentences`, each without some of its later clauses. "" where there are none."""
    ways = [_clauses(" ".join(each.split())) for each in dict.fromkeys(sentences) if each.strip()]
    if not ways:
        return ""
    rules = [f"s{number} ::= {way}" for number, way in enumerate(ways)]
    one = " | ".join(f"s{number}" for number in range(len(ways)))
    return "\n".join([f'root ::= sentence (" " sentence){{0,{MOST_SENTENCES - 1}}}', f"sentence ::= {one}", *rules])


def _clauses(sentence: str) -> str:
    """One sentence's rule. Brackets may go, and everything from some clause on; never a clause from the middle.

    Without its middle, "the mill, the house A (1562), the house B (1632)" would give the mill's age as 1632.
    """
    body = sentence.rstrip(".!")
    cuts = [0, *(match.start() for match in CUT.finditer(body)), len(body)]
    clauses = [body[left:right] for left, right in zip(cuts, cuts[1:], strict=False) if left < right]
    rule = ""
    for number in range(len(clauses) - 1, 0, -1):
        clause, part = clauses[number], _literal(clauses[number])
        stays = any(each.kind in ("negation", "condition") for each in words(" ".join(clauses[number:])))
        if clause.startswith(" (") and clause.endswith(")"):
            alone = any(each.kind in ("negation", "condition") for each in words(clause))
            rule = f"{part if alone else f'({part})?'} {rule}".strip()
        else:
            first = "".join(clauses[:number])
            stays = stays or (number == 1 and (len(first.split()) < LEAST_WORDS or LEADING.match(first) is not None))
            rest = f"{part} {rule}".strip()
            rule = rest if stays else f"({rest})?"
    end = sentence[len(body) :] or ("." if body[-1:].isalnum() else "")
    return " ".join(filter(None, [_literal(clauses[0]), rule, _literal(end) if end else ""]))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
