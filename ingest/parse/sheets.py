"""Spreadsheets and delimited text (xlsx, xlsm, xls, ods, csv, tsv) → for each row a line `Header: value | Header: value`.

Every sheet stands under a heading with its name; hidden sheets are kept and say so; comments follow their sheet.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest.parse.clean import clean_line
from ingest.parse.layout import Block, lay_out
from ingest.parse.office import Container, attribute, child, children, damaged, local
from ingest.types import ParsedDocument

MAX_CELLS = 3_000_000  # of one file; the text of more is longer than any document kept
MAX_COLUMNS = 1000  # of one row
MAX_REPEATS = 1000  # rows or cells that an OpenDocument file may repeat
_NUMBER = re.compile(r"^[-+(]?[$€£¥]?\s?[-+]?[0-9][0-9.,' ]*\)?\s?%?$|^-+$")


def read_xlsx(path: Path) -> ParsedDocument:
    """An Excel workbook; raises DocumentUnreadable("damaged")."""
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of every extension it leaves out
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
            try:
                return _workbook(path, book)
            finally:
                book.close()
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError, OSError, AssertionError) as error:
        # What openpyxl raises on a mangled workbook is not one family.
        raise damaged(f"it is not a whole workbook ({type(error).__name__})") from None


def _workbook(path: Path, book: Any) -> ParsedDocument:
    blocks: list[Block] = []
    notes: list[str] = []
    cells = 0
    hidden = 0
    remarks = _xlsx_comments(path)
    for sheet in book.worksheets:
        name = clean_line(sheet.title)
        is_hidden = sheet.sheet_state != "visible"
        hidden += is_hidden
        sheet.reset_dimensions()  # what the file claims is often wrong, in both directions
        rows: list[list[str]] = []
        for row in sheet.iter_rows(max_col=MAX_COLUMNS):
            values = [_shown(cell) for cell in row]
            while values and not values[-1]:
                values.pop()
            cells += len(values)
            if values or (rows and rows[-1]):
                rows.append(values)
            if cells > MAX_CELLS:
                notes.append(f"only the first {MAX_CELLS:,} cells were read")
                break
        found = list(_tables(rows))
        found.extend(Block("paragraph", each) for each in remarks.get(sheet.title, ()))
        if found:
            blocks.append(Block("heading", f"{name} (hidden sheet)" if is_hidden else name, 1))
            blocks.extend(found)
        if cells > MAX_CELLS:
            break
    with Container(path) as container:
        title, people, date = container.properties()
        if any(each.endswith("vbaproject.bin") for each in container.names()):
            notes.append("macros were not read")
        blocks.extend(_charts(container))
    if hidden:
        notes.append(f"{hidden} {'sheet is' if hidden == 1 else 'sheets are'} hidden in the workbook")
    return ParsedDocument("xlsx", title, (lay_out(blocks),), date, people, tuple(notes))


def _charts(container: Container) -> Iterator[Block]:
    """Charts on sheets of their own, whose numbers may stand nowhere else."""
    from ingest.parse.office import chart_rows

    for name in container.names():
        if not name.startswith("xl/chartsheets/") or not name.endswith(".xml"):
            continue
        for kind, drawing in container.relations(name).values():
            if kind != "drawing":
                continue
            for inner, target in container.relations(drawing).values():
                tree = container.tree(target) if inner == "chart" else None
                rows = chart_rows(tree) if tree is not None else []
                if rows:
                    yield Block("heading", "Chart", 1)
                    yield Block("table", rows=rows)


def _shown(cell: Any) -> str:
    """A cell's value as a reader sees it: dates in ISO, percentages with their sign, currencies with theirs."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str):
        return clean_line(value)
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _figure(value, cell.number_format or "")
    return _moment(value)


def _figure(value: float, style: str) -> str:
    style = re.sub(r'"[^"]*"|\\.', "", style.split(";")[0])
    if "%" in style:
        return f"{_plain(value * 100)}%"
    text = _plain(value)
    sign = re.search(r"[$€£¥]", style)
    if sign:
        return f"-{sign.group()}{text[1:]}" if text.startswith("-") else f"{sign.group()}{text}"
    return text


