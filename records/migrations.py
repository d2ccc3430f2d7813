"""A records file of any earlier format → the format this code knows, one numbered step at a time.

A step, once released, is never edited: a change of format is a new function at the end of MIGRATIONS.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import IndexTooNew


def create_tables(connection: sqlite3.Connection) -> None:
    """Format 1: conversations with their messages, feedback, receipts. Every row names its user."""
    for statement in (
        """
        CREATE TABLE conversations (
            id TEXT PRIMARY KEY, user TEXT NOT NULL, collection TEXT NOT NULL, title TEXT NOT NULL,
            document TEXT NOT NULL DEFAULT '', created TEXT NOT NULL, updated TEXT NOT NULL, deleted TEXT)
        """,
        "CREATE INDEX conversations_by_user ON conversations (user, deleted, updated)",
        """
        CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT, conversation TEXT NOT NULL REFERENCES conversations (id),
            user TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT NULL,
            answer_id TEXT NOT NULL DEFAULT '', answer TEXT, created TEXT NOT NULL)
        """,
        "CREATE INDEX messages_by_conversation ON messages (conversation, id)",
        """
        CREATE TABLE feedback (
            message INTEGER NOT NULL REFERENCES messages (id), user TEXT NOT NULL, verdict TEXT NOT NULL,
            reason TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '', created TEXT NOT NULL,
            PRIMARY KEY (message, user))
        """,
        # digest covers salt and body, link covers the previous link and everything but salt and body: a body and its salt
        # can go and the chain still closes
        """
        CREATE TABLE receipts (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL,
            conversation TEXT NOT NULL DEFAULT '', created TEXT NOT NULL, digest TEXT NOT NULL, link TEXT NOT NULL,
            salt BLOB, body TEXT)
        """,
        "CREATE INDEX receipts_by_conversation ON receipts (conversation)",
    ):
        connection.execute(statement)


def add_accounts(connection: sqlite3.Connection) -> None:
    """Format 2: the few numbers of a receipt that outlive its body, and why a body is gone ("conversation", "document")."""
    for column in (
        "collection TEXT NOT NULL DEFAULT ''", "model TEXT NOT NULL DEFAULT ''", "prompt_tokens REAL NOT NULL DEFAULT 0",
        "answer_tokens REAL NOT NULL DEFAULT 0", "cpu_seconds REAL NOT NULL DEFAULT 0", "erased TEXT NOT NULL DEFAULT ''",
    ):
        connection.execute(f"ALTER TABLE receipts ADD COLUMN {column}")
    for number, text in connection.execute("SELECT number, body FROM receipts WHERE body IS NOT NULL").fetchall():
        body = json.loads(text)
        usage = body.get("usage", {})
        connection.execute(
            "UPDATE receipts SET collection = ?, model = ?, prompt_tokens = ?, answer_tokens = ?, cpu_seconds = ? WHERE number = ?",
            (
                body.get("collection", ""), body.get("model", ""), usage.get("prompt_tokens", 0.0), usage.get("answer_tokens", 0.0),
                usage.get("cpu_seconds", 0.0), number,
            ),
        )
    connection.execute("CREATE INDEX receipts_by_time ON receipts (created)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (create_tables, add_accounts)


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[Callable[[sqlite3.Connection], None]] = MIGRATIONS
) -> Path | None:
    """Bring the open file up to the newest format; returns where the copy of the old one lies, None if none was needed.

    The connection must be in autocommit mode. Raises IndexTooNew for a format this code does not know.
    """
    found = _format(connection)
    if found == len(steps):
        return None
    if found > len(steps):
        raise IndexTooNew(
            f"{path} was written by a newer Footnote (format {found}; this one knows {len(steps)}).",
            "Update Footnote, or set FOOTNOTE_HOME to another folder.",
        )
    copy = _backup(connection, path, found) if found else None
    connection.execute("BEGIN IMMEDIATE")
    try:
        # another process may have migrated while this one waited for the lock
        for number in range(_format(connection), len(steps)):
            steps[number](connection)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return copy


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _backup(connection: sqlite3.Connection, path: Path, found: int) -> Path:
    copy = path.with_name(f"{path.name}.format{found}")
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    target = sqlite3.connect(copy)
    try:
        connection.backup(target)
    finally:
        target.close()
    return copy
