"""The pages of the web app, run without a browser over a client that answers from a script."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import UnknownElement

import app as front_door
import config
from errors import Busy, EngineUnavailable, UsageError
from rag.client import Client
from records import Records
from tests.scripted_client import LEAVE_QUOTE, PASSAGES, SENTENCES, ScriptedClient, answer_json, scripted_backend
from ui import answer, page_text, parts, upload
from ui.backend import Backend

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "torch",
    "faiss",
    "llama_cpp",
    "sentence_transformers",
    "unstructured",
    "transformers",
    "pypdf",
    "pypdfium2",
    "pandas",
    "pyarrow",
)
SECONDS = 30  # for one run of a page; it takes about 0.01, the first one in a process 0.5


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    made = scripted_backend(tmp_path)
    yield made
    made.records.close()


def client(backend: Backend) -> ScriptedClient:
    found: Any = backend.client
    assert isinstance(found, ScriptedClient)
    return found


def open_chat(backend: Backend, conversation: str = "") -> AppTest:
    page = AppTest.from_file(str(ROOT / "ui" / "front.py"), default_timeout=SECONDS)
    page.session_state["backend"] = backend
    if conversation:
        page.query_params["c"] = conversation
    return page.run()


def open_library(backend: Backend) -> AppTest:
    def library_page() -> None:
        from ui import library

        library.page()

    page = AppTest.from_function(library_page, default_timeout=SECONDS)
    page.session_state["backend"] = backend
    return page.run()


def ask(page: AppTest, question: str = "How many days of leave do I have?") -> AppTest:
    return page.chat_input[0].set_value(question).run()


def wait(page: AppTest) -> AppTest:
    """Look until the answer is there."""
    for _ in range(10):
        if not any(each.label == "Stop" for each in page.button):
            return page
        page.run()
    raise TimeoutError("the answer does not end")


def button(page: AppTest, label: str) -> Any:
    return next(each for each in page.button if each.label == label)


def labels(page: AppTest) -> list[str]:
    return [each.label for each in page.button]


def texts(page: AppTest) -> str:
    return "\n".join(each.value for each in page.html)


def drawn(page: AppTest, component: str = "answer") -> list[dict[str, Any]]:
    """What the components of this kind were given, in order."""
    found: list[dict[str, Any]] = []

    def walk(node: Any) -> None:
        if (
            isinstance(node, UnknownElement)
            and node.type == "bidi_component"
            and node.proto.component_name == f"footnote_{component}"
        ):
            found.append(json.loads(node.proto.bytes))
        for each in getattr(node, "children", {}).values():
            walk(each)

    walk(page._tree)
    return found


def only_conversation(backend: Backend) -> str:
    (found,) = backend.records.conversations("local")
    return found.id


# asking


def test_the_first_page_says_what_is_there_and_offers_questions(backend: Backend) -> None:
    """A person who opens the app sees how much can be asked, and questions made from the documents."""
    page = open_chat(backend)
    assert "2 documents in default" in texts(page)
    assert "How many days of leave do I have?" in labels(page)
    assert "Nothing leaves this machine" in texts(page)
    assert "Everyone who can open this page sees every document" in texts(page)


def test_a_model_on_another_server_is_named(backend: Backend) -> None:
    """"Nothing leaves this machine" stands only where it is true."""
    backend.settings = dataclasses.replace(backend.settings, server_url="http://gpu.example:8000/v1")
    page = open_chat(backend)
    assert "Nothing leaves this machine" not in texts(page)
    assert "Questions and the passages found for them go to gpu.example:8000." in texts(page)


def test_without_documents_the_page_leads_to_the_library(tmp_path: Path) -> None:
    """Nothing to ask is said plainly, with the one useful button."""
    page = open_chat(scripted_backend(tmp_path, empty=True))
    assert "There is nothing to ask yet" in texts(page)
    assert "Add documents" in labels(page)


def test_an_answer_comes_step_by_step_with_its_sources_first(backend: Backend) -> None:
    """Place in line, search, sources, then checked sentences one at a time, then how it was made."""
    page = ask(open_chat(backend))
    seen: list[tuple[str, int, int]] = []
    for _ in range(8):
        (view,) = drawn(page)
        seen.append((view["step"].split(",")[0], len(view["sources"]), len(view["sentences"])))
        page.run()
    assert seen[0] == ("1 question before yours", 0, 0)
    assert seen[1:6] == [
        ("Searching 2 documents", 0, 0),
        ("Reading 3 passages", 3, 0),
        ("Writing", 3, 0),
        ("Writing", 3, 1),
        ("Writing", 3, 2),
    ]
    (view,) = drawn(page)
    assert view["step"] == ""
    assert view["meta"] == ["Quoted from the documents", "SmolLM2-135M-Instruct Q4_0", "2.4 s", "0.7 CPU-s, about 0.00000087 EUR"]
    assert view["notes"] == ["A newer version of this document exists: travel [2026].pdf"]
    assert [each["used"] for each in view["sources"]] == [True, True, False]
    assert not page.exception


def test_what_the_documents_do_not_say_is_not_said(backend: Backend) -> None:
    """A refusal is no error: it says so and shows the nearest passages."""
    page = wait(ask(open_chat(backend), "Who owns the moon?"))
    (view,) = drawn(page)
    assert view["refused"] == "The documents do not say"
    assert len(view["sources"]) == 3 and view["sources"][0]["snippet"].startswith("Full-time employees")
    assert view["sentences"] == []


def test_a_suggested_question_is_asked_by_its_button(backend: Backend) -> None:
    """One click asks it as it stands, markup and all."""
    page = open_chat(backend)
    page.button(key="suggestion-1").click().run()
    assert client(backend).asked[0]["question"] == "What is paid for meals & <b>hotels</b> ($ a day)?"


def test_stop_ends_the_answer_with_what_is_there(backend: Backend) -> None:
    """The sentences shown so far stay, and the answer says that it was stopped."""
    page = ask(open_chat(backend))
    for _ in range(4):
        page.run()
    button(page, "Stop").click().run()
    wait(page)
    (view,) = drawn(page)
    assert view["meta"][0] == "Stopped" and len(view["sentences"]) >= 1 and not view["refused"]


def test_an_answer_goes_on_while_the_page_is_reloaded(backend: Backend) -> None:
    """A new session with the same address finds the running answer and follows it to its end."""
    ask(open_chat(backend))
    again = open_chat(backend, only_conversation(backend))
    assert "Stop" in labels(again)
    (view,) = drawn(wait(again))
    assert len(view["sentences"]) == 2
    assert len(client(backend).asked) == 1


def test_an_answer_whose_engine_died_says_so(backend: Backend) -> None:
    """An engine that no longer knows the answer will never finish it: the page stops waiting."""
    page = ask(open_chat(backend))
    client(backend).running.clear()
    page.run()
    (view,) = drawn(page)
    assert "stopped while it wrote" in view["trouble"]["message"]
    assert "Stop" not in labels(page) and "Ask again" in labels(page)


def test_asking_again_replaces_the_answer_and_forgets_it_first(backend: Backend) -> None:
    """The same question goes to the engine with the message to replace, and without the old answer as history."""
    page = wait(ask(open_chat(backend)))
    button(page, "Ask again").click().run()
    first, second = client(backend).asked
    assert first["message"] is None and second["message"] == 2
    assert second["question"] == first["question"] and second["history"] == []
    assert len(backend.records.messages(only_conversation(backend), "local")) == 2


def test_a_follow_up_brings_the_conversation_along(backend: Backend) -> None:
    """ "And part-time?" can only be understood with what was said before."""
    page = wait(ask(open_chat(backend)))
    ask(page, "And part-time?")
    assert [each["role"] for each in client(backend).asked[1]["history"]] == ["user", "assistant"]


def test_a_busy_engine_leaves_the_question_and_no_empty_conversation(backend: Backend) -> None:
    """The person reads why, tries again with one click, and finds no debris in the list."""
    client(backend).fails = Busy("32 questions wait already.", "Ask again in a minute.")
    page = ask(open_chat(backend))
    assert "32 questions wait already." in texts(page) and "Ask again in a minute." in texts(page)
    assert backend.records.conversations("local") == []
    button(page, "Try again").click().run()
    assert len(client(backend).asked) == 1 and "32 questions" not in texts(page)


def test_a_chosen_document_is_asked_by_its_name(backend: Backend) -> None:
    """A name with brackets is no pattern: it must match itself."""
    page = open_chat(backend)
    next(each for each in page.selectbox if each.label == "Documents").select("travel [2025].pdf").run()
    ask(page)
    assert client(backend).asked[0]["document"] == "travel [[]2025].pdf"


def test_another_collection_can_be_asked(backend: Backend) -> None:
    """The choice is sent along and kept with the conversation."""
    page = open_chat(backend)
    next(each for each in page.selectbox if each.label == "Collection").select("legal").run()
    ask(page)
    assert client(backend).asked[0]["collection"] == "legal"
    assert backend.records.conversations("local")[0].collection == "legal"


# sources


def opened(backend: Backend, number: int, page_number: int | None) -> AppTest:
    """The chat page with the citation `number` of its answer open."""
    page = wait(ask(open_chat(backend)))
    message = backend.records.messages(only_conversation(backend), "local")[1]
    assert message.answer is not None
    page.session_state["source"] = {
        "at": f"s{number}.0",
        "message": message.id,
        "collection": "default",
        "quoted": message.answer["citations"][number],
        "page": page_number,
    }
    return page.run()


def test_a_text_opens_with_its_passage_marked(backend: Backend) -> None:
    """The stored text is drawn with headings and tables, and exactly the quote is marked."""
    page = opened(backend, 0, None)
    (view,) = drawn(page, "page")
    marked = "".join(piece for block in view["blocks"] for piece, is_marked in block.get("pieces", []) if is_marked)
    assert marked == LEAVE_QUOTE
    assert [block["level"] for block in view["blocks"] if block["kind"] == "heading"] == [1, 2]
    assert [block["cells"] for block in view["blocks"] if block["kind"] == "row"] == [
        ["Years of service", "Days"],
        ["0 to 5", "25"],
        ["over 5", "28"],
    ]


def test_a_pdf_opens_as_a_picture_of_its_page(backend: Backend) -> None:
    """The page is rendered with the quote; other pages can be turned to, and the way back is offered."""
    page = opened(backend, 1, 2)
    assert len(page.image) == 1 and "Page 2 of 3" in texts(page)
    button(page, "Next page").click().run()
    assert "Page 3 of 3" in texts(page) and "Back to the quote" in labels(page)
    button(page, "Close").click().run()
    assert "Close" not in labels(page)


def test_a_changed_document_is_not_marked_in_the_wrong_place(backend: Backend) -> None:
    """An old answer's offsets mean nothing in a new text: the page says so and marks nothing."""
    page = wait(ask(open_chat(backend)))
    message = backend.records.messages(only_conversation(backend), "local")[1]
    quoted = {**SENTENCES[0]["citations"][0], "quote": "Full-time employees have 20 days of paid leave a year."}
    page.session_state["source"] = {"at": "s0.0", "message": message.id, "collection": "default", "quoted": quoted, "page": None}
    page.run()
    (view,) = drawn(page, "page")
    assert "The document has changed since this answer was written." in texts(page)
    assert not any(is_marked for block in view["blocks"] for _, is_marked in block.get("pieces", []))


