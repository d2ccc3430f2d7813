"""A small training file: facts of made-up towns, and questions about them."""

from __future__ import annotations

from tune.data import Triple


def triples() -> list[Triple]:
    """A small training file: two facts of each of twelve made-up towns, with a question nobody can answer for each."""
    found = []
    for number, town in enumerate("Alder Birch Cedar Dover Elmton Fernley Garth Hazel Ilford Juniper Kelso Larch".split()):
        passage = (
            f"The town of {town} was founded in {1801 + number} by a group of merchants who traded in wool and timber. "
            f"Its bridge is {40 + number} metres long. The council of {town} meets because the law requires it every spring. "
            f"In summer the market square of {town} is full of visitors from the coast."
        )
        asked = {f"When was {town} founded?": str(1801 + number), f"Who founded {town}?": "a group of merchants"}
        for question, answer in asked.items():
            found.append(Triple("squad2", town, question, passage, answer, passage.index(answer)))
        found.append(Triple("squad2", town, f"When was {town} destroyed?", passage, None, None))
    return found
