"""A folder → the question sets in it: every folder below it with documents in `docs/` and questions in `questions.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import UsageError


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Documents and questions about them. `name` is the folder's, and the collection's."""

    name: str
    docs: Path
    questions: Path

    def files(self) -> list[Path]:
        """Every file among the documents, as the disk has them: what must be indexed or named in the report."""
        return sorted(each for each in self.docs.rglob("*") if each.is_file())


def question_sets(folder: Path, names: Sequence[str] = ()) -> list[QuestionSet]:
    """The sets in `folder`, by name. Raises UsageError where there are none, or none of a given name."""
    places = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    found = [
        QuestionSet(each.resolve().name, each / "docs", each / "questions.jsonl")
        for each in places if (each / "docs").is_dir() and (each / "questions.jsonl").is_file()
    ]
    missing = sorted(set(names) - {each.name for each in found})
    if missing or not found:
        what = f"no set named {', '.join(missing)}" if missing else "no folder with docs/ and questions.jsonl"
        known = f"There are: {', '.join(each.name for each in found)}." if found else "See docs/measuring.md."
        raise UsageError(f"{folder} has {what}.", known)
    return [each for each in found if not names or each.name in names]
