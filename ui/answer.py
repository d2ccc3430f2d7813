"""The state of an answer → what is drawn of it: sources, sentences with their footnotes, notes, and how it was made.

Plain functions over the dictionaries of rag.types (`Answer.as_json`, `Hit.as_json`) and the engine's state of an answer.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from rag.cost import money

NOT_FOUND = "The documents do not say"
HOW = {
    "quoted": "Quoted from the documents",
    "shortened": "Shortened from the documents",
    "computed": "Computed from the table rows quoted",
    "written": "Written by the model, each sentence checked",
    "mixed": "Partly quoted, partly written",
}
STEPS = {"searching": "Searching the documents", "reading": "Reading the passages", "writing": "Writing"}
SNIPPET_CHARS = 280  # of a nearest passage; two lines on a wide screen
RUNNING = ("queued", "searching", "reading", "writing")


def where(passage: dict[str, Any]) -> str:
    """ "handbook.pdf, p. 4 · Leave › Annual leave · 2025-03-04"."""
    place = passage["document"] if passage.get("page") is None else f"{passage['document']}, p. {passage['page']}"
    older = f"older version; newer: {passage['newer']}" if passage.get("newer") else ""
    return " · ".join(each for each in (place, passage.get("section") or "", passage.get("date") or "", older) if each)


def drawn(
    *,
    passages: list[dict[str, Any]],
    sentences: list[dict[str, Any]],
    answer: dict[str, Any] | None = None,
    step: str = "",
    trouble: dict[str, str] | None = None,
    opened: str = "",
    arrive: str = "",
) -> dict[str, Any]:
    """What the answer component is given. `sentences` as `cited` returns them; `answer` once it is complete.

    `arrive` names the newest answer of a conversation: the browser brings its question to the top once.
    """
    cited = {citation["n"] for sentence in sentences for citation in sentence["citations"]}
    refused = answer is not None and not answer["found"] and not answer.get("stopped")
    return {
        "step": step,
        "trouble": trouble,
        "opened": opened,
        "arrive": arrive,
        "sources": [_source(each, number, cited if answer else None) for number, each in enumerate(passages, 1)],
        "sentences": [_sentence(each) for each in sentences],
        "refused": NOT_FOUND if refused else "",
        "notes": list(answer.get("notes", ())) if answer else [],
        "meta": _meta(answer) if answer else [],
        "copy": _copy(sentences) if answer and sentences else "",
    }


def cited(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer's sentences, each with its own citations; the contract keeps them in one list, in order."""
    rest = list(answer.get("citations", ()))
    sentences = []
    for sentence in answer.get("sentences", ()):
        count = len(sentence["citations"])
        sentences.append({**sentence, "citations": rest[:count]})
        rest = rest[count:]
    return sentences


def step(state: dict[str, Any], documents: int = 0) -> str:
    """The line that says what is going on, in plain words."""
    stage = state.get("state", "")
    if stage == "queued":
        position, seconds = int(state.get("position") or 0), float(state.get("estimate_s") or 0)
        ahead = "Next in line" if position <= 1 else f"{position - 1} {'question' if position == 2 else 'questions'} before yours"
        return ahead + (f", about {max(1, round(seconds))} s" if seconds >= 1 else "")
    if stage == "searching" and documents:
        return f"Searching {documents:,} {'document' if documents == 1 else 'documents'}"
    if stage == "reading" and state.get("passages"):
        return f"Reading {len(state['passages'])} passages"
    return STEPS.get(stage, "Working")


def target(
    passages: list[dict[str, Any]], sentences: list[dict[str, Any]], clicked: dict[str, Any]
) -> tuple[str, dict[str, Any]] | None:
    """What a click opens: its name in the drawing ("s0.1", "p2") and the citation or passage; None if it is not there.

    The click comes from a browser, so it is looked up, never trusted.
    """
    try:
        if "passage" in clicked:
            number = int(clicked["passage"])
            passage = passages[number]
            return f"p{number}", {**passage, "quote": passage["text"]}
        sentence, citation = int(clicked["sentence"]), int(clicked["citation"])
        return f"s{sentence}.{citation}", sentences[sentence]["citations"][citation]
    except (KeyError, IndexError, ValueError, TypeError):
        return None


