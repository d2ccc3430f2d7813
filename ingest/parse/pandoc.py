"""Text in a markup that pandoc reads (rst) → title, date and blocks, by way of HTML.

pandoc runs with --sandbox, so includes and references in a document cannot read other files, and with a memory limit.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from errors import DocumentUnreadable
from ingest.parse.web import WebPage, read_html

HEAP = "-M1000M"  # of pandoc's own memory; it ends with an error instead of taking the machine's
TIMEOUT_S = 600  # the sandbox ends it much earlier


@lru_cache(maxsize=1)
def pandoc_path() -> str:
    """The pandoc inside pypandoc-binary, else one on the PATH, else ""."""
    found = importlib.util.find_spec("pypandoc")
    if found is not None and found.origin:
        bundled = Path(found.origin).parent / "files" / "pandoc"
        if bundled.is_file():
            return str(bundled)
    return shutil.which("pandoc") or ""


def read_with_pandoc(text: str, kind: str) -> WebPage:
    """Blocks of `text` written in the markup `kind`. Raises DocumentUnreadable."""
    program = pandoc_path()
    if not program:
        raise DocumentUnreadable("unsupported", f"Reading {kind} needs pandoc.", "pip install pypandoc-binary")
    done = subprocess.run(
        [
            program,
            "+RTS",
            HEAP,
            "-RTS",
            f"--from={kind}",
            "--to=html",
            "--sandbox",
            "--standalone",
            "--wrap=none",
            "--quiet",
            "--mathjax",
        ],
        input=text.encode(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 251 or b"Heap exhausted" in done.stderr:
        raise DocumentUnreadable("out_of_memory", "It needs more memory than a file may take.", "Split it.")
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode("utf-8", "replace").split())[:150]
        raise DocumentUnreadable("damaged", f"The file is not readable {kind} ({reason}).", "Mend the markup it names.")
    return read_html(done.stdout.decode("utf-8", "replace"))
