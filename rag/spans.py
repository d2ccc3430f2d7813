"""Sentences of the sources → a grammar that lets a model write nothing but them, whole or with clauses left out.

llama.cpp applies it to every word (span-constrained decoding), so at the level compressed nothing can be invented. What is left out is
the model's choice, except that a clause with a "not", an "unless" or an "only" stays; the check then looks at the sentence like at any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.words import words

CUT = re.compile(r"[,;:](?=\s)|\s(?=\()|(?<=\))(?=\s)|\s(?=[–—]\s)")  # where a clause begins, with the sign that stands before it
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
    body = sentence.rstrip(".!")
    cuts = [0, *(match.start() for match in CUT.finditer(body)), len(body)]
    clauses = [body[left:right] for left, right in zip(cuts, cuts[1:], strict=False) if left < right]
    parts = [_literal(clauses[0])]
    for clause in clauses[1:]:
        stays = any(each.kind in ("negation", "condition") for each in words(clause))
        parts.append(_literal(clause) if stays else f"({_literal(clause)})?")
    return " ".join([*parts, _literal(sentence[len(body) :] or ".")])


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
