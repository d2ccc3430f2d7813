"""One version's documents, pages' text, passages and keyword index, in one SQLite file.

`Draft` edits the file before it is published; `Catalog` reads it afterwards and never writes. A page's text is not stored
by itself: its passages, joined, are the page.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sqlite3
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import IndexDamaged
from ingest.editions import Edition, editions, sketch
from ingest.types import Heading, Page, ParsedDocument, ParseFailure, Passage, SourceFile, Table

HEADING_WEIGHT = 0.5  # of a word in the title, the section or the file name, against 1 for one in the text
PACK_ROWS = 20_000  # passages up to which the keyword index is packed each time: a second
PACK_SHARE = 0.02  # of the passages that may come and go before a larger one is packed; packing a million takes a minute
QUERY_TERMS = 64  # words of a question that are looked up; more make it no clearer, only slower
LOOKED_AHEAD = 4  # times the passages wanted, of all documents, where half of the passages or more are allowed: then that is enough
SETS_REMEMBERED = 8  # of documents that searches were limited to, with their passages' numbers: 8 MB each at a million passages
LOCAL_USER = "local"

SCHEMA = """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, path TEXT NOT NULL, absolute TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL,
    status TEXT NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL, date TEXT, people TEXT NOT NULL,
    pages INTEGER NOT NULL, passages INTEGER NOT NULL, tables INTEGER NOT NULL, ocr_pages INTEGER NOT NULL,
    reason TEXT NOT NULL, cure TEXT NOT NULL, warnings TEXT NOT NULL,
    added TEXT NOT NULL, owner TEXT NOT NULL, groups TEXT NOT NULL,
    UNIQUE (source, path)
);
CREATE TABLE pages (
    document_id INTEGER NOT NULL REFERENCES documents (id), position INTEGER NOT NULL,
    number INTEGER, headings TEXT NOT NULL, tables TEXT NOT NULL,
    PRIMARY KEY (document_id, position)
) WITHOUT ROWID;
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id INTEGER NOT NULL, position INTEGER NOT NULL,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    section TEXT NOT NULL, context TEXT NOT NULL, text TEXT NOT NULL,
    heading TEXT NOT NULL, bigrams TEXT NOT NULL, embedding BLOB NOT NULL
);
CREATE INDEX passages_by_place ON passages (document_id, position, start);
CREATE VIRTUAL TABLE words USING fts5 (
    heading, text, bigrams, content = 'passages', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER passage_added AFTER INSERT ON passages BEGIN
    INSERT INTO words (rowid, heading, text, bigrams) VALUES (new.id, new.heading, new.text, new.bigrams);
END;
CREATE TRIGGER passage_removed AFTER DELETE ON passages BEGIN
    INSERT INTO words (words, rowid, heading, text, bigrams) VALUES ('delete', old.id, old.heading, old.text, old.bigrams);
END;
CREATE TRIGGER passage_renamed AFTER UPDATE OF heading, text, bigrams ON passages BEGIN
    INSERT INTO words (words, rowid, heading, text, bigrams) VALUES ('delete', old.id, old.heading, old.text, old.bigrams);
    INSERT INTO words (rowid, heading, text, bigrams) VALUES (new.id, new.heading, new.text, new.bigrams);
END;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# What documents have to do with each other. Made where it is missing: an older version's copy has neither table.
RELATED = """
CREATE TABLE IF NOT EXISTS sketches (document_id INTEGER PRIMARY KEY, sketch BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS editions (document_id INTEGER PRIMARY KEY, other_id INTEGER NOT NULL, kind TEXT NOT NULL, overlap REAL NOT NULL);
"""

# Han, kana, Hangul: written without spaces between words (or, Hangul, with endings glued on), so indexed as pairs of characters
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003134f"
_CJK_RUN = re.compile(f"[{_CJK}]+")
_WORD = re.compile(r"[^\W_]+")
_MIXED = re.compile(r"^[^\W\d_]+(\d{2,})$")  # "FY2019" also asks for 2019
_COMPOUND = re.compile(r"[^\W_]+(?:[-./_:#&+'’][^\W_]+)+")
STOP_WORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my of on or our "
    "shall should so that the their them then there these they this those to us was we were what when where which who whom whose "
    "why will with would you your".split()
)


