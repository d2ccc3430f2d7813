"""A receipt gives the same text again, or says what changed since and what is no longer kept; nothing is written meanwhile."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import config
from config import Settings
from errors import ModelMissing, UsageError
from examples.build import COMPANY
from ingest.open import open_index
from ingest.refresh import refresh
from rag.__main__ import main
from rag.answer import Answerer
from rag.prompt import DECISIONS, SHIPPED, opened
from rag.replay import Openers, Replay, find, replay
from rag.types import Turn
from records.store import Records
from tests.fakes import TextReader, WordEmbedder
from tests.scripted_model import ScriptedModel

TRAVEL = "# Travel policy\n\nThe hotel limit in Berlin is {} euros a night. The meal limit in Berlin is 40 euros a day.\n"
LEAVE = "# Leave policy\n\nFull-time employees get 25 days of annual leave a year.\n"
QUESTION = "What is the hotel limit in Berlin?"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = config.load(index=tmp_path / "indexes", home=tmp_path / "home", reader="")  # the embedder is none that a reader goes with
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text(LEAVE)
    publish(made, 140)
    return made


def publish(settings: Settings, limit: int) -> None:
    """A version of the index in which the hotel limit is that."""
    docs = settings.index.parent / "docs"
    (docs / "travel.md").write_text(TRAVEL.format(limit))
    refresh([("docs", docs)], "default", settings, embedder=WordEmbedder, reader=TextReader)


def ask(settings: Settings, question: str = QUESTION, **more: Any) -> str:
    """Answer and return the receipt's id."""
    with Records(settings.records) as records, closing(open_index(settings.index, "default")) as index:
        answerer = Answerer(settings, WordEmbedder(), ScriptedModel("The hotel limit in Berlin is 140 euros a night."), records)
        return answerer.answer(question, index, **more).receipt


def again(settings: Settings, receipt: str, model: Any = None) -> Replay:
    script = "The hotel limit in Berlin is 140 euros a night."
    openers = Openers(lambda _: WordEmbedder(), model or (lambda _: ScriptedModel(script)))
    return replay(*find(receipt, settings), settings, openers)


def rewritten(settings: Settings, receipt: str, **changes: Any) -> str:
    """A receipt like that one whose body says something else, written by the records themselves; None takes a field out."""
    with Records(settings.records) as records:
        kept = records.receipt(receipt)
        assert kept is not None and kept.body is not None
        body = {name: value for name, value in {**kept.body, **changes}.items() if name not in changes or value is not None}
        return records.add_receipt(body)


def test_an_answer_is_given_again_and_no_receipt_is_written(settings: Settings) -> None:
    found = again(settings, receipt := ask(settings))

    assert (found.verdict, found.exit_code, found.now) == ("same", 0, found.then)
    assert not (found.broken or found.gone or found.changed or found.difference)
    with Records(settings.records) as records:
        assert [each.answers for each in records.spent("user")] == [1] and records.receipt(receipt) is not None


def test_history_and_document_filter_are_the_receipts_own(settings: Settings) -> None:
    history = (Turn("user", "What is the hotel limit in Berlin?"), Turn("assistant", "140 euros."))
    receipt = ask(settings, "And the meal limit?", history=history, document="travel*")

    assert again(settings, receipt).verdict == "same"
    with_other_words = rewritten(settings, receipt, history=[])
    assert again(settings, with_other_words).then == again(settings, receipt).then


def test_the_version_that_was_asked_is_asked_again(settings: Settings) -> None:
    """The policy changed meanwhile; the receipt still gives what was said then, as long as that version is kept."""
    receipt = ask(settings)
    publish(settings, 180)

    found = again(settings, receipt)
    assert found.verdict == "same" and "140" in str(found.now) and not found.gone


def test_a_version_that_is_gone_is_said_and_the_difference_shown(settings: Settings) -> None:
    receipt = ask(settings)
    for limit in range(180, 180 + settings.keep_versions):
        publish(settings, limit)

    found = again(settings, receipt)
    assert (found.verdict, found.exit_code) == ("differs", 3)
    assert "v000001" in found.gone[0] and "no longer kept" in found.gone[0]
    assert any(line.startswith("-") and "140" in line for line in found.difference)
    assert any(line.startswith("+") and "182" in line for line in found.difference)


