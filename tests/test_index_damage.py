"""Every file of an index, with a bit flipped, cut short or gone: found by `verify`, and found before a reader or a run uses it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import IndexDamaged, IndexMissing
from ingest import publish
from ingest.__main__ import main
from ingest.open import Index
from tests.folder import Folder, contents

SAMPLE, FULL = 90, 1200  # trials; the full count also says how many of them were of which kind
CACHE_SAMPLE, CACHE_FULL = 40, 300
KINDS = ("bit", "cut", "gone")
VERSION_FILES = (*publish.FILES, "MANIFEST.json", publish.LEASE)


def made(place: Path) -> Folder:
    folder = Folder(place, prune_limit=1.0)
    for number in range(12):
        folder.write(f"{number}.md", f"# Part {number}\n\nPart {number} is about leave. It gives {number + 3} days of parental leave.")
    folder.refresh()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two versions."""
    built = made(tmp_path)
    built.write("3.md", "# Part 3\n\nThis part is about travel, and who pays for it.")
    built.refresh()
    return built


def harm(path: Path, kind: str, chance: random.Random) -> str:
    """Flips a bit of a file, cuts it short or removes it; returns what was done. A file without bytes can only go, or grow."""
    body = bytearray(path.read_bytes())
    if kind == "gone":
        path.unlink()
        return "gone"
    if not body:
        path.write_bytes(bytes([chance.randrange(256)]))
        return "a byte more"
    at = chance.randrange(len(body))
    if kind == "cut":
        path.write_bytes(body[:at])
        return f"cut at {at}"
    body[at] ^= 1 << chance.randrange(8)
    path.write_bytes(body)
    return f"a bit of byte {at}"


def trials(names: tuple[str, ...], count: int) -> Iterator[tuple[str, str, random.Random]]:
    for number in range(count):
        yield names[number % len(names)], KINDS[(number // len(names)) % len(KINDS)], random.Random(number)


def vectors_of(index: Index) -> dict[tuple[str, int | None, int], bytes]:
    """Document, page and start of each passage → its vector, to the last bit: documents may be read in another order."""
    passages = index.catalog.passages([int(number) for number in index.vectors.ids])
    return {(each.document, each.page, each.start): index.vectors.vectors[row].tobytes() for row, each in enumerate(passages)}


def table(title: str, found: Counter[tuple[str, str]], of: Counter[tuple[str, str]]) -> None:
    """Printed with -s."""
    print(f"\n{title}: {found.total()} of {of.total()} found")
    for name, kind in sorted(of):
        print(f"  {name:<28} {kind:<5} {found[name, kind]:>4} of {of[name, kind]}")


def test_damage_to_any_file_is_found_by_verify_and_before_it_is_used(
    folder: Folder, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pointer and every file of the served and of the earlier version; what is served afterwards is a whole version."""
    root, index = folder.settings.index / "default", folder.settings.index
    versions = {}
    for name in ("v000001", "v000002"):
        publish.rollback(index, "default", name)
        reader = folder.open()
        versions[name] = contents(reader, folder.embedder)
        reader.close()
    names = ("CURRENT", *(f"versions/{version}/{name}" for version in versions for name in VERSION_FILES))
    found, of = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, kind, chance in trials(names, FULL if full else SAMPLE):
        path = root / name
        body = path.read_bytes()
        what = harm(path, kind, chance)
        of[name, kind] += 1
        verified = main(["verify", "--index", str(index)])
        capsys.readouterr()
        try:
            reader = folder.open()
            served, warned, seen = reader.version, bool(reader.warnings), contents(reader, folder.embedder)
            reader.close()
        except (IndexDamaged, IndexMissing):  # a pointer that is gone looks like an index that is not there yet
            served, warned, seen = "", True, None
        path.write_bytes(body)
        assert seen is None or seen == versions[served], f"{name}, {what}: a torn version"
        assert warned == (name == "CURRENT" or "v000002" in name), f"{name}, {what}: used as if it were whole"
        assert served != "v000002" or "v000002" not in name, f"{name}, {what}: a damaged version served"
        found[name, kind] += verified in (4, 10)  # a pointer that is gone: no index
    with capsys.disabled():
        if full:
            table("Damage to index files", found, of)
    assert found == of


def test_what_a_run_has_kept_is_not_trusted_when_it_is_damaged(tmp_path: Path, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The cache of vectors and the files that an interrupted run has read: what is damaged is made again, and nothing is lost."""
    wanted = made(tmp_path / "clean")
    reader = wanted.open()
    clean = contents(reader, wanted.embedder)
    rows = vectors_of(reader)
    reader.close()
    origin = tmp_path / "origin"
    interrupted = made(origin)
    root = interrupted.settings.index / "default"
    shutil.rmtree(root / "versions")
    (root / "CURRENT").unlink()

    def stop(progress: object) -> None:
        if "publishing" in str(progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.refresh(progress=stop)
    done, of = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, kind, chance in trials(("embeddings.sqlite", "staged.sqlite"), CACHE_FULL if full else CACHE_SAMPLE):
        place = tmp_path / "trial"
        shutil.copytree(origin, place)
        trial = Folder(place, prune_limit=1.0)
        what = harm(trial.settings.index / "default" / name, kind, chance)
        trial.refresh()
        reader = trial.open()
        assert contents(reader, trial.embedder) == clean, f"{name}, {what}"
        assert vectors_of(reader) == rows, f"{name}, {what}: another vector"
        reader.close()
        assert trial.litter() == []
        shutil.rmtree(place)
        of[name, kind] += 1
        done[name, kind] += 1
    with capsys.disabled():
        if full:
            table("Damage to what a run keeps", done, of)
    assert done == of
