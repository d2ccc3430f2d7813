"""Indexed documents → questions with the sentence or table cell that answers each, and questions that nothing there answers.

Made by patterns, without a model: a heading that asks, a definition turned round, a table's cell, an amount become "how many".
They are easier than people's questions where wording is concerned, so they compare settings well and flatter absolute scores.
Prose patterns are English; questions about tables are made in any language, with English words around them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.metrics import contains, normalised
from ingest.sentences import sentences

if TYPE_CHECKING:
    from ingest.catalog import Catalog, Document

SENTENCE_WORDS = (6, 45)  # shorter ones say too little, longer ones are lists in disguise
CLAUSE_WORDS = 6  # a clause with so many words can be asked about without the rest of its sentence
CELL_WORDS = 12  # a longer cell is prose
GOLD_PLACES = 5  # a sentence that stands in more places answers nothing in particular
LEANING = re.compile(
    r"(?:it|its|they|their|this|these|that|those|he|she|his|her|there|here|such|we|you|i|if|and|but|or|so)\b", re.I
)
ENGLISH = re.compile(r"\b(?:the|of|and|to|is|are|for|in|by|must|may|will)\b", re.I)
DEFINITION = re.compile(
    r"(?P<subject>(?:the |an? )?[A-Z][\w’'-]*(?: [\w’'-]+){0,5}) (?P<verb>is|are|was|were) "
    r"(?P<rest>(?:an?|the|any) [^|]{15,})[.]",
    re.IGNORECASE,
)
AMOUNT = re.compile(
    r"(?P<money>[$€£]\s?\d[\d,]*(?:\.\d+)?(?:\s(?:million|billion|thousand))?)"
    r"|(?P<percent>\d+(?:\.\d+)?\s?(?:%|percent\b|per cent\b))"
    r"|(?P<count>\b\d{1,3}(?:,\d{3})*|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|sixty|ninety))"
    r"(?=[ -](?:calendar |working |business |consecutive |full |paid |more |per )?(?P<unit>[a-z]{3,}s)\b)"
)
STATES = re.compile(  # a clause with one of these says something; one without is a caption
    r"\b(?:is|are|was|were|be|has|have|had|must|may|can|will|shall|should|do|does|pays?|gets?|receives?|costs?|lasts?|takes?|gives?|needs?|"
    r"keeps?|covers?|allows?|requires?|includes?|employs?|opens?|closes?|starts?|ends?)\b", re.IGNORECASE
)
PLACING = re.compile(
    r"(?:in|on|at|by|for|from|to|with|without|below|above|under|over|after|before|during|until|since|when|where|as)\b", re.I
)
QUESTION_WORD = re.compile(r"(?:what|who|whom|whose|when|where|which|how|why|change|note|notes|comment|remarks?)\b", re.I)
ASKED = {"money": "how much", "percent": "what percentage", "count": "how many"}


@dataclass(frozen=True, slots=True)
class Made:
    """One question, with where its answer stands."""

    kind: str
    question: str
    answer: str
    document: str
    page: int | None
    section: str
    text: str

    def as_json(self) -> dict[str, Any]:
        gold = {"doc": self.document, "page": self.page, "section": self.section, "text": self.text}
        return {
            "id": _id(self.question, self.document), "question": self.question, "answer": self.answer, "answers": [self.answer],
            "answerable": True, "kind": self.kind, "gold": [gold],
        }


def make(
    catalog: Catalog, count: int, unanswerable: float, seed: int = 0, foreign: Catalog | None = None
) -> list[dict[str, Any]]:
    """`count` questions with an answer and `count * unanswerable` without; fewer where the documents give no more.

    Unanswerable ones are asked of the wrong document, or are taken from the collection `foreign`; none is kept whose answer
    stands where it would be looked for. The same seed and documents give the same questions.
    """
    chance = random.Random(seed)
    drawn = _draw(candidates(catalog), chance)
    places = _places(catalog)
    questions = []
    for each in drawn[:count]:
        made = each.as_json()
        twins = places.get(normalised(each.text), [])
        if len(twins) > GOLD_PLACES:
            continue
        (gold,) = made["gold"]
        made["gold"] += [{**gold, "doc": doc, "page": page} for doc, page in twins if (doc, page) != (each.document, each.page)]
        questions.append(made)
    wanted = round(count * unanswerable)
    if foreign is not None:
        return questions + _foreign(_draw(candidates(foreign), chance), places, wanted)
    return questions + _misplaced(drawn[count:] + drawn[:count], catalog, wanted, chance)


def write(path: Path, questions: Iterable[dict[str, Any]]) -> None:
    """One question a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in questions), encoding="utf-8")


