"""The sandbox, with real children: results, limits, crashes, and what a child may not do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image
from reportlab.pdfgen import canvas

from config import ROOT, Settings
from errors import DocumentUnreadable, FootnoteError
from ingest.parse.ocr import ocr_available
from ingest.sandbox import Sandbox, document_from_json, document_to_json
from ingest.types import Heading, Page, ParsedDocument, ParseFailure, SourceFile, Table


def source(path: Path) -> SourceFile:
    return SourceFile("docs", path.name, path, path.stat().st_size, 0)


def written(folder: Path, name: str, content: str | bytes) -> SourceFile:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return source(path)


def slow_file(folder: Path, name: str = "slow.md") -> SourceFile:
    """A file that takes the reader many seconds: emphasis that never closes, over and over."""
    return written(folder, name, ("*a **b " * 4000 + "\n\n") * 40)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Settings(), jobs=2) as shared:
        yield shared


def test_a_document_survives_the_way_through_json() -> None:
    document = ParsedDocument(
        "pdf", "T", (Page(1, "Text", (Heading(0, 1, "Text"),), (Table(0, 4, "| a |"),)), Page(2, "")), "2025-03-04", ("Ada",), ("w",), 3
    )

    assert document_from_json(document_to_json(document)) == document


def test_every_file_comes_back_once_with_text_or_reason(sandbox: Sandbox, tmp_path: Path) -> None:
    files = [written(tmp_path, f"{number}.md", f"# Title {number}\n\nText {number}.") for number in range(9)]
    files.append(written(tmp_path, "empty.txt", ""))
    files.append(written(tmp_path, "bad.docx", b"PK\x03\x04 not a zip"))
    results = {file.path: result for file, result, seconds in sandbox.parse_all(files) if seconds >= 0}

    assert len(results) == len(files)
    for number in range(9):
        document = results[f"{number}.md"]
        assert isinstance(document, ParsedDocument) and document.pages[0].text == f"Title {number}\n\nText {number}."
    kinds = {name: result.kind for name, result in results.items() if isinstance(result, ParseFailure)}
    assert kinds == {"empty.txt": "empty", "bad.docx": "damaged"}
    assert all(result.reason and result.cure for result in results.values() if isinstance(result, ParseFailure))


def test_files_are_pulled_as_children_become_free(sandbox: Sandbox, tmp_path: Path) -> None:
    """A scan of a million files must not be taken into memory before the first is read."""
    pulled = 0

    def endless() -> Iterator[SourceFile]:
        nonlocal pulled
        for number in range(10_000):
            pulled += 1
            yield written(tmp_path, f"{number}.txt", f"This is the text of file number {number}, and nothing else.")

    results = sandbox.parse_all(endless())
    for _ in range(5):
        next(results)
    results.close()  # type: ignore[attr-defined]

    assert pulled < 20


def test_nothing_starts_where_there_is_nothing_to_read() -> None:
    before = {each.pid for each in psutil.Process().children(recursive=True)}  # of other tests: they may end meanwhile
    with Sandbox(Settings()) as idle:
        assert list(idle.parse_all([])) == []
        assert {each.pid for each in psutil.Process().children(recursive=True)} <= before


def test_plain_texts_are_typed_although_children_start_without_the_typing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Children start light; the first plain text makes the fork server load `unstructured`, and is read by a later child."""
    text = "Kitchen use\n\nPlease wash your cup after using it, since nobody else will do it for you."
    files = [written(tmp_path, "rules.txt", text), written(tmp_path, "a.md", "A short text.")]
    results = {file.path: result for file, result, _ in sandbox.parse_all(files)}

    document = results["rules.txt"]
    assert isinstance(document, ParsedDocument) and [each.text for each in document.pages[0].headings] == ["Kitchen use"]
    assert isinstance(results["a.md"], ParsedDocument)


def test_a_file_that_takes_too_long_is_given_up_and_the_rest_is_read(tmp_path: Path) -> None:
    files = [slow_file(tmp_path), *(written(tmp_path, f"{number}.md", f"Text {number} of a short file.") for number in range(3))]
    with Sandbox(Settings(parse_timeout_s=1), jobs=1) as strict:
        results = {file.path: result for file, result, _ in strict.parse_all(files)}

    failure = results.pop("slow.md")
    assert isinstance(failure, ParseFailure) and failure.kind == "timed_out" and "parse_timeout_s" in failure.cure
    assert all(isinstance(result, ParsedDocument) for result in results.values())