def test_a_click_on_what_is_not_there_opens_nothing() -> None:
    """A click comes from a browser and may say anything."""
    for clicked in ({"passage": 99}, {"sentence": 0, "citation": 7}, {"sentence": "x"}, {}, {"passage": None}):
        assert answer.target(PASSAGES, SENTENCES, clicked) is None
    found = answer.target(PASSAGES, SENTENCES, {"sentence": 1, "citation": 0})
    assert found is not None and found[0] == "s1.0" and found[1]["document"] == "travel [2025].pdf"


def test_citations_go_to_their_own_sentences() -> None:
    """The contract keeps all citations in one list; two sentences of one source keep their own quotes."""
    two = [{**SENTENCES[0], "citations": [{**SENTENCES[0]["citations"][0], "quote": quote}]} for quote in ("first", "second")]
    assert [each["citations"][0]["quote"] for each in answer.cited(answer_json("q", two))] == ["first", "second"]


# conversations


def test_a_conversation_is_there_after_a_reload(backend: Backend) -> None:
    """The address holds the conversation; the records hold what was said."""
    wait(ask(open_chat(backend)))
    page = open_chat(backend, only_conversation(backend))
    (view,) = drawn(page)
    assert view["sentences"][0]["text"] == LEAVE_QUOTE
    assert "How many days of leave do I have?" in texts(page)


