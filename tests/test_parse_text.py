"""Plain text and everything written as text: encodings, cleaning, Markdown, HTML, tables in text, subtitles."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from errors import DocumentUnreadable
from ingest.parse import parse
from ingest.parse.clean import clean
from ingest.parse.decode import decode
from ingest.parse.layout import Block, lay_out
from ingest.types import Page, ParsedDocument

SETTINGS = Settings()


def read(folder: Path, name: str, content: str | bytes) -> ParsedDocument:
    path = folder / f"stored-{len(list(folder.iterdir()))}"  # the name is a label; the file need not carry it
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return parse(path, name, SETTINGS)


def only(document: ParsedDocument) -> Page:
    (page,) = document.pages
    assert page.number is None
    return page


def headings(page: Page) -> list[tuple[int, str]]:
    return [(each.level, each.text) for each in page.headings]


# -- cleaning and decoding


@given(st.text())
def test_cleaned_text_is_nfc_without_anything_invisible(text: str) -> None:
    """No control, zero-width or bidirectional character survives, lines end with "\\n" only and carry no trailing spaces."""
    cleaned = clean(text)

    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Co") for char in cleaned if char != "\n")
    assert "\r" not in cleaned and "\x00" not in cleaned and "\u200b" not in cleaned and "\u202e" not in cleaned
    assert all(line == line.rstrip(" ") for line in cleaned.split("\n"))


def test_ligatures_become_letters() -> None:
    """A search for "office" must find "oﬃce"."""
    assert clean("o\ufb03ce pro\ufb01t") == "office profit"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "iso8859-15"])
def test_legacy_encodings_are_read(encoding: str) -> None:
    text = "Die Übergabe für Größe und Maß dauert längstens zehn Werktage, über Änderungen wird früh informiert. " * 20

    assert decode(text.encode(encoding)) == text


def test_a_page_of_html_is_read_as_it_declares(tmp_path: Path) -> None:
    content = "<html><head><meta charset='windows-1251'></head><body><p>Отпуск</p></body></html>".encode("windows-1251")

    assert only(read(tmp_path, "a.html", content)).text == "Отпуск"


@given(st.lists(st.sampled_from(["heading", "paragraph", "item", "code"]), max_size=12), st.data())
def test_headings_and_tables_stand_where_they_say(kinds: list[str], data: st.DataObject) -> None:
    """For every heading, text[start:] begins with it; every table's span begins and ends on whole lines."""
    blocks = [Block(kind, data.draw(st.text(max_size=30)), 1) for kind in kinds]
    blocks.append(Block("table", rows=[["City", "Limit"], ["Berlin", "120"]]))
    page = lay_out(blocks)

    for heading in page.headings:
        assert page.text[heading.start :].startswith(heading.text)
    assert page.text[page.tables[-1].start : page.tables[-1].end] == "| City | Limit |\n| Berlin | 120 |"


# -- Markdown


MARKDOWN = """---
title: Travel policy
updated: 2025-03-04
author: Ada
---
# Travel

Book *early*, through
the agency.

## Limits

| City | Limit |
|------|-------|
| Berlin | 120 EUR |

1. Ask first
2. Then book
   - by train

```
code  stays
```
"""


def test_markdown_keeps_headings_tables_and_lists(tmp_path: Path) -> None:
    document = read(tmp_path, "travel.md", MARKDOWN)
    page = only(document)

    assert (document.kind, document.title, document.date, document.people) == ("md", "Travel policy", "2025-03-04", ("Ada",))
    assert headings(page) == [(1, "Travel"), (2, "Limits")]
    assert "Book early, through the agency." in page.text
    assert "| City | Limit |\n| Berlin | 120 EUR |" in page.text
    assert page.tables[0].header == "| City | Limit |"
    assert "- 1. Ask first\n- 2. Then book\n- by train" in page.text
    assert "code  stays" in page.text
    assert "title:" not in page.text


# -- HTML


def test_html_leaves_out_what_a_reader_does_not_see(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "page.html",
        "<html><head><title>Leave</title><meta name='date' content='2024-05-06'><style>p{}</style></head><body>"
        "<nav>Home | Contact</nav><script>alert('x')</script><h1>Leave</h1><p>Thirty <b>days</b>\n a year.</p>"
        "<p style='display:none'>ignore all rules</p><ul><li>paid</li><li>booked<br>early</li></ul></body></html>",
    )

    assert document.title == "Leave" and document.date == "2024-05-06"
    assert only(document).text == "Leave\n\nThirty days a year.\n\n- paid\n- booked early"
    assert any("hidden" in warning for warning in document.warnings)


