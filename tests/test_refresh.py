"""Refreshing: only what changed is worked on, and the result is what a clean build gives."""

import dataclasses
import errno
import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from errors import DiskFailed, IndexMismatch, IndexMissing, NoSpace, PruneRefused, UsageError
from ingest import publish, uploads
from ingest.refresh import Progress, sources, told_by_sqlite
from ingest.report import last
from ingest.types import Report, SourceFile
from tests.fakes import Parsed, TextReader, WordEmbedder
from tests.folder import Folder, contents


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    for number in range(8):
        made.write(f"{number}.md", f"# Part {number}\n\nThis is part {number} of the handbook.")
    made.refresh()
    made.reader.read.clear()
    made.embedder.embedded.clear()
    return made


def counts(report: Report) -> dict[str, int]:
    names = ("added", "changed", "moved", "removed", "unchanged", "failed")
    return {name: report.count(name) for name in names if report.count(name)}


def test_unchanged_files_cost_nothing(folder: Folder) -> None:
    """Nothing is read, nothing embedded, nothing published."""
    report = folder.refresh()
    assert counts(report) == {"unchanged": 8} and report.version == "v000001"
    assert folder.reader.read == [] and folder.embedder.embedded == []


def test_only_what_changed_is_read_and_embedded(folder: Folder) -> None:
    """One file of eight is edited: one is read, one passage is embedded."""
    folder.write("3.md", "# Part 3\n\nThis has changed.")
    report = folder.refresh()
    assert counts(report) == {"changed": 1, "unchanged": 7} and report.version == "v000002"
    assert folder.reader.read == ["3.md"] and len(folder.embedder.embedded) == 1


def test_a_changed_document_keeps_its_number(folder: Folder) -> None:
    """Links to it in old conversations still open it."""
    before = folder.open()
    numbers = {each.document: each.id for each in before.catalog.documents()}
    before.close()
    folder.write("3.md", "# Part 3\n\nThis has changed.")
    folder.refresh()
    after = folder.open()
    assert {each.document: each.id for each in after.catalog.documents()} == numbers
    after.close()


def test_a_moved_file_is_neither_read_nor_embedded(folder: Folder) -> None:
    """A folder is renamed: nothing but names changes."""
    (folder.root / "sub").mkdir()
    for number in range(8):
        (folder.root / f"{number}.md").rename(folder.root / f"sub/part {number}.md")
    report = folder.refresh()
    assert counts(report) == {"moved": 8}
    assert folder.reader.read == [] and folder.embedder.embedded == []
    assert folder.names() == [f"sub/part {number}.md" for number in range(8)]


def test_a_title_made_from_the_name_follows_the_name(folder: Folder) -> None:
    """A renamed file that states no title must not keep its old name on screen."""
    folder.write("old name.txt", "No heading here.")
    folder.refresh()
    (folder.root / "old name.txt").rename(folder.root / "new name.txt")
    folder.refresh()
    index = folder.open()
    assert [each.title for each in index.catalog.documents() if each.path == "new name.txt"] == ["new name"]
    index.close()


def test_a_deleted_file_leaves(folder: Folder) -> None:
    """And `--no-prune` keeps it."""
    (folder.root / "0.md").unlink()
    assert counts(folder.refresh(prune=False)) == {"unchanged": 7} and len(folder.names()) == 8
    assert counts(folder.refresh()) == {"removed": 1, "unchanged": 7} and len(folder.names()) == 7


def test_mass_removal_is_refused_unless_forced(folder: Folder) -> None:
    """An unmounted share looks like a deletion; the index of yesterday is better than none."""
    for number in range(3):
        (folder.root / f"{number}.md").unlink()
    with pytest.raises(PruneRefused, match=r"3 of 8"):
        folder.refresh()
    assert len(folder.names()) == 8
    assert folder.refresh(force=True).count("removed") == 3


def test_a_folder_that_vanished_is_refused_when_all_is_refreshed(folder: Folder) -> None:
    """`python -m ingest` alone, with the share unmounted."""
    folder.root.rename(folder.root.with_name("elsewhere"))
    with pytest.raises(PruneRefused):
        folder.refresh(folders=[])
    assert len(folder.names()) == 8


