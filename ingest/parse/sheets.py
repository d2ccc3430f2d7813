"""Spreadsheets and delimited text (xlsx, xlsm, xls, csv, tsv) → for each row a line `Header: value | Header: value`.

Every sheet stands under a heading with its name; hidden sheets are kept and say so; comments follow their sheet.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, lay_out
from ingest.parse.office import Container, attribute, chart_rows, child, children, damaged, local
from ingest.types import ParsedDocument

MAX_CELLS = 3_000_000  # of one file, long ones counting more; the text of more is longer than any document kept
MAX_COLUMNS = 1000  # of one row
REPEATED = "\x00"  # before a text that a merged cell repeats to its right: it names columns, and is no value
MAX_REPEATS = 1000  # rows or cells that an OpenDocument file may repeat
_NUMBER = re.compile(r"^[-+(]?[$€£¥]?\s?[-+]?[0-9][0-9.,' ]*\)?\s?%?$|^-+$")


def read_xlsx(path: Path) -> ParsedDocument:
    """An Excel workbook; raises DocumentUnreadable("damaged").

    Sheets are streamed cell by cell that has a value: a sheet may claim a million rows that hold nothing.
    """
    blocks: list[Block] = []
    notes: list[str] = []
    with Container(path) as container:
        main = container.main("xl/workbook.xml")
        tree = container.tree(main)
        if tree is None:
            raise damaged("it has no workbook part")
        relations = container.relations(main)
        parts = dict(relations.values())
        strings = _shared_strings(container, parts.get("sharedStrings", "xl/sharedStrings.xml"))
        styles = _number_styles(container.tree(parts.get("styles", "xl/styles.xml")))
        properties = child(tree, "workbookPr")
        since_1904 = properties is not None and attribute(properties, "date1904") in ("1", "true")
        people = _commenters(container, relations)
        budget = [MAX_CELLS]
        hidden = 0
        for sheet in tree.iter():
            if local(sheet) != "sheet":
                continue
            identity = next((str(value) for key, value in sheet.attrib.items() if str(key).endswith("}id")), "")
            kind, part = relations.get(identity, ("", ""))
            name = clean_line(attribute(sheet, "name"))
            found: list[Block] = []
            if container.has(part):
                if kind != "chartsheet":
                    found.extend(sheet_blocks(_sheet_rows(container, part, strings, styles, since_1904, budget)))
                found.extend(_drawn(container, part, numbers=kind == "chartsheet"))
                found.extend(Block("paragraph", each) for each in _remarks(container, part, people))
            if found:
                is_hidden = attribute(sheet, "state") in ("hidden", "veryHidden")
                hidden += is_hidden
                blocks.append(Block("heading", f"{name} (hidden sheet)" if is_hidden else name, 1))
                blocks.extend(found)
        title, authors, date = container.properties()
        if any(each.endswith("vbaproject.bin") for each in container.names()):
            notes.append("macros were not read")
    if budget[0] <= 0:
        notes.append(f"only the first {MAX_CELLS:,} cells were read")
    if hidden:
        notes.append(f"{hidden} {'sheet is' if hidden == 1 else 'sheets are'} hidden in the workbook")
    return ParsedDocument("xlsx", title, (lay_out(blocks),), date, authors, tuple(notes))


def _shared_strings(container: Container, part: str) -> list[str]:
    strings: list[str] = []
    for item in container.stream(part, "si"):
        parts = []
        for each in item.iter():
            if local(each) == "t" and local(each.getparent()) != "rPh":  # how a Japanese word is read, not what it says
                parts.append(each.text or "")
        strings.append(clean_line("".join(parts)))
    return strings


def _number_styles(tree: Any) -> list[str]:
    """Number format of each cell style."""
    from openpyxl.styles.numbers import BUILTIN_FORMATS

    own: dict[int, str] = {}
    styles: list[str] = []
    for each in tree.iter() if tree is not None else ():
        if local(each) == "numFmt" and attribute(each, "numFmtId").isdigit():
            own[int(attribute(each, "numFmtId"))] = attribute(each, "formatCode")
    found = child(tree, "cellXfs")
    for each in found if found is not None else ():
        number = attribute(each, "numFmtId")
        styles.append((own.get(int(number)) or BUILTIN_FORMATS.get(int(number), "General")) if number.isdigit() else "General")
    return styles


def _sheet_rows(
    container: Container, part: str, strings: Sequence[str], styles: Sequence[str], since_1904: bool, budget: list[int]
) -> list[list[str]]:
    """Rows of a sheet as texts; one empty row stands for any number of them. Takes what it reads off `budget`."""
    rows: list[list[str]] = []
    places: dict[int, int] = {}  # row number → index in `rows`
    merged: list[tuple[int, int, int, int]] = []
    number = last = 0
    for element in container.stream(part, "row", "mergeCell"):
        if local(element) == "mergeCell":
            area = _AREA.fullmatch(attribute(element, "ref"))
            if area and len(merged) < 50_000:
                merged.append((int(area[2]), _column(area[1]), int(area[4]), _column(area[3])))
            continue
        stated = attribute(element, "r")
        number = int(stated) if stated.isdigit() else number + 1
        if not len(element) or budget[0] <= 0:
            continue
        values: list[str] = []
        position = 0
        for cell in element:
            reference = attribute(cell, "r")
            position = _column(reference.rstrip("0123456789")) if reference else position + 1
            text = _cell_text(cell, strings, styles, since_1904) if len(cell) else ""
            if text and 0 < position <= MAX_COLUMNS:
                values.extend([""] * (position - len(values)))
                values[position - 1] = text
        if values:
            budget[0] -= len(values) + sum(map(len, values)) // 20
            if rows and number > last + 1:
                rows.append([])
            places[number] = len(rows)
            rows.append(values)
            last = number
    _fill_merged(rows, places, merged)
    return rows


_AREA = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7}):\$?([A-Z]{1,3})\$?(\d{1,7})")


def _column(letters: str) -> int:
    """ "A" is 1, "AB" is 28."""
    value = 0
    for letter in letters[:4]:
        value = value * 26 + ord(letter) - 64
    return value


def _fill_merged(rows: list[list[str]], places: dict[int, int], merged: Sequence[tuple[int, int, int, int]]) -> None:
    """Writes a merged cell's text into each row it covers; across its columns too, marked as repeated, unless it is alone."""
    for top, left, bottom, right in merged:
        if top not in places or left > MAX_COLUMNS or not 0 < left <= len(rows[places[top]]):
            continue
        row = rows[places[top]]
        text = row[left - 1]
        right = min(right, MAX_COLUMNS)
        alone = _count(row) == 1
        if not text:
            continue
        for number in range(top, min(bottom, top + MAX_REPEATS) + 1):
            if number not in places or (alone and number > top):
                continue
            target = rows[places[number]]
            for column in range(left, left + 1 if alone else right + 1):
                target.extend([""] * (column - len(target)))
                target[column - 1] = target[column - 1] or (text if column == left else REPEATED + text)