def candidates(catalog: Catalog) -> Iterator[Made]:
    """Every question that the patterns give, document by document."""
    for document in catalog.documents():
        if document.status != "ready":
            continue
        heading = ""
        for passage in catalog.passages_of(document.id):
            rows: list[str] = []
            last = passage.section.rpartition("›")[2].strip()
            for start, end in sentences(passage.text):
                text = passage.text[start:end]
                place = (document.document, passage.page, passage.section, text)
                if text.strip("# ") == last:
                    heading = last
                    continue
                if "|" in text:
                    found: list[tuple[str, str]] = []
                    rows = _cells(text, rows, found)
                    yield from (Made("table", question, answer, *place) for question, answer in found)
                    continue
                if heading.endswith("?") and len(text.split()) >= SENTENCE_WORDS[0] - 2:
                    yield Made("heading", heading, text, *place)
                heading = ""
                for kind, question, answer in asked(text):
                    yield Made(kind, question, answer, *place)


def asked(sentence: str) -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) of what can be asked of one English sentence."""
    sentence = " ".join(sentence.split())
    words = len(sentence.split())
    if not SENTENCE_WORDS[0] <= words <= SENTENCE_WORDS[1] or LEANING.match(sentence) or len(ENGLISH.findall(sentence)) < 2:
        return
    definition = DEFINITION.fullmatch(sentence)
    if definition and not PLACING.match(definition["subject"]) and not re.search(r"[.!?]\s?\w", definition["rest"]):
        subject = re.sub(r"^(The|An?)\b", lambda match: match.group().lower(), definition["subject"])
        yield "definition", f"What {definition['verb']} {subject}?", definition["rest"]
    amounts = list(AMOUNT.finditer(sentence))
    if len(amounts) == 1 and not re.search(r"\d", sentence[: amounts[0].start()] + sentence[amounts[0].end() :]):
        (amount,) = amounts
        kind = next(name for name in ASKED if amount[name])
        start, end = _clause(sentence, amount.start(), amount.end())
        if not STATES.search(sentence[start:end]):
            return
        before, after = sentence[start : amount.start()], sentence[amount.end() : end]
        question = f"{before}{ASKED[kind]}{after}".strip(" .;:,")
        yield "amount", question[0].upper() + question[1:] + "?", amount.group()


def _cells(line: str, header: list[str], found: list[tuple[str, str]]) -> list[str]:
    """Adds what can be asked of a table row to `found`; returns the header row in force after it."""
    cells = [each.strip() for each in line.strip().strip("|").split("|")]
    if all(set(each) <= set("-: ") for each in cells):
        return header
    labelled = [each.partition(": ")[::2] for each in cells]
    if all(name and value for name, value in labelled) and len(cells) > 1:  # a spreadsheet's row carries its headers
        names, cells = [name for name, _ in labelled], [value for _, value in labelled]
    elif not header or len(header) != len(cells):
        return cells
    else:
        names = header
    topic = cells[0]
    if not topic or re.fullmatch(r"[\d.,%$€£ -]+", topic) or len(topic.split()) > CELL_WORDS:
        return header
    for name, value in zip(names[1:], cells[1:], strict=True):
        telling = re.search(r"[^\W\d_]", name) and not QUESTION_WORD.match(name) and not re.search(r"\d", name)
        if telling and value and value != "-" and len(value.split()) <= CELL_WORDS:
            found.append((f"What is the {name[0].lower() + name[1:] if name[1:].islower() else name} for {topic}?", value))
    return header


def _clause(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The part between commas around [start:end], where it is long enough to be asked about, else the whole."""
    left = max((match.end() for match in re.finditer(r"[,;:] ", sentence[:start])), default=0)
    right = next((end + match.start() for match in re.finditer(r"[,;:] ", sentence[end:])), len(sentence))
    if len(sentence[left:right].split()) < CLAUSE_WORDS or LEANING.match(sentence[left:right]):
        return 0, len(sentence)
    return left, right