@dataclass(frozen=True, slots=True)
class Document:
    """One file of the collection. `document` is the name shown; `status`: "ready", or "failed" (reason and cure say why)."""

    id: int
    source: str
    path: str
    document: str
    kind: str
    title: str
    date: str | None
    sha256: str
    size: int  # bytes
    mtime_ns: int
    pages: int
    passages: int
    tables: int
    ocr_pages: int
    status: str
    reason: str
    cure: str
    warnings: tuple[str, ...]
    people: tuple[str, ...]
    added: str  # ISO, when this content entered the collection
    owner: str
    groups: tuple[str, ...]
    absolute: Path  # where the original lies


@dataclass(frozen=True, slots=True)
class DraftPassage:
    """A passage that has no number yet."""

    position: int  # of its page in the document, from 0
    start: int
    end: int
    section: str
    context: str
    text: str
    embedding: bytes  # key of its vector in the cache


_DOCUMENT_COLUMNS = (
    "id, source, path, kind, title, date, sha256, size, mtime_ns, pages, passages, tables, ocr_pages, status, reason, cure, "
    "warnings, people, added, owner, groups, absolute"
)


class Catalog:
    """A published catalog, read only. Safe to use from several threads."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._passage_ids: dict[frozenset[int], array[int]] = {}
        self._documents = {each.id: each for each in _read_documents(database)}
        self._editions = {each.document: each for each in _read_editions(database)}

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Opens a sealed file; raises IndexDamaged."""
        try:
            database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
            return cls(database)
        except sqlite3.Error as error:
            raise IndexDamaged(f"{path} cannot be read ({error}).", "Run: python -m ingest verify") from None

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def documents(self) -> list[Document]:
        """Every document, failed ones too, in order of the name shown."""
        return sorted(self._documents.values(), key=lambda each: (each.document.lower(), each.document))

    def document(self, document_id: int) -> Document:
        """Raises KeyError for an unknown number."""
        return self._documents[document_id]

    def editions(self) -> dict[int, Edition]:
        """Document id → the newer edition of it, or the document it is much like; only those that have one."""
        return self._editions

    def match(self, glob: str) -> set[int]:
        """Documents whose name fits `glob`: the name shown, or the bare file name where `glob` has no slash, in any case."""
        wanted = glob.strip().lower()
        found: set[int] = set()
        for each in self._documents.values():
            names = {each.document.lower(), f"{each.source}/{each.path}".lower()}
            if "/" not in wanted:
                names.add(each.path.lower().rpartition("/")[2])
            if any(name == wanted or fnmatch.fnmatchcase(name, wanted) for name in names):
                found.add(each.id)
        return found

    def pages(self, document_id: int) -> list[Page]:
        """All pages of a document in order, with their text."""
        return _read_pages(lambda statement: self._rows(statement, (document_id,)))

    def page(self, document_id: int, page_number: int | None) -> Page:
        """One page with its text; `page_number` is None for a document without pages. Raises KeyError for an unknown page."""
        rows = self._rows(
            "SELECT position, number, headings, tables FROM pages WHERE document_id = ? AND number IS ?",
            (document_id, page_number),
        )
        if not rows:
            raise KeyError((document_id, page_number))
        position, number, headings, tables = rows[0]
        texts = self._rows("SELECT text FROM passages WHERE document_id = ? AND position = ? ORDER BY start", (document_id, position))
        return _page(number, "".join(text for (text,) in texts), headings, tables)

    def passages(self, ids: Sequence[int]) -> list[Passage]:
        """The passages with these numbers, in the order given; unknown numbers are left out."""
        rows = self._rows(
            'SELECT passages.id, passages.document_id, number, section, text, start, "end", context FROM passages '
            "JOIN pages USING (document_id, position) WHERE passages.id IN (SELECT value FROM json_each(?))",
            (json.dumps([int(each) for each in ids]),),
        )
        found: dict[int, Passage] = {}
        for passage_id, document_id, number, section, text, start, end, context in rows:
            document = self._documents[document_id]
            found[passage_id] = Passage(
                id=passage_id,
                document=document.document,
                document_id=document_id,
                title=document.title,
                page=number,
                section=section,
                text=text,
                start=start,
                end=end,
                date=document.date,
                context=context,
            )
        return [found[each] for each in ids if each in found]

    def passages_of(self, document_id: int) -> list[Passage]:
        """All passages of a document, in reading order."""
        rows = self._rows("SELECT id FROM passages WHERE document_id = ? ORDER BY position, start", (document_id,))
        return self.passages([each for (each,) in rows])

    def neighbours(self, passage_id: int) -> list[Passage]:
        """The passage before and the one after, in the same document; fewer at its ends."""
        rows = self._rows("SELECT document_id, position, start FROM passages WHERE id = ?", (passage_id,))
        if not rows:
            return []
        before = self._rows(
            "SELECT id FROM passages WHERE document_id = ? AND (position, start) < (?, ?) ORDER BY position DESC, start DESC LIMIT 1",
            rows[0],
        )
        after = self._rows(
            "SELECT id FROM passages WHERE document_id = ? AND (position, start) > (?, ?) ORDER BY position, start LIMIT 1",
            rows[0],
        )
        return self.passages([each for (each,) in before + after])

    def search_keywords(self, question: str, keep: int, document_ids: Collection[int] | None = None) -> list[tuple[int, float]]:
        """(passage id, BM25 score) of passages that hold any word of `question`, best first; higher is better.

        `document_ids` limits the search, inside the index; None searches all. The question is data, never query syntax.
        """
        query = keyword_query(question)
        if not query or keep <= 0:
            return []
        rank = f"bm25({HEADING_WEIGHT}, 1.0, 1.0)"
        everything = sum(each.passages for each in self._documents.values())
        among = None if document_ids is None else set(document_ids)
        if among is None or sum(self._documents[each].passages for each in among if each in self._documents) * 2 >= everything:
            ahead = keep if among is None else keep * LOOKED_AHEAD
            best = self._search(
                "SELECT rowid, rank FROM words WHERE words MATCH ? AND rank MATCH ? ORDER BY rank, rowid LIMIT ?", (query, rank, ahead)
            )
            if among is None:
                return best
            documents = self.documents_of([number for number, _ in best])
            allowed = [each for each in best if documents[each[0]] in among]
            if len(allowed) >= keep or len(best) < ahead:
                return allowed[:keep]
        return self._search(
            "SELECT rowid, rank FROM words WHERE words MATCH ? AND rank MATCH ? "
            # asked of each row found, best first; "rowid IN" would have SQLite search the words once for each passage allowed
            "AND (SELECT document_id FROM passages WHERE id = words.rowid) IN (SELECT value FROM json_each(?)) "
            "ORDER BY rank, rowid LIMIT ?",
            (query, rank, json.dumps(sorted(among)), keep),
        )

    def documents_of(self, passage_ids: Collection[int]) -> dict[int, int]:
        """Passage id → id of its document."""
        return dict(self._rows(
            "SELECT id, document_id FROM passages WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(sorted(passage_ids)),)
        ))

    def passage_ids(self, document_ids: Collection[int]) -> array[int]:
        """Numbers of all passages of these documents, ascending; what a vector search may be limited to. The last few are remembered:
        a person's documents stay the same from question to question, and may hold a million passages.
        """
        wanted = frozenset(document_ids)
        with self._lock:
            known = self._passage_ids.get(wanted)
        if known is None:
            rows = self._rows(
                "SELECT id FROM passages WHERE document_id IN (SELECT value FROM json_each(?)) ORDER BY id", (json.dumps(sorted(wanted)),)
            )
            known = array("q", (each for (each,) in rows))
            with self._lock:
                self._passage_ids[wanted] = known
                while len(self._passage_ids) > SETS_REMEMBERED:
                    del self._passage_ids[next(iter(self._passage_ids))]
        return known

    def fact(self, name: str) -> str | None:
        """A fact about how this catalog was made."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def _search(self, statement: str, parameters: tuple[object, ...]) -> list[tuple[int, float]]:
        return [(int(passage_id), -float(score)) for passage_id, score in self._rows(statement, parameters)]

    def _rows(self, statement: str, parameters: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock:
            try:
                return self._database.execute(statement, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.ProgrammingError):
                    raise
                raise IndexDamaged(f"The catalog cannot be read ({error}).", "Run: python -m ingest verify") from None


class Draft:
    """A catalog being made. Nothing is kept until `commit`; one thread only."""

    def __init__(self, path: Path) -> None:
        new = not path.exists()
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = MEMORY")  # a draft that a crash leaves behind is thrown away
        self._database.execute("PRAGMA synchronous = OFF")  # publishing makes it durable
        self._database.execute("PRAGMA secure_delete = ON")  # removed text is really gone from the file
        if new:
            self._database.executescript(f"PRAGMA page_size = 8192; BEGIN; {SCHEMA} COMMIT;")
        self._database.executescript(RELATED)
        self._database.execute("BEGIN")
        row = self._database.execute("SELECT value FROM facts WHERE name = 'unpacked'").fetchone()
        self._unpacked = int(row[0]) if row else 0  # passages that came or went since the keyword index was packed

    def documents(self) -> list[Document]:
        return list(_read_documents(self._database))

    def add(
        self,
        file: SourceFile,
        parsed: ParsedDocument,
        passages: Iterable[DraftPassage],
        *,
        added: str,
        replacing: Document | None = None,
    ) -> list[int]:
        """Adds a document with its pages and passages; returns the passages' numbers, in order.

        In place of `replacing` it keeps that one's number, owner and groups.
        """
        document_id = self._insert(file, "ready", parsed, ParseFailure("", "", ""), added, replacing)
        self._database.executemany(
            "INSERT INTO pages VALUES (?, ?, ?, ?, ?)",
            [
                (
                    document_id,
                    position,
                    page.number,
                    _dump((h.start, h.level, h.text) for h in page.headings),
                    _dump((t.start, t.end, t.header) for t in page.tables),
                )
                for position, page in enumerate(parsed.pages)
            ],
        )
        return self.add_passages(document_id, parsed.title, file.path, passages)

    def add_passages(self, document_id: int, title: str, path: str, passages: Iterable[DraftPassage]) -> list[int]:
        ids: list[int] = []
        for each in passages:
            heading = heading_words(title, each.section, path)
            row = self._database.execute(
                'INSERT INTO passages (document_id, position, start, "end", section, context, text, heading, bigrams, embedding) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    document_id,
                    each.position,
                    each.start,
                    each.end,
                    each.section,
                    each.context,
                    each.text,
                    heading,
                    bigrams(f"{heading}\n{each.text}"),
                    each.embedding,
                ),
            )
            ids.append(int(row.lastrowid or 0))
        self._unpacked += len(ids)
        self._database.execute("UPDATE documents SET passages = ? WHERE id = ?", (len(ids), document_id))
        return ids

    def fail(self, file: SourceFile, failure: ParseFailure, *, added: str, replacing: Document | None = None) -> None:
        """Adds a file that gave no text, so that it can be shown with reason and cure; `replacing` as in `add`."""
        name = file.path.rpartition("/")[2]
        parsed = ParsedDocument(kind=failure.kind, title=name, pages=())
        self._insert(file, "failed", parsed, failure, added, replacing)

    def remove(self, document_id: int) -> None:
        """Removes a document and everything that came from it."""
        self._database.execute("DELETE FROM sketches WHERE document_id = ?", (document_id,))
        self._database.execute("DELETE FROM editions WHERE ? IN (document_id, other_id)", (document_id,))
        self._remove_passages(document_id)
        self._database.execute("DELETE FROM pages WHERE document_id = ?", (document_id,))
        self._database.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def move(self, document_id: int, file: SourceFile) -> None:
        """The same bytes at another path: only the name changes, and with it the words by which it is found."""
        (title,) = self._database.execute("SELECT title FROM documents WHERE id = ?", (document_id,)).fetchone()
        self.update_file(document_id, file)
        for passage_id, section, text in self._database.execute(
            "SELECT id, section, text FROM passages WHERE document_id = ?", (document_id,)
        ).fetchall():
            heading = heading_words(title, section, file.path)
            self._database.execute(
                "UPDATE passages SET heading = ?, bigrams = ? WHERE id = ?", (heading, bigrams(f"{heading}\n{text}"), passage_id)
            )
            self._unpacked += 1

    def update_file(self, document_id: int, file: SourceFile) -> None:
        """Where the file lies, and its size and time as last seen."""
        self._database.execute(
            "UPDATE documents SET source = ?, path = ?, absolute = ?, size = ?, mtime_ns = ?, sha256 = ? WHERE id = ?",
            (file.source, file.path, _place(file.place), file.size, file.mtime_ns, file.sha256, document_id),
        )

    def retitle(self, document_id: int, title: str) -> None:
        """Another title; the passages are to be replaced by the caller."""
        self._database.execute("UPDATE documents SET title = ? WHERE id = ?", (title, document_id))

    def pages(self, document_id: int) -> list[Page]:
        """All pages of a document in order, with their text."""
        return _read_pages(lambda statement: self._database.execute(statement, (document_id,)).fetchall())

    def replace_passages(self, document_id: int, title: str, path: str, passages: Sequence[DraftPassage]) -> None:
        """Cuts the same pages in another way; the joined text must stay what it is."""
        self._remove_passages(document_id)
        self.add_passages(document_id, title, path, passages)

    def keys_of(self, document_id: int) -> list[bytes]:
        """Keys of the vectors of a document's passages."""
        rows = self._database.execute("SELECT embedding FROM passages WHERE document_id = ?", (document_id,))
        return [bytes(key) for (key,) in rows]

    def passages(self) -> list[tuple[int, bytes]]:
        """(number, key of the vector) of every passage, ascending."""
        return [(int(a), bytes(b)) for a, b in self._database.execute("SELECT id, embedding FROM passages ORDER BY id")]

    def compare(self, anew: bool = False) -> list[Edition]:
        """Says which documents are editions of one, and keeps it. Only documents without a sketch are read, all where `anew`."""
        if anew:
            self._database.execute("DELETE FROM sketches")
        ready = [each for each in self.documents() if each.status == "ready"]
        sketches = {int(a): bytes(b) for a, b in self._database.execute("SELECT document_id, sketch FROM sketches")}
        for document in ready:
            if document.id not in sketches:
                sketches[document.id] = sketch(page.text for page in self.pages(document.id))
                self._database.execute("INSERT INTO sketches VALUES (?, ?)", (document.id, sketches[document.id]))
        found = editions(ready, sketches)
        self._database.execute("DELETE FROM editions")
        rows = [(each.document, each.other, each.kind, each.overlap) for each in found]
        self._database.executemany("INSERT INTO editions VALUES (?, ?, ?, ?)", rows)
        return found

    def set_fact(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def seal(self, erase: bool = False) -> None:
        """Closes the file, its keyword index packed where `erase` is asked for, where that is quick, or where much has changed.

        What was removed is found no more and counts no more, packed or not; in an index that is not, its words are still in the file.
        """
        (passages,) = self._database.execute("SELECT count(*) FROM words_docsize").fetchone()
        if erase or passages <= PACK_ROWS or self._unpacked > PACK_SHARE * passages:
            self._database.execute("INSERT INTO words (words) VALUES ('optimize')")
            self._unpacked = 0
        self.set_fact("unpacked", str(self._unpacked))
        self._database.execute("COMMIT")
        self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.close()

    def close(self) -> None:
        """Closes without keeping what was not sealed."""
        self._database.close()

    def _remove_passages(self, document_id: int) -> None:
        self._unpacked += self._database.execute("DELETE FROM passages WHERE document_id = ?", (document_id,)).rowcount

    def _insert(
        self,
        file: SourceFile,
        status: str,
        parsed: ParsedDocument,
        failure: ParseFailure,
        added: str,
        replacing: Document | None,
    ) -> int:
        if replacing:
            self.remove(replacing.id)
        row = self._database.execute(
            "INSERT INTO documents (id, source, path, absolute, size, mtime_ns, sha256, status, kind, title, date, people, "
            "pages, passages, tables, ocr_pages, reason, cure, warnings, added, owner, groups) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,0,?,?,?,?,?,?,?,?)",
            (
                replacing.id if replacing else None,
                file.source,
                file.path,
                _place(file.place),
                file.size,
                file.mtime_ns,
                file.sha256,
                status,
                parsed.kind,
                parsed.title,
                parsed.date,
                _dump(parsed.people),
                len(parsed.pages),
                sum(len(page.tables) for page in parsed.pages),
                parsed.ocr_pages,
                failure.reason,
                failure.cure,
                _dump(parsed.warnings),
                added,
                replacing.owner if replacing else LOCAL_USER,
                _dump(replacing.groups if replacing else ()),
            ),
        )
        return int(row.lastrowid or 0)


def check(path: Path) -> list[str]:
    """What is wrong inside a catalog file, in plain words; empty where nothing is."""
    faults: list[str] = []
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            faults += [f"{path.name}: {row[0]}" for row in database.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
            place: tuple[int, int] | None = None
            expected = 0
            for document_id, position, start, end, text in database.execute(
                'SELECT document_id, position, start, "end", text FROM passages ORDER BY document_id, position, start'
            ):
                if (document_id, position) != place:
                    place, expected = (document_id, position), 0
                if start != expected or end - start != len(text):
                    faults.append(f"{path.name}: the passages of document {document_id} do not join to its pages")
                    break
                expected = end
            (indexed,) = database.execute("SELECT count(*) FROM words_docsize").fetchone()
            (stored,) = database.execute("SELECT count(*) FROM passages").fetchone()
            if indexed != stored:
                faults.append(f"{path.name}: {stored} passages, but {indexed} of them in the keyword index")
        finally:
            database.close()
    except sqlite3.Error as error:
        faults.append(f"{path.name}: {error}")
    return faults


def keyword_query(question: str) -> str:
    """The words of `question` as an FTS5 query that matches any of them; "" where it has none."""
    pairs = [pair for run in _CJK_RUN.findall(question) for pair in _pairs(run)]
    rest = _CJK_RUN.sub(" ", question)
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(rest)))
    telling = [word for word in words if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())]
    terms = [f'"{word}"' for word in (telling or ([] if pairs else words))]
    terms += [f'"{number}"' for word in telling for number in _MIXED.findall(word)]
    terms += [f'"{word}"' for word in _joined(rest.lower())]
    # "KB-2024-17" also counts as one thing, so that the passage with all of it is ahead of those with a part
    terms += [f'"{" ".join(_WORD.findall(each))}"' for each in dict.fromkeys(_COMPOUND.findall(rest.lower()))]
    terms += [f'bigrams : "{pair}"' if len(pair) > 1 else f'bigrams : "{pair}" *' for pair in dict.fromkeys(pairs)]
    return " OR ".join(terms[:QUERY_TERMS])


