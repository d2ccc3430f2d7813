"""E-mail (eml, mbox, msg) → header lines (Subject, From, To, Cc, Date) and body. Attachments are named, not read.

Messages attached to a message are part of the conversation and are read, under a heading.
"""

from __future__ import annotations

import email
import email.header
import email.message
import email.policy
import email.utils
import mimetypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import DocumentUnreadable
from ingest.parse.clean import clean, clean_line
from ingest.parse.dates import iso_date
from ingest.parse.decode import decode
from ingest.parse.layout import Block, lay_out
from ingest.parse.text import read_text
from ingest.parse.web import read_html
from ingest.types import ParsedDocument

MAX_MESSAGES = 20_000  # of one mailbox
MAX_PARTS = 2000  # of one message
MAX_DEPTH = 4  # messages inside messages
_MBOX_START = re.compile(rb"(?m)^From [^\r\n]*(?:\d{4}|-)[^\r\n]*\r?\n(?=[A-Za-z-]+:)")


@dataclass(slots=True)
class _Mail:
    """What one message says."""

    subject: str = ""
    people: dict[str, str] = field(default_factory=dict)  # From, To, Cc
    date: str | None = None
    body: list[Block] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)
    inside: list[_Mail] = field(default_factory=list)


def read_eml(data: bytes) -> ParsedDocument:
    """One message. Raises DocumentUnreadable("empty") where it has neither header nor body."""
    mail = _read(data, 0)
    return _document("eml", [mail])


def read_mbox(data: bytes) -> ParsedDocument:
    """A mailbox: its messages one after the other, each under its subject."""
    found = [_read(message, 0) for message in _messages(data)]
    return _document("mbox", found) if found else read_eml(data)


def _messages(data: bytes) -> Iterator[bytes]:
    starts = [match.start() for match in _MBOX_START.finditer(data)][:MAX_MESSAGES]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=False):
        _, _, message = data[start:end].partition(b"\n")
        yield re.sub(rb"(?m)^>(>*From )", rb"\1", message)


