"""The bench finds sets, counts honestly and says what it ran on; that its timings are short is nowhere asserted."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import cast

import pytest
from reportlab.pdfgen import canvas

import config
from bench.__main__ import main, parser
from bench.machine import machine
from bench.measures import BUILT, MEASURES, Bench
from bench.reading import reading
from bench.sets import question_sets
from bench.timing import timing
from errors import UsageError
from evals.audit import SAME
from evals.prepare import opened
from evals.results import load
from ingest.embed import Embedder


def lay_out(folder: Path, name: str) -> Path:
    (folder / name / "docs" / "deep").mkdir(parents=True)
    (folder / name / "docs" / "a.md").write_text("# Leave\n\nStaff get 25 days.\n", encoding="utf-8")
    (folder / name / "docs" / "deep" / "b.md").write_text("# Travel\n\nBook early.\n", encoding="utf-8")
    question = {"question": "How many days?", "answer": "25"}
    (folder / name / "questions.jsonl").write_text(json.dumps(question) + "\n", encoding="utf-8")
    return folder / name


def test_every_folder_with_documents_and_questions_is_a_set(tmp_path: Path) -> None:
    """Other folders are left alone; a set given by itself is one too; files in folders of a set are counted."""
    one = lay_out(tmp_path, "one")
    lay_out(tmp_path, "two")
    (tmp_path / "notes" / "docs").mkdir(parents=True)
    assert [each.name for each in question_sets(tmp_path)] == ["one", "two"]
    assert [each.name for each in question_sets(tmp_path, ["two"])] == ["two"]
    (alone,) = question_sets(one)
    assert [path.name for path in alone.files()] == ["a.md", "b.md"]


def test_a_set_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    """A typing mistake is put right without looking anything up."""
    lay_out(tmp_path, "one")
    with pytest.raises(UsageError, match=r"no set named three.*There are: one"):
        question_sets(tmp_path, ["three"])
    with pytest.raises(UsageError, match="no folder with docs/"):
        question_sets(tmp_path / "one" / "docs")


def test_a_timing_is_its_median_and_its_spread() -> None:
    """One slow turn moves the spread, not the middle."""
    found = timing([1.0, 1.1, 0.9, 9.0, 1.0])
    assert found.median == 1.0 and str(found) == "1.00 s (0.90–9.00, 5×)"
    assert found.as_json()["most_s"] == 9.0 and found.as_json()["n"] == 5
    assert str(timing([])) == "–"


def test_the_machine_is_described_without_its_name() -> None:
    """Results are passed on; whose machine it was is nobody's business."""
    text = json.dumps(machine())
    assert socket.gethostname() not in text and str(Path.home()) not in text
    assert machine()["cores"] >= 1


@pytest.mark.slow
def test_reading_is_measured_on_the_same_files_by_every_reader(tmp_path: Path) -> None:
    """Pages, words of the good text and times of three readers; a set without PDF files has no row."""
    sources = tmp_path / "parsing" / "pdf" / "sources"
    sources.mkdir(parents=True)
    (tmp_path / "parsing" / "pdf" / "groundtruth").mkdir()
    pdf = canvas.Canvas(str(sources / "one.pdf"))
    for text in ("Staff get twenty days.", "Book early."):
        pdf.drawString(60, 700, text)
        pdf.showPage()
    pdf.save()
    (tmp_path / "parsing" / "pdf" / "groundtruth" / "one.md").write_text("# Staff get twenty days.\n\nBook early. Seldom.\n")
    lay_out(tmp_path, "notes")
    sets = tuple(question_sets(tmp_path))
    settings = dataclasses.replace(config.Settings(), index=tmp_path / "indexes", home=tmp_path / "home")
    measured = reading(Bench(sets, settings, cast(Embedder, None), folder=tmp_path))
    assert [(row[0], row[1], row[2], row[-1]) for row in measured.rows] == [
        ("parsing", reader, 2, "6 of 7") for reader in ("footnote", "pypdf loop", "footnote, children")
    ]
    assert all(measured.body["parsing"][reader]["wall"]["n"] == 5 for reader in ("footnote", "pypdf loop"))


def test_an_unknown_measure_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the known ones are listed."""
    lay_out(tmp_path, "one")
    assert main([str(tmp_path), "speed"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in MEASURES)


def test_help_names_every_measure() -> None:
    """The list in --help is made of the list that is run."""
    assert all(name in " ".join(parser().format_help().split()) for name in MEASURES)


def test_measures_that_build_indexes_are_refused_beside_ready_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--index` may name what people are served from: nothing may be written there."""
    lay_out(tmp_path, "one")
    assert main([str(tmp_path), "retrieval", "refresh", "--index", str(tmp_path / "indexes")]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in BUILT)
    assert not (tmp_path / "indexes").exists()


@pytest.mark.real
def test_a_ready_index_is_measured_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Completeness, retrieval, answers, refusals and sources by one command with the real models; the index stays byte for byte, though
    the documents changed since; each answer is kept for `evals audit` and `evals compare`."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    one = lay_out(tmp_path / "sets", "one")
    settings = dataclasses.replace(config.load(), index=tmp_path / "indexes")
    settings.index.mkdir()
    with opened(settings, "one", one / "docs", Embedder(settings)):
        pass
    questions = [
        {"id": "days", "question": "How many days of leave do staff get?", "answer": "25", "gold": [{"doc": "a.md"}]},
        {"id": "moon", "question": "How far away is the moon?", "answerable": False, "kind": "nonsense", "related_doc": "a.md"},
    ]
    (one / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions), encoding="utf-8")
    (one / "docs" / "a.md").write_text("# Leave\n\nStaff get 30 days.\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in sorted(settings.index.rglob("*")) if path.is_file()}
    given = ["--limit", "2", "--index", str(settings.index), "--results", str(tmp_path / "results")]
    assert main([str(tmp_path / "sets"), "index", "retrieval", "answers", *given]) == 0
    assert {path: path.read_bytes() for path in sorted(settings.index.rglob("*")) if path.is_file()} == before
    kept = {path.name.split("-", 2)[2]: load(path) for path in (tmp_path / "results").iterdir()}
    assert set(kept) == {"bench-index.json", "bench-retrieval.json", "bench-answers.json", "run-one.json", "run-one-off-topic.json"}
    assert [row["answer"] for row in kept["run-one.json"]["rows"] if row["found"]] == ["Staff get 25 days."]
    body = kept["bench-answers.json"]["body"]["one"]
    assert (body["questions"], body["quotes_wrong"], body["audited"], body["contains"]["mean"]) == (2, 0, {SAME: 1}, 1.0)
    assert body["refused_rightly_by_kind"]["nonsense"]["mean"] == body["off_topic_refused"]["mean"] == body["curve"]["0.05"]["mean"] == 1.0
    assert kept["bench-retrieval.json"]["body"]["one"]["footnote"]["recall@5"]["mean"] == 1.0
    said = capsys.readouterr().out
    assert all(each in said for each in ("## Index completeness", "## Retrieval", "## Answers", "## Refusals", "## Sources"))
