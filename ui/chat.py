"""The chat page: a question, its sources, the answer sentence by sentence, and the source beside it.

The engine writes the answer and keeps it; this page only looks. Closing or reloading it loses nothing.
"""

from __future__ import annotations

import glob
from typing import Any

import streamlit as st

from errors import EngineUnavailable, FootnoteError
from records import Conversation, Message
from ui import answer as shape
from ui import conversations, parts, source

HISTORY_TURNS = 6  # earlier messages sent along so that "and for part-timers?" can be understood
REASONS = {
    "down": ("Wrong", "Incomplete", "Wrong source", "Out of date", "Not what I asked", "It is in the documents"),
    "up": ("Right", "Complete", "Good source", "Quick"),
}


@parts.edge
def page() -> None:
    conversation = conversations.current()
    if st.query_params.get("c") and conversation is None:
        parts.notice("This conversation is not there.", "It may have been deleted. Start a new one with “New question”.")
    scope = Scope.of(conversation)
    messages = parts.backend().records.messages(conversation.id, parts.USER) if conversation else []
    running = any(each.status == "writing" for each in messages)
    with st.container(key="thread"):
        if said := st.session_state.pop("said", ""):
            parts.notice(said, kind="done")
        if conversation and messages:
            _heading(conversation, messages)
            _messages(conversation, messages, scope)
        else:
            _welcome(scope)
        _failed(conversation, scope)
    with st.bottom, st.container(key="ask"):
        scope.draw()
        question = st.chat_input(
            "The answer is being written" if running else "Ask your documents", key="question", max_chars=4000, disabled=running
        )
        parts.show(f'<p class="fn-foot">Answers come from your documents only. {parts.escape(parts.promise())}</p>')
    if question:
        ask(question, conversation, scope)
        st.rerun()
    source.panel(escape_closes=not running)


class Scope:
    """What is asked: a collection, and within it all documents or those that match a name."""

    def __init__(self, collection: str, document: str, collections: list[dict[str, Any]]) -> None:
        self.collection, self.document, self.collections = collection, document, collections

    @classmethod
    def of(cls, conversation: Conversation | None) -> Scope:
        """The conversation's own scope when it is opened; afterwards what was chosen last."""
        state = st.session_state
        backend = parts.backend()
        collections = backend.client.collections()
        names = [each["name"] for each in collections]
        if conversation and state.get("scope_of") != conversation.id:
            state["collection"], state["document"] = conversation.collection, conversation.document
            state["scope_of"] = conversation.id
        if state.get("collection") not in names:
            default = backend.settings.collection
            state["collection"] = default if default in names or not names else names[0]
            state["document"] = ""
        return cls(state["collection"], state.get("document", ""), collections)

    @property
    def row(self) -> dict[str, Any]:
        """The chosen collection as the engine lists it; empty where there is none yet."""
        return next((each for each in self.collections if each["name"] == self.collection), {})

    @property
    def count(self) -> int:
        """Documents that can be asked."""
        return sum(1 for each in documents(self.collection, self.row) if each.get("status") != "failed")

    def draw(self) -> None:
        """The line above the question that says what is asked, and opens to change it."""
        what = self.document or "all documents"
        label = (
            f"{parts.plain(self.collection)} · {parts.plain(what)}"
            if len(self.collections) > 1
            else parts.plain(what.capitalize() if not self.document else what)
        )
        with st.popover(label, icon=":material/folder_open:", type="tertiary", key="scope"):
            names = [each["name"] for each in self.collections] or [self.collection]
            chosen = st.selectbox(
                "Collection", names, index=names.index(self.collection) if self.collection in names else 0, format_func=str
            )
            every = "All documents"
            listed = [each["document"] for each in documents(self.collection, self.row) if each.get("status") != "failed"]
            shown = [every, *([self.document] if self.document and self.document not in listed else []), *listed]
            document = st.selectbox(
                "Documents",
                shown,
                index=shown.index(self.document) if self.document else 0,
                accept_new_options=True,
                help="Choose one, or type a pattern such as policies/*",
                key=f"document-{self.collection}-{self.document}",
            )
            document = "" if document in (every, None) else document
            if (chosen, document) != (self.collection, self.document):
                choose_scope(chosen, document if chosen == self.collection else "")
                st.rerun()