def test_a_conversation_can_be_deleted_and_brought_back(backend: Backend) -> None:
    """Delete is one click, undo another, and nothing is lost in between."""
    page = wait(ask(open_chat(backend)))
    page.button(key="delete").click().run()
    assert backend.records.conversations("local") == [] and "Deleted" in texts(page)
    page.button(key="undo-delete").click().run()
    assert len(backend.records.conversations("local")) == 1
    assert drawn(page)[0]["sentences"][0]["text"] == LEAVE_QUOTE


def test_a_conversation_can_be_renamed(backend: Backend) -> None:
    """The new name stands in the list."""
    page = wait(ask(open_chat(backend)))
    page.button(key="rename").click().run()
    page.text_input[0].set_value("Leave *and* pay")
    button(page, "Save").click().run()
    assert backend.records.conversations("local")[0].title == "Leave *and* pay"
    assert "Leave \\*and\\* pay" in labels(page)


def test_a_new_question_leaves_the_conversation(backend: Backend) -> None:
    """The old one stays in the list, the page is empty again."""
    page = wait(ask(open_chat(backend)))
    page.button(key="new").click().run()
    assert "c" not in page.query_params and drawn(page) == []
    assert "Ask your own documents" in texts(page)


def test_an_address_of_nothing_is_explained(backend: Backend) -> None:
    """A bookmark of a deleted conversation, or of somebody else's, shows no error page."""
    page = open_chat(backend, "no-such-thing")
    assert "This conversation is not there." in texts(page) and not page.exception


