"""E-mail: what the header says, which body is read, and that attachments are named and left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest

from config import Settings
from errors import DocumentUnreadable
from ingest.parse import parse
from ingest.types import ParsedDocument
from tests.compound import message_file

SETTINGS = Settings()


def read(folder: Path, content: bytes, name: str = "mail.eml") -> ParsedDocument:
    path = folder / "stored"
    path.write_bytes(content)
    return parse(path, name, SETTINGS)


def message(**fields: str) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = fields.get("subject", "Neue Reiserichtlinie ab März")
    mail["From"] = fields.get("sender", "Ada Berg <ada@example.com>")
    mail["To"] = fields.get("to", "Bo <bo@example.com>, Cy <cy@example.com>")
    mail["Cc"] = "Di <di@example.com>"
    mail["Date"] = "Tue, 04 Mar 2025 10:00:00 +0100"
    mail.set_content(fields.get("body", "Hello all,\n\nthe limit for Berlin is 120 EUR.\n\nAda"))
    return mail


def test_subject_people_and_date_are_kept(tmp_path: Path) -> None:
    document = read(tmp_path, message().as_bytes())

    assert document.kind == "eml"
    assert document.title == "Neue Reiserichtlinie ab März"
    assert document.date == "2025-03-04"
    assert document.people == ("Ada Berg <ada@example.com>", "Bo <bo@example.com>", "Cy <cy@example.com>", "Di <di@example.com>")
    assert document.pages[0].text == (
        "Subject: Neue Reiserichtlinie ab März\nFrom: Ada Berg <ada@example.com>\nTo: Bo <bo@example.com>, Cy <cy@example.com>\n"
        "Cc: Di <di@example.com>\nDate: 2025-03-04\n\nHello all,\n\nthe limit for Berlin is 120 EUR.\n\nAda"
    )


def test_attachments_are_named_and_not_read(tmp_path: Path) -> None:
    mail = message()
    mail.add_attachment(b"secret plan", maintype="application", subtype="zip", filename="../../plan.zip")
    document = read(tmp_path, mail.as_bytes())

    assert "attachment ../../plan.zip was not read" in document.warnings
    assert "secret" not in document.pages[0].text
    assert not (tmp_path.parent / "plan.zip").exists()


def test_a_table_in_the_html_body_is_kept(tmp_path: Path) -> None:
    """Mail programs flatten tables in the plain version; the HTML version is read where it holds one."""
    mail = message(body="City Limit Berlin 120")
    mail.add_alternative("<p>Limits:</p><table><tr><th>City</th><th>Limit</th></tr><tr><td>Berlin</td><td>120</td></tr></table>", "html")

    assert "| City | Limit |\n| Berlin | 120 |" in read(tmp_path, mail.as_bytes()).pages[0].text


def test_a_forwarded_message_is_read_with_its_own_header(tmp_path: Path) -> None:
    mail = message()
    mail.add_attachment(message(subject="Inner", body="The inner text."))
    document = read(tmp_path, mail.as_bytes())

    assert "Attached message: Inner" in [heading.text for heading in document.pages[0].headings]
    assert "The inner text." in document.pages[0].text


def test_a_header_that_claims_a_wrong_encoding_is_read(tmp_path: Path) -> None:
    content = b"From: =?no-such-code?Q?Ada?= <a@x.org>\nSubject: Gr\xfc\xdfe\nTo: b@x.org\nDate: not a date\n\nText of the message."
    document = read(tmp_path, content)

    assert document.title == "Grüße" and document.date is None
    assert "Text of the message." in document.pages[0].text


def test_a_mailbox_gives_each_message_a_heading(tmp_path: Path) -> None:
    box = b"".join(
        b"From ada@example.com Tue Mar  4 10:00:00 2025\n" + message(subject=subject, body=f"Body of {subject}.").as_bytes() + b"\n\n"
        for subject in ("One", "Two")
    )
    page = read(tmp_path, box, "box.mbox").pages[0]

    assert [heading.text for heading in page.headings] == ["One", "Two"]
    assert page.text.index("Body of One.") < page.text.index("Body of Two.")


def test_an_encrypted_message_is_reported_as_such(tmp_path: Path) -> None:
    content = (
        b"From: a@x.org\nTo: b@x.org\nSubject: x\nMIME-Version: 1.0\n"
        b'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary=b\n\n--b\n'
        b"Content-Type: application/pgp-encrypted\n\nVersion: 1\n--b--\n"
    )
    with pytest.raises(DocumentUnreadable) as caught:
        read(tmp_path, content)

    assert caught.value.kind == "encrypted"


def test_a_message_of_attachments_only_says_so(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"] = "a@x.org"
    mail.add_attachment(b"x" * 50, maintype="image", subtype="png", filename="photo.png")
    with pytest.raises(DocumentUnreadable) as caught:
        read(tmp_path, mail.as_bytes())

    assert caught.value.kind == "empty" and "photo.png" in caught.value.message


@pytest.mark.parametrize(
    ("code_page", "words"),
    [(950, "\u8acb\u5047\u898f\u5b9a"), (874, "\u0e27\u0e31\u0e19\u0e25\u0e32"), (1251, "отпуск"), (0, "\u8acb\u5047")],
)
def test_an_outlook_message_is_read_in_its_own_code_page(tmp_path: Path, code_page: int, words: str) -> None:
    """Python knows Outlook's code pages for Chinese and Thai by other names than Outlook's."""
    made = message_file(
        words, f"Body: {words}.", datetime(2025, 3, 4, tzinfo=UTC), "Ada <ada@example.com>", "bo@example.com", code_page=code_page
    )
    document = read(tmp_path, made, "mail.msg")

    assert document.title == words
    assert f"Body: {words}." in document.pages[0].text
