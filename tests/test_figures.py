"""Amounts of a made-up company's annual report: looked up, computed, or not given at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import config
from evals.recompute import recomputed
from ingest.open import Index, open_index
from ingest.refresh import refresh
from rag.answer import Answerer
from rag.figures import Figure, figure
from rag.replay import Openers, replay
from rag.types import Answer
from records.store import Records
from tests.fakes import WordEmbedder
from tests.folder import Folder
from tests.render import Grid, Heading, Paragraph, Text, render
from tests.scripted_model import ScriptedModel

INCOME = """# Harrow Ferries annual report 2024

Consolidated statements of income

(in thousands, except per share amounts)

| Year ended March 31, | 2024 | 2023 | 2022 |
| Passenger revenue | $ 6,100 | $ 5,900 | $ 5,000 |
| Freight revenue | 1,900 | 1,600 | 1,400 |
| Total revenue | 8,000 | 7,500 | 6,400 |
| Cost of sales | (5,000) | (4,800) | (4,300) |
| Operating income | 1,200 | 1,050 | 640 |
| Interest expense | (150) | (140) | (120) |
| Income before income taxes | 1,050 | 910 | 520 |
| Income tax expense | (210) | (180) | (104) |
| Net income | $ 840 | $ 730 | $ 416 |
| Net income per share | $ 2.10 | $ 1.83 | $ 1.04 |
\f"""
BALANCE = """Consolidated balance sheets

March 31, 2024 2023 (in thousands)

| Cash and cash equivalents | $ 500 | $ 410 |
| Inventories (note 4) | 240 | 260 |
| Total current assets | 1,500 | 1,200 |
| Property, plant and equipment, net | 6,200 | 5,800 |
| Total assets | $ 9,000 | $ 8,200 |
| Accounts payable | 700 | 640 |
| Total current liabilities | 1,000 | 960 |
| Long-term debt | 2,000 | 2,100 |
\f"""
CASH = """Consolidated statements of cash flows

In thousands

| Cash flows from operating activities | 2024 | 2023 |
| Depreciation and amortization | 450 | 400 |
| Net cash provided by operating activities | 1,400 | 1,250 |
| Cash flows from investing activities |  |  |
| Purchases of property, plant and equipment | (800) | (650) |
| Net cash used in investing activities | (820) | (640) |
| Dividends paid | (210) | — |
\f"""
NOTES = """Notes

Segments, in thousands

| Nordic segment | 2024 | 2023 |
| Operating income | 300 | 250 |
| Goodwill | 80 | 80 |

Parts of goodwill, in thousands

| Baltic segment | 2024 | 2023 |
| Goodwill | 95 | 95 |

The effective tax rate in 2021 was 21.5%.
"""
OTHER = """# Marlow Coaches annual report 2024

Consolidated statements of income

(in millions)

| | 2024 | 2023 |
| Total revenue | 91 | 88 |
| Operating income | 9 | 8 |
| Income tax expense | 2 | 2 |
| Net income | 6 | 5 |
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.write("harrow-ferries-2024.txt", INCOME + BALANCE + CASH + NOTES)
    made.write("marlow-coaches-2024.txt", OTHER)
    made.refresh()
    return made


@pytest.fixture
def index(folder: Folder) -> Iterator[Index]:
    opened = folder.open()
    yield opened
    opened.close()


def ask(index: Index, question: str, without: str = "") -> Figure | None:
    allowed = frozenset(each.id for each in index.catalog.documents() if not without or without not in each.document)
    return figure(question, index, allowed, ())


