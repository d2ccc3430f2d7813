"""The door to `unstructured`: types the paragraphs of plain texts and opens Outlook messages.

Its import takes seconds, reaches out and pulls in a GPU library, so what does that is switched off first; its first
tokenisation would download a model, so it is given a local pipeline. The version is pinned and this is tested.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date

os.environ["DO_NOT_TRACK"] = "1"
os.environ["SCARF_NO_ANALYTICS"] = "1"
os.environ["UNSTRUCTURED_DISABLE_NOTICE"] = "1"

_CODE_PAGES = {
    "windows-950": "cp950", "windows-874": "cp874", "dos-720": "cp720", "x-mac-greek": "mac-greek", "x-mac-cyrillic": "mac-cyrillic",
    "x-mac-ce": "mac-latin2", "x-mac-icelandic": "mac-iceland", "x-mac-turkish": "mac-turkish",
}  # fmt: skip

_left_to_server = False


class NotLoaded(Exception):
    """A sandbox child met a plain text, and its fork server has not loaded `unstructured` yet."""


def leave_loading_to_server() -> None:
    """From now on this process raises NotLoaded instead of importing: in a child it would be paid again and again."""
    global _left_to_server
    _left_to_server = True


@lru_cache(maxsize=1)
def _unstructured() -> Any:
    """`unstructured.partition.text`, ready to be used without a network."""
    if _left_to_server:
        raise NotLoaded
    had_torch = "torch" in sys.modules
    if not had_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, 2 s and 150 MB, for nothing
    try:
        import spacy
        import unstructured.nlp.tokenize as tokenize
        from unstructured.partition import text
    finally:
        if not had_torch:
            del sys.modules["torch"]

    def pipeline() -> Any:
        language = spacy.blank("en")
        language.add_pipe("sentencizer")
        return language

    tokenize._load_spacy_model = pipeline
    tokenize._get_nlp.cache_clear()
    return text


def preload_unstructured() -> None:
    """Imports it and runs it once, so that forked children find it warm."""
    paragraph_kind("A first paragraph, so that everything is loaded.")


def paragraph_kind(paragraph: str) -> str:
    """ "title", "item" or "prose": what `unstructured` takes a paragraph of plain text for."""
    category = _unstructured().element_from_text(paragraph).category
    return {"Title": "title", "ListItem": "item"}.get(category, "prose")


@dataclass(frozen=True, slots=True)
class OutlookMessage:
    """What an Outlook file says of itself."""

    subject: str
    people: dict[str, str]
    date: str | None
    text: str
    html: str
    attachments: list[str]


def _known_elsewhere(name: str) -> codecs.CodecInfo | None:
    """Python's codec for a code page that the reader of messages calls by a name which Python does not know."""
    known = _CODE_PAGES.get(name.lower().replace("_", "-"))
    return codecs.lookup(known) if known else None


codecs.register(_known_elsewhere)


def outlook_message(path: Path) -> OutlookMessage:
    """The message at `path`; raises whatever a broken compound file makes the reader raise."""
    import oxmsg

    message = oxmsg.Message.load(str(path))
    headers = {name.lower(): value for name, value in (message.message_headers or {}).items()}
    people = {}
    sender = clean_line(message.sender or headers.get("from", ""))
    if sender:
        people["From"] = sender.replace('"', "")
    for name in ("To", "Cc"):
        if clean_line(headers.get(name.lower(), "")):
            people[name] = clean_line(headers[name.lower()]).replace('"', "")
    if "To" not in people:
        names = [f"{each.name} <{each.email_address}>" if each.name != each.email_address else each.name for each in message.recipients]
        if names:
            people["To"] = clean_line(", ".join(names))
    attachments = [clean_line(each.file_name or "(unnamed)")[:200] for each in message.attachments]
    return OutlookMessage(
        clean_line(message.subject or ""),
        people,
        iso_date(message.sent_date),
        message.body or "",
        message.html_body or "",
        attachments,
    )


def outlook_attachments(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file attached to an Outlook message; nothing of one that is not whole."""
    import oxmsg

    try:
        for each in oxmsg.Message.load(str(path)).attachments:
            yield clean_line(each.file_name or ""), each.file_bytes or b""
    except Exception:  # noqa: BLE001 - a compound file can be broken in any way; reading the message says so
        return
