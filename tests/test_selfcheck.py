"""The offline check: its hook sees and refuses what reaches out, lets pass what stays, and the whole product passes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config import ROOT
from rag.selfcheck import HOOK, _called, _report, _Run, _traced, selfcheck
from tests.engine_room import settings_in

TRIES = {
    "connect": "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
    "connect six": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "own address": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('8.8.8.8', 80))",
    "name": "import socket; socket.getaddrinfo('example.com', 80)",
    "old name": "import socket; socket.gethostbyname('example.com')",
    "library": "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
    "async": "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    "tool": "import subprocess; subprocess.run(['curl', 'http://192.0.2.1/'])",
    "shell": "import os; os.system('wget http://192.0.2.1/')",
    "open door": "import socket; socket.socket().bind(('0.0.0.0', 45871))",
}
STAYS = {
    "loopback": "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()[:2], 5)",
    "localhost": "socket.getaddrinfo('localhost', 80)",
    "unix": "a, b = socket.socketpair(); a.send(b'x')",
    "program": "import subprocess; subprocess.run(['true'])",
}


def watched(code: str, log: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    environment = {**os.environ, "PYTHONPATH": str(HOOK), "FOOTNOTE_OFFLINE_LOG": str(log)}
    command = [sys.executable, "-c", f"import socket\n{code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done, [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("name", TRIES)
def test_a_deliberate_attempt_is_refused_and_counted(name: str, tmp_path: Path) -> None:
    """Each way out ends with a refusal and one line in the log that says what was tried and where."""
    done, lines = watched(TRIES[name], tmp_path / "log")
    assert done.returncode != 0 and "refused by selfcheck" in done.stderr
    tried = [each for each in lines if each["event"] != "start"]
    assert tried and tried[0]["target"] and tried[0]["where"]


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_on_this_machine_is_not_counted(name: str, tmp_path: Path) -> None:
    """Loopback, Unix sockets, local names and ordinary programs work as ever."""
    done, lines = watched(STAYS[name], tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert [each["event"] for each in lines] == ["start"]


def test_an_attempt_that_is_swallowed_is_counted_all_the_same(tmp_path: Path) -> None:
    """Libraries that try and forgive are what the check is for."""
    code = "try:\n    socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError:\n    pass"
    done, lines = watched(code, tmp_path / "log")
    assert done.returncode == 0 and len(lines) == 2


def test_without_the_variable_the_hook_does_nothing() -> None:
    """The folder on PYTHONPATH alone changes no process."""
    environment = {**os.environ, "PYTHONPATH": str(HOOK)}
    environment.pop("FOOTNOTE_OFFLINE_LOG", None)
    done = subprocess.run([sys.executable, "-c", "import socket; socket.gethostbyname('127.0.0.1')"], env=environment, timeout=60)
    assert done.returncode == 0


def test_the_processes_that_read_documents_are_watched(tmp_path: Path) -> None:
    """They get an empty environment otherwise; a check that does not see them would prove little."""
    log = tmp_path / "log"
    log.touch()
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from ingest.sandbox import Sandbox
from ingest.types import SourceFile
import config, dataclasses
file = Path({str(tmp_path / 'note.txt')!r})
file.write_text('The office opens at nine.')
with Sandbox(config.Settings(), 1) as sandbox:
    print([each[1].pages[0].text for each in sandbox.parse_all([SourceFile('s', 'note.txt', file, 25, 0)])])
"""
    done, lines = watched(code, log)
    assert "opens at nine" in done.stdout, done.stderr
    assert [each["event"] for each in lines] == ["start", "start"] and "ingest.parse.server" in lines[1]["process"]


def test_system_calls_to_other_machines_are_found_in_a_trace(tmp_path: Path) -> None:
    """Addresses of this machine and Unix sockets are left out."""
    trace = tmp_path / "step.strace"
    trace.write_text(
        '7 connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0\n'
        '7 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0\n'
        '7 connect(3, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0\n'
        '8 connect(4, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16) = -1 ENETUNREACH\n'
        '8 sendto(4, "x", 1, 0, {sa_family=AF_INET6, sin6_port=htons(53), '
        'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr)}, 28) = 1\n'
    )
    assert [each.partition(":")[0] if "." in each[:12] else each[:11] for each in _traced(trace)] == ["192.0.2.1", "2001:db8::1"]


def test_a_counted_attempt_fails_the_check_and_names_its_process(tmp_path: Path) -> None:
    """The report's count is what the command's exit code follows; it says who tried what."""
    run = _Run(settings_in(tmp_path), tmp_path, False, lambda _: None)
    started = ["-m ingest a", "-m ingest.parse.server", "-m rag serve", "-m streamlit run", "-m rag ask x"]
    lines: list[dict[str, Any]] = [{"pid": 1, "process": each, "event": "start"} for each in started]
    lines.append({"pid": 1, "process": "-m ingest a", "event": "socket.connect", "target": "192.0.2.1:80", "where": ["x.py:1"]})
    run.log.write_text("".join(json.dumps(each) + "\n" for each in lines))
    report = _report(run)
    assert report["attempts"] == 1 and report["by_process"] == {"ingest": 1}
    assert "192.0.2.1:80" in report["summary"] and "1 outbound attempts" in report["summary"]
    assert _called("-m rag serve --index x") == "rag serve"


@pytest.mark.real
@pytest.mark.slow
def test_nothing_leaves_this_machine(tmp_path: Path) -> None:
    """Ingest, engine, web app and command line from start to end, with errors on the way: no attempt, in any process."""
    report = selfcheck(settings_in(tmp_path), questions=20)
    assert report["attempts"] == 0, report["summary"]
    assert {"ingest", "ingest.parse.server", "rag serve", "rag ask", "streamlit"} <= set(report["processes"])
    assert len(report["steps"]) == 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_reading_a_scanned_page_reaches_out_by_no_system_call(tmp_path: Path) -> None:
    """onnxruntime, which reads scans, reported every session to its makers in native code, unseen by Python's hooks.

    If it came back, a trace of reading one scan would show questions to a name server.
    """
    scan = ROOT / "examples" / "alderwick-cycles" / "operations" / "fire-and-evacuation-notice.pdf"
    code = f"""
from pathlib import Path
from ingest.sandbox import Sandbox
from ingest.types import SourceFile
import config
file = Path({str(scan)!r})
with Sandbox(config.Settings(parse_timeout_s=240), 1) as sandbox:
    print([each[1].ocr_pages for each in sandbox.parse_all([SourceFile('s', file.name, file, file.stat().st_size, 0)])])
"""
    trace = tmp_path / "scan.strace"
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert "[1]" in done.stdout, done.stderr[-2000:]
    assert _traced(trace) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_trace_sees_what_native_code_does(tmp_path: Path) -> None:
    """A connection by way of the C library passes Python's hook unseen and is found among the system calls."""
    trace = tmp_path / "native.strace"
    code = (
        "import ctypes, socket, struct\n"
        "libc = ctypes.CDLL(None)\n"
        "address = struct.pack('=H', socket.AF_INET) + struct.pack('!H', 80) + socket.inet_aton('192.0.2.1') + bytes(8)\n"
        "libc.connect(libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0), address, 16)\n"
    )
    command = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace), sys.executable, "-c", code]
    done = subprocess.run(command, timeout=60, check=False)
    if done.returncode != 0 and not trace.exists():
        pytest.skip("strace may not trace here")
    assert any("192.0.2.1" in each for each in _traced(trace))
