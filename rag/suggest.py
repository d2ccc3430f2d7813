"""A catalog → questions that its documents can answer, for people who do not know yet what to ask.

Only headings that are questions themselves, or sections that have enough text under them: better none than nonsense. The same
catalog always gives the same questions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.catalog import Catalog, Document
    from ingest.types import Page

MOST = 6  # questions; the welcome page shows four
LOOKED_AT = 40  # documents read for questions, spread over the collection; about 0.1 s
PAGES = 30  # pages of one document that are looked at
SECTION_CHARACTERS = 120  # of text below a heading, at least: one good sentence
PROSE = frozenset({"pdf", "docx", "html", "md", "txt", "rst", "rtf", "odt", "epub"})  # kinds whose headings name topics
EMPTY_TOPICS = frozenset(
    """
    introduction overview summary contents conclusion appendix annex notes references background general miscellaneous
    other details preface foreword about document history revision changelog glossary index scope purpose example examples
    conclusions abstract table of contents version information title page disclaimer copyright header footer faq questions
    next steps further reading see also related agenda participants attendees action items minutes signature signatures
    acknowledgements definitions
    """.split()
)
NAMES_A_PAPER = re.compile(
    r"\b(policy|policies|handbook|guide|guideline|guidelines|manual|plan|agreement|report|procedure|rules|contract|code|charter|checklist|"
    r"catalogue|catalog|strategy|statement|terms|standard|specification|regulations?)$",
    re.IGNORECASE,
)
ENGLISH = frozenset("the and of to is in for a are be by with that on or as it from must may not this".split())
NUMBERING = re.compile(
    r"^\s*(?:(?:section|chapter|part|article|step)\s+)?[\dIVXivx]{0,4}(?:\.\d+)*[.):]?\s+(?=[A-Za-z])", re.IGNORECASE
)
WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    level: int
    text: str  # below the heading, up to the next one


def suggest(catalog: Catalog, allowed: Collection[int] | None = None) -> list[str]:
    """At most MOST questions, from different documents where there are enough; `allowed` limits the documents (None: all)."""
    readable = [
        each
        for each in catalog.documents()
        if each.status == "ready" and each.passages and each.kind in PROSE and (allowed is None or each.id in allowed)
    ]
    step = max(1, len(readable) // LOOKED_AT)
    found = [list(_of_document(each, catalog.pages(each.id)[:PAGES])) for each in readable[::step][:LOOKED_AT]]
    found = [each for each in found if each]
    found.sort(key=lambda questions: -questions[0][0])  # documents that ask questions themselves come first; sorting is stable
    chosen: list[str] = []
    for round_ in range(MOST):
        for questions in _spread(found):
            if round_ < len(questions) and len(chosen) < MOST:
                question = questions[round_][1]
                if question.casefold() not in {each.casefold() for each in chosen}:
                    chosen.append(question)
        if round_ == 0 and len(chosen) >= MOST // 2:
            break  # three or more documents: one question each is better than many of one
    return chosen


def _spread(found: list[list[tuple[int, str]]]) -> list[list[tuple[int, str]]]:
    """The first third as they are, then the others evenly from the rest of the collection."""
    if len(found) <= MOST:
        return found
    first, rest = found[: MOST // 3], found[MOST // 3 :]
    step = max(1, len(rest) // (MOST - len(first)))
    return first + rest[::step]


def _of_document(document: Document, pages: list[Page]) -> Iterator[tuple[int, str]]:
    """(1 for the document's own question, 0 for one made from a heading; the question), own ones first."""
    sections = [section for page in pages for section in _sections(page)]
    yield from ((1, each.heading) for each in sections if _asks(each))
    title = _title(document.title, document.path)
    if title:
        yield from ((0, f"What does {title} say about {topic}?") for each in sections if (topic := _topic(each, document.title)))


def _sections(page: Page) -> Iterator[_Section]:
    heads = sorted(page.headings, key=lambda each: each.start)
    for number, head in enumerate(heads):
        end = heads[number + 1].start if number + 1 < len(heads) else len(page.text)
        line = page.text.find("\n", head.start, end)
        yield _Section(
            NUMBERING.sub("", " ".join(head.text.split())), head.level, page.text[line if line >= 0 else end : end].strip()
        )


def _asks(section: _Section) -> bool:
    words = section.heading.split()
    return section.heading.endswith("?") and 4 <= len(words) <= 14 and _says_enough(section) and "|" not in section.heading


def _says_enough(section: _Section) -> bool:
    return len(section.text) >= SECTION_CHARACTERS and not section.text.startswith("|")


def _title(title: str, path: str) -> str:
    """A title as it is spoken of: "the Travel policy", "“Working with Git”"; "" where it is a file name or a label."""
    plain = " ".join(title.split())
    words = WORD.findall(plain)
    stem = path.rpartition("/")[2].rpartition(".")[0]
    if (
        not 1 <= len(words) <= 8
        or len(plain) > 70
        or any(mark in plain for mark in "_/\\|<>?:")
        or (plain == stem and plain.islower())
    ):
        return ""
    if plain.isupper() and len(words) > 1:
        return ""
    if NAMES_A_PAPER.search(plain):
        return plain if plain.lower().startswith(("the ", "our ")) else f"the {plain}"
    return f"“{plain}”"


def _topic(section: _Section, title: str) -> str:
    """A heading as the object of a question, in lower case where the text below writes it so; "" where it names no topic."""
    words = WORD.findall(section.heading)
    if (
        section.level < 2
        or not 1 <= len(words) <= 6
        or len(section.heading) > 50
        or not _says_enough(section)
        or any(mark in section.heading for mark in "_/\\|<>?:;.!=[]()&")
        or any(letter.isdigit() for letter in section.heading)
        or {each.lower() for each in words} <= EMPTY_TOPICS
        or {each.casefold() for each in words} <= {each.casefold() for each in WORD.findall(title)}
        or section.heading.isupper()
        or len(WORD.findall(section.heading)[0]) < 3
    ):
        return ""
    below = section.text.split()
    if len(ENGLISH & {each.lower() for each in below}) < 4:
        return ""  # another language: an English question about it would be odd
    lower = {each.strip(".,;:()\"'") for each in below}
    first, *others = section.heading.split()
    if first.lower() in lower and first[1:].islower():
        return " ".join([first.lower(), *(each.lower() if each.lower() in lower else each for each in others)])
    return section.heading
