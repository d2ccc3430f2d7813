"""A PowerPoint file (pptx, pptm) → a page a slide: title, text, tables, charts, then notes and comments, labelled.

Slide numbers, dates and footers are left out. Hidden slides are kept and say that they are hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date
from ingest.parse.layout import Block, lay_out, likely_header, spread
from ingest.parse.office import Container, attribute, chart_rows, child, children, damaged, local, math_text
from ingest.types import Page, ParsedDocument

_FURNITURE = frozenset(("sldNum", "dt", "ftr", "hdr"))
_TITLES = frozenset(("title", "ctrTitle"))
MAX_DEPTH = 30  # groups inside groups


def read_slides(path: Path) -> ParsedDocument:
    """The slides of `path` in the order they are shown; raises DocumentUnreadable("damaged")."""
    with Container(path) as container:
        main = container.main("ppt/presentation.xml")
        tree = container.tree(main)
        if tree is None:
            raise damaged("it has no presentation part")
        relations = container.relations(main)
        authors = _authors(container, relations)
        pages: list[Page] = []
        hidden = 0
        for each in children(child(tree, "sldIdLst"), "sldId") if child(tree, "sldIdLst") is not None else ():
            name = relations.get(_relation(each), ("", ""))[1]
            slide = container.tree(name) if container.has(name) else None
            if slide is None:
                pages.append(Page(len(pages) + 1, ""))
                continue
            blocks = list(_slide(container, name, slide, authors))
            if attribute(slide, "show") == "0":
                hidden += 1
                blocks.insert(0, Block("paragraph", "(hidden slide)"))
            pages.append(lay_out(blocks, len(pages) + 1))
        title, people, date = container.properties()
        warnings = []
        if any(name.endswith("vbaproject.bin") for name in container.names()):
            warnings.append("macros were not read")
        pictures = sum(1 for page in pages if not page.text)
        if pictures:
            warnings.append(f"{pictures} {'slide has' if pictures == 1 else 'slides have'} no text")
    if title.lower() in ("powerpoint presentation", "presentation", "powerpoint-präsentation"):
        title = ""
    return ParsedDocument("pptx", title, tuple(pages), date, people, tuple(warnings))


def _relation(element: etree._Element) -> str:
    """The `r:id` of an element that also has a plain `id`."""
    for key, value in element.attrib.items():
        if str(key).startswith("{") and str(key).endswith("}id"):
            return str(value)
    return ""


def _slide(container: Container, name: str, slide: etree._Element, authors: dict[str, str]) -> Iterator[Block]:
    relations = container.relations(name)
    shapes = child(slide, "cSld", "spTree")
    titles: list[Block] = []
    body: list[Block] = []
    if shapes is not None:
        for is_title, block in _shapes(container, shapes, relations, 0):
            (titles if is_title else body).append(block)
    yield from titles
    yield from body
    for kind, target in relations.values():
        if kind == "notesSlide" and container.has(target):
            notes = container.tree(target)
            tree = child(notes, "cSld", "spTree")
            said = [
                "\n".join(filter(None, (_text(paragraph) for paragraph in _paragraphs(shape))))
                for shape in (children(tree, "sp") if tree is not None else ())
                if _placeholder(shape) == "body"
            ]
            text = "\n".join(filter(None, said))
            if text:
                yield Block("paragraph", f"Notes: {text}")
    for kind, target in relations.values():
        if kind == "comments" and container.has(target):
            yield from _comments(container.tree(target), authors)


def _authors(container: Container, relations: dict[str, tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, name in relations.values():
        if kind in ("commentAuthors", "authors") and container.has(name):
            tree = container.tree(name)
            for each in tree.iter() if tree is not None else ():
                if attribute(each, "id") and attribute(each, "name"):
                    found[attribute(each, "id")] = clean_line(attribute(each, "name"))
    return found


def _comments(tree: etree._Element | None, authors: dict[str, str]) -> Iterator[Block]:
    for each in tree.iter() if tree is not None else ():
        if local(each) not in ("cm", "reply"):
            continue
        text = child(each, "text")
        if text is not None:
            said = clean_line(text.text or "")
        else:
            body = child(each, "txBody")
            said = " ".join(filter(None, (_text(part) for part in children(body, "p")))) if body is not None else ""
        when = iso_date(attribute(each, "dt") or attribute(each, "created"))
        author = ", ".join(filter(None, (authors.get(attribute(each, "authorId"), ""), when)))
        if said:
            yield Block("paragraph", f"Comment ({author}): {said}" if author else f"Comment: {said}")


def _shapes(
    container: Container, parent: etree._Element, relations: dict[str, tuple[str, str]], depth: int
) -> Iterator[tuple[bool, Block]]:
    """Blocks of shapes in their own order, and whether each is the slide's title."""
    if depth > MAX_DEPTH:
        return
    for shape in parent:
        name = local(shape)
        if name == "sp":
            kind = _placeholder(shape)
            if kind in _FURNITURE:
                continue
            paragraphs = [(each, _text(each)) for each in _paragraphs(shape)]
            paragraphs = [(each, text) for each, text in paragraphs if text.strip()]
            if kind in _TITLES:
                whole = clean_line(" ".join(text for _, text in paragraphs))
                if whole:
                    yield True, Block("heading", whole, 1)
                continue
            listed = kind in ("body", "obj", "") and _has_placeholder(shape) and len(paragraphs) > 1
            numbers: dict[int, int] = {}
            for each, text in paragraphs:
                properties = child(each, "pPr")
                level = int(attribute(properties, "lvl") or 0) if properties is not None and attribute(properties, "lvl").isdigit() else 0
                marks = {local(mark) for mark in properties} if properties is not None else set()
                for deeper in [at for at in numbers if at > level]:
                    del numbers[deeper]
                if "buAutoNum" in marks:
                    numbers[level] = numbers.get(level, 0) + 1
                    yield False, Block("item", f"{numbers[level]}. {text}")
                elif ("buChar" in marks or listed or level > 0) and "buNone" not in marks:
                    yield False, Block("item", text)
                else:
                    yield False, Block("paragraph", text)
        elif name == "graphicFrame":
            for block in _graphic(container, shape, relations):
                yield False, block
        elif name == "grpSp":
            yield from _shapes(container, shape, relations, depth + 1)
        elif name == "AlternateContent":
            choice = next(children(shape, "Choice"), None)
            yield from _shapes(container, choice if choice is not None else shape, relations, depth + 1)
        elif name == "Fallback":
            yield from _shapes(container, shape, relations, depth + 1)
        elif name == "pic":
            properties = child(shape, "nvPicPr", "cNvPr")
            text = clean_line(attribute(properties, "descr")) if properties is not None else ""
            if len(text.split()) > 2:
                yield False, Block("paragraph", f"Image: {text}")
        elif any(local(part) == "txBody" for part in shape):
            for each in _paragraphs(shape):
                yield False, Block("paragraph", _text(each))


