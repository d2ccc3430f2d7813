"""What may be shown as an answer, and how its signs are weighed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errors import ModelMissing
from ingest.types import Passage
from rag.evidence import Signs, evidence, load_weights, units_of
from rag.types import Hit
from tests.fakes import WordEmbedder

TEXT = """Hotels

| City | Limit |
| Berlin | 120 |
| Paris | 150 |

Travel desk

You need three things:

- a passport
- a booking number

The desk opens at nine."""


def hit(text: str = TEXT, section: str = "Travel › Hotels") -> Hit:
    return Hit(Passage(1, "travel.md", 1, "Travel", None, section, text, 0, len(text)), 1.0, "both")


def test_headings_and_column_names_are_no_answers_and_a_list_stays_with_its_lead() -> None:
    """Marked headings, unmarked ones and a table's head are left out; "three things:" is shown with the things."""
    units = [TEXT[start:end] for start, end in units_of(hit())]

    assert "Hotels" not in units and "Travel desk" not in units and "| City | Limit |" not in units
    assert "You need three things:\n\n- a passport\n- a booking number" in units
    assert "| Paris | 150 |" in units and "The desk opens at nine." in units


def test_a_question_is_no_answer() -> None:
    """Guides ask what people ask; shown as an answer their question said nothing."""
    text = "How do I reset the lock of the depot? Hold the button for ten seconds until the light is green."
    assert [text[slice(*span)] for span in units_of(hit(text))] == ["Hold the button for ten seconds until the light is green."]


def test_a_row_is_found_by_its_columns_name() -> None:
    found = evidence("Which limit has Paris?", [hit()], WordEmbedder())

    assert found.candidates[0].text == "| Paris | 150 |"


def test_nothing_to_show_is_not_enough() -> None:
    assert not evidence("Why?", [], WordEmbedder()).enough


def test_weights_multiply_signs() -> None:
    assert Signs(0.5, 1.0, 0.25, 2.0).times(Signs(2.0, 1.0, 4.0, 0.5, bias=-1.0)) == 3.0


def test_fitted_weights_are_read_and_a_broken_file_is_named(tmp_path: Path) -> None:
    """A typing error in the file is no reason to answer by chance."""
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps({"pick": {"bias": 1.0, "rank": 2.0}, "answer": {"bias": 0.0}, "threshold": 0.4}))

    assert load_weights(tmp_path).pick.rank == 2.0 and load_weights(tmp_path).threshold == 0.4
    for broken in ("{", json.dumps({"pick": {"colour": 1.0}, "answer": {}, "threshold": 0.4}), json.dumps({"pick": []})):
        path.write_text(broken)
        with pytest.raises(ModelMissing, match=r"evidence\.json"):
            load_weights(tmp_path)
