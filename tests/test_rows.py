"""Rows of tables as a person reads them."""

from rag.rows import is_header, readable

TABLE = "Hotels\n\n| City | Limit |\n| Berlin | 120 |\n| Paris | 150 |\n\nAfter."


def row(text: str, start: str, context: str = "") -> str:
    at = text.index(start)
    return readable(text, at, text.find("\n", at) if "\n" in text[at:] else len(text), context)


def test_a_row_carries_its_column_names() -> None:
    assert row(TABLE, "| Paris") == "City: Paris; Limit: 150"


def test_the_header_is_known_as_one() -> None:
    at = TABLE.index("| City")

    assert is_header(TABLE, at, TABLE.index("\n", at), "")
    assert not is_header(TABLE, TABLE.index("| Berlin"), TABLE.index("\n", TABLE.index("| Berlin")), "")


def test_a_table_that_goes_on_takes_its_header_from_before() -> None:
    """A long table is cut between rows; the second passage still knows its columns."""
    for start in ("| Rome", "| Oslo"):
        assert row("| Rome | 90 |\n| Oslo | 200 |", start, "Travel\n| City | Limit |").startswith("City: ")


def test_a_spreadsheet_row_is_read_without_bars() -> None:
    assert row("Name: Ada | Team: Sales", "Name") == "Name: Ada; Team: Sales"


def test_beside_years_the_first_cell_of_a_header_is_no_columns_name() -> None:
    """It is the title of the first rows: "Operating activities: Net increase in cash" said what the report does not."""
    table = "| Operating activities | 2023 | 2022 |\n| Net increase in cash | 306,317 | (614,491) |"
    assert row(table, "| Net increase") == "Net increase in cash; 2023: 306,317; 2022: (614,491)"