def test_an_index_built_anew_under_the_same_name_is_noticed(settings: Settings) -> None:
    """Seen after indexes/ was deleted: version v000001 is there again and is not the one that was asked."""
    receipt = ask(settings)
    shutil.rmtree(settings.index)
    publish(settings, 180)

    found = again(settings, receipt)
    assert found.verdict == "differs" and any("built anew" in each for each in found.changed)


def test_a_purged_source_is_no_longer_kept(settings: Settings) -> None:
    receipt = ask(settings)
    with Records(settings.records) as records:
        records.erase_document("default", "travel.md")

    found = again(settings, receipt)
    assert (found.verdict, found.exit_code, found.now, found.broken) == ("gone", 10, None, ())
    assert found.gone[0].startswith("Source no longer kept")


def test_a_deleted_conversation_takes_the_receipts_text(settings: Settings) -> None:
    with Records(settings.records) as records:
        conversation = records.create_conversation("local", "default", "hotels")
    receipt = ask(settings, conversation=conversation)
    with Records(settings.records) as records:
        records.delete_conversation(conversation, "local")
        records.erase_deleted(older_than_s=0)

    found = again(settings, receipt)
    assert found.verdict == "gone" and "its conversation was deleted" in found.gone[0]


def test_an_altered_receipt_is_not_believed(settings: Settings) -> None:
    receipt = ask(settings)
    with sqlite3.connect(settings.records) as other:
        other.execute("UPDATE receipts SET body = replace(body, '140', '240')")

    found = again(settings, receipt)
    assert (found.verdict, found.exit_code) == ("gone", 4)
    assert "not what was written" in found.broken[0] and "altered" in found.gone[0]


def test_a_receipt_taken_out_of_the_chain_is_noticed_by_the_next(settings: Settings) -> None:
    """The text is the same all the same, and the exit code says that the chain is damaged."""
    first, second = ask(settings), ask(settings)
    with sqlite3.connect(settings.records) as other:
        other.execute("DELETE FROM receipts WHERE id = ?", (first,))

    found = again(settings, second)
    assert (found.verdict, found.exit_code) == ("same", 4) and "does not follow" in found.broken[0]


def test_the_receipts_settings_are_used_and_todays_are_told(settings: Settings) -> None:
    receipt = ask(settings)
    found = again(dataclasses.replace(settings, keep_passages=1, answer_sentences=1, watts=99.0), receipt)

    assert found.verdict == "same"
    assert [re.findall(r"setting (\w+)", each) for each in found.changed] == [["answer_sentences"], ["keep_passages"]]


def test_the_passages_that_were_asked_for_with_k_are_asked_for_again(settings: Settings) -> None:
    receipt = ask(settings, keep=1)
    assert again(settings, receipt).verdict == "same" and not again(settings, receipt).changed


def test_another_model_is_named(settings: Settings) -> None:
    def other(_: Settings) -> ScriptedModel:
        model = ScriptedModel("The hotel limit in Berlin is 140 euros a night.")
        model.name = "scripted (0a1b2c)"
        return model

    found = again(settings, ask(settings), other)
    assert found.verdict == "same" and found.changed == ("The language model is scripted (0a1b2c) now; it was scripted.",)


def test_a_model_that_is_gone_gives_way_to_todays(settings: Settings) -> None:
    def only_todays(given: Settings) -> ScriptedModel:
        if given.model:
            raise ModelMissing(f"{given.model} is not there.", "Put it back.")
        return ScriptedModel("Bananas are yellow fruit.")

    receipt = ask(dataclasses.replace(settings, model="/srv/models/old.gguf"))
    found = again(settings, receipt, only_todays)
    assert found.gone == ("/srv/models/old.gguf is not there. scripted was asked instead.",)
    assert found.verdict == "same"  # it was the evidence that was quoted


def test_without_any_model_it_says_so(settings: Settings) -> None:
    def none(_: Settings) -> ScriptedModel:
        raise ModelMissing("No model is there.", "Install one.")

    found = again(settings, ask(settings), none)
    assert (found.verdict, found.exit_code) == ("gone", 10) and "cannot be answered again" in found.gone[-1]


