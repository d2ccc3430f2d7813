"""The same text as eleven kinds of file gives the same answers to the same ten questions, with the real models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.render import read, render

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("docx", "pptx", "xlsx", "pdf", "html", "md", "txt", "rtf", "odt", "epub", "eml")
HEADERS = ("Boat", "Seats", "Price per hour", "Deposit", "Section", "Text")

TEXT = read("""title: Boat hire at Millpond
date: 2025-04-12
author: Rosa Lindqvist
from: Rosa Lindqvist <rosa@millpond.example>
to: Staff <staff@millpond.example>
---
# Boat hire at Millpond

This page is for everyone who works at the boat house. Rosa Lindqvist keeps it up to date.

## Opening hours

From April to September the boat house opens at 9:30 in the morning. The last boat goes out at 18:15.

In winter the boat house is closed, except for the ice market on the second Sunday of December.

## Who may hire a boat

People who hire a boat must be at least 16 years old. Children under 12 wear a life jacket at all times.

Dogs are welcome in rowing boats but not in canoes.

## Prices

| Boat | Seats | Price per hour | Deposit |
|---|---|---|---|
| Rowing boat | 4 | £14 | £30 |
| Canoe | 2 | £11 | £25 |
| Pedal boat | 5 | £19 | £40 |

School classes pay half the price on weekdays.

## When something goes wrong

If a boat comes back more than 20 minutes late, the launch goes out to look for it. The launch is driven by Piotr Nowak.

Lost oars cost the customer £35. Wet telephones are nobody's fault and are not replaced.
""")

QUESTIONS = (  # the answer's own words; "" where the text does not say
    ("When does the boat house open in the morning?", "9:30"),
    ("When does the last boat go out?", "18:15"),
    ("How old must people be to hire a boat?", "16"),
    ("Who wears a life jacket at all times?", "Children under 12"),
    ("How much does a canoe cost per hour?", "£11"),
    ("How many seats does a pedal boat have?", "5"),
    ("Who drives the launch?", "Piotr Nowak"),
    ("What do lost oars cost the customer?", "£35"),
    ("How deep is the water at Millpond?", ""),
    ("Which company insures the boats?", ""),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, object]]:
    """(format, question) → what `python -m rag ask` says, from one index of all eleven files and one batch of questions."""
    folder = tmp_path_factory.mktemp("same")
    for format in FORMATS:
        render(TEXT, format, folder / "documents" / f"millpond.{format}")
    asked = [
        {"id": f"{format}/{number}", "question": question, "document": f"millpond.{format}"}
        for number, (question, _) in enumerate(QUESTIONS) for format in FORMATS
    ]
    batch = folder / "questions.jsonl"
    batch.write_text("".join(json.dumps(each) + "\n" for each in asked), encoding="utf-8")
    environment = {**os.environ, "FOOTNOTE_HOME": str(folder / "home")}
    index = str(folder / "index")

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("ingest", str(folder / "documents"), "--index", index, "--json")
    lines = [json.loads(line) for line in run("rag", "ask", "--questions", str(batch), "--index", index, "--json").splitlines()]
    assert [line["id"] for line in lines] == [each["id"] for each in asked]
    return {(each["document"].rsplit(".")[-1], each["question"]): line for each, line in zip(asked, lines, strict=True)}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("question", "fact"), QUESTIONS, ids=[question for question, _ in QUESTIONS])
def test_the_same_text_gives_the_same_answer_in_every_format(
    question: str, fact: str, answers: dict[tuple[str, str], dict[str, object]]
) -> None:
    """Every format finds the fact (or that there is none), and says it in the words that the Markdown file gave."""
    told = {format: answers[format, question] for format in FORMATS}
    assert {format for format in FORMATS if told[format]["found"]} == (set(FORMATS) if fact else set())
    if fact:
        texts = {format: _bare(str(told[format]["answer"])) for format in FORMATS}
        assert {format: text for format, text in texts.items() if fact.casefold() not in text} == {}
        assert {format: text for format, text in texts.items() if not _same(text, texts["md"])} == {}


def _bare(answer: str) -> str:
    """The words alone: no [1], no cell bars, no column names (a spreadsheet's rows carry them), one space between words."""
    answer = re.sub(r"\[\d+\]", " ", answer)
    answer = re.sub(rf"\b(?:{'|'.join(HEADERS)}):", " ", answer)
    return " ".join(re.sub(r"[|•]|^- |\*", " ", answer).split()).casefold()


def _same(one: str, other: str) -> bool:
    """Equal, or the same words with the rest of their table row or paragraph around them."""
    return one in other or other in one