def test_no_folder_means_all_that_is_known_and_uploads(folder: Folder) -> None:
    """The nightly run needs no arguments."""
    other = folder.root.with_name("more")
    other.mkdir()
    (other / "x.md").write_text("# X")
    folder.refresh(folders=[("more", other)])
    folder.write("0.md", "# Changed")
    (other / "y.md").write_text("# Y")
    with (other / "y.md").open("rb") as stream:
        uploads.add("default", "sent\\by/../browser.md", stream, folder.settings)
    report = folder.refresh(folders=[])
    assert counts(report) == {"added": 2, "changed": 1, "unchanged": 8}
    assert folder.names() == [*(f"{number}.md" for number in range(8)), "sent/by/browser.md", "x.md", "y.md"]
    assert [each.name for each in sources(folder.settings.index, "default")] == ["docs", "more"]
    assert uploads.remove("default", "sent/by/browser.md", folder.settings)
    assert counts(folder.refresh(folders=[])) == {"removed": 1, "unchanged": 10}


def test_pruning_concerns_only_the_sources_named(folder: Folder) -> None:
    """Reading one folder never removes another's documents."""
    other = folder.root.with_name("more")
    other.mkdir()
    (other / "x.md").write_text("# X")
    (folder.root / "0.md").unlink()
    assert counts(folder.refresh(folders=[("more", other)])) == {"added": 1}
    assert len(folder.names()) == 9


def test_only_touches_nothing_else(folder: Folder) -> None:
    """Neither reads nor removes what does not fit."""
    folder.write("0.md", "# Changed")
    folder.write("1.md", "# Changed too")
    (folder.root / "2.md").unlink()
    assert counts(folder.refresh(only=["0.*"])) == {"changed": 1}
    assert len(folder.names()) == 8


def test_exclude_is_remembered(folder: Folder) -> None:
    """Drafts that were left out stay out in the nightly run."""
    assert folder.refresh(exclude=["7.md"]).count("removed") == 1
    assert counts(folder.refresh(folders=[])) == {"unchanged": 7}


def test_a_dry_run_tells_and_does_nothing(folder: Folder) -> None:
    """The same report, no work, no version; the hash of a file that was only touched is not written down either."""
    os.utime(folder.root / "2.md", (1, 1))
    folder.write("0.md", "# Changed")
    folder.write("9.md", "# New")
    (folder.root / "1.md").unlink()
    report = folder.refresh(dry_run=True)
    assert counts(report) == {"added": 1, "changed": 1, "removed": 1, "unchanged": 6}
    assert report.version == "v000001" and folder.reader.read == [] and folder.litter() == []


def test_a_failed_file_is_listed_and_not_tried_again_until_it_changes(folder: Folder) -> None:
    """One bad file costs neither the others nor every night's time."""
    folder.write("bad.md", "!fail")
    report = folder.refresh()
    assert counts(report) == {"unchanged": 8, "failed": 1}
    assert [(each.reason, each.cure) for each in report.files if each.status == "failed"] == [
        ("The file says that it cannot be read.", "Mend it.")
    ]
    folder.reader.read.clear()
    assert counts(folder.refresh()) == {"unchanged": 8, "failed": 1} and folder.reader.read == []
    folder.refresh(force=True)
    assert "bad.md" in folder.reader.read
    folder.write("bad.md", "# Mended")
    assert counts(folder.refresh()) == {"changed": 1, "unchanged": 8}


def test_another_embedder_needs_force_and_then_all_is_embedded_anew(folder: Folder) -> None:
    """Vectors of two models in one index would be noise."""

    class Other(WordEmbedder):
        name = "other:1"

    folder.embedder = Other()
    with pytest.raises(IndexMismatch, match=r"--force"):
        folder.refresh()
    folder.refresh(force=True)
    assert len(folder.embedder.embedded) == 8 and folder.open().manifest.embedder == "other:1"


def test_another_way_to_run_the_model_embeds_all_anew_and_mixes_nothing(folder: Folder) -> None:
    """The setting changes from exact to another path: no file is read and no --force is asked, and no vector of before is left."""

    class Fast(WordEmbedder):
        name = "words:1+bf16"

        def passages(self, texts: Sequence[str]) -> NDArray[numpy.float32]:
            return -super().passages(texts)

    folder.embedder = Fast()
    with pytest.raises(IndexMismatch, match=r"(?s)words:1\+bf16.*(?<!--force)$"):
        folder.open()
    folder.refresh()
    index = folder.open()
    texts = [passage.text for passage in index.catalog.passages([int(each) for each in index.vectors.ids])]
    assert len(folder.embedder.embedded) == 8 == len(texts) and folder.reader.read == []
    assert (index.vectors.vectors[:, 0] < 0).all()
    assert index.manifest.embedder == "words:1+bf16"
    index.close()
    folder.embedder = WordEmbedder()
    folder.refresh()
    index = folder.open()
    assert index.manifest.embedder == "words:1" and folder.embedder.embedded == []  # the cache still has those of before
    index.close()


