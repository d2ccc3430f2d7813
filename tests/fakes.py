"""Stand-ins that are quick and honest: an embedder whose vectors come from words, and a reader of plain text files."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy
from numpy.typing import NDArray

from ingest.types import Heading, Page, ParsedDocument, ParseFailure, SourceFile

WORD = re.compile(r"\w+")
Parsed = tuple[SourceFile, ParsedDocument | ParseFailure, float]


class WordEmbedder:
    """Each word is a direction; a text is the sum of its words. Texts that share words are near, others are not."""

    name = "words:1"
    dimensions = 256

    def __init__(self) -> None:
        self.embedded: list[str] = []  # every passage that was embedded, for tests about work saved

    def passages(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        self.embedded.extend(texts)
        return self._vectors(texts)

    def questions(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        return self._vectors(texts)

    def count_tokens(self, text: str) -> int:
        return len(WORD.findall(text))

    def _vectors(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
        rows = numpy.zeros((len(texts), self.dimensions), dtype=numpy.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.01  # a text without words has a direction too
            for word in WORD.findall(text.lower()):
                digest = hashlib.sha256(word.encode()).digest()
                row[1 + digest[0] % (self.dimensions - 1)] += 1.0 if digest[1] % 2 else -1.0
            row /= numpy.linalg.norm(row)
        return rows


class TextReader:
    """Reads text files without children: "# " lines are headings, a form feed ends a page, "!fail" makes a file unreadable."""

    def __init__(self) -> None:
        self.read: list[str] = []  # every path that was read, for tests about work saved

    def __enter__(self) -> TextReader:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        return None

    def parse_all(self, files: Iterable[SourceFile]) -> Iterator[Parsed]:
        for file in files:
            began = time.monotonic()
            self.read.append(file.path)
            yield file, self._parse(file), time.monotonic() - began

    def _parse(self, file: SourceFile) -> ParsedDocument | ParseFailure:
        whole = file.absolute.read_text(encoding="utf-8")
        if whole.startswith("!fail"):
            return ParseFailure("damaged", "The file says that it cannot be read.", "Mend it.")
        texts = whole.split("\f")
        pages = tuple(
            Page(
                number=number if len(texts) > 1 else None,
                text=text,
                headings=tuple(
                    Heading(match.start(), len(match[1]), match[2]) for match in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)
                ),
            )
            for number, text in enumerate(texts, 1)
        )
        first = next((page.headings[0].text for page in pages if page.headings), "")
        return ParsedDocument(kind=PurePosixPath(file.path).suffix[1:] or "txt", title=first, pages=pages)