def key(found: Figure | None) -> str:
    assert found is not None
    return found.sentence.key if found.sentence else f"none: {found.note}"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What was the total revenue of Harrow Ferries in 2024?", "$8,000 thousand"),
        ("What were Harrow Ferries' 2024 capital expenditures in USD millions?", "$0.8 million"),
        ("What is the FY2024 COGS of Harrow?", "$5,000 thousand"),
        ("How much did Harrow Ferries pay in dividends in 2023?", "$0 thousand"),
        ("What is Harrow's FY2024 gross margin?", "37.5%"),
        ("What is Harrow's FY2024 operating margin? Round to two decimal places.", "15.00%"),
        ("What is Harrow's FY24 effective tax rate?", "20.0%"),
        ("What is Harrow's 2024 working capital?", "$500 thousand"),
        ("What was Harrow's current ratio in 2024?", "1.50"),
        ("What is Harrow's FY2024 fixed asset turnover?", "1.33"),
        ("What are Harrow's days payable outstanding for 2024?", "48.91 days"),
        ("What was Harrow's EBITDA in 2024?", "$1,650 thousand"),
        ("What was Harrow's free cash flow in 2024?", "$600 thousand"),
        ("What is Harrow's 2024 capex as a % of revenue?", "10.0%"),
        ("By how much did Harrow's revenue grow from 2023 to 2024?", "$500 thousand"),
        ("What was the growth rate of Harrow's revenue in 2024?", "6.7%"),
        ("What is Harrow's revenue CAGR from 2022 to 2024?", "11.8%"),
        ("What is Harrow's 2022 - 2024 three year average net margin?", "8.9%"),
        ("How much has Harrow's net margin changed between 2023 and 2024?", "0.8 percentage points"),
        ("What was the total revenue of Marlow Coaches in 2024?", "91 million"),
    ],
)
def test_an_amount_is_looked_up_or_computed_from_the_named_report(index: Index, question: str, expected: str) -> None:
    found = ask(index, question)

    assert key(found) == expected
    assert found is not None and found.sentence is not None
    cited = found.sentence.citations
    pages = [index.catalog.page(each.passage.document_id, each.passage.page).text for each in cited]
    assert all(page[each.start : each.end] == each.quote for each, page in zip(cited, pages, strict=True))
    assert all(found.hits[each.n - 1].passage.id == each.passage.id for each in cited)
    assert recomputed(found.sentence.text, [each.quote for each in cited], "\n".join(pages)), found.sentence.text


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("What was Harrow's goodwill in 2024?", "rows differ"),
        ("What is Harrow's 2024 return on equity?", "no table row says what equity"),
        ("What was Harrow's current ratio in 2022?", "no table row says what current assets"),
        ("What is the 2024 gross margin of Carlow Airways?", "nothing accounts for 'airways', 'carlow'"),
        ("What was Harrow's operating margin in the Nordic segment in 2024?", "nothing accounts for 'nordic', 'segment'"),
        ("What is Harrow's inventory turnover in 2024 after the merger?", "nothing accounts for 'after', 'merger'"),
        ("Which of Harrow's segments had the highest operating income in 2024?", "compared"),
        ("What is Harrow's FY2024 gross margin in Q3?", "part of a year"),
        ("What share of revenue did Harrow spend on paint in 2024?", "not clear"),
    ],
)
def test_what_is_not_certain_is_not_given(index: Index, question: str, why: str) -> None:
    """A wrong amount is worse than none."""
    found = ask(index, question)

    assert found is not None and found.sentence is None
    assert why in found.note