def _cell_text(cell: Any, strings: Sequence[str], styles: Sequence[str], since_1904: bool) -> str:
    """A cell as a reader sees it: dates in ISO, percentages with their sign, currencies with theirs."""
    kind = attribute(cell, "t")
    if kind == "inlineStr":
        return clean_line("".join(each.text or "" for each in cell.iter() if local(each) == "t"))
    found = child(cell, "v")
    text = (found.text or "") if found is not None else ""
    if not text:
        formula = child(cell, "f")
        return f"={clean_line(formula.text)}" if formula is not None and formula.text else ""
    if kind == "s":
        return strings[int(text)] if text.isdigit() and int(text) < len(strings) else ""
    if kind == "b":
        return "TRUE" if text.strip() == "1" else "FALSE"
    if kind in ("str", "e"):
        return clean_line(text)
    if kind == "d":
        return clean_line(text).replace("T00:00:00", "")
    try:
        value = float(text)
    except ValueError:
        return clean_line(text)
    index = attribute(cell, "s")
    style = styles[int(index)] if index.isdigit() and int(index) < len(styles) else ""
    if style and style != "General":
        from openpyxl.styles.numbers import is_date_format
        from openpyxl.utils.datetime import CALENDAR_MAC_1904, CALENDAR_WINDOWS_1900, from_excel

        if is_date_format(style):
            try:
                return _moment(from_excel(value, CALENDAR_MAC_1904 if since_1904 else CALENDAR_WINDOWS_1900))
            except (ValueError, OverflowError, TypeError):
                return _plain(value)
    return _figure(value, style)


def _drawn(container: Container, part: str, numbers: bool) -> Iterator[Block]:
    """Text boxes on a sheet and the titles of its charts; their `numbers` too where they stand in no cell beside them."""
    for kind, drawing in container.relations(part).values():
        tree = container.tree(drawing) if kind == "drawing" and container.has(drawing) else None
        if tree is None:
            continue
        for body in tree.iter():
            if local(body) == "txBody":
                text = "\n".join(
                    "".join(each.text or "" for each in paragraph.iter() if local(each) == "t") for paragraph in children(body, "p")
                )
                yield Block("paragraph", text)
        for inner, target in container.relations(drawing).values():
            chart = container.tree(target) if inner == "chart" and container.has(target) else None
            if chart is None:
                continue
            title = child(chart, "chart", "title")
            text = "".join(each.text or "" for each in title.iter() if local(each) == "t") if title is not None else ""
            if text.strip():
                yield Block("paragraph", f"Chart: {text}")
            if numbers:
                yield Block("table", rows=chart_rows(chart))


