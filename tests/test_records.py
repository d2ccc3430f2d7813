"""Conversations, feedback and receipts survive what happens to them."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest

from errors import FootnoteError, IndexTooNew, UsageError
from records import Records, Spent
from records.migrations import MIGRATIONS, migrate


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "home" / "records.sqlite")


def a_conversation(records: Records, user: str = "local", title: str = "How many days of leave?") -> str:
    conversation = records.create_conversation(user, "default", title)
    records.add_message(conversation, "user", title, user)
    return conversation


def test_a_conversation_is_still_there_after_reopening(records: Records) -> None:
    """A restart loses no conversation, message or answer."""
    conversation = a_conversation(records)
    message = records.add_message(conversation, "assistant", "", "local", status="writing", answer_id="a1")
    records.update_message(message, text="25 days. [1]", status="done", answer={"found": True, "citations": [{"n": 1}]})
    records.close()
    again = Records(records.path)
    assert [each.title for each in again.conversations("local")] == ["How many days of leave?"]
    question, answer = again.messages(conversation, "local")
    assert (question.role, question.text, question.answer) == ("user", "How many days of leave?", None)
    assert (answer.text, answer.status, answer.answer_id) == ("25 days. [1]", "done", "a1")
    assert answer.answer == {"found": True, "citations": [{"n": 1}]}


def test_another_persons_conversation_does_not_exist(records: Records) -> None:
    """Reading, renaming, deleting and adding to somebody else's conversation all see nothing."""
    conversation = a_conversation(records, "anna")
    assert records.conversation(conversation, "ben") is None
    assert records.messages(conversation, "ben") == []
    assert records.message(1, "ben") is None
    records.rename_conversation(conversation, "mine now", "ben")
    records.delete_conversation(conversation, "ben")
    with pytest.raises(UsageError):
        records.add_message(conversation, "user", "hello", "ben")
    assert [each.title for each in records.conversations("anna")] == ["How many days of leave?"]


def test_the_conversation_spoken_in_last_is_listed_first(records: Records) -> None:
    """A new message moves its conversation to the top."""
    first, second = a_conversation(records, title="first"), a_conversation(records, title="second")
    assert [each.id for each in records.conversations("local")] == [second, first]
    records.add_message(first, "user", "and?", "local")
    assert [each.id for each in records.conversations("local")] == [first, second]


def test_conversations_are_found_by_name_and_by_what_was_said(records: Records) -> None:
    """Search looks at names and messages, and % is a character like any other."""
    leave, pay = a_conversation(records, title="Leave"), a_conversation(records, title="Pay")
    records.add_message(pay, "assistant", "A bonus of 10% is paid in March.", "local")
    assert [each.id for each in records.conversations("local", "leave")] == [leave]
    assert [each.id for each in records.conversations("local", "10%")] == [pay]
    assert records.conversations("local", "1%") == []


def test_a_deleted_conversation_can_be_brought_back(records: Records) -> None:
    """Delete hides, undo shows again with every message."""
    conversation = a_conversation(records)
    records.delete_conversation(conversation, "local")
    assert records.conversations("local") == []
    assert records.messages(conversation, "local") == []
    assert records.restore_conversation(conversation, "local")
    assert len(records.messages(conversation, "local")) == 1


def test_an_erased_conversation_leaves_only_digests(records: Records) -> None:
    """After the time for undo no text is left in any file, the chain still closes, and undo says it is too late."""
    conversation = a_conversation(records, title="the secret merger")
    message = records.add_message(conversation, "assistant", "the secret price", "local")
    records.add_feedback(message, "down", "local", "wrong", "the secret note")
    kept = records.add_receipt({"question": "lunch?"}, "local", "another")
    gone = records.add_receipt({"question": "the secret merger"}, "local", conversation)
    records.delete_conversation(conversation, "local")
    assert records.erase_deleted(older_than_s=0) == 1
    assert not records.restore_conversation(conversation, "local")
    receipt = records.receipt(gone)
    assert receipt is not None and receipt.body is None and len(receipt.digest) == 64
    other = records.receipt(kept)
    assert other is not None and other.body == {"question": "lunch?"}
    assert records.verify_receipts() == []
    on_disk = b"".join(each.read_bytes() for each in records.path.parent.iterdir())
    assert b"secret" not in on_disk


def test_a_long_title_is_cut_at_a_word(records: Records) -> None:
    """Names stay readable and short."""
    conversation = records.create_conversation("local", "default", "word " * 60)
    found = records.conversation(conversation, "local")
    assert found is not None and len(found.title) <= 81 and found.title.endswith("word…")


def test_a_nameless_rename_is_refused(records: Records) -> None:
    """An empty name would leave a row nobody can click."""
    conversation = a_conversation(records)
    with pytest.raises(UsageError):
        records.rename_conversation(conversation, "  ", "local")


