"""`python -m ingest` as a person or a cron job runs it: results on stdout, exit codes, every command."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import config
from errors import UsageError
from ingest import publish, uploads
from ingest.__main__ import main
from ingest.watch import changes
from tests.folder import Folder

KEYS = {"version", "added", "changed", "moved", "removed", "unchanged", "failed", "files", "related", "warnings", "passages", "seconds"}
HEAVY = ("numpy", "faiss", "torch", "sentence_transformers", "unstructured", "tokenizers", "pypdf")
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder "docs" beside an index and a data folder that the environment names."""
    monkeypatch.setenv("FOOTNOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOOTNOTE_INDEX", str(tmp_path / "indexes"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "leave.md").write_text("# Leave\n\nFull-time staff have twenty days of leave.\n")
    (docs / "travel.txt").write_text("Travel\n\nThe company pays for train tickets.\n")
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; returns its exit code and its JSON."""

    def call(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*words, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ingest", *words], cwd=config.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_folder_is_read_and_the_report_keeps_its_shape(place: Path) -> None:
    """The contract: one JSON object on stdout, nothing on stderr when nobody watches, exit 3 with the failures listed, then 0."""
    (place / "docs/broken.pdf").write_bytes(b"%PDF-1.4 not really")
    first = command(place, str(place / "docs"), "--json")
    body = json.loads(first.stdout)
    assert (first.returncode, first.stderr) == (3, "") and set(body) == KEYS
    assert (body["added"], body["version"]) == (2, "v000001") and body["passages"] >= 2
    assert [each["document"] for each in body["failed"]] == ["broken.pdf"] and all(body["failed"][0].values())
    again = command(place, str(place / "docs"))
    assert again.returncode == 0 and "unchanged 2  failed 1" in again.stdout and "broken.pdf" in again.stdout


def test_nothing_changed_imports_nothing_heavy(place: Path) -> None:
    """A nightly run over thousands of unchanged files takes a second, because no model and no parser is loaded."""
    folder = Folder(place)
    folder.refresh()
    code = (
        "import sys, ingest.__main__, ingest.refresh, tests.folder, pathlib\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules and name != 'numpy']\n"
        "assert not loaded, loaded\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, check=False).returncode == 0
    version = publish.current(folder.settings.index, "default")
    manifest = version.folder / "MANIFEST.json"
    fields = {field: value for field, value in json.loads(manifest.read_text()).items() if field != "sha256"}
    name = "all-MiniLM-L6-v2:53aa5117"
    manifest.write_text(json.dumps({**fields, "embedder": name}))
    publish.point(folder.settings.index / "default", version)
    code = (
        "import sys, json\nfrom ingest.__main__ import main\n"
        f"code = main([{str(folder.root)!r}, '--dry-run', '--json'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert code == 0 and not loaded, (code, loaded)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0


@pytest.fixture
def built(place: Path) -> Folder:
    """A collection of two versions, made with quick stand-ins."""
    folder = Folder(place)
    folder.refresh()
    folder.write("pizza.md", "# Pizza\n\nPizza is on Fridays.\n")
    folder.refresh()
    return folder


def test_status_tells_what_is_there(built: Folder, run: Run) -> None:
    """Collections, documents, where they come from, what failed, which version is served."""
    built.write("bad.md", "!fail")
    built.refresh()
    code, body = run("status")
    (row,) = body["collections"]
    assert code == 0 and (row["collection"], row["version"], row["documents"]) == ("default", "v000003", 3)
    assert row["sources"] == [{"name": "docs", "folder": str(built.root), "there": True}]
    assert [each["document"] for each in row["failed"]] == ["bad.md"]


def test_status_without_an_index_is_10(run: Run) -> None:
    """And so is every other command that needs one."""
    for words in (["status"], ["verify"], ["rollback"], ["show", "x.md"], ["purge", "x.md"], ["backup", "x.tar"], []):
        assert run(*words)[0] == 10, words


def test_usage_is_2(place: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong flag, a folder that is not there, a file in place of a folder, a command without its name."""
    assert run(str(place / "nowhere"))[0] == 2
    assert run(str(place / "docs/leave.md"))[0] == 2
    assert run("show")[0] == 2
    assert run(str(place / "docs"), str(place), "--source", "x")[0] == 2
    assert run(str(place / "docs"), "--collection", "../x")[0] == 2
    with pytest.raises(SystemExit) as stopped:
        main(["--nonsense"])
    assert stopped.value.code == 2


def test_verify_finds_damage_and_exits_4(built: Folder, run: Run) -> None:
    """One flipped bit, in a version that is kept for rollback too."""
    code, body = run("verify")
    assert code == 0 and body == {"checked": ["default v000001", "default v000002"], "damage": []}
    path = built.settings.index / "default/versions/v000001/vectors.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    code, body = run("verify")
    assert code == 4 and len(body["damage"]) == 1 and "v000001" in body["damage"][0]


def test_show_tells_what_was_read(built: Folder, run: Run) -> None:
    """The text as stored, cut into passages; by name, by part of it, or by the file itself."""
    for name in ("pizza.md", "docs/pizza.md", "PIZZA*", str(built.root / "pizza.md")):
        code, body = run("show", name)
        assert code == 0 and body["title"] == "Pizza"
        assert (
            body["pages"][0]["text"] == "".join(each["text"] for each in body["passages"]) == "# Pizza\n\nPizza is on Fridays.\n"
        )
    assert run("show", "*")[0] == 2 and run("show", "nothing")[0] == 2


def test_rollback_serves_the_version_before(built: Folder, run: Run) -> None:
    """And says which; a second one has nowhere to go."""
    assert run("rollback") == (0, {"version": "v000001", "passages": 2})
    assert built.names() == ["leave.md", "travel.txt"]
    assert run("rollback")[0] == 2
    assert run("rollback", "v000002")[0] == 0


def test_a_backup_restores_index_and_uploads(built: Folder, run: Run, place: Path) -> None:
    """Into the same collection or another, checked by hash; a backup is never overwritten."""
    uploads.add("default", "sent.md", io.BytesIO(b"# Sent\n"), built.settings)
    built.refresh(folders=[])
    target = place / "backup.tar"
    assert run("backup", str(target))[1]["version"] == "v000003"
    assert run("backup", str(target))[0] == 2
    code, body = run("restore", str(target), "--collection", "copy")
    assert code == 0 and (body["collection"], body["version"]) == ("copy", "v000001")
    index = built.open("copy")
    assert [each.document for each in index.catalog.documents()] == ["leave.md", "pizza.md", "sent.md", "travel.txt"]
    index.close()
    assert [each.path for each in uploads.files("copy", built.settings)] == ["sent.md"]
    assert run("restore", str(target))[1]["version"] == "v000004"
    content = bytearray(target.read_bytes())
    content[len(content) // 3] ^= 1
    target.write_bytes(content)
    assert run("restore", str(target))[0] in (2, 4)
    assert run("restore", str(place / "docs/leave.md"))[0] == 2


def test_purge_erases_and_says_where_the_file_still_lies(built: Folder, run: Run) -> None:
    """Nothing goes back to it."""
    code, body = run("purge", "pizza.md")
    assert code == 0 and (body["document"], body["file"]) == ("pizza.md", str(built.root / "pizza.md"))
    assert built.names() == ["leave.md", "travel.txt"] and run("rollback")[0] == 2
    assert run("purge", "pizza.md")[0] == 2


def test_a_purged_upload_may_be_sent_again(built: Folder, run: Run) -> None:
    """Its bytes are erased; sending them anew is a decision."""
    uploads.add("default", "sent.md", io.BytesIO(b"# Sent\n"), built.settings)
    built.refresh(folders=[])
    assert run("purge", "sent.md")[0] == 0
    assert uploads.files("default", built.settings) == [] and not list(built.settings.uploads.rglob("blobs/*"))
    uploads.add("default", "sent.md", io.BytesIO(b"# Sent\n"), built.settings)
    built.refresh(folders=[])
    assert "sent.md" in built.names()


def test_a_second_writer_exits_11(built: Folder, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """And is told by whom."""
    with publish.lock(built.settings.index, "default"):
        code, body = run(str(built.root))
    assert code == 11 and f"process {os.getpid()}" in body["error"]


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not in the help does not exist."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in (
        "status",
        "verify",
        "show",
        "rollback",
        "backup",
        "restore",
        "purge",
        "--watch",
        "--exclude",
        "130",
        "12 no space",
    ):
        assert word in text


def test_uploads_are_labels_and_contents() -> None:
    """A client's name never becomes a path."""
    assert uploads.clean_label("..\\..\\etc/passwd") == "etc/passwd"
    assert uploads.clean_label("C:\\Users\\ada\\plan.docx") == "Users/ada/plan.docx"
    assert uploads.clean_label("/abs//./x\u202egpj.exe\n") == "abs/xgpj.exe"
    assert uploads.clean_label("...") == "..." and uploads.clean_label("../..") == "unnamed"


def test_an_upload_too_large_leaves_nothing(place: Path) -> None:
    """Neither a label nor half a file."""
    settings = config.Settings(home=place / "home", upload_mb=1)
    with pytest.raises(UsageError, match=r"larger than 1 MB"):
        uploads.add("default", "big.bin", io.BytesIO(b"x" * 1_500_000), settings)
    assert uploads.files("default", settings) == [] and not list(settings.uploads.rglob("blobs/*"))


def test_watching_signals_once_for_a_burst(place: Path) -> None:
    """Many files saved one after another are one refresh, once it is quiet; a change that undoes itself is none."""
    signals = changes([place / "docs"], quiet_s=0.3, poll_s=0.2)
    next(signals)  # the first comes at once
    pid = os.fork()
    if pid == 0:
        time.sleep(0.8)
        for number in range(5):
            (place / f"docs/{number}.md").write_text("x")
            time.sleep(0.05)
        os._exit(0)
    next(signals)
    os.waitpid(pid, 0)
    assert len(list((place / "docs").iterdir())) == 7
    signals.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def _heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do its children: tests run there, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_is_130_and_the_next_run_finishes(place: Path) -> None:
    """A long first run may be stopped; nothing is served of it, and nothing is lost."""
    for number in range(60):
        (place / f"docs/{number}.md").write_text(f"# Part {number}\n\n" + f"This is sentence number {number} of the part. " * 12)
    process = subprocess.Popen(
        [sys.executable, "-m", "ingest", str(place / "docs"), "--json"],
        cwd=config.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    deadline = time.monotonic() + 120
    while not (place / "indexes/default/staged.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted" in said
    assert not (place / "indexes/default/CURRENT").exists()
    assert command(place, str(place / "docs"), "--json").returncode == 0