def test_thumbs_are_kept_with_a_reason(backend: Backend) -> None:
    """A thumb counts at once; the reason is asked for once and may be left out."""
    page = wait(ask(open_chat(backend)))
    page.feedback[0].set_value(0).run()
    (kept,) = backend.records.feedback()
    assert (kept.verdict, kept.reason) == ("down", "")
    page.pills[0].set_value(["Wrong source", "Out of date"])
    next(each for each in page.text_input if each.label == "In your own words").set_value("it is 28 now")
    button(page, "Send").click().run()
    (kept,) = backend.records.feedback()
    assert (kept.verdict, kept.reason, kept.note) == ("down", "Wrong source; Out of date", "it is 28 now")
    assert "Thank you" in texts(page) and len(page.pills) == 0


def test_a_conversation_is_saved_with_its_sources() -> None:
    """The Markdown file says which document and page each sentence came from."""
    saved = answer.markdown("Leave", [("user", "How many days?", None), ("assistant", "…", answer_json("q", SENTENCES))])
    assert saved.startswith("# Leave\n\n## How many days?\n\n" + LEAVE_QUOTE + " [1]")
    assert "[2] travel [2025].pdf, p. 2 · Travel · 2025-01-01" in saved
    assert "A newer version of this document exists" in saved


# the library


