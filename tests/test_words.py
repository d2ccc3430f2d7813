"""Words compare by what they mean for a claim, not by how they are spelt."""

import pytest

from rag.words import words


def forms(text: str) -> list[str]:
    return [each.form for each in words(text) if each.kind != "function"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("drives", "driven"), ("carried", "carry"), ("policies", "policy"), ("stopped", "stops"), ("1,200", "1200"), ("5.00", "5"),
        ("ten", "10"), ("percent", "%"), ("EUR", "€"), ("employee's", "employees"), ("approves", "approving"),
    ],
)
def test_spellings_of_one_thing_compare_equal(one: str, other: str) -> None:
    assert forms(one) == forms(other)


@pytest.mark.parametrize(("one", "other"), [("1.5", "15"), ("10", "100"), ("$5", "€5"), ("manager", "manage"), ("status", "stat")])
def test_different_things_stay_different(one: str, other: str) -> None:
    assert forms(one) != forms(other)


def test_names_negations_and_conditions_are_known() -> None:
    kinds = {each.form: each.kind for each in words("Staff don't fly unless Maria agrees.")}

    assert kinds["not"] == "negation" and kinds["unless"] == "condition" and kinds["maria"] == "name"


def test_offsets_point_into_the_text() -> None:
    text = "Für 1.200 € (brutto)."

    assert [text[each.start : each.end] for each in words(text)] == ["Für", "1.200", "€", "brutto"]