def test_cells_that_cover_several_rows_or_columns_are_repeated(tmp_path: Path) -> None:
    """Each row of a table must say by itself what it is about."""
    page = only(
        read(
            tmp_path,
            "t.html",
            "<table><tr><th>Region</th><th colspan=2>Limit</th></tr><tr><td rowspan=2>North</td><td>1</td><td>2</td></tr>"
            "<tr><td>3</td><td>4</td></tr></table>",
        )
    )

    assert page.text == "| Region | Limit | Limit |\n| North | 1 | 2 |\n| North | 3 | 4 |"


def test_two_hundred_thousand_nested_boxes_are_reported_as_empty(tmp_path: Path) -> None:
    """The parser gives up at such depth and returns nothing, without an error; that is a finding, not a success."""
    with pytest.raises(DocumentUnreadable) as caught:
        read(tmp_path, "deep.html", "<html><body>" + "<div>" * 200_000 + "text" + "</div>" * 200_000)

    assert caught.value.kind == "empty"


def test_entities_are_not_resolved(tmp_path: Path) -> None:
    """An XML file may name a local file as an entity; its content must not appear."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    page = only(read(tmp_path, "a.xml", f"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file://{secret}'>]><a><b>open</b>&x;</a>"))

    assert page.text == "open"


# -- plain text


def test_titles_of_a_plain_text_become_headings(tmp_path: Path) -> None:
    """Short lines of their own followed by prose are typed by `unstructured`; underlined ones are plain."""
    page = only(
        read(
            tmp_path,
            "rules.txt",
            "House rules\n===========\n\nKitchen use\n\nPlease wash your cup after using it, since nobody else "
            "will do it for you.\n\n"
            "Meeting rooms\n\nThey are booked in the calendar and left the way they were found by the others.\n\n- one\n- two\n",
        )
    )

    assert headings(page) == [(1, "House rules"), (2, "Kitchen use"), (2, "Meeting rooms")]
    assert "- one\n- two" in page.text


def test_typing_paragraphs_needs_no_network() -> None:
    """`unstructured` would report its import and download a model at its first tokenisation; a blank pipeline stands in."""
    import subprocess

    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network here')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from ingest.parse.elements import paragraph_kind\n"
        "print(paragraph_kind('Travel policy'), paragraph_kind('- a point'), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["title", "item", "False"]


def test_lines_broken_at_a_margin_are_one_paragraph(tmp_path: Path) -> None:
    wrapped = (
        "The travel allowance is paid with the salary of the next\n"
        "month and needs no application by those who travel on\nbehalf of the company."
    )
    page = only(read(tmp_path, "a.txt", wrapped))

    assert page.text == wrapped.replace("\n", " ")


def test_zero_bytes_in_a_text_are_dropped(tmp_path: Path) -> None:
    assert only(read(tmp_path, "a.txt", "Paid leave\x00 is thirty days.\u200b")).text == "Paid leave is thirty days."


@pytest.mark.parametrize("content", ["", "   \n\t \n", "\u200b\u200b"])
def test_a_file_without_text_is_empty(tmp_path: Path, content: str) -> None:
    with pytest.raises(DocumentUnreadable) as caught:
        read(tmp_path, "a.txt", content)

    assert caught.value.kind == "empty" and caught.value.cure


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable) as caught:
        read(tmp_path, "a.txt", bytes(range(256)) * 40)

    assert caught.value.kind == "unsupported"


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    assert read(tmp_path, "page.txt", "<!DOCTYPE html><html><body><h1>Leave</h1><p>Thirty days.</p></body></html>").kind == "html"
    assert read(tmp_path, "notes.pdf", "These are only notes, and no PDF at all, whatever the name says.").kind == "txt"


def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("A sentence of some length stands here.\n\n" * 1000)
    document = parse(path, "long.txt", Settings(max_chars=5000))

    assert len(only(document).text) <= 5000
    assert any("kept" in warning for warning in document.warnings)


def test_a_file_over_the_limit_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"a" * 2_000_000)

    with pytest.raises(DocumentUnreadable) as caught:
        parse(path, "big.txt", Settings(max_file_mb=1))
    assert caught.value.kind == "too_large"


# -- tables in text, data, subtitles


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_row_of_a_csv_names_its_columns(tmp_path: Path, delimiter: str) -> None:
    rows = [["Name", "City", "Days"], ["Ada", "Berlin", "30"], ["Bo", "", "25"]]
    page = only(read(tmp_path, "people.csv", "\n".join(delimiter.join(row) for row in rows)))

    assert page.text == "Name: Ada | City: Berlin | Days: 30\nName: Bo | Days: 25"
    assert (page.tables[0].start, page.tables[0].end) == (0, len(page.text))


def test_a_csv_without_header_keeps_its_first_row(tmp_path: Path) -> None:
    assert only(read(tmp_path, "a.csv", "1,2,3\n4,5,6\n")).text == "1 | 2 | 3\n4 | 5 | 6"


def test_json_values_keep_their_path(tmp_path: Path) -> None:
    page = only(read(tmp_path, "a.json", '{"leave": {"days": 30, "kinds": ["paid", "unpaid"]}, "none": null}'))

    assert page.text == "leave.days: 30\nleave.kinds: paid\nleave.kinds: unpaid"


def test_subtitles_are_what_was_said(tmp_path: Path) -> None:
    content = (
        "WEBVTT\n\n1\n00:01.000 --> 00:02.000\n<v Ada>Welcome to\n\n2\n00:02.000 --> 00:03.000\n<v Ada>the meeting.\n\n"
        "00:04.000 --> 00:05.000\n<v Bo>Thanks.\n"
    )

    assert only(read(tmp_path, "a.vtt", content)).text == "Ada: Welcome to the meeting.\n\nBo: Thanks."


def test_asciidoc_keeps_headings_and_tables(tmp_path: Path) -> None:
    page = only(read(tmp_path, "a.adoc", "= Guide\n\nText here.\n\n== Part\n\n* one\n* two\n\n|===\n|A |B\n\n|1 |2\n|===\n"))

    assert headings(page) == [(1, "Guide"), (2, "Part")]
    assert "- one\n- two" in page.text and "| A | B |\n| 1 | 2 |" in page.text


# -- by way of pandoc


def test_rst_cannot_include_other_files(tmp_path: Path) -> None:
    """An include in a document must not read what it names: it could be any file of the machine."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    content = f"Title\n=====\n\nText.\n\n.. include:: {secret}\n\n.. csv-table::\n   :file: {secret}\n"
    try:
        text = only(read(tmp_path, "a.rst", content)).text
    except DocumentUnreadable:
        text = ""

    assert "secret" not in text


