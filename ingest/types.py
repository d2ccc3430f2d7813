"""The values that flow through ingestion, all frozen.

Offsets everywhere are character offsets (Python str indices) into the stored text of one page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file found by a scan. `path` is relative to the source's root, with forward slashes: a label, never opened."""

    source: str
    path: str
    absolute: Path
    size: int  # bytes
    mtime_ns: int
    sha256: str = ""  # of the bytes; "" until it had to be read
    inside: Path | None = None  # of a file in a container: the container with the file's name in it; `absolute` is then a copy

    @property
    def place(self) -> Path:
        """What is remembered of where it lies."""
        return self.inside or self.absolute


@dataclass(frozen=True, slots=True)
class Member:
    """A file that was inside another: its label there, and where a copy of it lies."""

    name: str
    file: Path
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What one file holds. `archive`: it is nothing but a container, and says nothing by itself; `left_out`: "name: reason"."""

    archive: bool
    members: tuple[Member, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading line of a page's text: it starts at `start`; level 1 is the highest."""

    start: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table's span in a page's text, one row a line; `header` is its header row as one line, "" where there is none."""

    start: int
    end: int
    header: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page (pdf), slide (pptx), or a whole document where the format has no pages (`number` None, exactly one)."""

    number: int | None
    text: str
    headings: tuple[Heading, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """What one file says. `date` is the document's own date (ISO, day precision) where it states one, else None."""

    kind: str  # "pdf", "docx", … decided by content
    title: str
    pages: tuple[Page, ...]
    date: str | None = None
    people: tuple[str, ...] = ()  # e-mail: From, To, Cc; else authors
    warnings: tuple[str, ...] = ()  # what was left out and why: "2 pages have no text", "attachment plan.zip was not read"
    ocr_pages: int = 0


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """Why a file gave no text. `kind` as in errors.DocumentUnreadable; `reason` and `cure` are sentences for the report."""

    kind: str
    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A slice of one page: page.text[start:end]. A page's passages in order, joined, are the page.

    `section` is the heading path above it, joined by " › "; `context` is what the embedder reads before the text (title,
    section, and a table's header row where the passage starts inside a table) and is never quoted.
    """

    id: int
    document: str  # as shown: the relative path, with "source/" before it where two sources of the collection share it
    document_id: int
    title: str
    page: int | None
    section: str
    text: str
    start: int
    end: int
    date: str | None = None
    context: str = ""
    newer: str = ""  # a newer edition of its document, as shown; "" where there is none, or none that the person may see

    @property
    def location(self) -> str:
        """"handbook.pdf, p. 4"."""
        return self.document if self.page is None else f"{self.document}, p. {self.page}"


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a refresh did with one file. `status`: added, changed, moved, unchanged, removed, failed."""

    document: str
    status: str
    pages: int = 0
    passages: int = 0
    tables: int = 0
    ocr_pages: int = 0
    seconds: float = 0.0
    reason: str = ""
    cure: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Related:
    """Two documents, as shown. `kind`: "older" (`other` is a newer edition of `document`) or "alike" (nearly the same, and nothing
    says which is newer). `overlap` is the share of their text that both have, from 0 to 1."""

    document: str
    other: str
    kind: str
    overlap: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a refresh did. `version` is the published version's name ("v000012"), the old one where nothing changed."""

    collection: str
    version: str
    files: tuple[FileReport, ...] = field(default=())
    warnings: tuple[str, ...] = ()
    passages: int = 0  # in the published version
    seconds: float = 0.0
    related: tuple[Related, ...] = ()

    def count(self, status: str) -> int:
        return sum(1 for each in self.files if each.status == status)
