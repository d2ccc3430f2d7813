"""The sources of the sample company → its documents, in every format. Run after a source was edited: python examples/build.py

Needs requirements-dev.txt. Rebuilding unchanged sources gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.render import read, render  # noqa: E402  (the path above makes it importable)

COMPANY = HERE / "alderwick-cycles"


def build(folder: Path) -> list[Path]:
    """Write every source as the format its `as:` line names, below `folder`; returns the files written."""
    written = []
    for source in sorted((HERE / "sources").rglob("*.md")):
        text = read(source.read_text(encoding="utf-8"))
        format = text.facts["as"]
        path = folder / source.relative_to(HERE / "sources").with_suffix(f".{format}")
        render(text, format, path)
        written.append(path)
    return written


if __name__ == "__main__":
    for path in build(COMPANY):
        print(f"{path.relative_to(HERE)}  {path.stat().st_size / 1000:.0f} kB")
