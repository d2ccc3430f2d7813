"""Conversations, feedback and receipts ↔ rows of one SQLite file.

Used by the web app, the engine and the command line at once: write-ahead log, a wait instead of "database is locked", and
one lock around the connection so that threads may share it. Deleting is final after UNDO_SECONDS: texts are overwritten
on disk, and of a receipt only its digests stay, and the numbers that say what it cost.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from errors import FootnoteError, UsageError
from records.migrations import migrate

UNDO_SECONDS = 600  # a deleted conversation can be brought back for this long; then its texts are erased
BUSY_SECONDS = 10.0  # a writer waits this long for another process; every write here takes milliseconds
TITLE_CHARS = 80  # of a conversation's name; longer ones are cut at a word
VERDICTS = ("up", "down")
ROLES = ("user", "assistant")
STATUSES = ("done", "writing", "stopped", "failed", "erased")
GROUPS = {"user": "user", "collection": "collection", "model": "model", "day": "substr(created, 1, 10)"}  # days are UTC


@dataclass(frozen=True, slots=True)
class Conversation:
    """Times are ISO in UTC. `document` is the filter it was asked with, "" for the whole collection."""

    id: str
    user: str
    collection: str
    title: str
    document: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class Message:
    """One question or answer. `answer` is rag.types.Answer.as_json once it is there; `answer_id` names it in the engine.

    `status`: done, writing, stopped, failed (then `text` says why) or erased (it quoted a document that was purged).
    """

    id: int
    conversation: str
    role: str
    text: str
    status: str
    answer_id: str
    answer: dict[str, Any] | None
    created: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a person thought of one answer; `verdict` is "up" or "down"."""

    message: int
    user: str
    verdict: str
    reason: str
    note: str
    created: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything needed to replay an answer; `body` is None once it is no longer kept.

    `erased` then says why, where it is known: "conversation" (deleted), "document" (one that it shows was purged) or "altered": a
    body that is not what was written is not handed out.
    """

    id: str
    user: str
    conversation: str
    created: str
    digest: str
    link: str
    body: dict[str, Any] | None
    erased: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the answers of one group took: of one user, collection, model or day."""

    group: str
    answers: int
    prompt_tokens: float
    answer_tokens: float
    cpu_seconds: float


