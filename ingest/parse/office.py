"""A zip container of XML parts (docx, pptx, xlsx, odt …) → its parts as trees, and what all of them share.

Names are compared without their namespaces, so files in the Strict variant of the format read like the others. No
entity is resolved and nothing outside the container is opened.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from lxml import etree

from errors import DocumentUnreadable
from ingest.parse.clean import clean_line
from ingest.parse.dates import iso_date

_BROKEN = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error)
MAX_PART_BYTES = 300_000_000  # one XML part, expanded: as a tree it takes five to ten times that
_TEMPLATE_DATES = ("2013-12-23", "2013-01-27")  # inside the templates of python-docx and python-pptx: of no document


def local(element: etree._Element) -> str:
    """The element's name without its namespace; "" for comments and instructions."""
    tag = element.tag
    return str(tag.rpartition("}")[2]) if isinstance(tag, str) else ""


def attribute(element: etree._Element, name: str) -> str:
    """The attribute `name` whatever its namespace, "" where it is absent."""
    value = element.get(name)
    if value is not None:
        return str(value)
    for key, each in element.attrib.items():
        if str(key).rpartition("}")[2] == name:
            return str(each)
    return ""


def children(element: etree._Element, *names: str) -> Iterator[etree._Element]:
    for child in element:
        if local(child) in names:
            yield child


def child(element: etree._Element | None, *path: str) -> etree._Element | None:
    """The first descendant along `path`."""
    for name in path:
        if element is None:
            return None
        element = next(children(element, name), None)
    return element


class Container:
    """An open office file. `tree(name)` is a part's root or None; relations are followed inside the container only."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise damaged(f"it is not a whole zip container ({error})") from None
        self._names = {each.filename.replace("\\", "/").lstrip("/").lower(): each for each in self._zip.infolist()}

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def names(self) -> list[str]:
        return sorted(self._names)

    def has(self, name: str) -> bool:
        return name.lower() in self._names

    def read(self, name: str) -> bytes:
        """The bytes of a part; raises DocumentUnreadable where it is damaged, b"" where it is absent."""
        entry = self._names.get(name.lower())
        if entry is None:
            return b""
        if entry.file_size > MAX_PART_BYTES:
            raise DocumentUnreadable("too_large", f"Its part {name} is {entry.file_size / 1e6:,.0f} MB.", "Split the document.")
        try:
            return self._zip.read(entry)
        except _BROKEN as error:
            raise damaged(f"its part {name} cannot be unpacked ({error})") from None

    def tree(self, name: str) -> etree._Element | None:
        data = self.read(name)
        if not data:
            return None
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True)
        try:
            return etree.fromstring(data, parser)
        except etree.XMLSyntaxError:
            lenient = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
            try:
                root = etree.fromstring(data, lenient)
            except etree.XMLSyntaxError:
                root = None
            if root is None:
                raise damaged(f"its part {name} is not readable XML") from None
            return root

    def stream(self, name: str, *wanted: str) -> Iterator[etree._Element]:
        """Elements named `wanted` of a part, one at a time, each thrown away when the next is asked for."""
        entry = self._names.get(name.lower())
        if entry is None:
            return
        options: dict[str, Any] = {
            "events": ("end",),
            "resolve_entities": False,
            "no_network": True,
            "load_dtd": False,
            "recover": True,
        }
        try:
            with self._zip.open(entry) as file:
                for _, element in etree.iterparse(file, tag=[f"{{*}}{each}" for each in wanted], remove_comments=True, **options):
                    yield element
                    element.clear()
                    parent = element.getparent()
                    while parent is not None and element.getprevious() is not None:
                        del parent[0]
        except (etree.XMLSyntaxError, *_BROKEN) as error:
            raise damaged(f"its part {name} cannot be read ({error})") from None

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """Relation id → (last word of its type, part name) of the part `name`; outside targets are left out."""
        folder, _, base = name.rpartition("/")
        try:
            tree = self.tree(f"{folder}/_rels/{base}.rels" if folder else f"_rels/{base}.rels")
        except DocumentUnreadable:
            tree = None  # the parts may still be where they usually are
        found: dict[str, tuple[str, str]] = {}
        if tree is None:
            return found
        for each in children(tree, "Relationship"):
            if attribute(each, "TargetMode").lower() == "external":
                continue
            target = attribute(each, "Target")
            whole = target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
            found[attribute(each, "Id")] = (attribute(each, "Type").rpartition("/")[2], whole)
        return found

    def main(self, default: str) -> str:
        """Name of the main part, `default` where the container does not say."""
        for kind, name in self.relations("").values():
            if kind == "officeDocument" and self.has(name):
                return name
        return default

    def properties(self) -> tuple[str, tuple[str, ...], str | None]:
        """Title, authors and date out of docProps/core.xml."""
        try:
            tree = self.tree("docProps/core.xml")
        except DocumentUnreadable:
            tree = None
        if tree is None:
            return "", (), None
        values = {local(each): clean_line(each.text or "") for each in tree}
        date = iso_date(values.get("modified"))
        if date is None or date in _TEMPLATE_DATES:
            date = iso_date(values.get("created"))
        if date in _TEMPLATE_DATES:
            date = None
        author = values.get("creator", "")
        return values.get("title", ""), (author,) if author and author != "python-docx" else (), date

    def open_properties(self) -> tuple[str, tuple[str, ...], str | None]:
        """Title, authors and date out of an OpenDocument file's meta.xml."""
        try:
            meta = child(self.tree("meta.xml"), "meta")
        except DocumentUnreadable:
            meta = None
        values = {local(each): clean_line(each.text or "") for each in meta} if meta is not None else {}
        author = values.get("creator") or values.get("initial-creator", "")
        date = iso_date(values.get("date")) or iso_date(values.get("creation-date"))
        return values.get("title", ""), (author,) if author else (), date


