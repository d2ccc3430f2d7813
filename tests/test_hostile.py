"""A folder of files that were made to harm, beside the sample company: the run ends, each file is read or named, good files answer.

Such files cannot ship: with --full, the environment's HOSTILE names a folder of them. Otherwise a handful made here stands for them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.sample_company import DOCUMENTS, ROOT, SOURCE

ASKED = 2  # questions about the sample company's leave policy
RUN_S = 7200.0  # longest a command may take


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """`python -m …` as a person calls it, with its data in `folder`: exit code, result, and what else it said."""
    environment = {**os.environ, "FOOTNOTE_HOME": str(folder / "home"), "FOOTNOTE_INDEX": str(folder / "indexes")}
    given = [sys.executable, "-m", *arguments, "--json"]
    done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_S)
    return done.returncode, done.stdout, done.stderr


def made_here(folder: Path) -> None:
    folder.mkdir()
    (folder / "empty.pdf").write_bytes(b"")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R")
    (folder / "wrong.docx").write_bytes(b"\x7fELF" + bytes(2000))
    (folder / "not-unicode.txt").write_bytes(bytes(range(128, 256)) * 20)
    (folder / "page.html").write_text("<script src='http://example.com/a.js'></script><p>Open <a href='file:///etc'>this</a> now.</p>")
    with zipfile.ZipFile(folder / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b" " * 60_000_000)


@pytest.mark.real
def test_hostile_files_neither_stop_nor_spoil_the_good_ones(tmp_path: Path, full: bool) -> None:
    """Every file is in the report, each that gave no text with a reason and a cure, and the sample company's questions are answered."""
    docs, hostile = tmp_path / "docs", os.environ.get("HOSTILE", "")
    for name in DOCUMENTS:
        (docs / "good" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / name, docs / "good" / name)
    if full and hostile:
        shutil.copytree(hostile, docs / "hostile", copy_function=shutil.copyfile)
    else:
        made_here(docs / "hostile")
    asked = [json.loads(line) for line in (ROOT / "examples" / "questions.jsonl").read_text(encoding="utf-8").splitlines()][:ASKED]
    code, said, heard = command(tmp_path, "ingest", str(docs), "--collection", "mixed")
    assert code in (0, 3), heard
    report = json.loads(said)
    assert not [each for each in report["failed"] if not each["reason"] or not each["cure"]]
    named = {each["document"] for each in report["failed"]}
    assert not [name for name in named if name.startswith("good/")]
    assert len(named) + report["added"] == sum(1 for path in docs.rglob("*") if path.is_file() and not path.name.startswith("."))
    for each in asked:
        code, said, heard = command(tmp_path, "rag", "ask", each["question"], "--collection", "mixed")
        answer = json.loads(said)
        assert answer["found"] and any(gold in answer["answer"] for gold in each["answers"]), (each, answer["answer"], heard)