def _stopped_child(of: Sandbox, tmp_path: Path) -> tuple[Iterator[tuple[SourceFile, object, float]], psutil.Process]:
    """A run over two files: the first is read, the child that will read the second is stopped, as if others had all the cores."""
    first, second = written(tmp_path, "first.md", "The first file."), written(tmp_path, "second.md", "The second file.")
    results = iter(of.parse_all([first, second]))
    assert isinstance(next(results)[1], ParsedDocument)
    (server,) = (each for each in psutil.Process().children() if "ingest.parse.server" in " ".join(each.cmdline()) and each.children())
    (child,) = server.children()
    child.suspend()
    return results, child


def test_a_child_that_gets_no_processor_fails_no_good_file(tmp_path: Path) -> None:
    """A nightly run beside other work once reported good files as too slow: the limit is of the child's own time."""
    with Sandbox(Settings(parse_timeout_s=1), jobs=1) as waiting:
        results, child = _stopped_child(waiting, tmp_path)
        threading.Timer(3.0, child.resume).start()
        ((_, second, seconds),) = results
    assert isinstance(second, ParsedDocument) and seconds > 2


@pytest.mark.slow
def test_a_child_that_does_nothing_for_ever_is_ended_by_the_clock(tmp_path: Path) -> None:
    """Waiting costs no processor time, so the wall has a limit too, a generous one."""
    with Sandbox(Settings(parse_timeout_s=1), jobs=1) as waiting:
        results, _ = _stopped_child(waiting, tmp_path)
        ((_, failure, seconds),) = results
    assert isinstance(failure, ParseFailure) and failure.kind == "timed_out" and seconds > 5


@pytest.mark.slow
@pytest.mark.skipif(not ocr_available(), reason="rapidocr-onnxruntime is not installed")
def test_text_is_kept_where_reading_the_pictures_breaks_off(tmp_path: Path) -> None:
    """One scanned page that takes too long, or too much memory, must not cost the pages that are text."""
    picture = Image.effect_noise((1600, 1200), 90).convert("RGB")
    picture.save(tmp_path / "scan.png")
    pdf = canvas.Canvas(str(tmp_path / "mixed.pdf"))
    pdf.drawString(60, 700, "The limit for Berlin is 120 EUR a night.")
    pdf.showPage()
    pdf.drawImage(str(tmp_path / "scan.png"), 0, 0, width=590, height=800)
    pdf.showPage()
    pdf.save()
    with Sandbox(Settings(parse_memory_mb=150), jobs=1) as strict:  # enough for the text, not for the OCR models
        ((_, document, _),) = strict.parse_all([source(tmp_path / "mixed.pdf")])

    assert isinstance(document, ParsedDocument)
    assert document.pages[0].text == "The limit for Berlin is 120 EUR a night."
    assert any("memory" in warning for warning in document.warnings)


def test_a_child_that_grows_is_ended(tmp_path: Path) -> None:
    with Sandbox(Settings(parse_memory_mb=20), jobs=1) as strict:  # loading the parsers alone takes more
        ((_, failure, _),) = strict.parse_all([slow_file(tmp_path)])

    assert isinstance(failure, ParseFailure) and failure.kind == "out_of_memory"


def test_a_crash_costs_one_file(tmp_path: Path) -> None:
    """A parser that dies in native code takes its own child with it, and nothing else."""
    files = [slow_file(tmp_path), written(tmp_path, "after.md", "The file after the crash.")]

    def crash() -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            for child in psutil.Process().children(recursive=True):
                # the fork server's child that is at work
                if child.parent() != psutil.Process() and child.cpu_times().user > 0.5 and child.status() != psutil.STATUS_ZOMBIE:
                    os.kill(child.pid, 11)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=crash)
    killer.start()
    with Sandbox(Settings(), jobs=1) as crashing:
        results = {file.path: result for file, result, _ in crashing.parse_all(files)}
    killer.join()

    failure = results["slow.md"]
    assert isinstance(failure, ParseFailure) and failure.kind == "crashed"
    assert isinstance(results["after.md"], ParsedDocument)


def test_closing_leaves_no_process_and_no_scratch(tmp_path: Path) -> None:
    others = psutil.Process().children(recursive=True)
    with Sandbox(Settings(), jobs=2) as short:
        list(short.parse_all([written(tmp_path, "a.md", "Some text of a file.")]))
        scratch = short._scratch
        inside = [each for each in psutil.Process().children(recursive=True) if each not in others]
        assert scratch is not None and scratch.is_dir() and inside
    _, alive = psutil.wait_procs(inside, timeout=10)

    assert not alive
    assert not scratch.exists()
    with pytest.raises(FootnoteError):
        list(short.parse_all([written(tmp_path, "b.md", "More text.")]))


