"""The whole product, run once with every outbound attempt refused and counted → a report whose count must be 0.

Ingest with its children, engine, web app and command line are processes of their own, each with the hook of
`rag/offline/sitecustomize.py`. With `strace` their system calls are counted too, which sees native code as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import ROOT, Settings
from errors import FootnoteError, UsageError
from rag.client import Client
from rag.place import environment

HOOK = ROOT / "rag" / "offline"
QUESTIONS = 20
STEP_S = 900.0  # seconds that one step may take; reading the sample company takes the longest
VISIT_S = 30.0  # seconds that a page is given to be drawn
RERUN = b"\x5a\x00"  # what a browser sends first over Streamlit's web socket: BackMsg with an empty rerun_script (field 11)
TRACED = "connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(r'sa_family=AF_INET6?,.*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')
FALLBACK = ("How many days of leave are there?", "Who signs the contract?", "What is the price?", "When is the office closed?")

Say = Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """One check: where it happens, how processes are started, and what was done."""

    settings: Settings
    folder: Path
    strace: bool
    say: Say
    steps: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "attempts.jsonl"

    def environment(self) -> dict[str, str]:
        made = environment(self.settings)
        made |= {"PYTHONPATH": os.pathsep.join([str(HOOK), str(ROOT)]), "FOOTNOTE_OFFLINE_LOG": str(self.log)}
        made |= {"STREAMLIT_SERVER_PORT": str(self.settings.port)}
        for name in ("DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ORT_DISABLE_TELEMETRY", "SCARF_NO_ANALYTICS"):
            made.pop(name, None)  # the product has to be quiet by itself
        return made

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        python = [sys.executable, *arguments]
        if not self.strace:
            return python
        return [
            "strace",
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            f"trace={TRACED}",
            "-o",
            str(self.folder / f"{name}.strace"),
            *python,
        ]

    def step(self, name: str, arguments: Sequence[str], expected: Sequence[int]) -> str:
        """Run a command to its end; returns its output. Raises FootnoteError where it ends otherwise than expected."""
        self.say(f"{name}…")
        started = time.monotonic()
        try:
            done = subprocess.run(
                self.command(_file_name(name), arguments),
                cwd=ROOT,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=STEP_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FootnoteError(
                f"The step “{name}” did not end within {STEP_S:.0f} seconds.", "Try again on a quieter machine."
            ) from None
        if done.returncode not in expected:
            said = " ".join(done.stderr.split())[-500:]
            raise FootnoteError(f"The step “{name}” ended with code {done.returncode}: {said}", "Run it by hand to see more.")
        self.steps.append(f"{name} ({time.monotonic() - started:.1f} s)")
        return done.stdout


def selfcheck(
    settings: Settings, *, strace: bool = False, say: Say = lambda _: None, questions: int = QUESTIONS
) -> dict[str, Any]:
    """Run everything offline in temporary folders; returns {"attempts", "by_process", "tried", "processes", "steps", "summary"}.

    Raises FootnoteError where a step could not be run at all: then nothing is proved.
    """
    if strace and shutil.which("strace") is None:
        raise UsageError("strace is not installed.", "Run: sudo apt install strace, or leave --strace out.")
    with tempfile.TemporaryDirectory(prefix="footnote-selfcheck-") as name:
        folder = Path(name)
        private = dataclasses.replace(
            settings, index=folder / "indexes", home=folder / "home", collection="selfcheck", port=_free_port()
        )
        run = _Run(private, folder, strace, say)
        run.log.touch(mode=0o600)
        _ingest(run)
        with _web_app(run):
            _ask(run, questions)
            _errors(run)
        return _report(run)


def _ingest(run: _Run) -> None:
    bad = run.folder / "bad"
    bad.mkdir()
    (bad / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is no document")
    sample = ROOT / "examples" / "alderwick-cycles"
    folders = [str(sample if sample.is_dir() else ROOT / "examples"), str(bad)]
    run.step("index the sample company and a broken file", ["-m", "ingest", *folders, *_where(run), "--json"], (0, 3))
    run.step("refresh without a change", ["-m", "ingest", *_where(run), "--json"], (0, 3))


@contextlib.contextmanager
def _web_app(run: _Run) -> Iterator[None]:
    """The web app with the engine that it starts, visited once, and ended in order."""
    run.say("start the web app and the engine, and open a page…")
    started = time.monotonic()
    arguments = ["-m", "streamlit", "run", "app.py", "--server.headless", "true", "--server.port", str(run.settings.port)]
    said = run.folder / "web.out"
    with said.open("wb") as output:
        web = subprocess.Popen(
            run.command("web", arguments), cwd=ROOT, env=run.environment(), stdout=output, stderr=output, start_new_session=True
        )
    client = Client(run.settings)
    try:
        _until(lambda: _page(run.settings.port), web, said)
        _visit(run.settings.port)
        _until(client.running, web, said)
        run.steps.append(f"start the web app and the engine, and open a page ({time.monotonic() - started:.1f} s)")
        yield
        started = time.monotonic()
        _visit(run.settings.port)
    finally:
        client.shutdown()
        client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(web.pid, signal.SIGTERM)
        try:
            web.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(web.pid, signal.SIGKILL)
            web.wait()
    run.steps.append(f"end them ({time.monotonic() - started:.1f} s)")


def _ask(run: _Run, count: int) -> None:
    known = ROOT / "examples" / "questions.jsonl"
    asked = (
        [json.loads(line)["question"] for line in known.read_text(encoding="utf-8").splitlines() if line.strip()]
        if known.is_file()
        else []
    )
    asked = [asked[number % len(asked)] if asked else FALLBACK[number % len(FALLBACK)] for number in range(count)]
    file = run.folder / "questions.jsonl"
    file.write_text(
        "".join(json.dumps({"id": number, "question": each}) + "\n" for number, each in enumerate(asked)), encoding="utf-8"
    )
    output = run.step(f"ask {count} questions", ["-m", "rag", "ask", "--questions", str(file), *_where(run), "--json"], (0,))
    if len(output.splitlines()) != count:
        raise FootnoteError(
            f"{count} questions were asked, but {len(output.splitlines())} answers came.", "Run: python -m rag ask"
        )
    run.step("search", ["-m", "rag", "search", asked[0], *_where(run), "--json"], (0,))


def _errors(run: _Run) -> None:
    run.step(
        "ask about an unknown document", ["-m", "rag", "ask", "Anything?", "--document", "absent-*", *_where(run), "--json"], (2,)
    )
    run.step("ask as an unknown person", ["-m", "rag", "ask", "Anything?", "--as", "nobody", *_where(run), "--json"], (2,))
    elsewhere = ["--collection", "absent", "--index", str(run.settings.index)]
    run.step("ask an unknown collection", ["-m", "rag", "ask", "Anything?", *elsewhere, "--json"], (10,))
    run.step("verify an unknown collection", ["-m", "ingest", "verify", *elsewhere, "--json"], (10,))


def _where(run: _Run) -> list[str]:
    return ["--collection", run.settings.collection, "--index", str(run.settings.index)]


def _until(test: Callable[[], bool], process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + STEP_S
    while not test():
        if process.poll() is not None or time.monotonic() > deadline:
            last = " ".join(said.read_text(encoding="utf-8", errors="replace").split())[-500:]
            raise FootnoteError(f"The web app did not start: {last}", "Run: make run")
        time.sleep(0.2)


def _page(port: int) -> bool:
    """Whether the web app's first page comes, over loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _visit(port: int) -> None:
    """Be a browser for a moment: open the page's web socket, ask for a drawing, and wait until something is drawn."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    deadline = time.monotonic() + VISIT_S
    try:
        with connect(
            f"ws://127.0.0.1:{port}/_stcore/stream",
            origin=Origin(f"http://127.0.0.1:{port}"),
            subprotocols=[Subprotocol("streamlit")],
            proxy=None,
            open_timeout=10,
        ) as page:
            page.send(RERUN)
            drawn = 0
            while drawn < 5 and time.monotonic() < deadline:
                page.recv(timeout=max(0.1, deadline - time.monotonic()))
                drawn += 1
    except (OSError, WebSocketException, TimeoutError) as error:
        raise FootnoteError(
            f"The web app's page could not be opened ({type(error).__name__}: {error}).", "Run: make run"
        ) from None


def _report(run: _Run) -> dict[str, Any]:
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    processes = Counter(_called(each["process"]) for each in lines if each["event"] == "start")
    tried = [{**each, "process": _called(each["process"])} for each in lines if each["event"] != "start"]
    for trace in sorted(run.folder.glob("*.strace")):
        tried += [{"process": trace.stem, "event": "system call", "target": each, "where": []} for each in _traced(trace)]
    by_process = Counter(each["process"] for each in tried)
    for needed in ("ingest", "ingest.parse.server", "rag serve", "streamlit", "rag ask"):
        if needed not in processes:
            raise FootnoteError(f"No process named {needed!r} was watched, so nothing is proved.", "Is PYTHONPATH ignored here?")
    summary = [f"{name}: {count} watched, {by_process.get(name, 0)} attempts" for name, count in sorted(processes.items())]
    summary += [f"{name}: {count} attempts" for name, count in by_process.items() if name not in processes]
    summary += [
        f"  {each['process']} tried {each['target']} ({each['event']}) at {' < '.join(each['where'][:3])}" for each in tried[:20]
    ]
    summary.append(f"{len(tried)} outbound attempts{' (system calls counted too)' if run.strace else ''}.")
    return {
        "attempts": len(tried),
        "by_process": dict(by_process),
        "tried": tried,
        "processes": dict(processes),
        "steps": run.steps,
        "strace": run.strace,
        "summary": "\n".join(summary),
    }


def _called(process: str) -> str:
    """A process by what it does: "rag serve", "ingest", "ingest.parse.server" (which reads documents), "streamlit"."""
    words = process.split()
    if words[:1] == ["-m"] and len(words) > 1:
        return " ".join(words[1:3]) if words[1] == "rag" and len(words) > 2 else words[1]
    return " ".join(words[:2]) or "python"


def _traced(path: Path) -> list[str]:
    """Addresses outside this machine in a log of system calls."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        for match in ADDRESS.finditer(line):
            address = match[1] or match[2]
            if not (address.startswith("127.") or address in ("::1", "0.0.0.0", "::", "::ffff:127.0.0.1")):
                found.append(f"{address}: {line.split(maxsplit=1)[-1][:160]}")
    return found


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