def test_an_answer_written_anew_loses_the_old_one(records: Records) -> None:
    """Asking again takes the old answer and its thumbs away at once; if it fails, nothing old is shown as if it were new."""
    conversation = a_conversation(records)
    message = records.add_message(conversation, "assistant", "old", "local", answer_id="a1", answer={"found": True})
    records.add_feedback(message, "down", "local")
    records.update_message(message, text="", status="writing", answer_id="a2")
    again = records.message(message, "local")
    assert again is not None and (again.text, again.answer, again.answer_id) == ("", None, "a2")
    assert records.feedback() == []


def test_answers_left_unfinished_are_found_by_their_engine(records: Records) -> None:
    """An engine that starts can tell which answers of its own died with the last one."""
    conversation = a_conversation(records)
    mine = records.add_message(conversation, "assistant", "", "local", status="writing", answer_id="abc-1")
    records.add_message(conversation, "assistant", "", "local", status="writing", answer_id="def-1")
    records.add_message(conversation, "assistant", "25 days.", "local", answer_id="abc-0")
    assert [each.id for each in records.unfinished("abc-")] == [mine]


def test_the_last_verdict_counts(records: Records) -> None:
    """Thumbs can be changed and taken back."""
    conversation = a_conversation(records)
    message = records.add_message(conversation, "assistant", "25 days.", "local")
    records.add_feedback(message, "up", "local")
    records.add_feedback(message, "down", "local", "wrong source")
    assert [(each.verdict, each.reason) for each in records.feedback(conversation)] == [("down", "wrong source")]
    records.remove_feedback(message, "local")
    assert records.feedback() == []


def test_unknown_words_are_refused(records: Records) -> None:
    """Roles, statuses and verdicts come from a list, so that later readers can rely on it."""
    conversation = a_conversation(records)
    with pytest.raises(UsageError):
        records.add_message(conversation, "system", "x", "local")
    with pytest.raises(UsageError):
        records.add_message(conversation, "user", "x", "local", status="maybe")
    with pytest.raises(UsageError):
        records.add_feedback(1, "sideways", "local")


def test_a_changed_receipt_is_found(records: Records) -> None:
    """Editing a body, removing a receipt or changing its time breaks the chain."""
    for number in range(3):
        records.add_receipt({"answer": f"answer {number}"})
    assert records.verify_receipts() == []
    with sqlite3.connect(records.path) as other:
        other.execute('UPDATE receipts SET body = \'{"answer":"better"}\' WHERE number = 2')
    assert len(records.verify_receipts()) == 1
    with sqlite3.connect(records.path) as other:
        other.execute("DELETE FROM receipts WHERE number = 2")
    assert len(records.verify_receipts()) == 1


def test_purging_a_document_erases_what_quotes_it(records: Records) -> None:
    """Receipts and stored answers that show the document lose their text; others of the same name elsewhere do not."""
    mine, other = records.create_conversation("local", "hr", "a"), records.create_conversation("local", "legal", "b")
    answer = {"answer": "25 days [1]", "citations": [{"n": 1, "document": "leave.pdf"}], "passages": []}
    quoted = records.add_message(mine, "assistant", "25 days [1]", "local", answer=answer)
    elsewhere = records.add_message(other, "assistant", "25 days [1]", "local", answer=answer)
    receipt = records.add_receipt({"collection": "hr", "passages": [{"document": "leave.pdf", "text": "25 days"}]})
    assert records.erase_document("hr", "leave.pdf") == 2
    erased, kept = records.message(quoted, "local"), records.message(elsewhere, "local")
    assert erased is not None and (erased.text, erased.answer, erased.status) == ("", None, "erased")
    assert kept is not None and kept.answer == answer
    found = records.receipt(receipt)
    assert found is not None and found.body is None
    assert records.verify_receipts() == []


def test_what_answers_took_outlives_their_texts(records: Records) -> None:
    """Deleting a conversation or purging a document takes the words, never the account of what was spent."""
    def receipt(user: str, collection: str, seconds: float, conversation: str = "") -> str:
        usage = {"prompt_tokens": 500.0, "answer_tokens": 20.0, "cpu_seconds": seconds}
        body = {"collection": collection, "model": "small", "usage": usage, "passages": [{"document": f"{collection}.pdf"}]}
        return records.add_receipt(body, user, conversation)

    conversation = a_conversation(records, "anna")
    kept, deleted, purged = receipt("anna", "hr", 1.0), receipt("anna", "hr", 2.0, conversation), receipt("ben", "legal", 4.0)
    records.delete_conversation(conversation, "anna")
    records.erase_deleted(older_than_s=0)
    records.erase_document("legal", "legal.pdf")

    found = [records.receipt(each) for each in (kept, deleted, purged)]
    assert [each.erased for each in found if each] == ["", "conversation", "document"]
    assert records.spent("user") == [Spent("ben", 1, 500, 20, 4), Spent("anna", 2, 1000, 40, 3)]
    assert [(each.group, each.answers, each.cpu_seconds) for each in records.spent("collection")] == [("legal", 1, 4), ("hr", 2, 3)]
    assert [each.group for each in records.spent("model")] == ["small"]
    today = records.spent("day")
    assert len(today) == 1 and records.spent("day", today[0].group) == today and records.spent("day", "9999") == []
    with pytest.raises(UsageError):
        records.spent("weather")


