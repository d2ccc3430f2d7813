"""From a question to what is shown: fast, with a scripted model and a word embedder over a real index. Real models: test_same_answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from errors import UnknownUser, UsageError
from ingest.open import Index, open_index
from ingest.refresh import refresh
from rag.answer import Answerer
from rag.prompt import NOT_FOUND
from records.store import Records
from tests.fakes import TextReader, WordEmbedder
from tests.scripted_model import ScriptedModel

LEAVE = """# Leave policy

Full-time employees get 25 days of annual leave a year. Part-time employees get 12 days of annual leave a year.

# Carry-over

Unused annual leave may be carried over until 31 March if a manager agrees.
"""
TRAVEL = """# Travel policy

The hotel limit in Berlin is 140 euros a night. The hotel limit in Paris is 180 euros a night.
"""


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load(index=tmp_path / "indexes", home=tmp_path / "home")


@pytest.fixture
def index(tmp_path: Path, settings: config.Settings) -> Iterator[Index]:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "leave.md").write_text(LEAVE)
    (docs / "travel.md").write_text(TRAVEL)
    refresh([("docs", docs)], "default", settings, embedder=WordEmbedder, reader=TextReader)
    opened = open_index(settings.index, "default")
    yield opened
    opened.close()


def ask(settings: config.Settings, index: Index, question: str, script: str = "", level: str = "free", **more: Any) -> Any:
    model = ScriptedModel(script, level)
    return Answerer(settings, WordEmbedder(), model).answer(question, index, **more)


def test_a_supported_sentence_is_shown_as_written_with_its_source(settings: config.Settings, index: Index) -> None:
    answer = ask(settings, index, "What is the hotel limit in Paris?", "In Paris, the hotel limit is 180 euros a night [2].")

    assert answer.found and answer.how in ("written", "shortened")
    assert answer.citations[0].quote == "The hotel limit in Paris is 180 euros a night."


def test_a_model_that_writes_reads_the_surest_passage_before_the_evidence_is_weighed(settings: config.Settings, index: Index) -> None:
    """One that only weighs quotes has nothing to read ahead: most answers need no word of it."""
    for level, times in (("free", 1), ("verbatim", 0)):
        model = ScriptedModel("In Paris, the hotel limit is 180 euros a night.", level)
        Answerer(settings, WordEmbedder(), model).answer("What is the hotel limit in Paris?", index)
        assert len(model.expected) == times


def test_an_invented_sentence_gives_way_to_a_quote(settings: config.Settings, index: Index) -> None:
    """The model said 250; the documents say 180; the person sees the documents."""
    answer = ask(settings, index, "What is the hotel limit in Paris?", "The hotel limit in Paris is 250 euros a night. Trust me on that.")

    assert answer.found and answer.how == "quoted"
    assert "180" in answer.text and "250" not in answer.text


def test_a_model_that_writes_reads_only_passages_with_a_good_sentence(settings: config.Settings, index: Index) -> None:
    """Every passage it reads costs seconds and can mislead it; what it says may still be found in any of them."""
    model = ScriptedModel("In Paris, the hotel limit is 180 euros a night.", "free")
    answer = Answerer(settings, WordEmbedder(), model).answer("What is the hotel limit in Paris?", index)

    assert answer.found and len(answer.hits) > 1
    assert "The hotel limit in Paris is 180 euros" in model.prompts[-1] and "annual leave" not in model.prompts[-1]
    assert answer.hits[answer.citations[0].n - 1].passage.document.endswith("travel.md")


def test_rambling_is_stopped(settings: config.Settings, index: Index) -> None:
    """Seen with the bundled model: "1. 2. 3. 4. …". Two failures in a row end it; the quote is shown."""
    model = ScriptedModel("Bananas are yellow fruit. " * 40)
    answer = Answerer(settings, WordEmbedder(), model).answer("What is the hotel limit in Paris?", index)

    assert answer.how == "quoted" and model.pieces < 20


def test_a_true_sentence_beside_the_question_is_not_shown(settings: config.Settings, index: Index) -> None:
    answer = ask(
        settings, index, "What is the hotel limit in Paris?", "Unused annual leave may be carried over until 31 March if a manager agrees."
    )

    assert "carried over" not in answer.text and "180" in answer.text


def test_a_verbatim_model_never_words_anything(settings: config.Settings, index: Index) -> None:
    answer = ask(settings, index, "What is the hotel limit in Paris?", "In Paris the limit is 180 euros.", level="verbatim")

    assert answer.how == "quoted" and answer.text.startswith("The hotel limit in Paris is 180 euros a night.")


def test_without_evidence_the_documents_do_not_say(settings: config.Settings, index: Index) -> None:
    answer = ask(settings, index, "Which penguins dance tango professionally?", "Penguins dance tango.")

    assert not answer.found and answer.text == NOT_FOUND and not answer.citations


def test_every_quote_is_the_stored_text_at_its_offsets(settings: config.Settings, index: Index) -> None:
    answer = ask(settings, index, "How many days of annual leave do part-time employees get?", level="verbatim")

    assert answer.citations
    for each in answer.citations:
        page = index.catalog.page(each.passage.document_id, each.passage.page)
        assert page.text[each.start : each.end] == each.quote


def test_sources_come_before_the_first_sentence(settings: config.Settings, index: Index) -> None:
    events: list[dict[str, Any]] = []
    ask(settings, index, "What is the hotel limit in Paris?", level="verbatim", emit=events.append)
    names = [each["event"] for each in events]

    assert names.index("sources") < names.index("sentence")
    assert events[names.index("sources")]["passages"]


def test_a_document_filter_hides_everything_else(settings: config.Settings, index: Index) -> None:
    answer = ask(settings, index, "What is the hotel limit in Paris?", level="verbatim", document="leave.md")

    assert {each.passage.document for each in answer.hits} == {"leave.md"}


def test_a_filter_that_matches_nothing_says_so(settings: config.Settings, index: Index) -> None:
    with pytest.raises(UsageError):
        ask(settings, index, "What is the hotel limit?", document="nowhere/*.pdf")


def test_an_unknown_user_is_refused(settings: config.Settings, index: Index) -> None:
    with pytest.raises(UnknownUser):
        ask(settings, index, "What is the hotel limit?", user="mallory")


def test_a_stop_before_the_first_word_shows_nothing_and_claims_nothing(settings: config.Settings, index: Index) -> None:
    """Stopped is not "the documents do not say"."""
    answer = ask(settings, index, "What is the hotel limit in Paris?", should_stop=lambda: True)

    assert answer.stopped and answer.text == ""


def test_a_receipt_holds_what_a_replay_needs(settings: config.Settings, index: Index, tmp_path: Path) -> None:
    with Records(tmp_path / "records.sqlite") as records:
        answerer = Answerer(settings, WordEmbedder(), ScriptedModel(level="free"), records)
        answer = answerer.answer("What is the hotel limit in Paris?", index)
        kept = records.receipt(answer.receipt)

    assert kept is not None and kept.body is not None
    body = kept.body
    assert body["question"] == "What is the hotel limit in Paris?" and body["index_version"] == index.version
    assert body["model"] == "scripted" and body["prompt"]["name"].startswith("answer v")
    assert [each["passage_id"] for each in body["passages"]] == [each.passage.id for each in answer.hits]
    assert "server_key" not in body["settings"]
