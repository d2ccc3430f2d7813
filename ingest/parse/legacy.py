"""Office 97 files (doc, ppt) → their modern kin in the working folder, where LibreOffice is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from errors import DocumentUnreadable

MODERN = {"doc": "docx", "ppt": "pptx"}
TIMEOUT_S = 600  # the sandbox ends it much earlier


def convert(path: Path, kind: str) -> Path:
    """The converted file, in the current folder; raises DocumentUnreadable where no converter is installed or it fails."""
    program = shutil.which("soffice") or shutil.which("libreoffice")
    modern = MODERN[kind]
    if program is None:
        raise DocumentUnreadable(
            "unsupported", f"Reading {kind} files needs LibreOffice.", f"Install LibreOffice (soffice), or save it as {modern}."
        )
    folder = Path.cwd() / "converted"
    folder.mkdir(exist_ok=True)
    copy = folder / f"document.{kind}"
    shutil.copyfile(path, copy)
    subprocess.run(
        [
            program, f"-env:UserInstallation=file://{folder}/profile", "--headless", "--norestore", "--convert-to", modern,
            "--outdir", str(folder), str(copy),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    made = folder / f"document.{modern}"
    if not made.is_file():
        raise DocumentUnreadable("damaged", "LibreOffice could not read it.", f"Open it in its program and save it as {modern}.")
    return made