def test_another_passage_size_cuts_anew_without_reading(folder: Folder) -> None:
    """A setting changes: the pages are kept, so no file is read for it."""
    folder.write("long.md", "# Long\n\n" + " ".join(f"Sentence {number} is here." for number in range(60)))
    folder.refresh()
    folder.reader.read.clear()
    before = folder.refresh().passages
    small = dataclasses.replace(folder.settings, passage_tokens=60)
    report = folder.refresh(settings=small)
    assert report.passages > before and folder.reader.read == []
    clean = Folder(folder.root.parent / "clean", passage_tokens=60)
    for each in folder.root.iterdir():
        clean.write(each.name, each.read_text())
    clean.refresh()
    assert contents(folder.open(), folder.embedder) == contents(clean.open(), clean.embedder)


class Interrupted(TextReader):
    """Stops as Ctrl-C does, after a number of files."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def parse_all(self, files: Iterator[SourceFile]) -> Iterator[Parsed]:  # type: ignore[override]
        for number, parsed in enumerate(super().parse_all(files)):
            if number == self.after:
                raise KeyboardInterrupt
            yield parsed


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was read is not read again; what was not published is not seen; nothing is left over in the end."""
    folder = Folder(tmp_path)
    for number in range(6):
        folder.write(f"{number}.md", f"# Part {number}")
    folder.reader = Interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        folder.refresh()
    assert not (folder.settings.index / "default/CURRENT").exists()
    folder.reader = TextReader()
    assert folder.refresh().count("added") == 6
    assert folder.reader.read == ["4.md", "5.md"] and folder.litter() == []


def test_a_file_that_changes_while_it_is_read_is_read_again_next_time(tmp_path: Path) -> None:
    """Its stored hash would otherwise be that of bytes that nobody indexed."""
    folder = Folder(tmp_path)
    folder.write("a.md", "# First")

    class Meddling(TextReader):
        def parse_all(self, files: Iterator[SourceFile]) -> Iterator[Parsed]:  # type: ignore[override]
            for parsed in super().parse_all(files):
                folder.write("a.md", "# Second, longer")
                yield parsed

    folder.reader = Meddling()
    folder.refresh()
    folder.reader = TextReader()
    assert counts(folder.refresh()) == {"changed": 1}
    assert counts(folder.refresh()) == {"unchanged": 1}


def test_a_disk_that_fails_is_not_called_full(tmp_path: Path) -> None:
    """Somebody freed gigabytes because an I/O error inside SQLite was told as "no space". The next run finishes."""
    folder = Folder(tmp_path)
    folder.write("a.md", "# Leave\n\nTen days of leave.")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # SQLite's second page cannot be written: SQLITE_IOERR
    try:
        with pytest.raises(DiskFailed, match="quota") as failed:
            folder.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.exit_code != NoSpace.exit_code and "space" not in str(failed.value)
    assert folder.litter() == []
    folder.refresh()
    assert folder.names() == ["a.md"]


def test_a_disk_that_fails_where_nothing_is_built_is_told_too(tmp_path: Path) -> None:
    """Hashes of touched files are kept outside the draft: there an I/O error was shown as SQLite's, without a cure."""
    folder = Folder(tmp_path)
    folder.write("a.md", "# Leave\n\nTen days of leave.")
    folder.refresh()
    os.utime(folder.root / "a.md", ns=(1, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DiskFailed) as failed:
            folder.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "run the same command again" in failed.value.cure
    assert counts(folder.refresh()) == {"unchanged": 1}


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, DiskFailed)])
def test_full_and_failed_are_told_apart_outside_sqlite_too(tmp_path: Path, number: int, told: type[Exception]) -> None:
    """A full disk or quota is cured with space, a failing one is not."""
    with pytest.raises(told), publish.told_of_space(tmp_path):
        raise OSError(number, "said by the system")


def test_a_full_disk_inside_sqlite_is_told_as_no_space(tmp_path: Path) -> None:
    """SQLite's own SQLITE_FULL, from a file that may not grow; any other fault stays what it is."""
    database = sqlite3.connect(tmp_path / "full.sqlite", isolation_level=None)
    database.execute("CREATE TABLE texts (text)")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(NoSpace, match="Free some space"), told_by_sqlite(tmp_path):
        database.execute("INSERT INTO texts VALUES (zeroblob(100000))")
    with pytest.raises(sqlite3.OperationalError, match="no such table"), told_by_sqlite(tmp_path):
        database.execute("SELECT * FROM disk_full")
    database.close()


