"""A few documents of the sample company, indexed with the real embedder, and the questions about them: for tests with real models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples" / "alderwick-cycles"
DOCUMENTS = (  # the last is in the tuning half of the questions, the others are held out
    "hr/leave-policy.docx", "it/passwords-and-access.md", "it/backup-and-restore.md", "it/laptop-standard.rst", "sales/warranty-terms.html",
)
UNANSWERABLE = ("c31", "c32", "c36", "c37")


def evals(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m evals …` as a person calls it, with its data in `folder`/home."""
    given = {**os.environ, "FOOTNOTE_HOME": str(folder / "home"), **environment}
    return subprocess.run([sys.executable, "-m", "evals", *arguments], cwd=ROOT, env=given, capture_output=True, text=True)


def company(folder: Path) -> list[str]:
    """The options by which `python -m evals` asks a few questions of a few documents, with results in `folder`.

    Documents and index lie beside `folder`, so that the tests of one session read the documents once.
    """
    shared = folder.parent / "sample-company"
    lines = []
    for line in (ROOT / "examples" / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if any(gold["doc"] in DOCUMENTS for gold in fields["gold"]) or fields["id"] in UNANSWERABLE:
            lines.append(line)
    for name in DOCUMENTS:
        (shared / "documents" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(SOURCE / name, shared / "documents" / name)
    (shared / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = ["--questions", str(shared / "questions.jsonl"), "--docs", str(shared / "documents"), "--index", str(shared / "index")]
    return [*asked, "--results", str(folder / "results")]
