"""Publishing: a version appears whole or not at all, whatever happens in between."""

import json
import os
from pathlib import Path

import pytest

from errors import IndexDamaged, IndexMismatch, IndexMissing, IndexTooNew, LockHeld, UsageError
from ingest import publish
from ingest.open import newest, open_index
from tests.crash import Crashes
from tests.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path, prune_limit=1.0)
    made.write("a.md", "# Leave\n\nTen days of leave.")
    made.write("b.md", "# Travel\n\nThe company pays for travel.")
    made.refresh()
    return made


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(body)


def test_no_index_is_said_with_what_to_run(tmp_path: Path) -> None:
    """ "Nothing there yet" is neither damage nor an empty result, and names what is there."""
    with pytest.raises(IndexMissing, match=r"python -m ingest FOLDER"):
        open_index(tmp_path, "default")
    other = Folder(tmp_path / "x")
    other.write("a.md", "x")
    other.refresh(collection="hr")
    with pytest.raises(IndexMissing, match=r"hr"):
        open_index(other.settings.index, "default")


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 80])
def test_a_collection_is_never_a_path(tmp_path: Path, name: str) -> None:
    """The name becomes a folder; it cannot lead out of the index."""
    with pytest.raises(UsageError):
        publish.current(tmp_path, name)


def test_an_index_of_another_embedder_or_a_newer_format_is_refused(folder: Folder) -> None:
    """With what to run, instead of nonsense results."""
    with pytest.raises(IndexMismatch, match=r"--force"):
        open_index(folder.settings.index, "default", "bge-small:12345678")
    version = publish.current(folder.settings.index, "default")
    path = version.folder / "MANIFEST.json"
    fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    path.write_text(json.dumps({**fields, "format": 99}))
    publish.point(folder.settings.index / "default", publish.Version(version.name, version.folder, version.manifest))
    with pytest.raises(IndexTooNew):
        open_index(folder.settings.index, "default")


@pytest.mark.parametrize("name", [*publish.FILES, "MANIFEST.json"])
def test_one_changed_bit_is_found_and_the_version_before_is_served(folder: Folder, name: str) -> None:
    """A disk that rots must not change an answer; questions go on from the last whole version, and a warning says so."""
    folder.write("c.md", "# New")
    folder.refresh()
    flip(folder.settings.index / "default/versions/v000002" / name)
    index = folder.open()
    assert index.version == "v000001" and "v000001" in index.warnings[0]
    index.close()


@pytest.mark.parametrize("name", [*publish.FILES, "MANIFEST.json"])
def test_a_file_that_is_missing_or_cut_is_damage(folder: Folder, name: str) -> None:
    """With no version to fall back on, damage is said."""
    path = folder.settings.index / "default/versions/v000001" / name
    body = path.read_bytes()
    path.write_bytes(body[:-5])
    with pytest.raises(IndexDamaged):
        folder.open()
    path.unlink()
    with pytest.raises(IndexDamaged):
        folder.open()


def test_a_second_writer_is_told_who_holds_the_lock(folder: Folder) -> None:
    """With process and machine, at once."""
    with publish.lock(folder.settings.index, "default"), pytest.raises(LockHeld, match=rf"process {os.getpid()} on "):
        folder.refresh()
    folder.refresh()


def test_the_last_three_versions_stay(folder: Folder) -> None:
    """For rollback; older ones go."""
    for number in range(4):
        folder.write("a.md", f"# Leave {number}")
        folder.refresh()
    assert [each.name for each in publish.versions(folder.settings.index, "default")] == ["v000003", "v000004", "v000005"]


def test_a_version_in_use_is_not_removed(folder: Folder) -> None:
    """A long answer reads from its version to the end."""
    reader = folder.open()
    for number in range(4):
        folder.write("a.md", f"# Leave {number}")
        folder.refresh()
    assert reader.version in [each.name for each in publish.versions(folder.settings.index, "default")]
    assert reader.catalog.search_keywords("ten days", 5)
    reader.close()
    folder.write("a.md", "# Last")
    folder.refresh()
    assert "v000001" not in [each.name for each in publish.versions(folder.settings.index, "default")]


def test_rollback_serves_the_version_before_and_numbers_go_on(folder: Folder) -> None:
    """A bad import is undone in one step, and the next version is no earlier one's name."""
    folder.write("c.md", "# Mistake")
    folder.refresh()
    with publish.lock(folder.settings.index, "default"):
        assert publish.rollback(folder.settings.index, "default").name == "v000001"
    assert folder.names() == ["a.md", "b.md"]
    (folder.root / "c.md").unlink()
    folder.write("d.md", "# Right")
    assert folder.refresh().version == "v000003"
    assert folder.names() == ["a.md", "b.md", "d.md"]
    with publish.lock(folder.settings.index, "default"), pytest.raises(UsageError):
        publish.rollback(folder.settings.index, "default", "v000099")


def test_a_reader_notices_a_new_version(folder: Folder) -> None:
    """By one small file."""
    before = newest(folder.settings.index, "default")
    folder.write("c.md", "# New")
    folder.refresh()
    assert (before, newest(folder.settings.index, "default")) == ("v000001", "v000002")


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_old_version_served(folder: Folder) -> None:
    """No traceback, no half version: exit 12, and the same command works once there is room."""
    folder.write("big.md", "\n\n".join(f"# Part {number}\n\nThe {number}th part is about leave and travel." for number in range(400)))
    with Crashes() as crashed:
        assert crashed(folder.root.parent, limit=60_000)[0] == 12
    assert folder.names() == ["a.md", "b.md"] and publish.current(folder.settings.index, "default").name == "v000001"
    folder.refresh()
    assert folder.names() == ["a.md", "b.md", "big.md"] and folder.litter() == []
