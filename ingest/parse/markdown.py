"""Markdown → title, date and blocks, by way of HTML; the front matter gives title, date and author and is not text."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.web import WebPage, read_html

_FRONT = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FIELD = re.compile(r"^([A-Za-z_-]+)[ \t]*:[ \t]*(.*)$")
_MARKDOWN = MarkdownIt("commonmark", {"html": True, "maxNesting": 40}).enable(["table", "strikethrough"])


def read_markdown(text: str) -> WebPage:
    """Blocks of `text`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    fields: dict[str, str] = {}
    front = _FRONT.match(text)
    if front:
        for line in front.group(1).splitlines():
            field = _FIELD.match(line)
            if field:
                fields[field.group(1).lower()] = clean_line(field.group(2).strip().strip("\"'"))
        if fields or not front.group(1).strip():
            text = text[front.end() :]
    page = read_html(_MARKDOWN.render(text))
    date = next(filter(None, (iso_date(fields.get(name)) for name in ("updated", "lastmod", "modified", "date"))), None)
    authors = tuple(filter(None, (fields.get("author", ""), fields.get("owner", ""))))
    return WebPage(page.blocks, fields.get("title", "") or page.title, date or page.date, authors or page.authors, page.hidden)