def _joined(text: str) -> list[str]:
    """Two and three neighbouring words written as one: files are called "BESTBUY_2019.pdf" and people ask about Best Buy."""
    words = _WORD.findall(text)
    runs = [words[at : at + width] for width in (2, 3) for at in range(len(words) - width + 1)]
    return list(dict.fromkeys("".join(run) for run in runs if not STOP_WORDS.intersection(run)))


def bigrams(text: str) -> str:
    """The pairs of neighbouring characters in the Chinese, Japanese and Korean runs of `text`, as words."""
    return " ".join(pair for run in _CJK_RUN.findall(text) for pair in _pairs(run))


def heading_words(title: str, section: str, path: str) -> str:
    """What a passage is also found by: title, section, and the words of its file's name and folders."""
    return f"{title}\n{section}\n{' '.join(_WORD.findall(path))}"


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _read_documents(database: sqlite3.Connection) -> Iterable[Document]:
    rows = database.execute(f"SELECT {_DOCUMENT_COLUMNS} FROM documents ORDER BY id").fetchall()
    sources: dict[str, set[str]] = {}
    for row in rows:
        sources.setdefault(row[2], set()).add(row[1])
    for (
        number,
        source,
        path,
        kind,
        title,
        date,
        sha256,
        size,
        mtime_ns,
        pages,
        passages,
        tables,
        ocr_pages,
        status,
        reason,
        cure,
        warnings,
        people,
        added,
        owner,
        groups,
        absolute,
    ) in rows:
        yield Document(
            id=number,
            source=source,
            path=path,
            document=f"{source}/{path}" if len(sources[path]) > 1 else path,
            kind=kind,
            title=title,
            date=date,
            sha256=sha256,
            size=size,
            mtime_ns=mtime_ns,
            pages=pages,
            passages=passages,
            tables=tables,
            ocr_pages=ocr_pages,
            status=status,
            reason=reason,
            cure=cure,
            warnings=tuple(json.loads(warnings)),
            people=tuple(json.loads(people)),
            added=added,
            owner=owner,
            groups=tuple(json.loads(groups)),
            absolute=Path(os.fsdecode(absolute)),
        )