def test_the_library_lists_documents_and_what_could_not_be_read(backend: Backend) -> None:
    """Each failed file stands there with its reason and its cure."""
    page = open_library(backend)
    assert "2 documents" in texts(page) and "v000001" in texts(page)
    assert "1 file could not be read" in texts(page)
    assert "The file is encrypted. Save it without a password and add it again." in texts(page)
    assert "handbook\\/leave\\.md" in labels(page)


def test_an_upload_that_could_not_be_read_is_taken_away_with_one_click(backend: Backend) -> None:
    """It was never in an answer, so nothing needs to be asked first."""
    page = open_library(backend)
    page.button(key="remove-3").click().run()
    assert client(backend).removed == ["salaries.pdf"] and "salaries.pdf is being removed." in texts(page)


def test_a_refresh_says_what_it_did(backend: Backend) -> None:
    """Added, not read with the reason, and warnings; what did not change is not listed."""
    page = open_library(backend)
    page.button(key="refresh").click().run()
    assert any("1 added, 1 not read" in each.label for each in page.expander)
    assert "new.md" in texts(page) and "1 page · 2 passages · 1 table · 1 picture was not read." in texts(page)
    assert "leave.md and leave old.md say nearly the same." in texts(page)
    assert "fn-unchanged" not in texts(page)


def test_a_running_refresh_shows_its_progress(backend: Backend) -> None:
    """Done of total, and the files read last."""
    client(backend).job_state = {
        "state": "running",
        "stage": "reading",
        "done": 3,
        "total": 10,
        "files": [{"document": "a.md", "status": "added"}],
        "report": None,
    }
    page = open_library(backend)
    assert "Reading 4 of 10" in str(page.get("progress")[0].proto) and "a.md" in texts(page)


def test_a_failed_refresh_says_why(backend: Backend) -> None:
    """The old index is still served, and the cure is on the page."""
    client(backend).job_state = {
        "state": "failed",
        "files": [],
        "report": None,
        "message": "40 % of the documents would vanish.",
        "cure": "Is the share mounted?",
    }
    page = open_library(backend)
    assert "40 % of the documents would vanish." in texts(page) and "Is the share mounted?" in texts(page)


def test_a_server_folder_is_added_by_its_path(backend: Backend) -> None:
    """A path that is no folder is refused with the reason; a good one is read."""
    page = open_library(backend)
    page.get("button_group")[0].set_value("A folder on the server").run()
    field = next(each for each in page.text_input if each.label == "Folder")
    field.set_value("/nowhere")
    button(page, "Add this folder").click().run()
    assert "/nowhere is not a folder." in texts(page)
    next(each for each in page.text_input if each.label == "Folder").set_value("/srv/handbook")
    button(page, "Add this folder").click().run()
    assert client(backend).folders == ["/srv/handbook"]


def test_a_new_collection_is_named_before_it_is_filled(backend: Backend) -> None:
    """Its page is empty and says what to do; a name that cannot be a folder is refused."""
    page = open_library(backend)
    name = next(each for each in page.text_input if each.label == "Name")
    name.set_value("../etc")
    button(page, "Create").click().run()
    assert page.error
    next(each for each in page.text_input if each.label == "Name").set_value("handbook")
    button(page, "Create").click().run()
    assert page.session_state["collection"] == "handbook" and "Nothing here yet" in texts(page)


def test_an_uploaded_document_is_removed_after_a_question(backend: Backend) -> None:
    """One click asks, the second one removes; documents of a folder are removed in their folder."""
    client(backend).listed[0]["source"] = "uploads"
    page = open_library(backend)
    page.button(key="document-1").click().run()
    page.button(key="remove-this").click().run()
    assert client(backend).removed == [] and "Answers will no longer use it." in texts(page)
    page.button(key="remove-yes").click().run()
    assert client(backend).removed == ["handbook/leave.md"]


