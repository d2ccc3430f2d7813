"""Editions: older versions and near-duplicates are found by what documents say, and the newer one is preferred."""

import dataclasses
import json
import sqlite3
from pathlib import Path

import pytest

from ingest.__main__ import report_json, report_text
from ingest.editions import age, overlaps, plain_name, sketch
from ingest.report import last
from ingest.types import Related
from rag.retrieve import retrieve
from rag.visible import LOCAL, visible
from tests.folder import Folder
from ui.answer import where

RULES = """# Travel policy {year}

This policy applies to all employees who travel for the company, at home and abroad.
Book trains at least two weeks ahead, in second class, through the travel desk.
Hotels in the capital are paid up to {amount} pounds a night including breakfast.
Taxis are paid only after ten in the evening or with heavy luggage.
Send receipts within thirty days to the finance team, or they will not be paid.
"""
OTHER = """# Canteen

The canteen opens at half past eleven and closes at two in the afternoon on every working day of the week.
Vegetarian dishes are marked with a green leaf, and allergens are listed on the board beside the till.
"""
QUESTION = "How much is paid for hotels in the capital a night?"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.write("hr/travel-policy-2023.md", RULES.format(year=2023, amount=150))
    made.write("hr/travel-policy-2025.md", RULES.format(year=2025, amount=180))
    made.write("canteen.md", OTHER)
    return made


def asked(folder: Folder, question: str, only: str = "*") -> list[tuple[str, str]]:
    """(document, its newer edition) of what is found."""
    index = folder.open()
    allowed = visible(LOCAL, index) & index.catalog.match(only)
    hits = retrieve(question, index, folder.embedder, 5, allowed)
    index.close()
    return [(hit.passage.document, hit.passage.newer) for hit in hits]


OLDER = Related("hr/travel-policy-2023.md", "hr/travel-policy-2025.md", "older", 0.8)


def test_an_older_version_is_pointed_out_everywhere_a_refresh_reports(folder: Folder) -> None:
    """In the text, in --json, and in what the library page reads."""
    report = folder.refresh()
    assert [dataclasses.replace(each, overlap=0.8) for each in report.related] == [OLDER]
    assert 0.5 < report.related[0].overlap < 1.0
    assert "older    hr/travel-policy-2023.md: an older version of hr/travel-policy-2025.md" in report_text(report, False)
    told = [dataclasses.asdict(report.related[0])]
    kept = last(folder.settings.index, "default")
    assert report_json(report)["related"] == told and kept is not None and kept["related"] == told


def test_a_night_without_changes_says_it_in_json_only(folder: Folder) -> None:
    """What was told when the files came is not told again every night, but is not forgotten either."""
    folder.refresh()
    report = folder.refresh()
    assert "older version" not in report_text(report, False) and len(report_json(report)["related"]) == 1


def test_a_report_says_of_each_file_what_was_read(folder: Folder) -> None:
    """Pages, passages and seconds of what was touched, and nothing of what was not; a line adds it up for a person."""
    folder.write("two-pages.md", "# One\n\nThe first page.\fThe second page.")
    report = folder.refresh()
    (listed,) = [each for each in report_json(report)["files"] if each["document"] == "two-pages.md"]
    assert (listed["status"], listed["pages"], listed["passages"], listed["tables"], listed["ocr_pages"]) == ("added", 2, 2, 0, 0)
    assert listed["seconds"] >= 0 and listed["warnings"] == ()
    assert "read     5 pages, 0 tables, 0 scanned pages; longest " in report_text(report, False)
    assert report_json(folder.refresh())["files"] == []


def test_the_label_stands_beside_the_place_on_screen() -> None:
    """Where a source is named, an older version is called one."""
    passage = {"document": "policy-2023.md", "page": None, "section": "Hotels", "date": None, "newer": "policy-2025.md"}
    assert where(passage) == "policy-2023.md · Hotels · older version; newer: policy-2025.md"
    assert where({**passage, "newer": ""}) == "policy-2023.md · Hotels"


def test_the_newer_version_is_preferred_and_the_older_labelled(folder: Folder) -> None:
    """Two passages that say the same with other figures: the newer one first, the other names it."""
    folder.refresh()
    found = asked(folder, QUESTION)
    newer, older = found.index(("hr/travel-policy-2025.md", "")), found.index(("hr/travel-policy-2023.md", "hr/travel-policy-2025.md"))
    assert newer < older
    assert folder.open().catalog.documents()[1].document == "hr/travel-policy-2023.md"  # it comes first where nothing speaks for either


