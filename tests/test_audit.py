"""The audit: by plain words, does each shown sentence stand in the span it cites; what it cannot say goes to a person."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from errors import UsageError
from evals.__main__ import main
from evals.audit import FALSE, READ, ROW, SAME, Audited, audit, judged, keep, read_sheet, sample, text, verdict, write_sheet
from tests.folder import Folder

PAGE = """Employees get 25 days of leave a year, unless a contract says otherwise.

| Grade | Allowance |
| --- | --- |
| B | 140 |
"""
FULL = "Employees get 25 days of leave a year, unless a contract says otherwise."


def verdict_on(sentence: str, quote: str) -> str:
    start = PAGE.index(quote)
    cited = {"sentence": 0, "document": "leave.md", "page": None, "start": start, "end": start + len(quote), "quote": quote}
    return verdict(sentence, [cited], lambda document, page: PAGE)


@pytest.mark.parametrize(
    ("sentence", "quote", "expected"),
    [
        (FULL, FULL, SAME),
        ("Employees get 25 days of leave a year.", FULL, READ),  # the condition is gone
        ("Employees get 25 days, unless a contract says otherwise.", FULL, SAME),
        ("Employees get 30 days of leave a year, unless a contract says otherwise.", FULL, FALSE),
        ("Staff receive 25 days of leave a year, unless a contract says otherwise.", FULL, READ),
        ("Grade: B; Allowance: 140", "| B | 140 |", ROW),
        ("Grade: C; Allowance: 140", "| B | 140 |", READ),
        ("Grade: B; Allowance: 150", "| B | 140 |", FALSE),
    ],
)
def test_words_alone_tell_what_is_supported_and_what_a_person_must_read(sentence: str, quote: str, expected: str) -> None:
    assert verdict_on(sentence, quote) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Operating activities: Net increase in cash; 2023: 306; 2022: (614)", READ),
        ("Net increase in cash; 2023: 306; 2022: (614)", ROW),
        ("City: Berlin; Limit: 140", ROW),
    ],
)
def test_the_title_of_a_table_s_first_rows_is_no_name_for_all_of_them(sentence: str, expected: str) -> None:
    """A cash flow statement was shown whose last row was called "Operating activities", as its header's first cell says of the first rows:
    every word of it stands on the page, and it is false. Only a person can tell."""
    table = "| Operating activities | 2023 | 2022 |\n| Net income | 12 | 9 |\n| Net increase in cash | 306 | (614) |\n"
    page = table + "\n| City | Limit |\n| Berlin | 140 |\n"
    quote = "| Berlin | 140 |" if "Berlin" in sentence else "| Net increase in cash | 306 | (614) |"
    start = page.index(quote)
    cited = {"sentence": 0, "document": "a.pdf", "page": 1, "start": start, "end": start + len(quote), "quote": quote}
    assert verdict(sentence, [cited], lambda document, page_number: page) == expected


def test_a_citation_of_other_text_than_is_stored_is_false() -> None:
    """However well the sentence fits its quote, the quote must stand there."""
    cited = {"sentence": 0, "document": "leave.md", "page": None, "start": 3, "end": 3 + len(FULL), "quote": FULL}
    assert verdict(FULL, [cited], lambda document, page: PAGE) == FALSE
    assert verdict(FULL, [], lambda document, page: PAGE) == FALSE

    def gone(document: str, page: int | None) -> str:
        raise KeyError(document)

    assert verdict(FULL, [{**cited, "start": 0}], gone) == FALSE


def result(sentence: str, id: str = "1") -> dict[str, Any]:
    cited = {"sentence": 0, "document": "leave.md", "page": None, "start": 0, "end": len(FULL), "quote": FULL}
    row = {"id": id, "question": "How many days?", "sentences": [sentence], "how": ["quoted"], "citations": [cited]}
    return {"name": "leave", "rows": [row]}


def test_a_sheet_goes_to_a_person_and_comes_back(tmp_path: Path) -> None:
    """With what needs reading first; a "no" is counted and shown."""
    rows = [*audit(result(FULL), lambda *_: PAGE), *audit(result("Staff get 25 days.", "2"), lambda *_: PAGE)]
    assert [each.code for each in sample(rows, 2, 0)] == [READ, SAME]
    sheet = tmp_path / "sheet.csv"
    write_sheet(sheet, sample(rows, 2, 0))
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    lines[0].update(supported="No", answers="partly", note="Staff is not in it")
    lines[1].update(supported="yes", answers="yes")
    with sheet.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    told = text(read_sheet(sheet))
    head, _, row, *_ = ([cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines())
    counted = dict(zip(head, row, strict=True))
    assert (counted["answers"], counted["sentences"], counted[SAME], counted[READ], counted[FALSE]) == ("2", "2", "1", "1", "0")
    assert (counted["unsupported"], counted["answers the question"], counted["partly"], counted["not"]) == ("1", "1", "1", "0")
    assert "Staff get 25 days." in told
    assert main(["audit", str(sheet), "--judged", str(tmp_path / "judged.csv")]) == 1
    sheet.write_text(sheet.read_text().replace("No,", "maybe,"))
    with pytest.raises(UsageError, match="maybe"):
        read_sheet(sheet)


def test_what_was_read_once_is_not_asked_again(tmp_path: Path) -> None:
    """Judgements are kept without the text they are about; another sentence, or another question about it, is to be read anew."""
    path = tmp_path / "deep" / "judged.csv"
    (row,) = audit(result(FULL), lambda *_: PAGE)
    assert judged([row], path) == [row]
    assert keep([dataclasses.replace(row, supported="yes", answers="no", note="of leave, not of pay")], path) == 1
    assert keep([row], path) == 1  # a sheet not filled in takes nothing back
    assert "Employees" not in path.read_text() and "How many" not in path.read_text()
    (again,) = judged([row], path)
    assert (again.supported, again.answers, again.note) == ("yes", "no", "of leave, not of pay")
    for other in (dataclasses.replace(row, sentence="Staff get 25 days."), dataclasses.replace(row, question="How much?")):
        assert judged([other], path)[0].supported == ""
    path.write_text("set,id\nleave,1\n")
    with pytest.raises(UsageError, match="no judgements"):
        judged([row], path)


def test_a_sample_is_of_whole_answers_spread_over_the_sets() -> None:
    """A large set must not crowd out a small one, and an answer of two sentences is read whole."""

    def row(name: str, id: str, code: str = SAME) -> Audited:
        return Audited(name, id, "?", "One.", "quoted", "a.md", "", "", "One.", "", code)

    rows = [row("large", str(number // 2)) for number in range(40)] + [row("small", "1"), row("small", "2"), row("large", "x", READ)]
    drawn = sample(rows, 5, 0)
    assert (drawn[0].id, drawn[0].code) == ("x", READ)
    answers = {(each.set, each.id) for each in drawn}
    assert len(answers) == 5 and {("small", "1"), ("small", "2")} < answers
    assert len(drawn) == 1 + 2 + 2 * 2
    assert sample(rows, 5, 0) == drawn != sample(rows, 5, 1)


def test_the_page_around_the_span_is_beside_it() -> None:
    """A heading before the span or a condition after it may turn what the sentence says."""
    kept = result(FULL)
    kept["rows"][0]["citations"][0].update(start=10, end=20, quote=PAGE[10:20])
    (row,) = audit(kept, lambda *_: PAGE)
    assert row.before == PAGE[:10] and row.after == PAGE[20:][: len(row.after)] and row.after


def test_an_old_result_says_that_it_is_one() -> None:
    with pytest.raises(UsageError, match="earlier version"):
        list(audit({"name": "old", "rows": [{"id": "1", "how": [], "citations": []}]}, lambda *_: PAGE))


def test_the_command_reads_the_stored_text_of_the_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kept result, checked against a real index; one that quotes other words fails the command."""
    folder = Folder(tmp_path)
    folder.write("leave.md", FULL)
    folder.refresh()
    for sentence, code in ((FULL, 0), ("Employees get 26 days of leave a year.", 1)):
        kept = tmp_path / "kept.json"
        kept.write_text(json.dumps({"format": 1, "kind": "run", "collection": "default", **result(sentence)}))
        assert main(["audit", str(kept), "--index", str(folder.settings.index), "--sheet", str(tmp_path / "s.csv")]) == code
        assert (FALSE in capsys.readouterr().out.splitlines()[0]) and len(read_sheet(tmp_path / "s.csv")) == 1