def _plain(value: float) -> str:
    """Twelve digits: what a sheet shows, without the noise of binary fractions."""
    if isinstance(value, int) or (value == int(value) if abs(value) < 1e15 else False):
        return str(int(value))
    return f"{value:.12g}"


def _moment(value: object) -> str:
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, datetime.time):
        return value.strftime("%H:%M")
    return clean_line(str(value))


def _tables(rows: Sequence[Sequence[str]]) -> Iterator[Block]:
    """Rows of a sheet → records under their header, titles and remarks as paragraphs. Empty rows end a table."""
    part: list[Sequence[str]] = []
    names: Sequence[str] = ()
    for row in [*rows, ()]:
        if any(row):
            part.append(row)
        elif part:
            blocks, names = _records(part, names)
            yield from blocks
            part = []


def _records(rows: list[Sequence[str]], before: Sequence[str]) -> tuple[list[Block], Sequence[str]]:
    """Records of rows without an empty one between them; `before` are the names of the table above, for a table that goes on."""
    blocks: list[Block] = []
    start = 0
    while start < len(rows) and _count(rows[start]) == 1 and (start + 1 < len(rows) or not before) and _width(rows) > 1:
        blocks.append(Block("paragraph", next(filter(None, rows[start]))))
        start += 1
    rest = rows[start:]
    if not rest:
        return blocks, before
    if _width(rest) == 1:
        blocks.append(Block("code", "\n".join(next(filter(None, row)) for row in rest)))
        return blocks, ()
    names: Sequence[str]
    if _is_header(rest):
        names, rest = list(rest[0]), rest[1:]
        if not rest:
            blocks.append(Block("record", rows=((), names)))
    else:
        names = before if before and _width(rest) <= len(before) else ()
    blocks.extend(Block("record", rows=(names, row)) for row in rest)
    return blocks, names


def _count(row: Iterable[str]) -> int:
    return sum(1 for cell in row if cell)