def choose_scope(collection: str, document: str) -> None:
    st.session_state["collection"], st.session_state["document"] = collection, document
    conversation = conversations.current()
    if conversation:
        parts.backend().records.scope_conversation(conversation.id, collection, document, parts.USER)


def documents(collection: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The collection's documents, asked for once a version."""
    version = (collection, row.get("version"))
    kept = st.session_state.get("documents")
    if not row.get("version"):
        return []
    if kept is None or kept[0] != version:
        kept = (version, parts.backend().client.documents(collection, parts.USER))
        st.session_state["documents"] = kept
    listed: list[dict[str, Any]] = kept[1]
    return listed


def ask(question: str, conversation: Conversation | None, scope: Scope, *, again: Message | None = None) -> None:
    """Give the question to the engine, in a new conversation if none is open. What goes wrong is kept and shown."""
    backend = parts.backend()
    st.session_state.pop("failed", None)
    st.session_state.pop("source", None)
    history = _history(backend.records.messages(conversation.id, parts.USER) if conversation else [], again)
    named = (
        conversation.id
        if conversation
        else backend.records.create_conversation(parts.USER, scope.collection, question, scope.document)
    )
    # a chosen document is a name, a typed pattern is a pattern: a name with [ in it must still match itself
    listed = {each["document"] for each in documents(scope.collection, scope.row)}
    pattern = glob.escape(scope.document) if scope.document in listed else scope.document
    try:
        backend.client.ask(
            question,
            scope.collection,
            user=parts.USER,
            document=pattern or None,
            history=history,
            conversation=named,
            message=again.id if again else None,
        )
    except EngineUnavailable:
        st.session_state["failed"] = (question, "The engine stopped. It is being started again.", "Ask again in a moment.")
        backend.start()
    except FootnoteError as error:
        st.session_state["failed"] = (question, error.message, error.cure)
    if not conversation:
        if backend.records.messages(named, parts.USER):
            conversations.open_conversation(named)
            st.session_state["scope_of"] = named
        else:  # the question was not taken: no empty conversation stays behind
            backend.records.delete_conversation(named, parts.USER)


def _history(messages: list[Message], again: Message | None) -> list[dict[str, str]]:
    before = [each for each in messages if again is None or each.id < again.id]
    if again is not None and before and before[-1].role == "user":
        before = before[:-1]
    said = [each for each in before if each.status == "done" and each.text]
    return [{"role": each.role, "content": each.text} for each in said[-HISTORY_TURNS:]]


def _heading(conversation: Conversation, messages: list[Message]) -> None:
    with st.container(key="heading", horizontal=True, horizontal_alignment="right"):
        with st.popover("Conversation", icon=":material/more_horiz:", type="tertiary", key="conversation-menu"):
            st.button(
                "Rename",
                icon=":material/edit:",
                type="tertiary",
                key="rename",
                on_click=conversations.rename,
                args=(conversation.id,),
            )
            turns = [(each.role, each.text, each.answer) for each in messages]
            st.download_button(
                "Save as Markdown",
                lambda: shape.markdown(conversation.title, turns),
                file_name="conversation.md",
                mime="text/markdown",
                on_click="ignore",
                icon=":material/download:",
                type="tertiary",
                key="save",
            )
            st.button(
                "Delete",
                icon=":material/delete:",
                type="tertiary",
                key="delete",
                on_click=conversations.delete,
                args=(conversation,),
            )
    conversations.dialog(conversation)


def _messages(conversation: Conversation, messages: list[Message], scope: Scope) -> None:
    said = {each.message: each for each in parts.backend().records.feedback(conversation.id, parts.USER)}
    last = messages[-1].id
    for number, message in enumerate(messages):
        if message.role == "user":
            parts.show(f'<h2 class="fn-question">{parts.escape(message.text)}</h2>')
        elif message.status == "writing":
            st.fragment(_running, run_every=parts.POLL_SECONDS)(conversation, message, scope.count)
        else:
            # a fragment like the running one: in the same place of the page, so that the answer is not drawn anew when it ends
            st.fragment(_finished)(conversation, message, message.id == last)
            question = messages[number - 1].text if number and messages[number - 1].role == "user" else ""
            with st.container(key=f"actions-{message.id}", horizontal=True, vertical_alignment="center", gap="small"):
                if message.answer:
                    given = said.get(message.id)
                    st.feedback(
                        "thumbs",
                        key=f"thumbs-{message.id}",
                        default=None if given is None else int(given.verdict == "up"),
                        on_change=_judge,
                        args=(message.id,),
                    )
                if message.id == last and question:
                    st.button(
                        "Ask again",
                        key=f"again-{message.id}",
                        type="tertiary",
                        icon=":material/refresh:",
                        on_click=ask,
                        args=(question, conversation, scope),
                        kwargs={"again": message},
                    )
            _reason(message, said.get(message.id))


@parts.edge
def _finished(conversation: Conversation, message: Message, last: bool) -> None:
    answer, arrive = message.answer, _arrival(message) if last else ""
    opened = source.opened(message.id)
    if answer is None:
        data = shape.drawn(passages=[], sentences=[], trouble=_trouble(message), arrive=arrive)
        parts.answer_view(data, f"answer-{message.id}", lambda _: None)
        return
    sentences, passages = shape.cited(answer), answer.get("passages", [])
    data = shape.drawn(passages=passages, sentences=sentences, answer=answer, opened=opened, arrive=arrive)
    if parts.answer_view(
        data, f"answer-{message.id}", lambda clicked: source.choose(conversation, message.id, passages, sentences, clicked)
    ):
        st.rerun()


def _arrival(message: Message) -> str:
    return f"{message.conversation} {message.id}"


def _trouble(message: Message) -> dict[str, str]:
    if message.status == "erased":
        return {"message": "This answer quoted a document that has been purged, so it is no longer kept.", "cure": ""}
    if message.status == "stopped":
        return {"message": "Stopped before the first sentence.", "cure": ""}
    return {"message": message.text or "This answer was not finished.", "cure": "Ask again."}


@parts.edge
def _running(conversation: Conversation, message: Message, documents: int) -> None:
    """Draw what there is of a running answer; drawn again every POLL_SECONDS until it is finished."""
    backend = parts.backend()
    try:
        state = backend.client.answer(message.answer_id)
    except EngineUnavailable:
        backend.start()
        st.rerun()
    except FootnoteError:
        state = {"state": "lost"}
    if state.get("state") not in shape.RUNNING:
        now = backend.records.message(message.id, parts.USER)
        if now is not None and now.status == "writing":
            _give_up(message, state)
        st.rerun()
    passages, sentences = state.get("passages") or [], state.get("sentences") or []
    data = shape.drawn(
        passages=passages,
        sentences=sentences,
        step=shape.step(state, documents),
        opened=source.opened(message.id),
        arrive=_arrival(message),
    )
    if parts.answer_view(
        data, f"answer-{message.id}", lambda clicked: source.choose(conversation, message.id, passages, sentences, clicked)
    ):
        st.rerun()
    st.button(
        "Stop",
        key=f"stop-{message.id}",
        icon=":material/stop_circle:",
        shortcut="Escape",
        on_click=_stop,
        args=(message.answer_id,),
    )


def _give_up(message: Message, state: dict[str, Any]) -> None:
    """The engine no longer knows the answer, and never wrote its end: it died while writing."""
    text = state.get("message") or "The engine stopped while it wrote this answer."
    parts.backend().records.update_message(message.id, status="failed", text=text)


def _stop(answer_id: str) -> None:
    try:
        parts.backend().client.stop(answer_id)
    except FootnoteError as error:
        st.session_state["said"] = str(error)


def _judge(message: int) -> None:
    records, value = parts.backend().records, st.session_state.get(f"thumbs-{message}")
    if value is None:
        records.remove_feedback(message, parts.USER)
        st.session_state.pop("asked", None)
    else:
        records.add_feedback(message, "up" if value else "down", parts.USER)
        st.session_state["asked"] = message


def _reason(message: Message, given: Any) -> None:
    """Ask why, once, right after the thumb."""
    if st.session_state.get("asked") != message.id or given is None:
        return
    with st.container(key=f"why-{message.id}", border=True):
        why = "What is good about it?" if given.verdict == "up" else "What is wrong with it?"
        reasons = st.pills(why, REASONS[given.verdict], selection_mode="multi", key=f"reasons-{message.id}-{given.verdict}")
        note = st.text_input(
            "In your own words",
            key=f"note-{message.id}",
            max_chars=500,
            label_visibility="collapsed",
            placeholder="In your own words, if you like",
        )
        with st.container(horizontal=True):
            if st.button("Send", type="primary", key=f"send-{message.id}"):
                parts.backend().records.add_feedback(message.id, given.verdict, parts.USER, "; ".join(reasons), note.strip())
                st.session_state.pop("asked", None)
                st.session_state["said"] = "Thank you. It is kept beside the answer."
                st.rerun()
            if st.button("Not now", type="tertiary", key=f"skip-{message.id}"):
                st.session_state.pop("asked", None)
                st.rerun()


def _failed(conversation: Conversation | None, scope: Scope) -> None:
    failed = st.session_state.get("failed")
    if not failed:
        return
    question, message, cure = failed
    parts.show(f'<h2 class="fn-question">{parts.escape(question)}</h2>')
    parts.notice(message, cure)
    st.button("Try again", key="retry", icon=":material/refresh:", on_click=ask, args=(question, conversation, scope))


def _welcome(scope: Scope) -> None:
    if st.session_state.get("failed"):
        return
    if not scope.count:
        parts.show(
            '<div class="fn-welcome"><h1>Ask your own documents</h1>'
            "<p>There is nothing to ask yet. Add a folder or a few files, "
            "and every answer will point to the page it came from.</p></div>"
        )
        if st.button("Add documents", type="primary", icon=":material/library_add:", key="to-library"):
            st.switch_page(st.session_state["pages"]["library"])
        return
    about = f"{parts.count(scope.count, 'document')} in {scope.collection}"
    parts.show(
        '<div class="fn-welcome"><h1>Ask your own documents</h1>'
        f"<p>{parts.escape(about)}. Every sentence of an answer carries a footnote that opens the page it came from; "
        "what the documents do not say, Footnote does not say.</p></div>"
    )
    suggestions = _suggestions(scope)
    if suggestions:
        parts.show('<p class="fn-label">For example</p>')
        with st.container(key="suggestions", gap="small"):
            for number, each in enumerate(suggestions):
                st.button(
                    parts.plain(each),
                    key=f"suggestion-{number}",
                    width="stretch",
                    on_click=ask,
                    args=(each, None, scope),
                    wrap=True,
                )


def _suggestions(scope: Scope) -> list[str]:
    """Example questions, made from the documents once a version. Without them the page is still whole."""
    version = (scope.collection, scope.row.get("version"))
    kept = st.session_state.get("suggested")
    if kept is None or kept[0] != version:
        try:
            kept = (version, parts.backend().client.suggestions(scope.collection, parts.USER)[:4])
        except EngineUnavailable:
            raise
        except FootnoteError:
            kept = (version, [])
        st.session_state["suggested"] = kept
    found: list[str] = kept[1]
    return found