def damaged(what: str) -> DocumentUnreadable:
    return DocumentUnreadable("damaged", f"The file is damaged: {what}.", "Open it in its program and save it again.")


def math_text(element: etree._Element) -> str:
    """An Office formula in one line: fractions with "/", powers with "^", indices with "_"."""
    name = local(element)
    if name == "t":
        return element.text or ""
    if name == "f":
        return f"{_group(child(element, 'num'))}/{_group(child(element, 'den'))}"
    if name in ("sSup", "sSub", "sSubSup"):
        text = _inner(child(element, "e"))
        sub, sup = child(element, "sub"), child(element, "sup")
        return text + (f"_{_group(sub)}" if sub is not None else "") + (f"^{_group(sup)}" if sup is not None else "")
    if name == "rad":
        degree = _inner(child(element, "deg"))
        return f"{degree}√{_group(child(element, 'e'))}"
    if name == "nary":
        properties = child(element, "naryPr", "chr")
        sign = attribute(properties, "val") if properties is not None else "∫"
        low, high = _inner(child(element, "sub")), _inner(child(element, "sup"))
        return f"{sign}{f'_{low}' if low else ''}{f'^{high}' if high else ''} {_inner(child(element, 'e'))}"
    if name == "d":
        return "(" + ", ".join(_inner(each) for each in children(element, "e")) + ")"
    if name == "func":
        return f"{_inner(child(element, 'fName'))} {_inner(child(element, 'e'))}"
    if name.endswith("Pr"):
        return ""
    return _inner(element)


def _inner(element: etree._Element | None) -> str:
    return "" if element is None else "".join(math_text(each) for each in element)


def _group(element: etree._Element | None) -> str:
    text = _inner(element)
    return text if len(text) <= 1 or text.isalnum() else f"({text})"


def chart_rows(tree: etree._Element) -> list[list[str]]:
    """A chart's cached numbers as a table: categories down, series across."""
    header: list[str] = [""]
    columns: list[list[str]] = []
    names: list[str] = []
    for series in tree.iter():
        if local(series) != "ser":
            continue
        title = "".join(each.text or "" for part in children(series, "tx") for each in part.iter() if local(each) == "v")
        labels = _points(next(children(series, "cat", "xVal"), None))
        values = _points(next(children(series, "val", "yVal"), None))
        if len(labels) > len(names):
            names = labels
        header.append(clean_line(title))
        columns.append(values)
    if not columns:
        return []
    rows = [header]
    for row in range(max([len(names), *(len(each) for each in columns)])):
        rows.append([names[row] if row < len(names) else "", *(each[row] if row < len(each) else "" for each in columns)])
    return rows


MAX_POINTS = 5000  # of one series; a chart shows far fewer


def _points(element: etree._Element | None) -> list[str]:
    found: dict[int, str] = {}
    if element is not None:
        for point in element.iter():
            if local(point) == "pt" and attribute(point, "idx").isdigit():
                value = child(point, "v")
                found[int(attribute(point, "idx"))] = clean_line(value.text or "") if value is not None else ""
    size = min(max(found, default=-1) + 1, MAX_POINTS)
    return [found.get(index, "") for index in range(size)]