def _graphic(container: Container, frame: etree._Element, relations: dict[str, tuple[str, str]]) -> Iterator[Block]:
    data = child(frame, "graphic", "graphicData")
    for each in data if data is not None else ():
        name = local(each)
        if name == "tbl":
            rows = [_row(row) for row in children(each, "tr")]
            _spread(each, rows)
            properties = child(each, "tblPr")
            first = properties is not None and attribute(properties, "firstRow") in ("1", "true")
            yield Block("table", rows=rows, header=first or likely_header(rows))
        elif name == "chart":
            target = relations.get(_relation(each), ("", ""))[1]
            tree = container.tree(target) if container.has(target) else None
            if tree is not None:
                title = child(tree, "chart", "title")
                text = " ".join(part.text or "" for part in title.iter() if local(part) == "t") if title is not None else ""
                if text.strip():
                    yield Block("paragraph", text)
                yield Block("table", rows=chart_rows(tree))
        elif name == "relIds":
            target = next((part for kind, part in relations.values() if kind == "diagramData"), "")
            for key, value in each.attrib.items():
                if str(key).endswith("}dm"):
                    target = relations.get(str(value), ("", target))[1]
            tree = container.tree(target) if container.has(target) else None
            for point in tree.iter() if tree is not None else ():
                if local(point) == "t" and any(local(part) == "p" for part in point):
                    text = " ".join(filter(None, (_text(part) for part in children(point, "p"))))
                    if text:
                        yield Block("item", text)
        elif name == "oleObj":
            continue


def _row(row: etree._Element) -> list[str]:
    cells: list[tuple[str, int]] = []
    for cell in children(row, "tc"):
        body = child(cell, "txBody")
        text = " ".join(filter(None, (_text(each) for each in children(body, "p")))) if body is not None else ""
        if attribute(cell, "hMerge") in ("1", "true") and cells:
            cells[-1] = (cells[-1][0], cells[-1][1] + 1)
        else:
            cells.append((text, 1))
    return spread(cells)


def _spread(table: etree._Element, rows: list[list[str]]) -> None:
    """Repeats a cell that spans rows in each of them."""
    for index, row in enumerate(children(table, "tr")):
        for column, cell in enumerate(children(row, "tc")):
            if index and attribute(cell, "vMerge") in ("1", "true") and column < len(rows[index - 1]):
                rows[index][column] = rows[index - 1][column]


def _placeholder(shape: etree._Element) -> str:
    for part in shape:
        if local(part).startswith("nv"):
            found = child(part, "nvPr", "ph")
            return attribute(found, "type") if found is not None else ""
    return ""


def _has_placeholder(shape: etree._Element) -> bool:
    return any(child(part, "nvPr", "ph") is not None for part in shape if local(part).startswith("nv"))


def _paragraphs(shape: etree._Element) -> Iterator[etree._Element]:
    for body in children(shape, "txBody"):
        yield from children(body, "p")


def _text(paragraph: etree._Element) -> str:
    parts: list[str] = []
    for each in paragraph:
        name = local(each)
        if name == "r":
            found = child(each, "t")
            parts.append((found.text or "") if found is not None else "")
        elif name == "br":
            parts.append("\n")
        elif name == "fld" and not attribute(each, "type").startswith("slidenum"):
            found = child(each, "t")
            parts.append((found.text or "") if found is not None else "")
        elif name in ("m", "oMath", "oMathPara"):
            parts.append(math_text(each))
        elif name == "AlternateContent":
            choice = next(children(each, "Choice"), None)
            parts.append(math_text(choice) if choice is not None else "")
    return "".join(parts).replace("\x0b", "\n").strip()