def test_a_question_that_names_the_year_gets_what_it_names(folder: Folder) -> None:
    """Who asks for 2023 knows that there is a newer one; the label stays."""
    folder.refresh()
    assert asked(folder, f"{QUESTION} Travel policy 2023")[0] == ("hr/travel-policy-2023.md", "hr/travel-policy-2025.md")


def test_a_newer_version_that_may_not_be_seen_is_not_named(folder: Folder) -> None:
    """A name is knowledge too: only among the documents that exist for who asks."""
    folder.refresh()
    assert asked(folder, QUESTION, only="*2023*") == [("hr/travel-policy-2023.md", "")]


def test_a_copy_is_nearly_the_same_and_neither_is_older(folder: Folder) -> None:
    """The same file in two folders under other names: pointed out once, nothing preferred."""
    folder.write("handbook/canteen hours.md", OTHER + "\nEnjoy your meal.\n")
    report = folder.refresh()
    assert ("handbook/canteen hours.md", "canteen.md", "alike") in [(each.document, each.other, each.kind) for each in report.related]
    assert asked(folder, "When does the canteen close?")[0][1] == ""


def test_documents_that_only_share_their_form_are_not_versions(tmp_path: Path) -> None:
    """Two invoices say nearly the same, and neither replaces the other."""
    folder = Folder(tmp_path)
    for number in (17, 18):
        folder.write(f"2025/invoice-{number}.md", RULES.format(year=2025, amount=number))
    assert [each.kind for each in folder.refresh().related] in ([], ["alike"])


def test_short_documents_are_not_compared(tmp_path: Path) -> None:
    """Every "To be written." would be a version of every other."""
    folder = Folder(tmp_path)
    for name in ("a", "b"):
        folder.write(f"{name}.md", "# Notes\n\nTo be written.")
    assert folder.refresh().related == ()


def test_relations_follow_what_changes(folder: Folder) -> None:
    """The newer one is deleted, and the older one is simply the policy again."""
    folder.refresh()
    (folder.root / "hr/travel-policy-2025.md").unlink()
    assert folder.refresh(force=True).related == ()
    assert asked(folder, QUESTION)[0] == ("hr/travel-policy-2023.md", "")


def test_an_index_of_before_opens_and_learns_its_editions_once(folder: Folder) -> None:
    """An upgrade reads no file and embeds nothing again, and publishes once."""
    folder.refresh()
    version = next(iter((folder.settings.index / "default/versions").iterdir()))
    database = sqlite3.connect(version / "catalog.sqlite")
    database.executescript("DROP TABLE sketches; DROP TABLE editions; DELETE FROM facts WHERE name = 'editions';")
    database.close()
    _publish_again(folder, version)
    assert folder.open().catalog.editions() == {} and len(asked(folder, QUESTION)) == 3
    folder.reader.read.clear()
    folder.embedder.embedded.clear()
    report = folder.refresh()
    assert report.version == "v000002" and len(report.related) == 1 and report.count("unchanged") == 3
    assert folder.reader.read == [] and folder.embedder.embedded == []
    assert folder.refresh().version == "v000002"


def _publish_again(folder: Folder, version: Path) -> None:
    """Makes an edited version the published one, as an older Footnote would have written it."""
    from ingest import publish

    manifest = json.loads((version / "MANIFEST.json").read_text())
    catalog = version / "catalog.sqlite"
    manifest["files"]["catalog.sqlite"] = {"sha256": publish.file_sha256(catalog), "size": catalog.stat().st_size}
    manifest.pop("sha256", None)
    (version / "MANIFEST.json").write_text(json.dumps(manifest))
    publish.point(version.parent.parent, publish.read_version(version))


def test_overlap_is_close_to_the_truth_in_any_script() -> None:
    """Half of the sentences are shared: about a third of all are in both. Chinese has no spaces and works as well."""
    for line in ("Sentence number {} speaks of thing {} and of nothing else.", "第{}条规定员工的事项{}必须遵守公司制度。"):
        texts = [[line.format(number, number * number) for number in numbers] for numbers in (range(400), range(200, 600))]
        found = overlaps({1: sketch(texts[0]), 2: sketch(texts[1])})
        assert abs(found[1, 2] - 1 / 3) < 0.15, line


def test_names_that_differ_by_age_alone_are_one() -> None:
    """Years, versions, "old", "final" and a browser's "(2)" say how old a document is, not what it is; other numbers do not."""
    same = ["Travel policy 2023", "travel_policy-v2", "Travel-Policy (final)", "old travel policy", "travel policy (2)"]
    assert {plain_name(each) for each in same} == {"travel policy"}
    assert plain_name("invoice-17") != plain_name("invoice-18") and plain_name("Board 2025-03") != plain_name("Board 2025-06")
    assert age("policy-2023.md", "", None)[0] < age("policy-2025.md", "", None)[0]