def _source(passage: dict[str, Any], number: int, cited_numbers: set[int] | None) -> dict[str, Any]:
    name = posixpath.basename(passage["document"])
    snippet = " ".join(re.sub(r"\s*\|[\s|:-]*", " · ", passage["text"]).split()).strip(" ·")
    return {
        "n": str(number),
        "name": name,
        "page": (passage.get("section") or "").rsplit(" › ", 1)[-1] if passage.get("page") is None else f"p. {passage['page']}",
        "where": where(passage),
        "snippet": snippet if len(snippet) <= SNIPPET_CHARS else snippet[:SNIPPET_CHARS].rsplit(" ", 1)[0] + "…",
        "used": True if cited_numbers is None else number in cited_numbers,
    }


def _sentence(sentence: dict[str, Any]) -> dict[str, Any]:
    text = sentence["text"]
    cells = [cell.strip() for cell in text.strip().strip("|").split("|")] if " | " in text else None
    return {
        "text": text,
        "key": sentence.get("key", ""),
        # rows and list items do not flow into one another as sentences do
        "line": cells is not None or text.startswith("- ") or not re.search(r"[.!?:;…。！？][\"'”’)\]]*\s*$", text),
        "cells": cells,
        "citations": [{"n": str(each["n"]), "quote": each["quote"], "where": where(each)} for each in sentence["citations"]],
    }


def _meta(answer: dict[str, Any]) -> list[str]:
    seconds = answer.get("timings", {}).get("total")
    how = HOW.get(answer.get("how", ""), "")
    return [
        each
        for each in (
            "Stopped" if answer.get("stopped") else "",
            how,
            re.sub(r" \([0-9a-f]{6,}\)$", "", answer.get("model", "")),  # the file's hash is in the receipt
            "" if seconds is None else f"{seconds:.1f} s",
            _spent(answer),
        )
        if each
    ]


def _spent(answer: dict[str, Any]) -> str:
    """ "0.7 CPU-s, about 0.0000009 EUR"; "" for answers from before this was counted."""
    usage = answer.get("usage", {})
    if "cost" not in usage:
        return ""
    return f"{usage['cpu_seconds']:.1f} CPU-s, about {money(usage['cost'], answer.get('currency', ''))}"


def _copy(sentences: list[dict[str, Any]]) -> str:
    """The answer as text with its footnotes below, for pasting into a mail."""
    body = " ".join(each["text"] + "".join(f" [{number}]" for number in _numbers(each)) for each in sentences)
    notes = {each["n"]: f"[{each['n']}] {where(each)}" for sentence in sentences for each in sentence["citations"]}
    return body + "\n\n" + "\n".join(notes[number] for number in sorted(notes))


def _numbers(sentence: dict[str, Any]) -> list[int]:
    return list(dict.fromkeys(each["n"] for each in sentence["citations"]))


def markdown(title: str, turns: list[tuple[str, str, dict[str, Any] | None]]) -> str:
    """A conversation as a Markdown file with its sources: (role, text, answer) in order."""
    lines = [f"# {title}", ""]
    for role, text, answer in turns:
        if role == "user":
            lines += [f"## {text}", ""]
        elif answer is None:
            lines += [text or "(no answer)", ""]
        else:
            sentences = cited(answer)
            lines += [_copy(sentences) if sentences else NOT_FOUND + ".", ""]
            lines += [f"{note}\n" for note in answer.get("notes", ())] + ["*" + " · ".join(_meta(answer)) + "*", ""]
    return "\n".join(lines)