def test_the_receipts_prompt_is_used_though_another_is_live(settings: Settings) -> None:
    receipt = ask(settings)
    folder = settings.home / "prompts"
    folder.mkdir()
    text = opened(SHIPPED).text.replace("<!-- version ", "<!-- version 9") + "\nBe brief.\n"
    (folder / DECISIONS).write_text(json.dumps({"action": "adopted", "prompt": "brief", "text": text}) + "\n")

    found = again(settings, receipt)
    assert found.verdict == "same" and len(found.changed) == 1 and "prompt in force is brief v9" in found.changed[0]


def test_other_code_reader_and_weights_are_named(settings: Settings) -> None:
    with Records(settings.records) as records:
        kept = records.receipt(receipt := ask(settings))
    assert kept is not None and kept.body is not None
    weights = {**kept.body["weights"], "threshold": 0.1}
    found = again(settings, rewritten(settings, receipt, code="0123", reader="reader-abc", weights=weights))
    assert found.verdict == "same"
    assert [each.split()[1] for each in found.changed] == ["code", "reader", "evidence's"]

    weights = {**weights, "pick": {"smell": 1.0}}
    found = again(settings, rewritten(settings, receipt, weights=weights))
    assert found.changed == ("The evidence is weighed by other signs today; today's weights were used.",)


def test_a_receipt_of_an_earlier_footnote_is_replayed_as_far_as_it_tells(settings: Settings) -> None:
    """Receipts once held neither code version, prompt file, reader, weights nor the number of passages."""
    with Records(settings.records) as records:
        kept = records.receipt(receipt := ask(settings))
    assert kept is not None and kept.body is not None
    prompt = {name: value for name, value in kept.body["prompt"].items() if name != "wording"}
    missing = dict.fromkeys(("code", "reader", "weights", "keep", "index_sha256", "stopped", "notes", "currency"))
    found = again(settings, rewritten(settings, receipt, prompt=prompt, **missing))

    assert found.verdict == "same" and len(found.changed) == 1 and "earlier Footnote" in found.changed[0]


def test_a_stopped_answer_is_compared_as_far_as_it_went(settings: Settings) -> None:
    receipt = ask(settings)
    with Records(settings.records) as records:
        kept = records.receipt(receipt)
    assert kept is not None and kept.body is not None
    stopped = rewritten(settings, receipt, stopped=True, answer="", sentences=[], citations=[])
    assert again(settings, stopped).verdict == "same"


def test_an_unknown_receipt_is_a_slip_of_the_pen(settings: Settings) -> None:
    with pytest.raises(UsageError):
        find("feedbeef", settings)
    assert not settings.records.exists()


@pytest.mark.real
@pytest.mark.slow
def test_a_receipt_is_replayed_and_accounted_for_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real models: the same text while its version is kept, the difference after it is gone, and the account of it all."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOOTNOTE_INDEX", str(tmp_path / "index"))
    monkeypatch.setenv("FOOTNOTE_KEEP_VERSIONS", "1")
    policy = tmp_path / "docs" / "passwords.md"
    policy.parent.mkdir()
    shutil.copy(COMPANY / "it" / "passwords-and-access.md", policy)

    def rag(*arguments: str) -> tuple[int, str]:
        return main(arguments), capsys.readouterr().out

    refresh([("docs", policy.parent)], "default", config.load())
    code, out = rag("ask", "How many characters must a password have?", "--json")
    answer = json.loads(out)
    assert code == 0 and "14 characters" in answer["answer"]
    assert answer["usage"]["cost"] > 0 and answer["currency"] == "EUR"

    code, out = rag("replay", answer["receipt"], "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["now"], found["changed"], found["gone"]) == (0, "same", answer["answer"], [], [])

    policy.write_text(policy.read_text(encoding="utf-8").replace("14 characters", "16 characters"), encoding="utf-8")
    refresh([], "default", config.load())
    code, out = rag("replay", answer["receipt"])
    assert code == 3 and "Not the same text." in out and "Version v000001" in out
    assert re.search(r"^-.*14 characters", out, re.M) and re.search(r"^\+.*16 characters", out, re.M)

    code, out = rag("costs", "--by", "user", "--json")
    account = json.loads(out)
    assert code == 0 and [(each["group"], each["answers"]) for each in account["groups"]] == [("local", 1)]
    assert account["total"]["cpu_seconds"] == answer["usage"]["cpu_seconds"] and account["total"]["cost"] > 0
    assert "estimated" in rag("costs")[1]
