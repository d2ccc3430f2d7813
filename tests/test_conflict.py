"""Sources that contradict each other are both shown, with the newer one named; what speaks of different things is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

import config
from examples.build import COMPANY
from ingest.embed import Embedder
from ingest.open import open_index
from ingest.refresh import refresh
from ingest.types import Passage
from rag.answer import Answerer
from rag.conflict import conflict, contradict, differing, note, stated
from rag.evidence import Candidate, Signs
from rag.types import Hit
from rag.write import quoted
from tests.fakes import TextReader, WordEmbedder
from tests.scripted_model import ScriptedModel


def hit(text: str, document: str = "travel-policy-2023.docx", section: str = "Hotels", title: str = "", date: str | None = None) -> Hit:
    return Hit(Passage(abs(hash((text, document))), document, hash(document), title, None, section, text, 0, len(text), date), 1.0, "both")


def differ(mine: str, theirs: str, document: str = "travel-policy-2025.pdf", section: str = "Hotels", title: str = "") -> bool:
    """Whether two whole texts contradict each other, one from the travel policy of 2023."""
    a, b = hit(mine), hit(theirs, document, section, title)
    said = stated(a, 0, len(mine)), stated(b, 0, len(theirs))
    assert contradict(*said) == contradict(*reversed(said))
    return contradict(*said)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("A hotel in London may cost £150 a night.", "A hotel in London may cost £180 a night."),
        ("Receipts are handed in within 30 days.", "Receipts are handed in within 21 days."),
        ("Receipts are handed in by 31 March each year.", "Receipts are handed in by 30 June each year."),
        ("The rules for journeys abroad hold until 1 March 2024.", "The rules for journeys abroad hold until 1 March 2026."),
        ("The lump sum for a journey abroad is £1950.", "The lump sum for a journey abroad is £2050."),
        ("The travel desk may book first class seats.", "The travel desk may not book first class seats."),
        ("The head of the travel desk is Isla Mackenzie.", "The head of the travel desk is Gareth Pugh."),
        ("Book in the travel portal at least ten days ahead.", "Book the travel portal for at least 14 days ahead."),
    ],
)
def test_one_fact_told_differently_is_a_conflict(mine: str, theirs: str) -> None:
    assert differ(mine, theirs)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("A hotel in London may cost £150 a night.", "A hotel in London may cost £150 a night."),
        ("A hotel in London may cost £150 a night.", "A hotel in Paris may cost £180 a night."),
        ("Full-time employees get 25 days of leave.", "Part-time employees get 12 days of leave."),
        ("Employees get 25 days of annual leave.", "Employees get 5 days of training leave."),
        ("All employees get 25 days of annual leave each year.", "New employees get 20 days of annual leave each year."),
        ("There were no journeys abroad by managers in 2021.", "There were no journeys abroad by managers in 2022."),
        ("As of December 31, 2021, the travel desk met the criteria.", "As of December 31, 2022, the travel desk met the criteria."),
        ("In 2023 the desk booked 400 journeys.", "In 2025 the desk booked 600 journeys."),
        ("Step 3 of the booking is described below.", "Step 4 of the booking is described below."),
        ("Grade 7 staff may book 5 nights ahead.", "Grade 8 staff may book 9 nights ahead."),
        ("The Wren travels with a battery of 400 Wh.", "The Heron travels with a battery of 500 Wh."),
        ("Flights are booked if the train takes four hours.", "Flights are booked if the boat takes six hours."),
        ("It costs £150.", "It costs £180."),
        ("Receipts are handed in within 14 days.", "Receipts are handed in within two weeks."),
    ],
)
def test_sentences_about_different_things_are_no_conflict(mine: str, theirs: str) -> None:
    """Two cities, two years, two grades, two products: both sentences are true."""
    assert not differ(mine, theirs)


@pytest.mark.parametrize(
    ("document", "section", "title"),
    [
        ("travel-policy-2025.pdf", "Hotels › Managers", ""),  # a rule for others
        ("berlin/travel-policy-2023.docx", "Hotels", ""),
        ("dealers/house-rules.docx", "Hotels", "House rules"),
        ("travel-policy-2025.pdf", "Hotels", "Board travel"),
    ],
)
def test_a_heading_title_or_folder_may_say_that_the_subject_is_another(document: str, section: str, title: str) -> None:
    text = "A hotel in London may cost £{} a night."
    assert not differ(text.format(150), text.format(180), document, section, title)


def test_documents_of_a_series_do_not_contradict_each_other() -> None:
    """Invoice 17 and invoice 18, the menus of March and April, the minutes of two days: numbers that name them are no versions."""
    for one, other in (
        ("invoice-17.pdf", "invoice-18.pdf"), ("menu-march.pdf", "menu-april.pdf"), ("minutes-2025-03-24.docx", "minutes-2025-04-21.docx")
    ):
        texts = [f"The total amount to pay for the lunch is £{each}." for each in (150, 180)]
        a, b = (stated(hit(text, name), 0, len(text)) for text, name in zip(texts, (one, other), strict=True))
        assert not contradict(a, b), (one, other)


ROWS = "| Item | Limit | Paid by |\n| Hotel in London | {} | {} |\n| Hotel in Paris | £170 | card |"


@pytest.mark.parametrize(
    ("limit", "by", "expected"), [("£180", "card", True), ("£150", "card", False), ("£180", "cash", False), ("", "card", False)]
)
def test_rows_of_two_tables_are_compared_cell_by_cell(limit: str, by: str, expected: bool) -> None:
    """The same first cell and columns, and another number: a conflict. Words in cells are not compared, nor an empty cell."""
    mine, theirs = ROWS.format("£150", "card"), ROWS.format(limit, by)
    a, b = hit(mine), hit(theirs, "travel-policy-2025.pdf")
    rows = [(text.index("| Hotel in London"), text.index("\n| Hotel in Paris")) for text in (mine, theirs)]
    assert contradict(stated(a, *rows[0]), stated(b, *rows[1])) == expected


def test_two_rows_of_one_table_are_no_conflict() -> None:
    text = ROWS.format("£150", "card")
    other = hit(text, "travel-policy-2025.pdf")
    london, paris = text.index("| Hotel in London"), text.index("| Hotel in Paris")
    assert not contradict(stated(hit(text), london, paris - 1), stated(other, paris, len(text)))


def candidates(*hits: Hit) -> list[Candidate]:
    return [Candidate(number, 0, len(each.passage.text), each.passage.text, 1.0, Signs()) for number, each in enumerate(hits, 1)]


def test_the_other_source_is_found_and_cited() -> None:
    old, new = hit("Receipts are handed in within 30 days."), hit("Receipts are handed in within 21 days.", "travel-policy-2025.pdf")
    both = candidates(old, new)
    assert conflict(both[0], both, [old, new]) is both[1]

    sentence, said = differing([quoted(old, 1, 0, 38)], both, [old, new])
    assert sentence is not None and [(each.n, each.quote) for each in sentence.citations] == [(2, "Receipts are handed in within 21 days.")]
    assert said == "The sources differ. travel-policy-2025.pdf is newer than travel-policy-2023.docx."
    shown = [quoted(old, 1, 0, 38), quoted(new, 2, 0, 38)]
    assert differing(shown, both, [old, new]) == (None, said)  # both stand there already


def test_a_section_does_not_contradict_itself() -> None:
    first, second = hit("Receipts are handed in within 30 days."), hit("Receipts are handed in within 21 days.")
    assert conflict(candidates(first)[0], candidates(first, second), [first, second]) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "newer"),
    [
        (hit("", "policy-2023.pdf", date="2026-01-01"), hit("", "policy-2025.pdf", date="2025-01-01"), "policy-2025.pdf (2025-01-01)"),
        (hit("", "policy-v9.pdf"), hit("", "policy-v10.pdf"), "policy-v10.pdf"),
        (hit("", "archive/policy.pdf"), hit("", "policy.pdf"), "policy.pdf"),
        (hit("", "a.pdf", date="2024-05-01"), hit("", "b.pdf", date="2024-04-30"), "a.pdf (2024-05-01)"),
        (hit("", "a.pdf", date="2024-05-01"), hit("", "b.pdf"), ""),
    ],
    ids=["year in the name", "version", "archive", "date", "unknown"],
)
def test_the_newer_source_is_named_where_that_can_be_told(mine: Hit, theirs: Hit, newer: str) -> None:
    told = {note(mine.passage, theirs.passage), note(theirs.passage, mine.passage)}
    if newer:
        assert len(told) == 1 and told.pop().startswith(f"The sources differ. {newer} is newer than ")
    else:
        assert all("nothing says which is newer" in each for each in told)


@limits(deadline=None)  # a busy machine takes what it takes
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_texts_can_be_compared_and_none_contradicts_itself(mine: str, theirs: str) -> None:
    differ(mine, theirs)
    assert not differ(mine, mine)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[config.Settings]:
    (tmp_path / "docs").mkdir()
    yield config.load(index=tmp_path / "indexes", home=tmp_path / "home")


def test_an_answer_shows_both_sources_and_the_note(settings: config.Settings, tmp_path: Path) -> None:
    """The second sentence is sent like the others, and the written answer has both with their numbers."""
    for year, days in (("2023", 30), ("2025", 21)):
        (tmp_path / "docs" / f"claims-{year}.md").write_text(f"# Claims\n\nReceipts of a journey are handed in within {days} days.\n")
    refresh([("docs", tmp_path / "docs")], "default", settings, embedder=WordEmbedder, reader=TextReader)
    events: list[dict[str, object]] = []
    index = open_index(settings.index, "default")
    answer = Answerer(settings, WordEmbedder(), ScriptedModel(level="verbatim")).answer(
        "When are receipts of a journey handed in?", index, emit=events.append
    )
    index.close()

    assert "30 days" in answer.text and "21 days" in answer.text and len({each.n for each in answer.citations}) == 2
    assert answer.notes == ("The sources differ. claims-2025.md is newer than claims-2023.md.",)
    assert [each["text"] for each in events if each["event"] == "sentence"] == [each.text for each in answer.sentences]


@pytest.mark.real
@pytest.mark.slow
def test_the_sample_companys_old_and_new_travel_policy_are_both_shown(settings: config.Settings) -> None:
    """With the real parser and embedder: a Word file of 2023 and a PDF of 2025, each limit with its source."""
    docs = settings.index.parent / "docs"
    for name in ("travel-policy-2023.docx", "travel-policy-2025.pdf", "leave-policy.docx"):
        shutil.copy(COMPANY / "hr" / name, docs)
    refresh([("docs", docs)], "default", settings)
    index = open_index(settings.index, "default")
    answerer = Answerer(settings, Embedder(settings), ScriptedModel(level="verbatim"))
    told = {
        question: answerer.answer(question, index) for question in (
            "How much may a hotel in London cost per night?", "How many days of leave may be carried into the next year?"
        )
    }
    index.close()

    hotel, leave = told.values()
    assert "£180" in hotel.text and "£150" in hotel.text
    assert {"travel-policy-2023.docx", "travel-policy-2025.pdf"} <= {each.passage.document for each in hotel.citations}
    expected = "The sources differ. travel-policy-2025.pdf, p. 1 (2025-02-17) is newer than travel-policy-2023.docx (2023-02-20)."
    assert hotel.notes == (expected,)
    assert leave.found and leave.notes == ()
