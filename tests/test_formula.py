"""From the words of a question to a formula over line items and years."""

from __future__ import annotations

import pytest

from rag.formula import Asked, Item, Node, Number, Unclear, asked, parse


def shown(node: Node) -> str:
    if isinstance(node, Item):
        return f"{node.name} {node.year}"
    if isinstance(node, Number):
        return str(node.value)
    return f"({shown(node.left)} {node.sign} {shown(node.right)})"


@pytest.mark.parametrize(
    ("question", "formula", "kind"),
    [
        ("What was Harrow's total revenue in 2021?", "revenue 2021", "lookup"),
        ("In 2021, how much did Harrow spend on capex?", "capital expenditures 2021", "lookup"),
        ("What is Harrow's FY21 current ratio?", "(current assets 2021 / current liabilities 2021)", "ratio"),
        ("What was Harrow's net margin in 2021?", "(net income 2021 / revenue 2021)", "percent"),
        ("What are R&D expenses as a % of sales in 2020?", "(research and development 2020 / revenue 2020)", "percent"),
        ("By how much did Harrow's revenue grow from 2020 to 2021?", "(revenue 2021 - revenue 2020)", "amount"),
        ("What was the growth rate of revenue in 2021?", "((revenue 2021 - revenue 2020) / revenue 2020)", "percent"),
        ("What is the revenue CAGR from 2018 to 2021?", "(((revenue 2021 / revenue 2018) ^ (1 / 3)) - 1)", "percent"),
        (
            "What is Harrow's FY2021 EBITDA less capex?",
            "((operating income 2021 + depreciation and amortization 2021) - capital expenditures 2021)", "amount",
        ),
        ("What is Harrow's FY2021 return on assets (ROA)?", "(net income 2021 / ((total assets 2021 + total assets 2020) / 2))", "percent"),
        (
            "According to the balance sheet, what is the 2019 - 2021 three year average inventory?",
            "(((inventory 2019 + inventory 2020) + inventory 2021) / 3)", "amount",
        ),
        (
            "What is the FY2021 asset turnover?",
            "(revenue 2021 / ((total assets 2021 + total assets 2020) / 2))", "ratio",
        ),
    ],
)  # fmt: skip
def test_a_question_becomes_a_formula(question: str, formula: str, kind: str) -> None:
    found = asked(question)

    assert isinstance(found, Asked)
    assert (shown(found.formula), found.kind) == (formula, kind)


def test_the_question_s_own_definition_counts_before_the_usual_one() -> None:
    found = asked("What is Harrow's FY2021 quick ratio? Quick ratio is defined as: (current assets - inventory) / current liabilities.")

    assert isinstance(found, Asked)
    assert shown(found.formula) == "((current assets 2021 - inventory 2021) / current liabilities 2021)"


def test_a_definition_may_rest_on_others() -> None:
    """Only the last of three definitions was used once, and the parts' figure would have been shown as the whole's."""
    found = asked(
        "What is the FY2021 cash conversion cycle of Harrow? CCC is defined as: DIO - DPO. DIO is defined as: 365 * inventory / COGS. "
        "DPO is defined as: 365 * payables / COGS."
    )

    assert isinstance(found, Asked)
    inventory, payables = "((365 * inventory 2021) / cost of goods sold 2021)", "((365 * payables 2021) / cost of goods sold 2021)"
    assert shown(found.formula) == f"({inventory} - {payables})"


def test_a_definition_of_a_part_is_not_one_of_the_whole() -> None:
    for asks, whole in (("EBITDA margin", "({} / revenue 2021)"), ("EBITDA less capex", "({} - capital expenditures 2021)")):
        found = asked(f"What is Harrow's FY2021 {asks}? EBITDA is defined as: operating income + [D&A from the statement of cash flows].")

        assert isinstance(found, Asked)
        assert shown(found.formula) == whole.format("(operating income 2021 + depreciation and amortization 2021)")


def test_unit_and_decimals_are_those_asked_for() -> None:
    found = asked("How much (in USD billions) was Harrow's net income in 2021? Round to two decimal places.")

    assert isinstance(found, Asked) and (found.unit, found.places) == ("billion", 2)


def test_words_that_name_something_narrower_are_kept_for_the_document_to_explain() -> None:
    found = asked("What was the operating income of Harrow's Nordic segment in 2021?")

    assert isinstance(found, Asked) and found.rest == {"harrow", "nordic", "segment"}


@pytest.mark.parametrize(
    "question",
    [
        "What percentage of its revenue did Harrow spend on travel in 2021?",
        "What is Harrow's net income to headcount ratio for 2021?",
        "Which segment had the highest net income in 2021?",
        "What was the gross margin in Q2 of 2021?",
        "What is Harrow's FY2021 burn ratio? Burn ratio is defined as: capex / (revenue.",
        "What is the ratio of debt and leases in 2021?",
        "Has the number of shops changed between 2020 and 2021?",
    ],
)
def test_what_would_have_to_be_computed_but_is_not_understood_is_said_so(question: str) -> None:
    assert isinstance(asked(question), Unclear)


@pytest.mark.parametrize(
    "question",
    [
        "How many days of leave may be carried into the next year?",
        "What drove the change in gross margin in 2021?",
        "Who was the king of Prussia in 1740?",
        "What is the notice period?",
        "Who approves revenue forecasts?",
        "When did the company move to Leith in 2019?",
    ],
)
def test_other_questions_are_left_alone(question: str) -> None:
    assert asked(question) is None


def test_a_formula_may_name_rows_that_are_no_usual_line_items() -> None:
    assert shown(parse("FY2021 harbour dues / (average berths between FY2020 and FY2021)", 2021)) == (
        "(harbour dues 2021 / ((berths 2021 + berths 2020) / 2))"
    )
