"""The rows of tables as amounts, from the layouts in which reports print them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ingest.types import Page
from rag.tables import Row, amount, rows


def read(text: str, *more: str) -> list[Row]:
    return rows(1, [Page(number, each) for number, each in enumerate((text, *more), 1)])


def cell(found: list[Row], label: str, year: int) -> int:
    (value,) = (each.value for row in found if row.label == label for each in row.amounts if each.column.year == year)
    return int(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$ 1,234", "1234"), ("(1,234)", "-1234"), ("$ (56.7)", "-56.7"), ("—", "0"), ("$ —", "0"), ("1.234.567", "1234567"),
        ("1.234,50 €", "1234.50"), ("12,5", "12.5"), ("0.123", "0.123"), ("3 (a)", "3"), ("4,100 *", "4100"), ("2.5 million", "2500000"),
    ],
)  # fmt: skip
def test_an_amount_is_read_as_people_write_it(text: str, value: str) -> None:
    read = amount(text)

    assert read is not None and read[0] == Decimal(value)


@pytest.mark.parametrize("text", ["1.234", "3 $ 1.51", "(12", "n/a", "2021-2022", "12 to 14", ""])
def test_what_could_be_two_amounts_is_none(text: str) -> None:
    """ "1.234" is a thousand and more to a German and one point two to an American."""
    assert amount(text) is None


@pytest.mark.parametrize("header", ["| | 2024 | 2023 |", "| Assets | At May 31, 2024 | At May 31, 2023 |", "| $ million | FY24 | FY23 |"])
def test_columns_are_named_by_the_years_in_their_header(header: str) -> None:
    found = read(f"Balance sheet\n\n{header}\n| Cash | $ 12 | $ 9 |\n| Loans | (5) | — |\n")

    assert (cell(found, "Cash", 2024), cell(found, "Cash", 2023)) == (12, 9)
    assert (cell(found, "Loans", 2024), cell(found, "Loans", 2023)) == (-5, 0)


def test_columns_may_ascend_and_dollars_stand_in_cells_of_their_own() -> None:
    found = read("| | 2023 | | 2024 | |\n| Cash | $ | 9 | $ | 12 |\n| Loans | | (5 | ) | (6 | ) |\n")

    assert (cell(found, "Cash", 2023), cell(found, "Cash", 2024)) == (9, 12)
    assert (cell(found, "Loans", 2023), cell(found, "Loans", 2024)) == (-5, -6)


def test_years_may_stand_in_a_line_above_the_table() -> None:
    found = read("Balance sheet\n\nDecember 31, 2024 2023 (In thousands)\n\n| Cash | 12 | 9 |\n")

    assert cell(found, "Cash", 2023) == 9
    assert found[0].scale == "thousand"


def test_a_sentence_above_a_table_names_no_columns() -> None:
    found = read("Sales fell in 2024 and in 2023 too.\n\n| Cash | 12 | 9 |\n")

    assert not found[0].named


def test_a_table_cut_in_two_goes_on_with_its_columns() -> None:
    found = read("| | 2024 | 2023 |\n| Cash | 12 | 9 |\n\nCommitments (note 3)\n\n| Total equity | 7 | 6 |\n")

    assert cell(found, "Total equity", 2023) == 6


def test_a_table_without_a_header_takes_its_years_from_one_with_the_same_rows() -> None:
    """A parser may lose a statement's header; the same figures stand elsewhere in the report with their years."""
    summary = "Key figures\n\n| | 2024 | 2023 | 2022 |\n| Net sales | 5,100 | 4,800 | 4,500 |\n| Profit before tax | 510 | 470 | 430 |\n"
    statement = (
        "| Net sales | 5,100 | 4,800 | 4,500 |\n| Cost of sales | 3,000 | 2,900 | 2,800 |\n| Profit before tax | 510 | 470 | 430 |\n"
    )

    found = [row for row in read(summary, statement) if row.page == 2]

    assert cell(found, "Cost of sales", 2023) == 2900
    assert found[1].years_from is not None and found[1].years_from.page == 1


def test_one_equal_row_is_chance() -> None:
    summary = "| | 2024 | 2023 |\n| Net sales | 5,100 | 4,800 |\n"
    statement = "| Net sales | 5,100 | 4,800 |\n| Cost of sales | 3,000 | 2,900 |\n"

    assert not any(row.named for row in read(summary, statement) if row.page == 2)


def test_parts_of_a_year_are_told_from_years() -> None:
    found = read("| | Three months ended May 31, | | Year ended May 31, | |\n| | 2024 | 2023 | 2024 | 2023 |\n| Sales | 1 | 2 | 8 | 9 |\n")

    assert [(each.column.year, bool(each.column.part)) for each in found[0].amounts] == [
        (2024, True), (2023, True), (2024, False), (2023, False),
    ]  # fmt: skip


def test_a_row_whose_columns_cannot_be_told_apart_has_none() -> None:
    found = read("| | 2024 | 2023 |\n| Sales | 8 | 7 | 3 |\n")

    assert not found[0].named


@pytest.mark.parametrize(
    "line",
    ["(in millions, except per share data)", "Amounts in millions", "$ and shares in millions", "in Mio. €", "(MILLIONS OF DOLLARS)"],
)
def test_the_unit_is_read_from_the_line_above(line: str) -> None:
    assert read(f"Income statement\n\n{line}\n\n| | 2024 |\n| Sales | 8 |\n")[0].scale == "million"


def test_a_page_with_two_units_states_none() -> None:
    text = "Sales by plant\n\nin thousands\n\nSales by land\n\nin millions\n\n" + "Text.\n\n" * 8 + "| | 2024 |\n| Sales | 8 |\n"

    assert read(text)[0].scale == ""


def test_a_label_above_its_amounts_is_one_row() -> None:
    (row,) = read("| | 2024 |\n| TOTAL CURRENT LIABILITIES | |\n| | 27 |\n")

    assert row.label == "TOTAL CURRENT LIABILITIES"


def test_a_spreadsheet_s_row_names_its_cells() -> None:
    (row,) = read("City: Bremen | Kind: Repairs | 2023: 3,900 | 2024: 4,200")

    assert row.label == "Bremen Repairs"
    assert cell([row], "Bremen Repairs", 2024) == 4200