def test_it_works_inside_an_event_loop_with_threads(sandbox: Sandbox, tmp_path: Path) -> None:
    """The engine process runs uvicorn and several threads; forking there would be unsafe, so nothing forks there."""
    files = [written(tmp_path, f"{number}.md", f"Text {number} of a file.") for number in range(4)]

    def read_half(half: list[SourceFile]) -> list[object]:
        return [result for _, result, _ in sandbox.parse_all(half)]

    async def run() -> list[object]:
        halves = (files[:2], files[2:])
        both = await asyncio.gather(*(asyncio.to_thread(read_half, half) for half in halves))
        return [result for results in both for result in results]

    found = asyncio.run(run())
    assert len(found) == 4 and all(isinstance(result, ParsedDocument) for result in found)


def test_pictures_of_pages_come_from_a_child_too(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    pdf = canvas.Canvas(str(path))
    pdf.drawString(60, 700, "The limit for Berlin is 120 EUR a night.")
    pdf.save()

    first = sandbox.render_page(path, 1, ["The limit for Berlin is 120 EUR a night."], 400)
    start = time.monotonic()
    again = sandbox.render_page(path, 1, [], 400)

    assert first.startswith(b"\x89PNG") and again.startswith(b"\x89PNG") and first != again
    assert time.monotonic() - start < 3
    with pytest.raises(DocumentUnreadable):
        sandbox.render_page(path, 7, [], 400)
    with pytest.raises(DocumentUnreadable):
        sandbox.render_page(tmp_path / "gone.pdf", 1, [], 400)


CONFINED = """
import os, socket, subprocess, sys, urllib.request
from pathlib import Path
from ingest.parse.server import confine
folder, outside = Path(sys.argv[1]), Path(sys.argv[2])
confine(folder)
def attempt(name, action):
    try:
        action()
    except PermissionError:
        print(name, "refused")
    except Exception as error:
        print(name, type(error).__name__)
    else:
        print(name, "allowed")
attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("resolve", lambda: socket.getaddrinfo("example.org", 80))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
attempt("write-outside", lambda: (outside / "new").write_text("x"))
attempt("append-outside", lambda: open(outside / "kept", "a"))
attempt("remove-outside", lambda: (outside / "kept").unlink())
attempt("rename-outside", lambda: (outside / "kept").rename(outside / "moved"))
attempt("link-trick", lambda: (os.symlink(outside, folder / "link"), (folder / "link" / "new").write_text("x")))
attempt("run", lambda: subprocess.run(["/bin/true"]))
attempt("system", lambda: os.system("true"))
attempt("read-outside", lambda: (outside / "kept").read_text())
attempt("write-inside", lambda: (folder / "scratch").write_text("x"))
"""


def test_a_child_reaches_no_network_no_program_and_no_file_but_its_own(tmp_path: Path) -> None:
    folder, outside = tmp_path / "scratch", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(folder), str(outside)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    verdicts = dict(line.split() for line in done.stdout.splitlines())

    allowed = {name for name, verdict in verdicts.items() if verdict == "allowed"}
    assert allowed == {"read-outside", "write-inside"}
    assert len(verdicts) == 12
    assert sorted(path.name for path in outside.iterdir()) == ["kept"] and (outside / "kept").read_text() == "kept"


def test_children_end_with_the_process_that_asked(tmp_path: Path) -> None:
    """A refresh that is killed must not leave parsers behind, not even busy ones."""
    slow_file(tmp_path)
    (tmp_path / "temporary").mkdir()
    code = (
        "import sys\nfrom pathlib import Path\nfrom config import Settings\n"
        "from ingest.sandbox import Sandbox\nfrom ingest.types import SourceFile\n"
        "path = Path(sys.argv[1])\nsandbox = Sandbox(Settings(), 1)\n"
        "for each in sandbox.parse_all([SourceFile('d', path.name, path, 1, 0)]): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "slow.md")], cwd=ROOT, env=environment)
    try:
        end = time.monotonic() + 90
        family: list[psutil.Process] = []
        while len(family) < 2 and time.monotonic() < end:
            time.sleep(0.1)
            family = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait()

    assert len(family) >= 2
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not list((tmp_path / "temporary").iterdir())