def test_a_document_of_a_folder_is_not_removed_here(backend: Backend) -> None:
    """It would come back with the next refresh, so the page says where to delete it."""
    page = open_library(backend)
    page.button(key="document-2").click().run()
    assert "remove-this" not in [each.key for each in page.button]
    assert "delete the file in its folder" in texts(page) and "Page 3 has no text." in texts(page)


# uploads


def upload_client(backend: Backend) -> TestClient:
    return TestClient(Starlette(routes=[upload.route(lambda: backend)]), base_url="http://127.0.0.1:8501")


def test_a_file_of_a_folder_keeps_its_place(backend: Backend) -> None:
    """The relative path that the browser names becomes the label."""
    sent = upload_client(backend).post(
        "/upload?collection=default&label=team%20docs/sub/plan.md",
        content=b"# Plan",
        headers={"X-Footnote-Token": backend.upload_token},
    )
    assert sent.status_code == 200 and client(backend).uploaded == {"team docs/sub/plan.md": b"# Plan"}


def test_another_site_cannot_upload(backend: Backend) -> None:
    """Without the page's token, or from another origin, nothing is kept."""
    web = upload_client(backend)
    assert web.post("/upload?collection=default&label=a.md", content=b"x").status_code == 403
    headers = {"X-Footnote-Token": backend.upload_token, "Origin": "http://evil.example"}
    assert web.post("/upload?collection=default&label=a.md", content=b"x", headers=headers).status_code == 403
    assert client(backend).uploaded == {}


def test_a_refused_upload_says_why(backend: Backend) -> None:
    """Too large, empty, not wanted: each with a sentence for the person, and nothing kept."""
    web, headers = upload_client(backend), {"X-Footnote-Token": backend.upload_token}

    def large() -> Iterator[bytes]:  # without a length that could be looked at first
        for _ in range(101):
            yield b"\0" * 1_000_000

    refused = web.post("/upload?collection=default&label=big.pdf", content=large(), headers=headers)
    assert refused.status_code == 413 and refused.json()["message"] == "Larger than 100 MB."
    assert (
        web.post("/upload?collection=default&label=no.md", content=b"", headers=headers).json()["message"] == "The file is empty."
    )
    assert (
        web.post("/upload?collection=default&label=a.exe", content=b"MZ", headers=headers).json()["message"]
        == "Programs are not read."
    )
    assert client(backend).uploaded == {}


# text that others wrote


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=60))
def test_a_label_has_no_unescaped_markup(text: str) -> None:
    """Every character that Streamlit's markdown gives a meaning to is escaped, and no emoji code survives."""
    label = parts.plain(text)
    bare = label.replace("\\\\", "")
    for character in "`*_[]$<>~#|:":
        assert bare.count(character) == bare.count("\\" + character)
    plain = label.replace("\\", "").replace("\u2060", "")
    assert plain == " ".join(text.split()).replace("\\", "").replace("\u2060", "")


def test_html_in_a_question_is_text(backend: Backend) -> None:
    """A question is drawn as it was typed, never as markup."""
    page = ask(open_chat(backend), "<img src=x onerror=alert(1)> & $x$?")
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; $x$?" in texts(page)
    assert "<img" not in texts(page)