class Records:
    """The open file. Every method is one transaction; threads may share one object."""

    def __init__(self, path: Path) -> None:
        """Open, create or migrate `path`. Raises IndexTooNew for a newer format, FootnoteError for a damaged file."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._connection.row_factory = sqlite3.Row
            self._keep_a_log()
            self._connection.execute("PRAGMA synchronous = FULL")  # a receipt that was handed out is on disk
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute("PRAGMA foreign_keys = ON")
            migrate(self._connection, path)
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise FootnoteError(
                f"{path} cannot be used: {error}.", "Check the disk and the folder's rights, then try again."
            ) from None
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise FootnoteError(
                f"{path} cannot be read: {error}.", "Move it aside to start anew, or put a backup in its place."
            ) from None
        except FootnoteError:
            self._connection.close()
            raise
        self.erase_deleted()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # conversations

    def create_conversation(self, user: str, collection: str, title: str, document: str = "") -> str:
        """A new conversation's id: hard to guess, because it stands in an address."""
        conversation = secrets.token_urlsafe(9)
        now = _now()
        with self._write() as sql:
            sql.execute(
                "INSERT INTO conversations (id, user, collection, title, document, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (conversation, user, collection, _title(title), document, now, now),
            )
        return conversation

    def conversations(self, user: str, matching: str = "", limit: int = 200) -> list[Conversation]:
        """The newest first; with `matching`, those whose name or messages contain it."""
        query = "SELECT * FROM conversations WHERE user = ? AND deleted IS NULL"
        values: list[Any] = [user]
        if matching.strip():
            like = "%" + matching.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += (
                " AND (title LIKE ? ESCAPE '\\' OR id IN"
                " (SELECT conversation FROM messages WHERE user = ? AND text LIKE ? ESCAPE '\\'))"
            )
            values += [like, user, like]
        rows = self._read(query + " ORDER BY updated DESC, rowid DESC LIMIT ?", (*values, limit))
        return [_conversation(row) for row in rows]

    def conversation(self, conversation: str, user: str) -> Conversation | None:
        """None if it is not there, was deleted or is another's."""
        rows = self._read("SELECT * FROM conversations WHERE id = ? AND user = ? AND deleted IS NULL", (conversation, user))
        return _conversation(rows[0]) if rows else None

    def rename_conversation(self, conversation: str, title: str, user: str) -> None:
        if not title.strip():
            raise UsageError("A conversation needs a name.", "Type at least one letter.")
        with self._write() as sql:
            sql.execute("UPDATE conversations SET title = ? WHERE id = ? AND user = ?", (_title(title), conversation, user))

    def scope_conversation(self, conversation: str, collection: str, document: str, user: str) -> None:
        """Remember what the conversation asks: a collection, and within it a document filter or ""."""
        with self._write() as sql:
            sql.execute(
                "UPDATE conversations SET collection = ?, document = ? WHERE id = ? AND user = ?",
                (collection, document, conversation, user),
            )

    def delete_conversation(self, conversation: str, user: str) -> None:
        """Hide it at once; `restore_conversation` brings it back until it is erased."""
        with self._write() as sql:
            sql.execute(
                "UPDATE conversations SET deleted = ? WHERE id = ? AND user = ? AND deleted IS NULL", (_now(), conversation, user)
            )
        self.erase_deleted()

    def restore_conversation(self, conversation: str, user: str) -> bool:
        """False if it is too late."""
        with self._write() as sql:
            done = sql.execute(
                "UPDATE conversations SET deleted = NULL WHERE id = ? AND user = ? AND deleted IS NOT NULL", (conversation, user)
            )
            return done.rowcount > 0

    def erase_deleted(self, older_than_s: float = UNDO_SECONDS) -> int:
        """Erase the texts of conversations deleted longer ago than that; their receipts keep digests only. Returns how many."""
        before = (datetime.now(UTC) - timedelta(seconds=older_than_s)).isoformat()
        if not self._read("SELECT 1 FROM conversations WHERE deleted <= ? LIMIT 1", (before,)):
            return 0
        gone = "(SELECT id FROM conversations WHERE deleted <= ?)"
        with self._write() as sql:
            sql.execute(
                "UPDATE receipts SET body = NULL, salt = NULL, erased = 'conversation'"
                f" WHERE body IS NOT NULL AND conversation IN {gone}",
                (before,),
            )
            sql.execute(
                f"DELETE FROM feedback WHERE message IN (SELECT id FROM messages WHERE conversation IN {gone})", (before,)
            )
            sql.execute(f"DELETE FROM messages WHERE conversation IN {gone}", (before,))
            count = sql.execute("DELETE FROM conversations WHERE deleted <= ?", (before,)).rowcount
        self._forget_log()
        return count

    # messages

    def add_message(
        self,
        conversation: str,
        role: str,
        text: str,
        user: str,
        *,
        status: str = "done",
        answer_id: str = "",
        answer: dict[str, Any] | None = None,
    ) -> int:
        """A message's id. The conversation moves to the top of the list. Raises UsageError if it is not there."""
        _one_of(role, ROLES)
        _one_of(status, STATUSES)
        now = _now()
        with self._write() as sql:
            touched = sql.execute(
                "UPDATE conversations SET updated = ? WHERE id = ? AND user = ? AND deleted IS NULL", (now, conversation, user)
            )
            if not touched.rowcount:
                raise UsageError("This conversation is no longer there.", "Start a new one.")
            row = sql.execute(
                "INSERT INTO messages (conversation, user, role, text, status, answer_id, answer, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, user, role, text, status, answer_id, _json(answer), now),
            )
            return int(row.lastrowid or 0)

    def update_message(
        self,
        message: int,
        *,
        text: str | None = None,
        status: str | None = None,
        answer_id: str | None = None,
        answer: dict[str, Any] | None = None,
    ) -> None:
        """Change what is given; a message that was deleted meanwhile stays deleted.

        A new `answer_id` means that the answer is written anew: the old one goes, and so does what was thought of it.
        """
        if status is not None:
            _one_of(status, STATUSES)
        with self._write() as sql:
            sql.execute(
                "UPDATE messages SET text = coalesce(:text, text), status = coalesce(:status, status),"
                " answer = CASE WHEN coalesce(:answer_id, answer_id) = answer_id THEN coalesce(:answer, answer) ELSE :answer END,"
                " answer_id = coalesce(:answer_id, answer_id) WHERE id = :id",
                {"text": text, "status": status, "answer_id": answer_id, "answer": _json(answer), "id": message},
            )
            if answer_id is not None:
                sql.execute("DELETE FROM feedback WHERE message = ?", (message,))

    def messages(self, conversation: str, user: str) -> list[Message]:
        """In the order they were said; none for a conversation that is deleted or another's."""
        rows = self._read(
            "SELECT messages.* FROM messages JOIN conversations ON conversations.id = messages.conversation"
            " WHERE messages.conversation = ? AND conversations.user = ? AND conversations.deleted IS NULL ORDER BY messages.id",
            (conversation, user),
        )
        return [_message(row) for row in rows]

    def message(self, message: int, user: str) -> Message | None:
        rows = self._read(
            "SELECT messages.* FROM messages JOIN conversations ON conversations.id = messages.conversation"
            " WHERE messages.id = ? AND conversations.user = ? AND conversations.deleted IS NULL",
            (message, user),
        )
        return _message(rows[0]) if rows else None

    def unfinished(self, answer_prefix: str = "") -> list[Message]:
        """Answers still marked as being written whose `answer_id` begins so: after a crash nobody writes them any more."""
        rows = self._read("SELECT * FROM messages WHERE status = 'writing' ORDER BY id", ())
        return [_message(row) for row in rows if row["answer_id"].startswith(answer_prefix)]

    # feedback

    def add_feedback(self, message: int, verdict: str, user: str, reason: str = "", note: str = "") -> None:
        """One verdict a person and answer; the last one counts."""
        _one_of(verdict, VERDICTS)
        with self._write() as sql:
            sql.execute(
                "INSERT INTO feedback (message, user, verdict, reason, note, created) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (message, user) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason,"
                " note = excluded.note, created = excluded.created",
                (message, user, verdict, reason, note, _now()),
            )

    def remove_feedback(self, message: int, user: str) -> None:
        with self._write() as sql:
            sql.execute("DELETE FROM feedback WHERE message = ? AND user = ?", (message, user))

    def feedback(self, conversation: str | None = None, user: str | None = None) -> list[Feedback]:
        """All of it, oldest first, or only one conversation's or one person's."""
        rows = self._read(
            "SELECT feedback.* FROM feedback JOIN messages ON messages.id = feedback.message"
            " WHERE (? IS NULL OR messages.conversation = ?) AND (? IS NULL OR feedback.user = ?)"
            " ORDER BY feedback.created, feedback.message",
            (conversation, conversation, user, user),
        )
        return [Feedback(**dict(row)) for row in rows]

    # receipts

    def add_receipt(self, body: dict[str, Any], user: str = "local", conversation: str = "") -> str:
        """A receipt's id. `body` is anything JSON can hold; the chain of digests grows by one link.

        Its collection, model and usage are kept in columns of their own, which stay when the body goes; the chain covers the body.
        """
        receipt, salt, text, now = secrets.token_hex(8), secrets.token_bytes(16), _dump(body), _now()
        digest = _digest(salt, text)
        usage = body.get("usage", {})
        with self._write() as sql:
            last = sql.execute("SELECT link FROM receipts ORDER BY number DESC LIMIT 1").fetchone()
            link = _link(last["link"] if last else "", receipt, user, now, digest)
            sql.execute(
                "INSERT INTO receipts (id, user, conversation, created, digest, link, salt, body, collection, model,"
                " prompt_tokens, answer_tokens, cpu_seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    receipt, user, conversation, now, digest, link, salt, text, body.get("collection", ""), body.get("model", ""),
                    usage.get("prompt_tokens", 0.0), usage.get("answer_tokens", 0.0), usage.get("cpu_seconds", 0.0),
                ),
            )
        return receipt

    def receipt(self, receipt: str) -> Receipt | None:
        """None if there never was one; a `body` of None if it is no longer kept."""
        rows = self._read("SELECT * FROM receipts WHERE id = ?", (receipt,))
        return _receipt(rows[0]) if rows else None

    def verify_receipts(self, receipt: str | None = None) -> list[str]:
        """What is wrong with the chain, a sentence each; nothing if every link closes and every kept body is what was written.

        With `receipt`, only what is wrong with that one and its link to the one before it.
        """
        wrong: list[str] = []
        previous = ""
        for row in self._read("SELECT * FROM receipts ORDER BY number", ()):
            if receipt in (None, row["id"]):
                if _link(previous, row["id"], row["user"], row["created"], row["digest"]) != row["link"]:
                    wrong.append(f"Receipt {row['id']} does not follow the one before it.")
                if row["body"] is not None and _digest(row["salt"], row["body"]) != row["digest"]:
                    wrong.append(f"Receipt {row['id']} is not what was written.")
            previous = row["link"]
        return wrong

    def spent(self, by: str, since: str = "") -> list[Spent]:
        """What answers took, by "user", "collection", "model" or "day" (UTC), from the day `since` on (ISO); the dearest first,
        days in order. Answers whose receipt lost its body count like the others."""
        _one_of(by, tuple(GROUPS))
        rows = self._read(
            f"SELECT {GROUPS[by]} AS found, count(*), sum(prompt_tokens), sum(answer_tokens), sum(cpu_seconds) FROM receipts"
            f" WHERE created >= ? GROUP BY found ORDER BY {'found' if by == 'day' else 'sum(cpu_seconds) DESC, found'}",
            (since,),
        )
        return [Spent(*row) for row in rows]

    def erase_document(self, collection: str, document: str) -> int:
        """Erase every receipt body and stored answer that shows or quotes the document; returns how many rows lost their text.

        The digests stay, and the answer's place in its conversation stays, marked "erased".
        """
        count = 0
        with self._write() as sql:
            for row in sql.execute("SELECT number, body FROM receipts WHERE body IS NOT NULL").fetchall():
                body = json.loads(row["body"])
                if body.get("collection", collection) == collection and _names(body, document):
                    sql.execute(
                        "UPDATE receipts SET body = NULL, salt = NULL, erased = 'document' WHERE number = ?", (row["number"],)
                    )
                    count += 1
            for row in sql.execute(
                "SELECT messages.id, messages.answer FROM messages JOIN conversations ON conversations.id = messages.conversation"
                " WHERE answer IS NOT NULL AND collection = ?",
                (collection,),
            ).fetchall():
                if _names(json.loads(row["answer"]), document):
                    sql.execute("UPDATE messages SET text = '', answer = NULL, status = 'erased' WHERE id = ?", (row["id"],))
                    count += 1
        if count:
            self._forget_log()
        return count

    # the connection

    def _keep_a_log(self) -> None:
        """Switch to the write-ahead log. SQLite does not wait here while another process switches too, so this does."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _read(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _forget_log(self) -> None:
        """Empty the write-ahead log, which would otherwise still hold what was erased; skipped while another process reads."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _names(value: Any, document: str) -> bool:
    """Whether anything inside says {"document": document}."""
    if isinstance(value, dict):
        return value.get("document") == document or any(_names(each, document) for each in value.values())
    if isinstance(value, list):
        return any(_names(each, document) for each in value)
    return False


