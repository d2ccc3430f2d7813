"""CPU seconds that the web process spends on a click, as JSON {click: [seconds, …]}: `python -m bench FOLDER click` runs it.

Starts the web app on a free port, lets its engine start, and clicks in a real Chromium. Counts user and system time of the web
process alone (the engine is another one), until the page has been quiet for a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 10
QUIET_S = 0.6  # the web process used no CPU for so long: the click is done
BUSY_S = 10  # a page that never rests (one that shows progress) is cut off here
START_S = 300
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    made = argparse.ArgumentParser(description="CPU seconds of a click in the web process.")
    for name in ("--index", "--home", "--collection"):
        made.add_argument(name, required=True)
    chosen = made.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sys.exit("Playwright is not installed (requirements-dev.txt)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "FOOTNOTE_INDEX": chosen.index, "FOOTNOTE_HOME": chosen.home, "FOOTNOTE_COLLECTION": chosen.collection,
    }
    web = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            _open(page, f"http://127.0.0.1:{port}/", web)
            clicks: dict[str, Callable[[], None]] = {
                "Library": lambda: page.get_by_role("link", name="Library").click(),
                "Ask": lambda: page.get_by_role("link", name="Ask", exact=True).click(),
                "New question": lambda: page.get_by_role("button", name="New question").click(),
            }
            found: dict[str, list[float]] = {name: [] for name in clicks}
            for turn in range(REPEATS + 1):  # the first round imports pages; it is left out
                for name, click in clicks.items():
                    seconds = _cost(web.pid, click)
                    if turn:
                        found[name].append(seconds)
            browser.close()
    finally:
        web.terminate()
        web.wait(30)
        _end_engine(chosen.index, chosen.home)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _chromium() -> str | None:
    """The system's Chromium, None for the one that Playwright brings."""
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def _open(page: object, address: str, web: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if web.poll() is not None:
            raise SystemExit("The web app ended before it answered.")
        try:
            with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1].strip("/"))), timeout=1):
                break
        except OSError:
            time.sleep(0.2)
    page.goto(address)  # type: ignore[attr-defined]
    page.get_by_role("button", name="New question").wait_for(timeout=START_S * 1000)  # type: ignore[attr-defined]
    page.get_by_role("textbox").last.wait_for(timeout=START_S * 1000)  # type: ignore[attr-defined]


def _cost(pid: int, click: Callable[[], None]) -> float:
    """CPU seconds of process `pid` from before the click until it rests."""
    before = _cpu(pid)
    click()
    last, since = _cpu(pid), time.monotonic()
    end = since + BUSY_S
    while time.monotonic() - since < QUIET_S and time.monotonic() < end:
        time.sleep(0.05)
        now = _cpu(pid)
        if now != last:
            last, since = now, time.monotonic()
    return last - before


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS  # utime and stime of the process's own threads


def _end_engine(index: str, home: str) -> None:
    sys.path.insert(0, str(ROOT))
    import config
    from rag.client import Client

    Client(config.load(index=index, home=home)).shutdown()


if __name__ == "__main__":
    sys.exit(main())