def _read_editions(database: sqlite3.Connection) -> Iterable[Edition]:
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'editions'").fetchone():  # not in versions of before there was one
        for document, other, kind, overlap in database.execute("SELECT document_id, other_id, kind, overlap FROM editions"):
            yield Edition(document, other, kind, overlap)


def _read_pages(rows: Callable[[str], list[tuple]]) -> list[Page]:  # type: ignore[type-arg]
    texts: dict[int, list[str]] = {}
    for position, text in rows("SELECT position, text FROM passages WHERE document_id = ? ORDER BY position, start"):
        texts.setdefault(position, []).append(text)
    found = rows("SELECT position, number, headings, tables FROM pages WHERE document_id = ? ORDER BY position")
    return [_page(number, "".join(texts.get(position, ())), headings, tables) for position, number, headings, tables in found]


def _page(number: int | None, text: str, headings: str, tables: str) -> Page:
    return Page(
        number=number,
        text=text,
        headings=tuple(Heading(start, level, heading) for start, level, heading in json.loads(headings)),
        tables=tuple(Table(start, end, header) for start, end, header in json.loads(tables)),
    )


def _place(path: Path) -> str | bytes:
    """A path as SQLite can keep it: text, or bytes where the name is no Unicode."""
    try:
        str(path).encode()
        return str(path)
    except UnicodeEncodeError:
        return os.fsencode(path)


def _dump(values: Iterable[object]) -> str:
    return json.dumps(list(values), ensure_ascii=False)
