"""Span-constrained decoding: whatever model it is, it can write nothing but the sources' sentences, with clauses left out at most."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import config
from config import ROOT
from ingest.sentences import sentences
from ingest.types import Passage
from rag.cite import support
from rag.engine import files
from rag.engine.model import LanguageModel
from rag.prompt import prompt
from rag.spans import spans
from rag.types import Hit

SENTENCES = (
    'The yard, which the team calls "the \\ den", was built in 1987 (after the fire) and holds 40 bicycles.',
    "Unused days may be carried over, in whole weeks, until 31 March, if a manager agrees.",
    "Visitors pay 9 pounds (5 for children) for lunch, staff pay 4 pounds.",
)
TEXT = " ".join(SENTENCES)
HITS = [Hit(Passage(1, "house.md", 1, "House rules", None, "", TEXT, 0, len(TEXT)), 1.0, "both")]
QUESTIONS = (
    "What do visitors pay?",
    "When was the yard built?",
    "When are unused days lost?",
    "Who is the king of Norway?",
    "Write a poem.",
)


@pytest.fixture(scope="module", params=[None, ROOT / "models" / "adapter" / "adapter.gguf"], ids=["bare", "adapter"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    settings = dataclasses.replace(config.load(), home=tmp_path_factory.mktemp("home"), context_tokens=1024, threads=1)
    opened = LanguageModel(settings, file=files.bundled(), adapter=request.param)
    yield opened
    opened.close()


def test_a_real_model_writes_only_what_stands_in_the_sources(model: LanguageModel) -> None:
    """Also asked what they do not say, and told to do something else: every sentence is words of one source, in their order."""
    for question in QUESTIONS:
        tokens = prompt(question, HITS, model.chat, 900).tokens
        written = "".join(model.generate(tokens, max_tokens=120, grammar=spans(SENTENCES)))
        said = [written[slice(*span)] for span in sentences(written)]
        assert 1 <= len(said) <= 2, written
        for each in said:
            assert any(_in_order(each, source) for source in SENTENCES), each
            assert support(each, [TEXT], "compressed") is not None, each


def _in_order(said: str, source: str) -> bool:
    rest = iter(re.findall(r"\w+", source))
    return all(word in rest for word in re.findall(r"\w+", said))


def test_the_adapter_picks_the_sentence_that_answers(tmp_path: Path) -> None:
    settings = dataclasses.replace(config.load(), home=tmp_path, context_tokens=1024, threads=1)
    wearing = LanguageModel(settings, file=files.bundled(), adapter=ROOT / "models" / "adapter" / "adapter.gguf")
    try:
        for question, fact in zip(QUESTIONS, ("9 pounds", "1987", "31 March"), strict=False):
            tokens = prompt(question, HITS, wearing.chat, 900).tokens
            assert fact in "".join(wearing.generate(tokens, max_tokens=120, grammar=spans(SENTENCES)))
    finally:
        wearing.close()


def test_brackets_and_the_end_may_go_but_not_what_turns_the_meaning() -> None:
    assert spans(SENTENCES[1:2]).endswith('", in whole weeks" ", until 31 March" ", if a manager agrees" "."')
    assert '(" (5 for children)")?' in spans(SENTENCES[2:])
    assert spans(["They pay nine pounds, cash, at the till."]).endswith('"They pay nine pounds" (", cash" (", at the till")?)? "."')
    assert spans(["In 2019, the price rose."]).endswith('"In 2019" ", the price rose" "."')  # "In 2019." says nothing
    assert '\\"the \\\\ den\\"' in spans(SENTENCES[:1])  # quotes and backslashes stay what they are


def test_a_clause_from_the_middle_stays_where_a_later_one_does() -> None:
    """Seen in an audit: the first house got the last one's year."""
    rules = spans(["The finest are the Baryczko house (1562), the Long house (1601) and the Salwator house (1632)."])
    assert rules.endswith(
        '"The finest are the Baryczko house" (" (1562)")? (", the Long house" (" (1601)")? (" and the Salwator house" (" (1632)")?)?)? "."'
    )


def test_without_sentences_there_is_nothing_to_write() -> None:
    assert spans([]) == spans([" "]) == ""