def _draw(made: Iterable[Made], chance: random.Random) -> list[Made]:
    """All questions in an order in which documents, and kinds within a document, take turns; no wording twice."""
    by_document: dict[str, dict[str, list[Made]]] = {}
    wordings: dict[str, set[str]] = {}
    known = list(made)
    for each in known:
        wordings.setdefault(normalised(each.question), set()).add(normalised(each.answer))
    seen = set()
    for each in known:
        wording = normalised(each.question)
        if wording in seen or len(wordings[wording]) > 1:  # asked with two different answers: ambiguous
            continue
        seen.add(wording)
        by_document.setdefault(each.document, {}).setdefault(each.kind, []).append(each)
    queues = []
    for kinds in by_document.values():
        for several in kinds.values():
            chance.shuffle(several)
        queues.append(_in_turn(list(kinds.values())))
    chance.shuffle(queues)
    return _in_turn(queues)


def _in_turn(queues: list[list[Made]]) -> list[Made]:
    """The first of each queue, then the second of each, …"""
    return [each for turn in range(max(map(len, queues), default=0)) for queue in queues for each in queue[turn : turn + 1]]


def _places(catalog: Catalog) -> dict[str, list[tuple[str, int | None]]]:
    """Where each sentence stands, by its normalised words."""
    places: dict[str, list[tuple[str, int | None]]] = {}
    for document in catalog.documents():
        if document.status == "ready":
            for passage in catalog.passages_of(document.id):
                for start, end in sentences(passage.text):
                    where = (passage.document, passage.page)
                    known = places.setdefault(normalised(passage.text[start:end]), [])
                    if where not in known:
                        known.append(where)
    return places


def _foreign(made: list[Made], places: dict[str, list[tuple[str, int | None]]], wanted: int) -> list[dict[str, Any]]:
    return [_without_answer(each, "foreign", None) for each in made if normalised(each.text) not in places][:wanted]


def _misplaced(made: list[Made], catalog: Catalog, wanted: int, chance: random.Random) -> list[dict[str, Any]]:
    """Questions of one document asked of another, which does not hold the answer."""
    ready = [each for each in catalog.documents() if each.status == "ready" and each.passages]
    texts: dict[int, str] = {}
    questions: list[dict[str, Any]] = []
    for each in made:
        if len(questions) == wanted or len(ready) < 2:
            break
        other: Document = chance.choice(ready)
        if other.document == each.document:
            continue
        if other.id not in texts:
            texts[other.id] = "\n".join(page.text for page in catalog.pages(other.id))
        if not contains(texts[other.id], [each.text, each.answer]):
            questions.append(_without_answer(each, "other_document", other.document))
    return questions


def _without_answer(made: Made, kind: str, document: str | None) -> dict[str, Any]:
    asked_of = {"document": document, "related_doc": document} if document else {}
    return {
        "id": _id(made.question, document or "foreign"), "question": made.question, "answer": None, "answers": [],
        "answerable": False, "kind": kind, "gold": [], **asked_of,
    }


def _id(question: str, document: str) -> str:
    return hashlib.sha256(f"{question}\0{document}".encode()).hexdigest()[:12]
