"""The list of conversations beside every page: start, find, open, and undo a deletion."""

from __future__ import annotations

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from records import Conversation
from ui import parts

SHOWN = 30  # conversations listed; older ones are found by searching
SEARCH_FROM = 6  # conversations from which a search field is worth its place


def current() -> Conversation | None:
    """The conversation named in the address."""
    named = st.query_params.get("c", "")
    return parts.backend().records.conversation(named, parts.USER) if named else None


def open_conversation(conversation: str) -> None:
    """Show this conversation, "" for a new one, on the page that is open."""
    if conversation:
        st.query_params["c"] = conversation
    elif "c" in st.query_params:
        del st.query_params["c"]
    st.session_state["conversation"] = conversation
    for name in ("source", "asked", "failed"):
        st.session_state.pop(name, None)


def sidebar(chat: StreamlitPage, on_chat: bool) -> None:
    """Draw the list. Away from the chat page a click goes there."""
    records = parts.backend().records
    opened = st.query_params.get("c", "") if on_chat else ""
    with st.container(key="conversations"):
        if st.button(
            "New question", icon=":material/edit_square:", width="stretch", key="new", on_click=open_conversation, args=("",)
        ):
            _go(chat, "", on_chat)
        _undo()
        matching = st.session_state.get("find", "")
        found = records.conversations(parts.USER, matching, limit=SHOWN)
        if len(found) >= SEARCH_FROM or matching:
            st.text_input("Find a conversation", key="find", placeholder="Find a conversation", label_visibility="collapsed")
        if not found:
            parts.quiet("Nothing found." if matching else "Your questions will be listed here.")
        for each in found:
            chosen = each.id == opened
            if st.button(
                parts.plain(each.title),
                key=f"open-{each.id}{'-here' if chosen else ''}",
                type="tertiary",
                width="stretch",
                on_click=open_conversation,
                args=(each.id,),
                wrap=False,
            ):
                _go(chat, each.id, on_chat)


def _go(chat: StreamlitPage, conversation: str, on_chat: bool) -> None:
    if not on_chat:
        st.switch_page(chat, query_params={"c": conversation} if conversation else None)


def _undo() -> None:
    gone = st.session_state.get("deleted")
    if not gone:
        return
    conversation, title = gone
    with st.container(key="undo", horizontal=True, vertical_alignment="center"):
        parts.show(f'<span class="fn-quiet">Deleted “{parts.escape(title)}”</span>')
        st.button("Undo", key="undo-delete", type="tertiary", on_click=_restore, args=(conversation,))


def _restore(conversation: str) -> None:
    st.session_state.pop("deleted", None)
    if parts.backend().records.restore_conversation(conversation, parts.USER):
        open_conversation(conversation)
    else:
        st.session_state["said"] = "It was too late to bring the conversation back."


def delete(conversation: Conversation) -> None:
    parts.backend().records.delete_conversation(conversation.id, parts.USER)
    open_conversation("")
    st.session_state["deleted"] = (conversation.id, conversation.title)


def rename(conversation: str) -> None:
    """Ask for another name; `dialog` draws the question."""
    st.session_state["renaming"] = conversation


def dialog(conversation: Conversation) -> None:
    """Draw the question for another name, if it was asked for."""
    if st.session_state.get("renaming") == conversation.id:
        st.dialog("Rename conversation", on_dismiss=_not_renaming)(_rename)(conversation)


def _not_renaming() -> None:
    st.session_state.pop("renaming", None)


def _rename(conversation: Conversation) -> None:
    with st.form("rename-form", border=False):
        title = st.text_input("Name", value=conversation.title, max_chars=80)
        if st.form_submit_button("Save", type="primary") and title.strip():
            parts.backend().records.rename_conversation(conversation.id, title, parts.USER)
            _not_renaming()
            st.rerun()
