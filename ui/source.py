"""The source beside the answer: the rendered page with the quoted sentence highlighted, or the text with it marked."""

from __future__ import annotations

import posixpath
from typing import Any

import streamlit as st

from errors import EngineUnavailable, FootnoteError
from records import Conversation
from ui import answer as shape
from ui import page_text, parts

PAGE_PIXELS = 1400  # width of a rendered page; sharp on a wide screen at twice the pixels, 150 to 400 kB
KEPT_IMAGES = 8  # rendered pages remembered in a session; turning back and forth costs nothing


def opened(message: int) -> str:
    """Which source of this message is open: its name in the drawing, or ""."""
    open_source = st.session_state.get("source")
    return open_source["at"] if open_source and open_source["message"] == message else ""


def choose(
    conversation: Conversation,
    message: int,
    passages: list[dict[str, Any]],
    sentences: list[dict[str, Any]],
    clicked: dict[str, Any],
) -> None:
    """Open what was clicked; a second click on the same footnote closes it."""
    found = shape.target(passages, sentences, clicked)
    if found is None:
        return
    at, quoted = found
    if opened(message) == at:
        close()
        return
    st.session_state["source"] = {
        "at": at,
        "message": message,
        "collection": conversation.collection,
        "quoted": quoted,
        "page": quoted.get("page"),
    }


def close() -> None:
    st.session_state.pop("source", None)


def panel(escape_closes: bool) -> None:
    """Draw the open source, if one is."""
    chosen = st.session_state.get("source")
    if not chosen:
        return
    with st.container(key="source"):
        _panel(chosen, escape_closes)


@parts.edge
def _panel(chosen: dict[str, Any], escape_closes: bool) -> None:
    quoted, page = chosen["quoted"], chosen["page"]
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="top", key="source-head", wrap=False
    ):
        title = quoted.get("title") or posixpath.basename(quoted["document"])
        parts.show(
            f'<div class="fn-source-title">{parts.escape(title)}</div>'
            f'<div class="fn-quiet">{parts.escape(shape.where(quoted))}</div>'
        )
        st.button(
            "Close",
            key="close-source",
            icon=":material/close:",
            type="tertiary",
            on_click=close,
            shortcut="Escape" if escape_closes else None,
        )
    collection, document = chosen["collection"], int(quoted["document_id"])
    here = page == quoted.get("page")
    text = parts.backend().client.page_text(collection, document, page)
    pages = int(text.get("pages") or 0)
    is_pdf = (text.get("kind") or posixpath.splitext(quoted["document"])[1].lstrip(".").lower()) == "pdf"
    with st.container(horizontal=True, vertical_alignment="center", key="source-tools"):
        if page is not None:
            st.button(
                "Previous page",
                key="previous-page",
                icon=":material/chevron_left:",
                type="tertiary",
                disabled=page <= 1,
                on_click=_turn,
                args=(-1,),
            )
            parts.show(f'<span class="fn-quiet">Page {page}{f" of {pages}" if pages else ""}</span>')
            st.button(
                "Next page",
                key="next-page",
                icon=":material/chevron_right:",
                type="tertiary",
                disabled=bool(pages) and page >= pages,
                on_click=_turn,
                args=(1,),
            )
            if not here:
                st.button("Back to the quote", key="quote-page", type="tertiary", on_click=_turn_to, args=(quoted.get("page"),))
        as_text = not is_pdf
        if is_pdf:
            as_text = (
                st.segmented_control(
                    "Show", ["Page", "Text"], default="Page", required=True, key="source-view", label_visibility="collapsed"
                )
                == "Text"
            )
        st.download_button(
            "Original",
            lambda: parts.backend().client.original(collection, document)[1],
            key="original",
            type="tertiary",
            file_name=posixpath.basename(quoted["document"]),
            on_click="ignore",
            icon=":material/download:",
        )
    quotes = [quoted["quote"]] if here and quoted.get("quote") else []
    span = _span(text["text"], quoted) if here else None
    if here and span is None:
        parts.notice("The document has changed since this answer was written.", "Ask again to see what it says now.")
    if not as_text and page is not None:
        try:
            image = _image(collection, document, page, quotes)
        except EngineUnavailable:
            raise
        except FootnoteError as error:
            parts.notice(f"The page cannot be shown as a picture: {error.message}", "Below is its text.")
        else:
            st.image(image, width="stretch", alt=f"Page {page} of {quoted['document']}. Marked: {' '.join(quotes) or 'nothing'}")
            return
    drawn, before, after = page_text.blocks(text["text"], text.get("headings") or [], [span] if span else [])
    if not drawn:
        parts.quiet("This page has no text.")
        return
    parts.page_view(
        {
            "blocks": drawn,
            "before": f"{before:,} characters before this are not shown" if before else "",
            "after": f"{after:,} characters after this are not shown" if after else "",
        },
        key=f"page-{collection}-{document}-{page}",
    )


def _span(text: str, quoted: dict[str, Any]) -> tuple[int, int] | None:
    """Where the quote stands in the text as it is now; None where it no longer does."""
    start, end = int(quoted["start"]), int(quoted["end"])
    if text[start:end] == quoted["quote"]:
        return start, end
    found = text.find(quoted["quote"])
    return None if found < 0 else (found, found + len(quoted["quote"]))


def _turn(by: int) -> None:
    chosen = st.session_state.get("source")
    if chosen and chosen["page"] is not None:
        _turn_to(chosen["page"] + by)


def _turn_to(page: int | None) -> None:
    chosen = st.session_state.get("source")
    if chosen:
        st.session_state["source"] = {**chosen, "page": page}


def _image(collection: str, document: int, page: int, quotes: list[str]) -> bytes:
    kept: dict[tuple[Any, ...], bytes] = st.session_state.setdefault("images", {})
    name = (collection, document, page, tuple(quotes))
    if name not in kept:
        while len(kept) >= KEPT_IMAGES:
            del kept[next(iter(kept))]
        kept[name] = parts.backend().client.page_image(collection, document, page, quotes, PAGE_PIXELS)
    return kept[name]