def test_receipts_of_the_first_format_are_counted_after_the_migration(tmp_path: Path) -> None:
    """A file from before receipts had columns of their own: bodies that are there fill them, the chain stays as it was."""
    path = tmp_path / "records.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, MIGRATIONS[:1])
    row = "INSERT INTO receipts (id, user, created, digest, link, body) VALUES (?, 'local', '2025-03-04T10:00:00', ?, ?, ?)"
    body = '{"collection":"hr","model":"small","usage":{"cpu_seconds":1.5,"prompt_tokens":300}}'
    connection.execute(row, ("a", "d", "l", body))
    connection.execute(row, ("b", "d", "l", None))
    connection.close()

    with Records(path) as records:
        assert records.spent("collection") == [Spent("hr", 1, 300, 0, 1.5), Spent("", 1, 0, 0, 0)]
        old = records.receipt("b")
        assert old is not None and old.body is None and old.erased == ""


def test_one_receipts_link_can_be_checked_alone(records: Records) -> None:
    """What is wrong elsewhere in the chain is not said of a receipt that is whole."""
    first, second = records.add_receipt({"answer": "a"}), records.add_receipt({"answer": "b"})
    with sqlite3.connect(records.path) as other:
        other.execute("UPDATE receipts SET body = '{}' WHERE id = ?", (first,))
    assert records.verify_receipts(second) == []
    assert records.verify_receipts(first) == [f"Receipt {first} is not what was written."]
    altered = records.receipt(first)
    assert altered is not None and altered.body is None and altered.erased == "altered"


def test_threads_share_one_object(records: Records) -> None:
    """Eight threads writing at once lose nothing, and receipts still form one chain."""
    conversation = a_conversation(records)

    def talk() -> None:
        for number in range(20):
            records.add_message(conversation, "user", str(number), "local")
            records.add_receipt({"n": number})

    threads = [threading.Thread(target=talk) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(records.messages(conversation, "local")) == 161
    assert records.verify_receipts() == []


def talk_from_another_process(path: Path, conversation: str) -> None:
    with Records(path) as records:
        for number in range(30):
            records.add_message(conversation, "user", str(number), "local")
            records.add_receipt({"n": number})


def test_processes_share_one_file(records: Records) -> None:
    """The engine and the web app write at once and neither is told "database is locked"."""
    conversation = a_conversation(records)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=talk_from_another_process, args=(records.path, conversation)) for _ in range(2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0]
    assert len(records.messages(conversation, "local")) == 61
    assert records.verify_receipts() == []


def open_and_close(path: Path) -> None:
    Records(path).close()


def test_processes_may_create_the_file_together(tmp_path: Path) -> None:
    """On a first run web app and engine open the file in the same moment; SQLite does not wait while the log is switched on.

    Seen as: "database is locked" in one of six processes, once in forty starts.
    """
    spawn = multiprocessing.get_context("fork")
    for number in range(10):
        path = tmp_path / f"{number}.sqlite"
        processes = [spawn.Process(target=open_and_close, args=(path,)) for _ in range(6)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        assert [each.exitcode for each in processes] == [0] * 6


def test_a_newer_format_is_refused_with_the_cure(records: Records) -> None:
    """An old program must not write into a file it does not understand."""
    with sqlite3.connect(records.path) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(IndexTooNew) as caught:
        Records(records.path)
    assert "newer Footnote" in caught.value.message and "Update" in caught.value.cure


def test_a_file_is_copied_before_it_is_migrated(records: Records) -> None:
    """The step runs on the file, the copy keeps the old format, and both hold the conversations."""
    a_conversation(records)
    records.close()

    def add_colour(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE conversations ADD COLUMN colour TEXT")

    connection = sqlite3.connect(records.path, isolation_level=None)
    copy = migrate(connection, records.path, (*MIGRATIONS, add_colour))
    assert copy is not None
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1
    assert connection.execute("SELECT title, colour FROM conversations").fetchall() == [("How many days of leave?", None)]
    with Records(copy) as old:
        assert len(old.conversations("local")) == 1


def test_a_failing_migration_changes_nothing(records: Records) -> None:
    """Half a migration would be a file nobody can read."""
    records.close()

    def add_then_break(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE conversations ADD COLUMN colour TEXT")
        raise RuntimeError("the disk went away")

    connection = sqlite3.connect(records.path, isolation_level=None)
    with pytest.raises(RuntimeError):
        migrate(connection, records.path, (*MIGRATIONS, add_then_break))
    connection.close()
    with Records(records.path) as again:
        assert again.conversations("local") == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A file that is no database is reported with its path and what to do, not with a traceback."""
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"this was once a database" * 100)
    with pytest.raises(FootnoteError) as caught:
        Records(path)
    assert str(path) in caught.value.message and caught.value.cure


def test_the_file_is_private(records: Records) -> None:
    """Conversations are readable by their owner only."""
    assert records.path.stat().st_mode & 0o777 == 0o600
    assert records.path.parent.stat().st_mode & 0o777 == 0o700