@given(st.text(alphabet="ab .|-\n🙂é", max_size=200), st.data())
def test_blocks_hold_the_whole_text_and_mark_the_quote(text: str, data: st.DataObject) -> None:
    """Whatever the page, drawn pieces joined are its lines, and the marked pieces are the quote."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    blocks, before, after = page_text.blocks(text, [], [(start, end)])
    assert (before, after) == (0, 0)
    lines = ["".join(piece for piece, _ in block["pieces"]) for block in blocks if block["kind"] != "row"]
    assert all(line in text.split("\n") for line in lines)
    if not any(block["kind"] == "row" for block in blocks) and "|" not in text:
        marked = "".join(piece for block in blocks for piece, is_marked in block["pieces"] if is_marked)
        assert "".join(marked.split()) == "".join(text[start:end].split())


def test_a_long_document_is_drawn_around_the_quote() -> None:
    """A document of a million characters sends only what is near the quote, in whole lines."""
    text = "\n".join(f"line {number}" for number in range(100_000))
    start = text.index("line 50000")
    blocks, before, after = page_text.blocks(text, [], [(start, start + 10)])
    lines = ["".join(piece for piece, _ in block["pieces"]) for block in blocks]
    assert "line 50000" in lines and lines[0].startswith("line ") and len(lines) < 2000
    assert before > 0 and after > 0


def test_times_are_said_as_people_say_them() -> None:
    """Just now, minutes, hours, days, then the date."""
    now = datetime(2025, 6, 10, 12, 0, tzinfo=UTC)
    said = [
        parts.ago(f"2025-06-{day}T{hour}:00+00:00", now)
        for day, hour in (("10", "12:00"), ("10", "11:58"), ("10", "09:00"), ("08", "12:00"), ("01", "12:00"))
    ]
    assert said == ["just now", "2 min ago", "3 h ago", "2 days ago", "2025-06-01"]


# when things go wrong


def test_a_page_waits_while_the_engine_starts(backend: Backend) -> None:
    """It says what it is waiting for, and no page is drawn over a client that cannot answer."""
    backend.state = "starting"
    page = open_chat(backend)
    assert "Starting the engine" in texts(page) and not page.chat_input
    backend.state = "ready"
    assert page.run().chat_input


def test_an_engine_that_cannot_start_is_explained(backend: Backend) -> None:
    """The reason, the cure, and a button."""
    backend.state, backend.error = "failed", EngineUnavailable("The model file is missing.", "Run: python -m rag models pull")
    page = open_chat(backend)
    assert "The model file is missing." in texts(page) and "Run: python -m rag models pull" in texts(page)
    page.button(key="start-again").click().run()
    for _ in range(50):
        if backend.state == "ready":
            break
        time.sleep(0.05)
    assert page.run().chat_input


class BrokenClient(ScriptedClient):
    """Fails with a fault of the program, whose text must not reach the page."""

    def collections(self) -> list[dict[str, Any]]:
        raise ZeroDivisionError("secret detail")


class RefusingClient(ScriptedClient):
    def collections(self) -> list[dict[str, Any]]:
        raise UsageError("The index is damaged.", "Run: python -m ingest verify")


def test_a_fault_gives_a_number_and_no_traceback(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """The person gets a number, the log gets the rest."""
    backend.client = cast(Any, BrokenClient(backend.records))
    page = open_chat(backend)
    assert "Something went wrong" in texts(page) and "secret detail" not in texts(page)
    number = texts(page).split("under number ")[1][:6]
    assert number in caplog.text and "ZeroDivisionError" in caplog.text
    assert not page.exception


def test_what_a_person_can_put_right_is_said_with_its_cure(backend: Backend) -> None:
    """An error of the tree is a sentence and a cure on the page."""
    backend.client = cast(Any, RefusingClient(backend.records))
    for page in (open_chat(backend), open_library(backend)):
        assert "The index is damaged." in texts(page) and "Run: python -m ingest verify" in texts(page)


def test_pages_load_nothing_from_elsewhere() -> None:
    """The browser itself is told to refuse other hosts, frames and plugins."""
    policy = front_door.HEADERS["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy


def test_the_server_listens_here_only_and_counts_nobody() -> None:
    """The shipped configuration binds 127.0.0.1, sends no statistics and shows no tracebacks or menus."""
    import tomllib

    shipped = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert shipped["server"]["address"] == shipped["browser"]["serverAddress"] == "127.0.0.1"
    assert shipped["server"]["allowedHosts"] and shipped["browser"]["gatherUsageStats"] is False
    assert shipped["client"] == {"showErrorDetails": "none", "showErrorLinks": False, "toolbarMode": "minimal"}
    assert shipped["server"]["fileWatcherType"] == "none" and shipped["runner"]["postScriptGC"] is False
    assert "light" in shipped["theme"] and "dark" in shipped["theme"]


LIGHT = f"""
import sys, tempfile, pathlib
sys.path[:0] = [{str(ROOT)!r}]
import app
from streamlit.testing.v1 import AppTest
from rag.client import Client
from records import Records
from tests.scripted_client import scripted_backend
page = AppTest.from_file({str(ROOT / "ui" / "front.py")!r}, default_timeout=60)
page.session_state["backend"] = scripted_backend(pathlib.Path(tempfile.mkdtemp()))
page.run()
page.chat_input[0].set_value("How many days?").run()
for _ in range(8):
    page.run()