def test_a_purged_document_is_gone_for_good(folder: Folder) -> None:
    """From every version, from the cache, and it does not come back with the next run or a rollback."""
    folder.write("secret.md", "# Secret\n\nThe zanzibar project.")
    folder.refresh()
    report = folder.refresh(folders=[], purge=["docs/secret.md"])
    assert report.count("removed") == 1 and "secret.md" not in folder.names()
    assert len(publish.versions(folder.settings.index, "default")) == 1
    report = folder.refresh()
    assert "secret.md" not in folder.names() and any("secret.md" in each for each in report.warnings)
    for each in (folder.settings.index / "default").rglob("*"):
        assert not each.is_file() or b"zanzibar" not in each.read_bytes(), each


def test_two_folders_of_one_name_are_refused(folder: Folder) -> None:
    """One of them needs `--source`."""
    with pytest.raises(UsageError, match=r"--source"):
        folder.refresh(folders=[("docs", folder.root), ("docs", folder.root.parent)])
    with pytest.raises(UsageError):
        folder.refresh(folders=[("uploads", folder.root)])


def test_nothing_known_is_no_index(tmp_path: Path) -> None:
    """`python -m ingest` alone on a fresh machine."""
    with pytest.raises(IndexMissing):
        Folder(tmp_path).refresh(folders=[])


def test_progress_names_every_file(folder: Folder) -> None:
    """For the bar on a terminal and the list on the library page."""
    seen: list[Progress] = []
    folder.write("a.md", "# A")
    folder.write("bad.md", "!fail")
    folder.refresh(progress=seen.append)
    read = [each for each in seen if each.stage == "reading"]
    assert [(each.done, each.total, each.file.status) for each in read if each.file] == [(1, 2, "added"), (2, 2, "failed")]
    assert {"scanning", "embedding", "publishing"} <= {each.stage for each in seen}


PATHS = st.sampled_from(["a.md", "b.md", "sub/a.md", "sub/c d.md", "notes.txt"])
BODIES = st.sampled_from(
    [
        "# Leave\n\nTen days of leave part-time. Parental leave is longer.",
        "# Leave\n\nTwenty days of leave full-time.",
        "Who pays for travel? The company.\fSecond page about pizza.\f",
        "!fail",
        "",
        "# A\n\n" + "How many days? Many. " * 60 + "\n\n## B\n\n" + "Travel is paid. " * 60,
        "# Leave\n\nTen days of leave part-time. Parental leave is longer.\n",
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, BODIES),
        st.tuples(st.just("delete"), PATHS, PATHS),
        st.tuples(st.just("move"), PATHS, PATHS),
        st.tuples(st.just("refresh"), PATHS, PATHS),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_any_sequence_of_changes_ends_as_a_clean_build(steps: list[tuple[str, str, str]]) -> None:
    """Documents, pages, passages and search results are the same, whatever way led there."""
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place) / "lived", prune_limit=1.0)
        folder.write("always.md", "# Always\n\nThis one stays.")
        for step, path, other in [*steps, ("refresh", "", "")]:
            file = folder.root / path
            if step == "write":
                folder.write(path, other)
            elif step == "delete":
                file.unlink(missing_ok=True)
            elif step == "move" and file.exists():
                (folder.root / other).parent.mkdir(parents=True, exist_ok=True)
                file.replace(folder.root / other)
            elif step == "refresh":
                folder.refresh()
        clean = Folder(Path(place) / "clean")
        for each in folder.root.rglob("*.*"):
            clean.write(str(each.relative_to(folder.root)), each.read_text())
        clean.refresh()
        lived, built = folder.open(), clean.open()
        assert contents(lived, folder.embedder) == contents(built, clean.embedder)
        lived.close()
        built.close()


def test_the_last_refresh_is_remembered_and_a_purge_forgets_it(folder: Folder) -> None:
    """The library page can say what the nightly run did, though another process ran it; an erased name is not kept there."""
    folder.write("3.md", "# Part 3\n\nThis has changed.")
    folder.refresh()
    kept = last(folder.settings.index, "default")
    assert kept is not None and (kept["changed"], kept["unchanged"]) == (1, 7)
    assert [(each["document"], each["status"]) for each in kept["files"]] == [("3.md", "changed")]
    folder.refresh(dry_run=True)
    assert last(folder.settings.index, "default") == kept
    folder.refresh(purge=["docs/3.md"])
    assert last(folder.settings.index, "default") is None