def test_a_plan_is_not_taken_for_what_happened(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    made.write("inn-2025.txt", "# Inn 2025\n\nin thousands\n\n| | 2025 forecast | 2024 |\n| Total revenue | 95 | 88 |\n")
    made.refresh()
    opened = made.open()

    assert key(ask(opened, "What was the 2024 revenue of the Inn?")) == "88 thousand"
    assert "no table row" in key(ask(opened, "What was the 2025 revenue of the Inn?"))
    opened.close()


def test_documents_that_a_person_may_not_see_are_never_looked_at(index: Index) -> None:
    found = ask(index, "What was the total revenue of Harrow Ferries in 2024?", without="harrow")

    assert found is None or found.sentence is None


def test_a_year_called_by_the_one_in_which_it_began_is_not_taken_for_the_next(tmp_path: Path) -> None:
    """A shop's fiscal 2023 that ended in February 2024: nobody knows which of the two a question about "2024" means."""
    made = Folder(tmp_path)
    table = "| | February 3, 2024 | January 28, 2023 |\n| Total revenue | 91 | 88 |\n"
    made.write(
        "shop-2024.txt", f"# Shop\n\nIn fiscal 2023 sales rose; in fiscal 2022 they fell. Fiscal 2022 was hard.\n\n(in millions)\n\n{table}"
    )
    made.refresh()
    opened = made.open()

    assert "ended in early 2024" in key(ask(opened, "What was the 2024 revenue of the shop?"))
    opened.close()


def answer(folder: Folder, index: Index, question: str, records: Records | None = None) -> Answer:
    return Answerer(folder.settings, WordEmbedder(), ScriptedModel("", "verbatim"), records, shown_from=0.01).answer(question, index)


def test_an_answer_shows_the_figure_alone_and_its_rows_as_first_sources(folder: Folder, index: Index) -> None:
    found = answer(folder, index, "What is Harrow's FY2024 current ratio?")

    assert found.how == "computed" and len(found.sentences) == 1
    assert {each.n for each in found.citations} <= {1, 2}
    assert found.text.startswith("Current ratio, 2024: 1.50 = 1,500 / 1,000; Total current assets 2024: 1,500;")


def test_no_other_amount_stands_in_for_one_that_cannot_be_computed(folder: Folder, index: Index) -> None:
    found = answer(folder, index, "What is Harrow's FY2024 return on equity?")

    assert not found.found and found.hits
    assert found.notes == ("Not computed: no table row says what equity was in 2024.",)


def test_a_sentence_that_states_the_figure_itself_may_be_quoted(folder: Folder, index: Index) -> None:
    found = answer(folder, index, "What was Harrow's effective tax rate in 2021?")

    assert found.how == "quoted"
    assert "21.5%" in found.text


def test_a_computed_answer_is_replayed_from_its_receipt(folder: Folder, index: Index) -> None:
    folder.settings.records.parent.mkdir(parents=True, exist_ok=True)
    with Records(folder.settings.records) as records:
        found = answer(folder, index, "What is Harrow's FY2024 gross margin?", records)
        receipt = records.receipt(found.receipt)
        assert receipt is not None
        again = replay(receipt, (), folder.settings, Openers(lambda _: WordEmbedder(), lambda _: ScriptedModel("", "verbatim")))

    assert (again.verdict, again.then) == ("same", found.text)


@pytest.mark.parametrize("format", ["md", "html", "docx", "xlsx", "csv"])
def test_rows_of_any_format_answer_a_plain_question(tmp_path: Path, format: str) -> None:
    """Through the real parsers: "the 2024 repair costs in Bremen" is one cell of a table, whatever the file."""
    rows = (("Repair costs", "2023", "2024"), ("Bremen", "3,900", "4,200"), ("Kiel", "3,100", "3,300"))
    docs = tmp_path / "docs"
    docs.mkdir()
    render(
        Text("Repair costs of the sites", (Heading(1, "Repair costs"), Paragraph("All sites."), Grid(rows))),
        format,
        docs / f"sites.{format}",
    )
    settings = dataclasses.replace(config.Settings(), index=tmp_path / "indexes", home=tmp_path / "home")
    refresh([("docs", docs)], "default", settings, embedder=WordEmbedder)
    index = open_index(settings.index, "default")

    found = Answerer(settings, WordEmbedder(), ScriptedModel("", "verbatim")).answer("What were the 2024 repair costs in Bremen?", index)

    assert found.how == "computed"
    assert found.sentences[0].key.replace(",", "") == "4200"
    index.close()


@pytest.mark.parametrize(
    "sentence",
    [
        "Gross margin, 2024: 38.5% = 3,000 / 8,000; Gross profit 2024: 3,000; Revenue 2024: 8,000 (in thousands).",
        "Gross margin, 2024: 41.3% = 3,300 / 8,000; Gross profit 2024: 3,300; Revenue 2024: 8,000 (in thousands).",
        "Gross margin, 2024: 37.5% = 3,000 / 8,000; Sales of ships 2024: 3,000; Revenue 2024: 8,000 (in thousands).",
        "Gross margin, 2019: 37.5% = 3,000 / 8,000; Gross profit 2019: 3,000; Revenue 2019: 8,000 (in thousands).",
        "Revenue, 2024: $9,000 thousand.",
        "Revenue, 2024: $8,000 million.",
        "Revenue, 2024: $80 million = $8,000 thousand.",
    ],
)
def test_the_audit_finds_a_computed_sentence_that_is_wrong(sentence: str) -> None:
    rows = ["| Gross profit | 3,000 |", "| Revenue | 8,000 |"]
    pages = "in thousands\n| | 2024 |\n" + "\n".join(rows)
    right = "Gross margin, 2024: 37.5% = 3,000 / 8,000; Gross profit 2024: 3,000; Revenue 2024: 8,000 (in thousands)."

    assert recomputed(right, rows, pages)
    assert recomputed("Revenue, 2024: $8 million = $8,000 thousand.", rows, pages)
    assert not recomputed(sentence, rows, pages)