def _link(previous: str, receipt: str, user: str, created: str, digest: str) -> str:
    return hashlib.sha256(_dump([previous, receipt, user, created, digest]).encode()).hexdigest()


def _digest(salt: bytes | None, text: str) -> str:
    return hashlib.sha256((salt or b"") + text.encode()).hexdigest()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else _dump(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else line[:TITLE_CHARS].rsplit(" ", 1)[0] + "…"


def _one_of(value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{value!r} is not one of {', '.join(known)}.")


def _conversation(row: sqlite3.Row) -> Conversation:
    return Conversation(row["id"], row["user"], row["collection"], row["title"], row["document"], row["created"], row["updated"])


def _message(row: sqlite3.Row) -> Message:
    answer = json.loads(row["answer"]) if row["answer"] is not None else None
    return Message(
        row["id"], row["conversation"], row["role"], row["text"], row["status"], row["answer_id"], answer, row["created"]
    )


def _receipt(row: sqlite3.Row) -> Receipt:
    altered = row["body"] is not None and _digest(row["salt"], row["body"]) != row["digest"]
    body = None if row["body"] is None or altered else json.loads(row["body"])
    erased = "altered" if altered else row["erased"]
    return Receipt(row["id"], row["user"], row["conversation"], row["created"], row["digest"], row["link"], body, erased)