assert not page.exception, page.exception
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""


def test_the_web_process_stays_light() -> None:
    """Asking and reading an answer imports no model, index or parser, and no table library either."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_click_costs_less_than_a_tenth_of_a_second(backend: Backend) -> None:
    """Fifty redraws of a conversation with ten answers, in processor time of this process."""
    conversation = backend.records.create_conversation("local", "default", "long")
    for number in range(10):
        backend.records.add_message(conversation, "user", f"question {number}", "local")
        backend.records.add_message(conversation, "assistant", "…", "local", answer=answer_json("q", SENTENCES))
    page = open_chat(backend, conversation)
    started = time.process_time()
    for _ in range(50):
        page.run()
    assert (time.process_time() - started) / 50 < 0.1


# with the real engine


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A backend with its own engine and two documents of the sample company."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "company").mkdir()
    for name in ("hr/leave-policy.docx", "hr/travel-policy-2025.pdf"):
        shutil.copy(ROOT / "examples" / "alderwick-cycles" / name, folder / "company")
    settings = config.load(home=folder / "home", index=folder / "indexes")
    command = [sys.executable, "-m", "ingest", str(folder / "company"), "--index", str(settings.index)]
    around = {**os.environ, "FOOTNOTE_HOME": str(settings.home)}
    subprocess.run(command, cwd=ROOT, env=around, check=True, capture_output=True, timeout=300)
    made = Backend(settings, Client(settings), Records(settings.records))
    made.start()
    yield made
    made.client.shutdown()
    made.records.close()


def until(page: AppTest, reached: Callable[[AppTest], bool], seconds: float = 180) -> AppTest:
    """Look again and again, as a browser does."""
    deadline = time.monotonic() + seconds
    while not reached(page):
        if time.monotonic() > deadline:
            raise TimeoutError(texts(page))
        time.sleep(0.3)
        page.run()
    return page


@pytest.mark.real
def test_the_real_engine_answers_a_page_and_is_started_again_when_it_died(real: Backend) -> None:
    """A question through the real client, engine and model: the footnote's quote stands in the stored text where it says.

    Then the engine is killed: the page says that it starts, goes on by itself, and has lost nothing.
    """
    page = until(open_chat(real), lambda page: bool(page.chat_input))
    assert "2 documents in default" in texts(page)
    ask(page, "How many days of annual leave does a new full-time employee in Leith have?")
    until(page, lambda page: "Ask again" in labels(page))
    (view,) = drawn(page)
    assert "27" in " ".join(each["text"] for each in view["sentences"])
    message = real.records.messages(only_conversation(real), "local")[1]
    assert message.answer is not None
    for each in message.answer["citations"]:
        text = real.client.page_text("default", each["document_id"], each["page"])["text"]
        assert text[each["start"] : each["end"]] == each["quote"]
    os.kill(int(real.client.health()["pid"]), signal.SIGKILL)
    page.run()
    until(page, lambda page: bool(page.chat_input) and bool(drawn(page)))
    assert drawn(page)[0]["sentences"] == view["sentences"]