def attached(data: bytes, mailbox: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of each attachment of a message, or of all messages of a mailbox; of those attached to them, too."""
    for message in _messages(data) if mailbox else (data,):
        yield from _attached(_message(message), 0)


def _attached(message: email.message.Message, depth: int) -> Iterator[tuple[str, bytes]]:
    for part in _parts(message):
        inner = part.get_payload()
        if part.get_content_type() == "message/rfc822" and depth < MAX_DEPTH and isinstance(inner, list):
            for each in inner[:1]:
                if isinstance(each, email.message.Message):
                    yield from _attached(each, depth + 1)
            continue
        name = _file_name(part)
        if _is_attached(part, name) or part.get_content_maintype() not in ("text", "message"):
            yield name or f"unnamed{mimetypes.guess_extension(part.get_content_type()) or ''}", _bytes(part)


def _is_attached(part: email.message.Message, name: str) -> bool:
    return part.get_content_disposition() == "attachment" or bool(name and part.get_content_type() not in ("text/plain", "text/html"))


def read_msg(path: Path) -> ParsedDocument:
    """An Outlook message, through the reader that `unstructured` uses. Raises DocumentUnreadable("damaged")."""
    from ingest.parse.elements import outlook_message

    try:
        found = outlook_message(path)
    except Exception as error:  # noqa: BLE001 - a compound file can be broken in any way
        raise DocumentUnreadable(
            "damaged",
            f"The file is not a whole Outlook message ({type(error).__name__}).",
            "Open it in Outlook and save it again.",
        ) from None
    mail = _Mail(found.subject, found.people, found.date, [], found.attachments)
    mail.body = _html_blocks(found.html) if found.html and not found.text else read_text(found.text, titles=False)
    if found.html and found.text:
        mail.body = _better(found.text, found.html)
    return _document("msg", [mail])


def _document(kind: str, mails: Sequence[_Mail]) -> ParsedDocument:
    blocks: list[Block] = []
    for mail in mails:
        if len(mails) > 1:
            blocks.append(Block("heading", mail.subject or "(no subject)", 1))
        blocks.extend(_mail_blocks(mail, 2))
    attachments = [name for mail in mails for name in _names(mail)]
    warnings = [f"attachment {name} was not read" for name in attachments[:50]]
    if len(attachments) > 50:
        warnings.append(f"{len(attachments) - 50} more attachments were not read")
    if not any(mail.body or mail.inside or mail.subject for mail in mails):
        raise DocumentUnreadable(
            "empty",
            "The message has no text" + (f", only attachments ({', '.join(attachments[:3])})." if attachments else "."),
            "Save its attachments into the folder." if attachments else "Leave it out.",
        )
    first = mails[0]
    people = tuple(dict.fromkeys(person for mail in mails for name in ("From", "To", "Cc") for person in _split(mail.people.get(name, ""))))
    return ParsedDocument(kind, first.subject if len(mails) == 1 else "", (lay_out(blocks),), first.date, people[:200], tuple(warnings))


def _names(mail: _Mail) -> Iterator[str]:
    yield from mail.attachments
    for each in mail.inside:
        yield from _names(each)


def _mail_blocks(mail: _Mail, level: int) -> Iterator[Block]:
    lines = [f"Subject: {mail.subject}"] if mail.subject else []
    lines.extend(f"{name}: {mail.people[name]}" for name in ("From", "To", "Cc") if mail.people.get(name))
    if mail.date:
        lines.append(f"Date: {mail.date}")
    yield Block("code", "\n".join(lines))
    yield from mail.body
    for each in mail.inside:
        yield Block("heading", f"Attached message: {each.subject or '(no subject)'}", min(level, 6))
        yield from _mail_blocks(each, level + 1)


def _split(people: str) -> list[str]:
    """ "Anna <a@x>, Bo <b@x>" as single people."""
    return [part.strip() for part in re.split(r",\s+(?=[^,]*@)|;\s*", people) if part.strip()]


def _read(data: bytes, depth: int) -> _Mail:
    return _from_message(_message(data), depth)


def _message(data: bytes) -> email.message.Message:
    return email.message_from_bytes(data.lstrip(b"\r\n \t\xef\xbb\xbf"), policy=email.policy.compat32)


def _from_message(message: email.message.Message, depth: int) -> _Mail:
    if message.get_content_type() in ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"):
        raise DocumentUnreadable("encrypted", "The message is encrypted.", "Open it in the mail program and save it without encryption.")
    mail = _Mail(_header(message, "Subject"))
    for name in ("From", "To", "Cc"):
        value = _header(message, name)
        if value:
            mail.people[name] = value
    mail.date = _date(_header(message, "Date")) or _received(message)
    plain: list[str] = []
    rich: list[str] = []
    for part in _parts(message):
        kind = part.get_content_type()
        name = _file_name(part)
        if kind == "message/rfc822" and depth < MAX_DEPTH:
            inner = part.get_payload()
            if isinstance(inner, list) and inner and isinstance(inner[0], email.message.Message):
                mail.inside.append(_from_message(inner[0], depth + 1))
            continue
        if _is_attached(part, name) or part.get_content_maintype() not in ("text", "message"):
            if name or kind != "application/octet-stream" or _bytes(part):
                mail.attachments.append(name or f"({kind})")
            continue
        text = _text(part)
        if kind == "text/html":
            rich.append(text)
        elif kind in ("text/plain", "text/enriched", "text/richtext", "message/delivery-status", "text/rfc822-headers"):
            plain.append(text)
        elif kind == "text/calendar":
            plain.append(_calendar(text))
        else:
            mail.attachments.append(name or f"({kind})")
    if plain and rich:
        mail.body = _better("\n\n".join(plain), "\n".join(rich))
    elif rich:
        mail.body = _html_blocks("\n".join(rich))
    else:
        mail.body = _plain_blocks("\n\n".join(plain))
    return mail


def _parts(message: email.message.Message) -> Iterator[email.message.Message]:
    """Leaf parts in order; attached messages are leaves."""
    stack: list[email.message.Message] = [message]
    count = 0
    while stack and count < MAX_PARTS:
        part = stack.pop()
        count += 1
        payload = part.get_payload()
        if part.get_content_type() == "message/rfc822" and part is not message and isinstance(payload, list):
            yield part
        elif isinstance(payload, list):
            stack.extend(each for each in reversed(payload) if isinstance(each, email.message.Message))
        else:
            yield part


def _bytes(part: email.message.Message) -> bytes:
    try:
        found = part.get_payload(decode=True)
    except (ValueError, AssertionError, LookupError):
        found = None
    return found if isinstance(found, bytes) else b""


def _text(part: email.message.Message) -> str:
    """A text part decoded as it says, or as its bytes suggest where that is no encoding or does not fit."""
    data = _bytes(part)
    charset = ""
    try:
        charset = str(part.get_content_charset() or "")
    except (LookupError, ValueError, AssertionError):
        pass
    if charset and charset not in ("us-ascii", "ascii", "unknown-8bit"):
        try:
            return data.decode(charset)
        except (LookupError, UnicodeError, ValueError):
            pass
    return decode(data, declared=part.get_content_type() == "text/html")


def _better(plain: str, rich: str) -> list[Block]:
    """Of two versions of a body the one with more in it: HTML where it holds a table, or plain text says much less."""
    blocks = _html_blocks(rich)
    words = sum(len(block.text.split()) + sum(len(cell.split()) for row in block.rows for cell in row) for block in blocks)
    ours = len(plain.split())
    table = any(block.kind == "table" for block in blocks)
    if (table and words >= 0.7 * ours) or words > 1.5 * ours:
        return blocks
    return _plain_blocks(plain) or blocks


def _html_blocks(text: str) -> list[Block]:
    return read_html(text).blocks


def _plain_blocks(text: str) -> list[Block]:
    """Lines with their reply marks taken off; what was quoted stays, the line above it says who wrote it."""
    return read_text(re.sub(r"(?m)^(?:> ?)+", "", clean(text)), titles=False)


def _calendar(text: str) -> str:
    """The readable fields of an invitation."""
    unfolded = re.sub(r"\r?\n[ \t]", "", text)
    wanted = ("SUMMARY", "DTSTART", "DTEND", "LOCATION", "DESCRIPTION", "ORGANIZER")
    lines = []
    for line in unfolded.splitlines():
        name, _, value = line.partition(":")
        if name.split(";")[0].upper() in wanted and value:
            lines.append(f"{name.split(';')[0].capitalize()}: {value.replace(chr(92) + 'n', ' ').replace(chr(92) + ',', ',')}")
    return "\n".join(lines)


def _header(message: email.message.Message, name: str) -> str:
    """A header decoded, whatever its encoding claims."""
    try:
        raw = message.get(name)
    except (ValueError, LookupError, IndexError):
        return ""
    if raw is None:
        return ""
    header: Any = raw  # a Header where the raw bytes are not ASCII, whatever the types say
    text = _undeclared(header) if isinstance(header, email.header.Header) else str(header)
    parts: list[str] = []
    try:
        pieces = email.header.decode_header(text)
    except (email.errors.HeaderParseError, ValueError):
        return clean_line(text)
    for piece, charset in pieces:
        if isinstance(piece, bytes):
            try:
                parts.append(piece.decode(charset or "utf-8"))
            except (LookupError, UnicodeError):
                parts.append(decode(piece))
        else:
            parts.append(piece)
    return clean_line("".join(parts))


def _undeclared(header: Any) -> str:
    """Raw bytes in a header: read as the encoding they look like."""
    data = b"".join(
        str(piece).encode("ascii", "surrogateescape") if isinstance(piece, str) else piece
        for piece, _ in email.header.decode_header(header)
    )
    return decode(data)


def _date(text: str) -> str | None:
    if not text:
        return None
    try:
        return iso_date(email.utils.parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return iso_date(text)


def _received(message: email.message.Message) -> str | None:
    """When the last server took the message, for one without a date of its own."""
    for value in message.get_all("Received") or ():
        found = _date(str(value).rpartition(";")[2].strip())
        if found:
            return found
    return None


def _file_name(part: Any) -> str:
    try:
        return clean_line(str(part.get_filename() or ""))[:200]
    except (ValueError, LookupError, TypeError, AssertionError, IndexError):
        return "(unreadable name)"
