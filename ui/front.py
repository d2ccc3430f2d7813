"""The frame around every page: name, looks, navigation, conversations, and a wait while the engine starts."""

from __future__ import annotations

import streamlit as st

from ui import chat, conversations, library, parts


def main() -> None:
    st.set_page_config(page_title="Footnote", page_icon=str(parts.ASSETS / "icon.svg"), layout="wide")
    parts.style()
    st.logo(str(parts.ASSETS / "logo.svg"), size="large", icon_image=str(parts.ASSETS / "icon.svg"))
    pages = {
        "chat": st.Page(chat.page, title="Ask", icon=":material/forum:", url_path="ask", default=True),
        "library": st.Page(library.page, title="Library", icon=":material/library_books:", url_path="library"),
    }
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()))
    backend = parts.backend()
    with st.sidebar:
        conversations.sidebar(pages["chat"], on_chat=page == pages["chat"])
        parts.show(
            '<p class="fn-aside">Everyone who can open this page sees every document and conversation here. '
            f"{parts.escape(parts.promise())}</p>"
        )
    if backend.state == "ready":
        page.run()
    else:
        st.fragment(_starting, run_every=1.0 if backend.state == "starting" else None)()


def _starting() -> None:
    """What is drawn instead of a page until the engine answers."""
    backend = parts.backend()
    if backend.state == "ready":
        st.rerun()
    if backend.state == "failed":
        parts.show('<div class="fn-welcome"><h1>The engine did not start</h1></div>')
        if backend.error:
            parts.notice(backend.error.message, backend.error.cure)
        if st.button("Start it again", type="primary", key="start-again"):
            backend.start()
            st.rerun()
        return
    parts.show(
        '<div class="fn-welcome" role="status"><h1>Starting the engine…</h1>'
        "<p>The models are being loaded. This takes a few seconds, the very first time up to a minute. "
        f'The page goes on by itself.</p><div class="fn-bar"></div><p class="fn-quiet">{parts.escape(backend.stage())}</p></div>'
    )


if __name__ == "__main__":  # what Streamlit runs; a process that multiprocessing spawned only imports this
    main()
