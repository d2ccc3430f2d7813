"""config.py → docs/settings.md, on stdout: python scripts/settings_page.py >docs/settings.md"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config import ROOT, Settings

HEAD = """# Settings

Every setting has a name, a default and a reason. Put what should differ into `footnote.toml`, beside the code or in the
data folder:

```toml
model = "/srv/models/a-better-model.gguf"
keep_passages = 8
```

The environment beats the file: `FOOTNOTE_KEEP_PASSAGES=8`. A flag of a command beats both. An unknown name is refused, so
a slip of the pen is noticed. The engine reads settings when it starts: start Footnote again after a change.

This page is written by `python scripts/settings_page.py >docs/settings.md`; a test compares the two.

| setting | default | what it is, and why |
|---|---|---|
"""


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(
        f"| `{each.name}` | {_shown(each.default)} | {each.metadata['reason'].replace('|', ', ')} |\n"
        for each in dataclasses.fields(Settings)
    )


def _shown(default: object) -> str:
    if isinstance(default, Path):
        return f"`{default.relative_to(ROOT)}/`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "empty" if default == "" else f"`{default}`"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  (this is a command)
