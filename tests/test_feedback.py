"""Thumbs become questions: up with their answer and place, down for a person to look at; nobody's address or number goes along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from errors import UsageError
from evals.__main__ import main
from evals.feedback import feedback
from evals.questions import Gold, read
from ingest.open import Index, open_index
from ingest.refresh import refresh
from rag.answer import Answerer
from records import Records
from tests.fakes import TextReader, WordEmbedder
from tests.scripted_model import ScriptedModel
from tune.gather import gather

LEAVE = """# Leave

Full-time employees get 25 days of annual leave a year. For questions write to leave@alderwick.example or call +44 131 496 0123.
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOOTNOTE_INDEX", str(tmp_path / "index"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text(LEAVE)
    made = config.load()
    refresh([("docs", tmp_path / "docs")], "default", made, embedder=WordEmbedder, reader=TextReader)
    return made


@pytest.fixture
def index(settings: config.Settings) -> Iterator[Index]:
    opened = open_index(settings.index, "default")
    yield opened
    opened.close()


@pytest.fixture
def records(settings: config.Settings) -> Iterator[Records]:
    with Records(settings.records) as opened:
        yield opened


def judged(
    records: Records, index: Index, question: str, verdict: str, reason: str = "", note: str = "", *, collection: str = "default",
    conversation: str = "",
) -> str:
    """Ask, keep the conversation as the engine does, and judge; returns the conversation's id."""
    conversation = conversation or records.create_conversation("local", collection, question)
    answer = Answerer(config.load(), WordEmbedder(), ScriptedModel(level="verbatim")).answer(question, index)
    records.add_message(conversation, "user", question, "local")
    message = records.add_message(conversation, "assistant", answer.text, "local", answer=answer.as_json())
    records.add_feedback(message, verdict, "local", reason, note)
    return conversation


def test_a_thumb_up_becomes_a_question_with_its_place(records: Records, index: Index, tmp_path: Path) -> None:
    """It is read like any question set, its gold is in the index, and it can be trained on."""
    judged(records, index, "How many days of annual leave do full-time employees get?", "up")
    (line,) = feedback(records, "default")
    quote = "Full-time employees get 25 days of annual leave a year."
    assert line["kind"] == "feedback" and line["answers"] == [quote] and "review" not in line and "history" not in line

    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (question,) = read(path)
    assert question.gold == (Gold("leave.md", None, "", quote),) and question.answerable
    _, counts = gather(index.catalog, [line], "all")
    assert counts == {"kept": 1}


def test_a_thumb_up_on_a_refusal_is_a_question_that_nothing_answers(records: Records, index: Index) -> None:
    judged(records, index, "Which penguins dance tango professionally?", "up")
    (line,) = feedback(records, "default")
    assert line["answerable"] is False and "gold" not in line and "answers" not in line


def test_a_thumb_down_waits_for_a_person(records: Records, index: Index, tmp_path: Path) -> None:
    """It carries what was said and why it was not liked, and no measurement uses it before somebody has put it right."""
    judged(records, index, "How many days of annual leave do employees get?", "down", "Out of date", "it is 27 now")
    (line,) = feedback(records, "default")
    assert line["review"] is True and (line["reason"], line["note"]) == ("Out of date", "it is 27 now")
    assert "25 days" in line["answered"] and line["cited"][0]["doc"] == "leave.md" and "gold" not in line

    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps({"id": "other", "question": "What else?"}) + "\n")
    assert [each.id for each in read(path)] == ["other"]


def test_a_thumb_down_without_a_word_teaches_nothing(records: Records, index: Index) -> None:
    judged(records, index, "How many days of annual leave do employees get?", "down")
    assert feedback(records, "default") == []


def test_what_was_said_before_comes_along(records: Records, index: Index) -> None:
    conversation = judged(records, index, "How many days of annual leave do full-time employees get?", "up")
    judged(records, index, "And annual leave of full-time employees a year?", "up", conversation=conversation)
    first, second = feedback(records, "default")
    assert "history" not in first
    assert [each["role"] for each in second["history"]] == ["user", "assistant"]


def test_only_the_collection_that_was_named_is_looked_at(records: Records, index: Index) -> None:
    judged(records, index, "How many days of annual leave do full-time employees get?", "up", collection="legal")
    assert feedback(records, "default") == [] and len(feedback(records, "legal")) == 1


def test_a_deleted_conversation_gives_nothing(records: Records, index: Index) -> None:
    records.delete_conversation(judged(records, index, "How many days of annual leave do employees get?", "up"), "local")
    assert feedback(records, "default") == []


def test_personal_data_is_covered_in_all_that_is_written(records: Records, index: Index) -> None:
    """In the question, the note and the quote alike; a quote that was changed no longer stands in the document, so it waits."""
    judged(
        records, index, "Do I write to leave@alderwick.example or call +44 131 496 0123 for questions?", "up",
        note="my account is GB82 WEST 1234 5698 7654 32",
    )
    judged(records, index, "How many days of annual leave do employees get?", "down", "Wrong", "ask anna.berg@alderwick.example")
    lines: list[dict[str, Any]] = feedback(records, "default")
    written = json.dumps(lines)
    assert len(lines) == 2 and all(each.get("review") for each in lines)
    assert not any(secret in written for secret in ("leave@", "496 0123", "GB82", "anna.berg", "local"))


def test_the_command_writes_a_file_once(records: Records, index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run must not take away what somebody has reviewed."""
    judged(records, index, "How many days of annual leave do full-time employees get?", "up")
    judged(records, index, "How many days of annual leave do employees get?", "down", "Out of date")
    path = tmp_path / "out" / "feedback.jsonl"
    assert main(["feedback", str(path)]) == 0
    assert "2 questions from feedback, 1 of them wait for review" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 2
    path.write_text("reviewed")
    assert main(["feedback", str(path)]) == UsageError.exit_code and path.read_text() == "reviewed"