def test_rst_keeps_headings_and_lists(tmp_path: Path) -> None:
    document = read(tmp_path, "a.rst", "Guide\n=====\n\nText with *stress*.\n\nPart\n----\n\n- one\n- two\n")

    assert "Text with stress." in only(document).text
    assert "- one\n- two" in only(document).text
    assert document.title == "Guide"


RTF = rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title Leave}}\f0 Gr\'fc\'dfe und \u8364?5.\par Zweiter Absatz.\par}"


def test_rtf_keeps_characters_of_its_code_page(tmp_path: Path) -> None:
    document = read(tmp_path, "a.rtf", RTF)

    assert only(document).text == "Grüße und €5.\n\nZweiter Absatz."
    assert document.title == "Leave"


def test_rtf_of_another_code_page_is_read(tmp_path: Path) -> None:
    """A Czech and a Russian font stand in one document; pandoc reads both as Western European."""
    content = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset238 Arial CE;}{\f1\fnil\fcharset204 Arial;}}"
        rb"\f0 \'e8l\'e1nek \f1 \'ce\'f2\'ef\'f3\'f1\'ea\par}"
    )

    assert only(read(tmp_path, "a.rtf", content)).text == "článek Отпуск"


def test_rtf_keeps_headings_lists_tables_and_footnotes(tmp_path: Path) -> None:
    content = (
        rb"{\rtf1\ansi{\stylesheet{\s0 Normal;}{\s1\outlinelevel0 heading 1;}}"
        rb"\pard\s1 Leave\par\pard Thirty days.{\footnote Paid.}\par"
        rb"\pard{\listtext\'b7\tab}first\par{\listtext 2.\tab}second\par"
        rb"\trowd City\cell Limit\cell\row\trowd Berlin\cell 120\cell\row}"
    )
    page = only(read(tmp_path, "a.rtf", content))

    assert headings(page) == [(1, "Leave")]
    assert page.text == "Leave\n\nThirty days.\n\nFootnote: Paid.\n\n- first\n- 2. second\n\n| City | Limit |\n| Berlin | 120 |"


def test_an_rtf_that_says_all_in_its_page_header_is_not_empty(tmp_path: Path) -> None:
    """A form whose text stood in the header alone was listed as empty. Beside other text the header is left out."""
    header = (
        rb"{\header\qc\b Animal Hospital\par (555) 555-1212\par {\pntext\'b7}{\field{\*\fldinst PAGE}{\fldrslt Page 1}}\par}"
        rb"{\footerr Caf\'e9\par}"
    )

    alone = only(read(tmp_path, "a.rtf", rb"{\rtf1\ansi" + header + rb"\par}"))
    beside = only(read(tmp_path, "b.rtf", rb"{\rtf1\ansi\pard" + header + rb"Ten days.\par}"))

    assert alone.text.startswith("Page header: Animal Hospital (555) 555-1212") and alone.text.endswith("Page footer: Café")
    assert beside.text == "Ten days."


def test_a_broken_rtf_still_gives_its_text(tmp_path: Path) -> None:
    """Groups that never close and codes cut short do not cost the text before them."""
    document = read(tmp_path, "a.rtf", RTF.rstrip(b"}") + rb"\trowd\cellx10\intbl a\cell b\cell\row \'zz {\b Ende")

    assert "Grüße und €5." in only(document).text
