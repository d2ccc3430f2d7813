"""What pages share: the backend, safe drawing of other people's text, components, notices, and the edge where errors end."""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec
from urllib.parse import urlsplit

import streamlit as st

from errors import EngineUnavailable, FootnoteError
from ui.backend import Backend, report, shared

ASSETS = Path(__file__).parent / "assets"
USER = "local"  # until accounts exist
POLL_SECONDS = 0.4  # between looks at a running answer; a sentence takes longer than that to write

P = ParamSpec("P")


def backend() -> Backend:
    """The one door to client, records and settings. Tests hand in their own through the session."""
    given = st.session_state.get("backend")
    return given if isinstance(given, Backend) else shared()


# text of documents, models and people


def plain(text: str) -> str:
    """Text for a label, which Streamlit reads as markdown: markup, maths, directives and :emoji: in it stay text."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|$~<>^=&:/@])", r"\\\1", " ".join(text.split()))
    # emoji shortcodes are looked up after backslashes are gone; an invisible joiner keeps them apart
    return re.sub(r"(\\:)(?=[\w+\\-]+\\:)", "\\1\u2060", escaped)


def escape(text: object) -> str:
    """Text inside html drawn with `show`."""
    return html.escape(str(text), quote=True)


def show(markup: str) -> None:
    """Draw html written here; whatever comes from elsewhere must have gone through `escape`."""
    st.html(markup)


def quiet(text: str) -> None:
    show(f'<p class="fn-quiet">{escape(text)}</p>')


# components


@functools.cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _component(name: str) -> Any:
    return st.components.v2.component(f"footnote_{name}", css=_asset(f"{name}.css"), js=_asset(f"{name}.js"))


def _packed(data: dict[str, Any]) -> bytes:
    """As bytes, because Streamlit loads pandas to look for tables in anything else."""
    return json.dumps(data, ensure_ascii=False).encode()


def answer_view(data: dict[str, Any], key: str, clicked: Callable[[dict[str, Any]], None]) -> bool:
    """Draw an answer (`ui.answer.drawn`); `clicked` hears which source was opened. True in the run after a click."""

    def on_opened_change() -> None:
        # the key is gone from the session when the answer was redrawn between the click and this call
        opened = (st.session_state.get(key) or {}).get("opened")
        if isinstance(opened, dict):
            clicked(opened)

    return bool(_component("answer")(key=key, data=_packed(data), on_opened_change=on_opened_change).get("opened"))


def page_view(data: dict[str, Any], key: str) -> None:
    """Draw a page's text (`ui.page_text.blocks`)."""
    _component("page")(key=key, data=_packed(data))


def upload_view(data: dict[str, Any], key: str, finished: Callable[[], None]) -> None:
    """The place to drop files and folders; `finished` is called when every chosen file has been sent or refused."""
    _component("upload")(key=key, data=_packed(data), on_finished_change=finished)


def style() -> None:
    """What the theme cannot say. Its own colours are repeated as variables, because only components are given them."""
    light, dark = (st.get_option(f"theme.{each}.backgroundColor") for each in ("light", "dark"))
    variables = (
        f":root {{ --fn-heading: {st.get_option('theme.headingFont')}; --fn-background: {light}; }}"
        f" @media (prefers-color-scheme: dark) {{ :root {{ --fn-background: {dark}; }} }}"
    )
    st.html(f"<style>{variables}\n{_asset('style.css')}</style>")


def promise() -> str:
    """Where questions and documents go: nowhere, unless a language model on another server was set up."""
    server = backend().settings.server_url
    if not server:
        return "Nothing leaves this machine."
    return f"Questions and the passages found for them go to {urlsplit(server).netloc or server}."


# notices


def notice(message: str, cure: str = "", kind: str = "trouble") -> None:
    """A box with a sentence and what to do; `kind` is trouble or done."""
    role = "alert" if kind == "trouble" else "status"
    below = f'<div class="fn-quiet">{escape(cure)}</div>' if cure else ""
    show(f'<div class="fn-notice fn-{kind}" role="{role}"><div>{escape(message)}</div>{below}</div>')


def edge(draw: Callable[P, None]) -> Callable[P, None]:
    """Where errors end: what a person can put right is said with its cure, a fault gets a number, a dead engine is restarted."""

    @functools.wraps(draw)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except EngineUnavailable:
            backend().start()
            st.rerun()
        except FootnoteError as error:
            notice(error.message, error.cure)
        except Exception as error:  # noqa: BLE001 - the edge of a page: reported with a number, and the log has the rest
            fault(error)

    return guarded


def fault(error: BaseException) -> None:
    number = report(error)
    notice(
        "Something went wrong in Footnote itself.",
        f"Nothing was lost. Reload the page to go on; whoever runs Footnote finds the reason in the log under number {number}.",
    )


# words


def count(number: int, one: str, many: str = "") -> str:
    """ "1 document", "1,240 documents"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def ago(moment: str, now: datetime | None = None) -> str:
    """An ISO time as a person says it; "" for none."""
    if not moment:
        return ""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h ago"
    if seconds < 7 * 86400:
        return count(int(seconds // 86400), "day") + " ago"
    return then.date().isoformat()