def _width(rows: Sequence[Sequence[str]]) -> int:
    return max(_count(row) for row in rows)


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: words, no figures, nearly as wide as the rows below."""
    first = rows[0]
    filled = [cell for cell in first if cell]
    if len(filled) < 2 or any(len(cell) > 200 for cell in filled):
        return False
    figures = sum(1 for cell in filled if _NUMBER.match(cell) and not re.fullmatch(r"(?:19|20)\d\d", cell))
    if figures:
        return False
    usual = sorted(_count(row) for row in rows[1:20])[len(rows[1:20]) // 2] if len(rows) > 1 else len(filled)
    return len(filled) >= 0.5 * usual


def _xlsx_comments(path: Path) -> dict[str, list[str]]:
    """Sheet title → its comments, each with cell and author."""
    found: dict[str, list[str]] = {}
    with Container(path) as container:
        main = container.main("xl/workbook.xml")
        tree = container.tree(main)
        relations = container.relations(main)
        people: dict[str, str] = {}
        for kind, name in relations.values():
            if kind == "person" and container.has(name):
                persons = container.tree(name)
                for each in persons if persons is not None else ():
                    people[attribute(each, "id")] = clean_line(attribute(each, "displayName"))
        for sheet in tree.iter() if tree is not None else ():
            if local(sheet) != "sheet":
                continue
            identity = next((str(value) for key, value in sheet.attrib.items() if str(key).endswith("}id")), "")
            part = relations.get(identity, ("", ""))[1]
            inner = container.relations(part) if part else {}
            threaded = any(kind == "threadedComment" for kind, _ in inner.values())
            remarks: list[str] = []
            for kind, name in inner.values():
                notes = container.tree(name) if kind in ("comments", "threadedComment") and container.has(name) else None
                if notes is None:
                    continue
                authors = [clean_line(each.text or "") for each in notes.iter() if local(each) == "author"]
                for each in notes.iter():
                    if local(each) == "threadedComment":
                        text = child(each, "text")
                        said, who = clean_line(text.text or "") if text is not None else "", people.get(attribute(each, "personId"), "")
                    elif local(each) == "comment":
                        said = clean_line("".join(part.text or "" for part in each.iter() if local(part) == "t"))
                        index = attribute(each, "authorId")
                        who = authors[int(index)] if index.isdigit() and int(index) < len(authors) else ""
                        if threaded and said.startswith("[Threaded comment]"):
                            continue
                    else:
                        continue
                    if said:
                        where = attribute(each, "ref")
                        remarks.append(f"Comment on {where} ({who}): {said}" if who else f"Comment on {where}: {said}")
            if remarks:
                found[attribute(sheet, "name")] = remarks
    return found


def read_xls(path: Path) -> ParsedDocument:
    """An Excel 97 workbook; raises DocumentUnreadable("damaged", "encrypted")."""
    import xlrd

    from errors import DocumentUnreadable

    try:
        with open("/dev/null", "w") as nowhere:
            book = xlrd.open_workbook(str(path), logfile=nowhere, formatting_info=True)
    except xlrd.XLRDError as error:
        if "encrypt" in str(error).lower() or "password" in str(error).lower():
            raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.") from None
        raise damaged(f"it is not a whole workbook ({error})") from None
    except Exception as error:  # xlrd raises whatever a mangled record makes it raise
        raise damaged(f"it is not a whole workbook ({type(error).__name__})") from None
    blocks: list[Block] = []
    notes: list[str] = []
    for sheet in book.sheets():
        rows = [[_xls_cell(book, sheet, row, column) for column in range(min(sheet.row_len(row), MAX_COLUMNS))] for row in range(sheet.nrows)]
        found = list(_tables(rows))
        for (row, column), note in sorted(getattr(sheet, "cell_note_map", {}).items()):
            if clean_line(note.text):
                found.append(Block("paragraph", f"Comment on {xlrd.cellname(row, column)}: {clean_line(note.text)}"))
        if found:
            name = clean_line(sheet.name)
            blocks.append(Block("heading", f"{name} (hidden sheet)" if sheet.visibility else name, 1))
            blocks.extend(found)
    author = clean_line(book.user_name or "")
    return ParsedDocument("xls", "", (lay_out(blocks),), None, (author,) if author else (), tuple(notes))


def _xls_cell(book: Any, sheet: Any, row: int, column: int) -> str:
    import xlrd

    cell = sheet.cell(row, column)
    if cell.ctype == xlrd.XL_CELL_DATE:
        try:
            return _moment(xlrd.xldate.xldate_as_datetime(cell.value, book.datemode))
        except (ValueError, OverflowError):
            return _plain(cell.value)
    if cell.ctype == xlrd.XL_CELL_NUMBER:
        style = ""
        if cell.xf_index is not None and cell.xf_index < len(book.xf_list):
            found = book.format_map.get(book.xf_list[cell.xf_index].format_key)
            style = found.format_str if found is not None else ""
        return _figure(cell.value, style)
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if cell.value else "FALSE"
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(cell.value, "#ERROR"))
    return clean_line(str(cell.value))


def read_delimited(text: str, kind: str) -> ParsedDocument:
    """Comma, semicolon, tab or pipe separated text; the first row names the columns where it holds no figures."""
    sample = text[:20_000]
    delimiter = "\t" if kind == "tsv" and "\t" in sample else _delimiter(sample)
    csv.field_size_limit(10_000_000)
    rows: list[list[str]] = []
    cells = 0
    notes: list[str] = []
    try:
        for row in csv.reader(io.StringIO(text.replace("\x00", "")), delimiter=delimiter):
            rows.append([clean_line(cell) for cell in row[:MAX_COLUMNS]])
            cells += len(rows[-1])
            if cells > MAX_CELLS:
                notes.append(f"only the first {MAX_CELLS:,} cells were read")
                break
    except csv.Error as error:
        notes.append(f"reading stopped at line {len(rows) + 1}: {error}")
    return ParsedDocument(kind, "", (lay_out(_tables(rows)),), warnings=tuple(notes))


def _delimiter(sample: str) -> str:
    """The separator that cuts most lines into the same number of cells, more than one."""
    lines = [line for line in sample.splitlines()[:50] if line.strip()]
    best, score = ",", 0.0
    for candidate in ",;\t|":
        counts = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        usual = max(set(counts), key=counts.count) if counts else 1
        if usual > 1:
            value = counts.count(usual) / len(counts) + min(usual, 20) / 100
            if value > score:
                best, score = candidate, value
    return best


def read_opendocument(path: Path, kind: str) -> ParsedDocument:
    """OpenDocument spreadsheets (ods: a sheet a heading) and presentations (odp: a page a slide)."""
    from ingest.types import Page

    with Container(path) as container:
        tree = container.tree("content.xml")
        title, people, date = container.open_properties()
    body = child(tree, "body")
    if tree is None or body is None:
        raise damaged("it has no content part")
    if kind == "ods":
        blocks: list[Block] = []
        for table in body.iter():
            if local(table) == "table" and local(table.getparent()) != "table-cell":
                found = list(_tables(_ods_rows(table)))
                if found:
                    blocks.append(Block("heading", clean_line(attribute(table, "name")), 1))
                    blocks.extend(found)
        return ParsedDocument(kind, title, (lay_out(blocks),), date, people)
    pages: list[Page] = []
    for slide in body.iter():
        if local(slide) == "page":
            pages.append(lay_out(_odp_blocks(slide), len(pages) + 1))
    return ParsedDocument(kind, title, tuple(pages), date, people)


def _odp_blocks(slide: Any) -> Iterator[Block]:
    titles, body, notes = [], [], []
    for each in slide:
        if local(each) == "notes":
            text = " ".join(_odf_text(part) for part in each.iter() if local(part) == "p")
            if clean_line(text):
                notes.append(Block("paragraph", f"Notes: {clean_line(text)}"))
            continue
        kind = attribute(each, "class")
        if kind in ("title",):
            text = clean_line(" ".join(_odf_text(part) for part in each.iter() if local(part) in ("p", "h")))
            titles.append(Block("heading", text, 1))
            continue
        if kind in ("page-number", "date-time", "footer", "header"):
            continue
        inside_table: set[Any] = set()
        for part in each.iter():
            if local(part) == "table":
                body.append(Block("table", rows=_ods_rows(part)))
                inside_table.update(part.iter())
            elif local(part) in ("p", "h") and part not in inside_table:
                parent = part.getparent()
                listed = parent is not None and local(parent) == "list-item"
                body.append(Block("item" if listed else "paragraph", _odf_text(part)))
    yield from titles
    yield from body
    yield from notes


def _ods_rows(table: Any) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in table.iter():
        if local(row) != "table-row":
            continue
        cells: list[str] = []
        for cell in children(row, "table-cell", "covered-table-cell"):
            text = " ".join(filter(None, (_odf_text(part) for part in children(cell, "p", "h", "list"))))
            repeat = attribute(cell, "number-columns-repeated")
            times = min(int(repeat), MAX_REPEATS) if repeat.isdigit() else 1
            cells.extend([clean_line(text)] * (times if len(cells) + times <= MAX_COLUMNS else 1))
            for note in children(cell, "annotation"):
                said = clean_line(" ".join(_odf_text(part) for part in children(note, "p")))
                if said:
                    cells[-1] = f"{cells[-1]} (comment: {said})".strip()
        while cells and not cells[-1]:
            cells.pop()
        repeat = attribute(row, "number-rows-repeated")
        times = min(int(repeat), MAX_REPEATS) if repeat.isdigit() and cells else 1
        rows.extend([cells] * times)
    return rows


def _odf_text(element: Any) -> str:
    parts = [element.text or ""]
    for each in element:
        name = local(each)
        if name == "s":
            parts.append(" ")
        elif name in ("tab", "line-break"):
            parts.append(" ")
        elif name not in ("annotation", "note"):
            parts.append(_odf_text(each))
        parts.append(each.tail or "")
    return "".join(parts)
