"""One file → pages of text with headings, tables and offsets. What the file is, its content decides, not its name.

Readers are imported when their format first comes up; `preload()` imports them all but `unstructured`, which takes seconds.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from config import Settings
from errors import DocumentUnreadable
from ingest.parse.clean import clean_line
from ingest.parse.detect import detect
from ingest.types import Page, ParsedDocument

MAX_TEXT_RATIO = 100  # characters for each byte of a file of whose text only a part is kept; packed tables have 20 at most
_TEXT_CURE = "Leave it out, or replace it."


def parse(path: Path, name: str, settings: Settings, ask_time: Callable[[float], None] | None = None) -> ParsedDocument:
    """What the file at `path` says; `name` is its label. `ask_time(seconds)` is called before slow work such as OCR.

    Raises DocumentUnreadable: too_large, encrypted, damaged, scanned, bomb, unsupported, empty.
    """
    size = path.stat().st_size
    if size > settings.max_file_mb * 1_000_000:
        raise DocumentUnreadable(
            "too_large",
            f"It is {size / 1e6:,.0f} MB; files up to {settings.max_file_mb} MB are read.",
            "Split it, or raise max_file_mb.",
        )
    kind = detect(path, name)
    document = _read(kind, path, name, settings, ask_time)
    document = _limited(document, settings)
    if sum(len(page.text) for page in document.pages) >= max(settings.max_chars, MAX_TEXT_RATIO * size):
        raise DocumentUnreadable(
            "bomb", f"The file looks like a bomb: its {size:,} bytes say more than {settings.max_chars:,} characters.", "Leave it out."
        )
    if not any(page.text.strip() for page in document.pages):
        raise DocumentUnreadable("empty", "The file opens, but it holds no text.", _TEXT_CURE)
    if not document.title:
        document = dataclasses.replace(document, title=_title(document, name))
    return document


def _read(kind: str, path: Path, name: str, settings: Settings, ask_time: Callable[[float], None] | None) -> ParsedDocument:
    try:
        if kind == "pdf":
            from ingest.parse.pdf import read_pdf

            return read_pdf(path, settings, ask_time)
        if kind == "docx":
            from ingest.parse.word import read_word

            return read_word(path)
        if kind == "pptx":
            from ingest.parse.slides import read_slides

            return read_slides(path)
        if kind in ("odt", "ods", "odp"):
            from ingest.parse.odf import read_odf

            return read_odf(path, kind)
        if kind in ("xlsx", "xls", "csv", "tsv"):
            return _read_sheet(kind, path)
        if kind in ("eml", "mbox", "msg"):
            from ingest.parse import mail

            if kind == "msg":
                return mail.read_msg(path)
            return (mail.read_mbox if kind == "mbox" else mail.read_eml)(path.read_bytes())
        if kind == "epub":
            from ingest.parse.epub import read_epub

            return read_epub(path)
        if kind in ("doc", "ppt"):
            from ingest.parse.legacy import MODERN, convert

            document = _read(MODERN[kind], convert(path, kind), name, settings, ask_time)
            return dataclasses.replace(document, kind=kind)
        if kind == "image":
            from ingest.parse.ocr import read_image

            return read_image(path, settings, ask_time)
        if kind in ("md", "html", "rtf", "rst", "txt", "json", "xml", "vtt", "adoc"):
            return _read_text(kind, path)
    except RecursionError:
        raise DocumentUnreadable("damaged", "Its parts are nested too deep to be read.", "Save it in another format.") from None
    except MemoryError:
        raise DocumentUnreadable("out_of_memory", "It needs more memory than a file may take.", "Split it.") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise DocumentUnreadable("damaged", f"The file is damaged ({error}).", "Open it in its program and save it again.") from None
    raise DocumentUnreadable("unsupported", f"Footnote does not read {kind} files.", "Save it as pdf.")


def _read_text(kind: str, path: Path) -> ParsedDocument:
    from ingest.parse import text as plain
    from ingest.parse.decode import decode
    from ingest.parse.layout import lay_out

    data = path.read_bytes()
    if kind in ("md", "html", "rtf", "rst"):
        from ingest.parse.markdown import read_markdown
        from ingest.parse.pandoc import read_with_pandoc
        from ingest.parse.rtf import read_rtf
        from ingest.parse.web import read_html

        if kind == "rtf":
            page = read_rtf(data)
        elif kind == "rst":
            page = read_with_pandoc(decode(data), kind)
        else:
            page = read_markdown(decode(data)) if kind == "md" else read_html(decode(data, declared=True))
        warnings = (f"{page.hidden} hidden {'element was' if page.hidden == 1 else 'elements were'} left out",) if page.hidden else ()
        return ParsedDocument(kind, page.title, (lay_out(page.blocks),), page.date, page.authors, warnings)
    if kind == "xml":
        blocks = plain.read_xml(data)
    else:
        read = {"json": plain.read_json, "vtt": plain.read_subtitles, "adoc": plain.read_asciidoc}.get(kind, plain.read_text)
        blocks = read(decode(data))
    return ParsedDocument(kind, "", (lay_out(blocks),))


def _read_sheet(kind: str, path: Path) -> ParsedDocument:
    from ingest.parse import sheets
    from ingest.parse.decode import decode

    if kind == "xlsx":
        return sheets.read_xlsx(path)
    if kind == "xls":
        return sheets.read_xls(path)
    return sheets.read_delimited(decode(path.read_bytes()), kind)


def _limited(document: ParsedDocument, settings: Settings) -> ParsedDocument:
    """The document cut to `max_pages` and `max_chars`, which a warning says."""
    pages: list[Page] = []
    left = settings.max_chars
    for page in document.pages[: settings.max_pages]:
        if len(page.text) > left:
            pages.append(_cut(page, left))
            break
        pages.append(page)
        left -= len(page.text)
    whole = len(pages) == len(document.pages) and sum(len(page.text) for page in pages) == sum(len(page.text) for page in document.pages)
    if whole:
        return document
    warning = f"only the first {settings.max_chars:,} characters on {settings.max_pages:,} pages were kept"
    return dataclasses.replace(document, pages=tuple(pages), warnings=(*document.warnings, warning))


def _cut(page: Page, length: int) -> Page:
    return Page(
        page.number,
        page.text[:length],
        tuple(heading for heading in page.headings if heading.start + len(heading.text) <= length),
        tuple(table for table in page.tables if table.end <= length),
    )


def _title(document: ParsedDocument, name: str) -> str:
    """The first heading where it stands at the top, else the file's name without its extension."""
    for page in document.pages[:1]:
        for heading in page.headings[:1]:
            if heading.start < 200:
                return heading.text[:200]
    return clean_line(PurePosixPath(name).stem.replace("_", " ")) or name


def preload() -> None:
    """Imports every reader, so that a process forked afterwards has them. For `unstructured` see `elements.py`."""
    import openpyxl  # noqa: F401
    import oxmsg  # noqa: F401
    import xlrd  # noqa: F401

    from ingest.parse import epub, legacy, mail, markdown, odf, pandoc, pdf, rtf, sheets, slides, text, unpack, web, word  # noqa: F401