def _commenters(container: Container, relations: dict[str, tuple[str, str]]) -> dict[str, str]:
    people: dict[str, str] = {}
    for kind, name in relations.values():
        tree = container.tree(name) if kind == "person" and container.has(name) else None
        for each in tree if tree is not None else ():
            people[attribute(each, "id")] = clean_line(attribute(each, "displayName"))
    return people


def _remarks(container: Container, part: str, people: dict[str, str]) -> Iterator[str]:
    """Comments of a sheet with cell and author."""
    inner = container.relations(part)
    threaded = any(kind == "threadedComment" for kind, _ in inner.values())
    for kind, name in inner.values():
        tree = container.tree(name) if kind in ("comments", "threadedComment") and container.has(name) else None
        if tree is None:
            continue
        authors = [clean_line(each.text or "") for each in tree.iter() if local(each) == "author"]
        for each in tree.iter():
            if local(each) == "threadedComment":
                text = child(each, "text")
                said = clean_line(text.text or "") if text is not None else ""
                who = ", ".join(filter(None, (people.get(attribute(each, "personId"), ""), iso_date(attribute(each, "dT")))))
            elif local(each) == "comment":
                said = clean_line("".join(inside.text or "" for inside in each.iter() if local(inside) == "t"))
                index = attribute(each, "authorId")
                who = authors[int(index)] if index.isdigit() and int(index) < len(authors) else ""
                if threaded and said.startswith("[Threaded comment]"):
                    continue  # the same words, for programs that know no threads
            else:
                continue
            if said:
                where = attribute(each, "ref")
                yield f"Comment on {where} ({who}): {said}" if who else f"Comment on {where}: {said}"


def _figure(value: float, style: str) -> str:
    """A number as its format shows it, without the grouping of digits."""
    style = style.split(";")[0]
    if "%" in re.sub(r'"[^"]*"|\\.', "", style):
        return f"{_plain(value * 100)}%"
    text = _plain(value)
    named = re.search(r"\[\$([^\]-]+)", style)
    plain = re.search(r"[$€£¥]", re.sub(r"\[[^\]]*\]", "", style))
    sign = named.group(1).strip() if named else plain.group() if plain else ""
    if not sign:
        return text
    sign = f"{sign} " if sign[-1].isalpha() else sign
    return f"-{sign}{text[1:]}" if text.startswith("-") else f"{sign}{text}"


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


def sheet_blocks(rows: Sequence[Sequence[str]]) -> Iterator[Block]:
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
        repeated = any(cell.startswith(REPEATED) for cell in rest[0])
        names, rest = [cell.removeprefix(REPEATED) for cell in rest[0]], rest[1:]
        if repeated and len(rest) > 1 and _is_header(rest):  # a merged header above a second one
            below = rest[0]
            width = max(len(names), len(below))
            pairs = [(names[i] if i < len(names) else "", below[i].removeprefix(REPEATED) if i < len(below) else "") for i in range(width)]
            names, rest = [" ".join(dict.fromkeys(filter(None, pair))) for pair in pairs], rest[1:]
        if not rest:
            blocks.append(Block("record", rows=((), names)))
    else:
        names = before if before and _width(rest) <= len(before) else ()
    blocks.extend(Block("record", rows=(names, ["" if cell.startswith(REPEATED) else cell for cell in row])) for row in rest)
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


def read_xls(path: Path) -> ParsedDocument:
    """An Excel 97 workbook; raises DocumentUnreadable("damaged", "encrypted")."""
    import xlrd

    from errors import DocumentUnreadable

    try:
        with Path("/dev/null").open("w") as nowhere:
            book = xlrd.open_workbook(str(path), logfile=nowhere, formatting_info=True)
    except xlrd.XLRDError as error:
        if "encrypt" in str(error).lower() or "password" in str(error).lower():
            raise DocumentUnreadable("encrypted", "The file is locked with a password.", "Save it without a password.") from None
        raise damaged(f"it is not a whole workbook ({error})") from None
    except Exception as error:  # noqa: BLE001 - xlrd raises whatever a mangled record makes it raise
        raise damaged(f"it is not a whole workbook ({type(error).__name__})") from None
    blocks: list[Block] = []
    notes: list[str] = []
    for sheet in book.sheets():
        rows = [
            [_xls_cell(book, sheet, row, column) for column in range(min(sheet.row_len(row), MAX_COLUMNS))] for row in range(sheet.nrows)
        ]
        found = list(sheet_blocks(rows))
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
    return ParsedDocument(kind, "", (lay_out(sheet_blocks(rows)),), warnings=tuple(notes))


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
