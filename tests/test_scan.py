"""Scanning: what counts as a file of the folder, and what changed since the last time."""

import os
import unicodedata
from pathlib import Path

import pytest

from errors import UsageError
from ingest.catalog import Document
from ingest.scan import SETTLED_NS, Changes, compare, fits, scan
from ingest.types import SourceFile


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path, encoding="utf-8")


def paths(root: Path, only: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
    return [each.path for each in scan(root, "docs", only, exclude).files]


def document(file: SourceFile, status: str = "ready", **other: object) -> Document:
    fields: dict[str, object] = {
        "id": 1,
        "source": file.source,
        "path": file.path,
        "document": file.path,
        "kind": "txt",
        "title": "",
        "date": None,
        "sha256": file.sha256,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "pages": 1,
        "passages": 1,
        "tables": 0,
        "ocr_pages": 0,
        "status": status,
        "reason": "",
        "cure": "",
        "warnings": (),
        "people": (),
        "added": "",
        "owner": "local",
        "groups": (),
        "absolute": file.absolute,
    }
    return Document(**{**fields, **other})  # type: ignore[arg-type]


def aged(root: Path) -> None:
    """Sets every file's time to long ago, so that it counts as settled."""
    for each in root.rglob("*"):
        if each.is_file():
            os.utime(each, ns=(10**18, 10**18))


def looked(root: Path, known: list[Document], force: bool = False) -> Changes:
    return compare(scan(root, "docs").files, known, force=force)


def known(root: Path) -> list[Document]:
    return [document(each) for each in compare(scan(root, "docs").files, []).new]


def test_files_come_in_order_with_forward_slashes(tmp_path: Path) -> None:
    """The same folder gives the same list on every machine."""
    write(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt")
    assert paths(tmp_path) == ["a/b/c.txt", "a/z.txt", "b.txt"]


def test_hidden_files_and_office_locks_are_skipped(tmp_path: Path) -> None:
    """Nobody means ".git", "~$plan.docx" or "Thumbs.db" when they say "these documents"."""
    write(tmp_path, ".hidden", ".git/config", "node_modules/a.js", "x/__pycache__/b.pyc", "~$plan.docx", "Thumbs.db", "plan.docx")
    assert paths(tmp_path) == ["plan.docx"]


def test_links_that_lead_out_are_refused_and_said(tmp_path: Path) -> None:
    """A link to /etc/passwd in a shared folder must not end up in answers."""
    root, outside = tmp_path / "docs", tmp_path / "secret.txt"
    write(tmp_path, "secret.txt", "docs/inside.txt")
    (root / "out.txt").symlink_to(outside)
    (root / "in.txt").symlink_to(root / "inside.txt")
    (root / "loop").symlink_to(root)
    found = scan(root, "docs")
    assert [each.path for each in found.files] == ["in.txt", "inside.txt"]
    assert len(found.refused) == 2 and found.refused[0].startswith("loop") and found.refused[1].startswith("out.txt")


def test_only_and_exclude_match_names_paths_and_folders(tmp_path: Path) -> None:
    """ "*.pdf", "hr/*", "drafts" all mean what one expects."""
    write(tmp_path, "hr/a.pdf", "hr/drafts/b.pdf", "it/C.PDF", "it/d.txt")
    assert paths(tmp_path, only=("*.pdf",)) == ["hr/a.pdf", "hr/drafts/b.pdf", "it/C.PDF"]
    assert paths(tmp_path, only=("hr/*",), exclude=("drafts",)) == ["hr/a.pdf"]
    assert not fits("hr/a.pdf", ("it", "b*"))


def test_names_that_cannot_be_shown_become_labels(tmp_path: Path) -> None:
    """Control characters and broken encodings never reach a screen or the index; two such names stay two files."""
    (tmp_path / "a\nb.txt").write_text("1", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("2", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe8.txt")).write_text("3", encoding="utf-8")
    (tmp_path / unicodedata.normalize("NFD", "é.txt")).write_text("4", encoding="utf-8")
    found = paths(tmp_path)
    assert len(set(found)) == 4
    assert "a\ufffdb.txt" in found and "é.txt" in found and "caf\ufffd.txt" in found


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """Not an empty list: that would look as if everything had been deleted."""
    with pytest.raises(UsageError):
        scan(tmp_path / "nowhere", "docs")


def test_unchanged_files_are_not_read(tmp_path: Path) -> None:
    """Size and time decide; a file that cannot even be opened is unchanged if both are as before."""
    write(tmp_path, "a.txt")
    aged(tmp_path)
    before = known(tmp_path)
    (tmp_path / "a.txt").write_text("XXXXX", encoding="utf-8")  # the same size
    aged(tmp_path)
    found = looked(tmp_path, before)
    assert len(found.unchanged) == 1 and not found.changed


def test_a_file_that_may_still_be_written_is_read_again(tmp_path: Path) -> None:
    """A second write within the clock's grain leaves size and time as they were; such a file is hashed next time."""
    write(tmp_path, "a.txt")
    assert SETTLED_NS > 0
    before = known(tmp_path)
    assert before[0].mtime_ns == 0
    facts = (tmp_path / "a.txt").stat()
    (tmp_path / "a.txt").write_text("XXXXX", encoding="utf-8")
    os.utime(tmp_path / "a.txt", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len(looked(tmp_path, before).changed) == 1


def test_a_touched_file_is_unchanged_and_an_edited_one_changed(tmp_path: Path) -> None:
    """The content decides where the time differs."""
    write(tmp_path, "a.txt", "b.txt")
    aged(tmp_path)
    before = known(tmp_path)
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("other", encoding="utf-8")
    found = looked(tmp_path, before)
    assert [each.path for _, each in found.unchanged] == ["a.txt"]
    assert [each.path for _, each in found.changed] == ["b.txt"]


def test_a_moved_file_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    """Renaming a folder of a thousand files must not read them again; the same bytes under another extension are read anew."""
    write(tmp_path, "a.txt", "b.txt", "c.txt")
    before = known(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "sub/new.txt")
    (tmp_path / "b.txt").rename(tmp_path / "b.md")
    found = looked(tmp_path, before)
    assert [(old.path, new.path) for old, new in found.moved] == [("a.txt", "sub/new.txt")]
    assert [each.path for each in found.new] == ["b.md"]
    assert [each.path for each in found.gone] == ["b.txt"]


def test_a_copy_is_new(tmp_path: Path) -> None:
    """The original is still there, so nothing moved."""
    write(tmp_path, "a.txt")
    before = known(tmp_path)
    (tmp_path / "copy.txt").write_text("a.txt", encoding="utf-8")
    found = looked(tmp_path, before)
    assert [each.path for each in found.new] == ["copy.txt"] and not found.moved and not found.gone


def test_force_reads_everything_again(tmp_path: Path) -> None:
    """`--force` is for when the outside has changed: a new parser, another embedder."""
    write(tmp_path, "a.txt", "b.txt")
    assert len(looked(tmp_path, known(tmp_path), force=True).changed) == 2
