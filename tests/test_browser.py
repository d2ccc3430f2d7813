"""The whole product in a real browser: ask, see sources, open a footnote, judge, reload, upload a folder, ask about it.

Pictures for a person to look at are written into tests/screenshots/ (light, dark and narrow).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import config
from rag.client import Client

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
image_of = pytest.importorskip("PIL.Image", reason="the browser test looks at pictures")

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "tests" / "screenshots"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
COMPANY = ROOT / "examples" / "alderwick-cycles"
READ = ("hr/travel-policy-2025.pdf", "hr/leave-policy.docx", "it/passwords-and-access.md", "it/vpn-setup.txt")
HOTEL = "How much may a hotel in London cost per night since March 2025?"
LEAVE = "How many days of annual leave does a new full-time employee in Leith have?"
GULL = (
    "# Gull procedure\n\nThe gull alarm on the roof is tested every Thursday at 14:30. Brenda Oduya keeps the key of the alarm.\n"
)
START_MS = 180_000  # a first start converts the model, on a machine that may be busy
ANSWER_MS = 120_000  # of one answer on a busy machine; a few seconds on a quiet one
PAGE_MS = 30_000
YELLOW_PIXELS = 500  # of a highlighted line on a page 570 pixels wide; an unmarked page has none

pytestmark = [
    pytest.mark.browser,
    pytest.mark.real,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real web app over a small index of the sample company, with its own data folder and engine."""
    folder = tmp_path_factory.mktemp("browser")
    for name in READ:
        (folder / "company" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(COMPANY / name, folder / "company" / name)
    settings = config.load(home=folder / "home", index=folder / "indexes")
    around = {**os.environ, "FOOTNOTE_HOME": str(settings.home), "FOOTNOTE_INDEX": str(settings.index)}
    ingest = [sys.executable, "-m", "ingest", str(folder / "company")]
    subprocess.run(ingest, cwd=ROOT, env=around, check=True, capture_output=True, timeout=300)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(20)
        Client(settings).shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


class Visitor:
    """One person with one browser window; keeps what the browser complained about and where it wanted to go."""

    def __init__(self, browser: Any, address: str, scheme: str = "light", width: int = 1280, height: int = 860) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PAGE_MS)
        self.address = address
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.outside.append(request.url)

    def _console(self, message: Any) -> None:
        # a deep link asks for its health check below its own path first, which Streamlit answers with 404
        if message.type == "error" and "404" not in message.text:
            self.complaints.append(message.text)

    def go(self, path: str = "/") -> None:
        self.page.goto(self.address + path)
        self.page.wait_for_selector("textarea, .drop, .fn-title", timeout=START_MS)

    def ask(self, question: str) -> None:
        self.page.fill("textarea", question)
        self.page.keyboard.press("Enter")
        heading = self.page.locator("h2.fn-question", has_text=question)
        sync_api.expect(heading.last).to_be_visible()

    def wait_for_answer(self) -> None:
        finished = "[class*='st-key-actions-']"
        self.page.wait_for_function(
            f'() => !document.body.innerText.includes("Stop") && document.querySelector("{finished}")', timeout=ANSWER_MS
        )
        self.page.locator(".meta, .trouble").last.wait_for()

    def picture(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=str(SHOTS / f"{name}.png"))

    def conversation(self) -> str:
        return re.sub(r".*[?&]c=([^&]+).*", r"\1", self.page.url)

    def leave(self) -> None:
        assert self.outside == []
        assert self.complaints == []
        self.context.close()


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Visitor]:
    made = Visitor(browser, address)
    yield made
    made.leave()


def yellow(picture: bytes) -> int:
    """Pixels of a highlighter's colour: much red and green, little blue."""
    pixels = image_of.open(io.BytesIO(picture)).convert("RGB").tobytes()
    colours = zip(pixels[0::3], pixels[1::3], pixels[2::3], strict=True)
    return sum(1 for red, green, blue in colours if red > 200 and green > 160 and blue < 150)


def test_a_question_is_answered_with_footnotes_that_open_the_page(visitor: Visitor) -> None:
    """Sources before words, a chip that opens the rendered page with the quote highlighted, and Escape that closes it."""
    visitor.go()
    visitor.picture("light-welcome")
    visitor.page.evaluate(
        """() => { window.order = [];
        setInterval(() => { for (const name of ['.source', '.sentence'])
            for (const host of document.querySelectorAll('*'))
                if (host.shadowRoot?.querySelector(name) && !window.order.includes(name)) window.order.push(name); }, 20); }"""
    )
    visitor.ask(HOTEL)
    visitor.page.locator(".source").first.wait_for(timeout=ANSWER_MS)
    visitor.picture("light-sources-first")
    visitor.wait_for_answer()
    visitor.page.locator(".sentence").first.wait_for()
    visitor.page.wait_for_function("() => window.order.length === 2")
    assert visitor.page.evaluate("window.order") == [".source", ".sentence"]
    answer = visitor.page.locator(".answer").last
    assert "180" in answer.inner_text()
    visitor.picture("light-answer")
    chip = answer.locator(".chip").first
    chip.hover()
    visitor.page.locator(".card").wait_for()
    chip.click()
    picture = visitor.page.locator(".st-key-source img")
    picture.wait_for()
    visitor.page.wait_for_function("() => document.querySelector('.st-key-source img')?.naturalWidth > 0")
    visitor.page.mouse.move(5, 5)
    visitor.picture("light-source-page")
    assert yellow(picture.screenshot()) > YELLOW_PIXELS
    visitor.page.keyboard.press("Escape")
    picture.wait_for(state="detached")


def test_a_text_document_opens_with_its_passage_marked(visitor: Visitor) -> None:
    """By keyboard alone: the chip is a button, Enter opens it, and the marked text is the quote."""
    visitor.go()
    visitor.ask(LEAVE)
    visitor.wait_for_answer()
    chip = visitor.page.locator(".chip").first
    chip.focus()
    quote = visitor.page.locator(".card .quote").inner_text().strip("“”")
    visitor.page.keyboard.press("Enter")
    visitor.page.locator(".st-key-source mark").first.wait_for()
    marked = " ".join(visitor.page.locator(".st-key-source mark").all_inner_texts())
    assert "27" in marked and "".join(marked.split()) == "".join(quote.split())
    visitor.picture("light-source-text")
    visitor.page.get_by_role("button", name="Close").click()
    visitor.page.locator(".st-key-source").wait_for(state="detached")


def test_judgement_and_answer_survive_a_reload(visitor: Visitor) -> None:
    """A thumb with its reason is kept; an answer that was being written when the tab was reloaded is there afterwards."""
    visitor.go()
    visitor.ask("How many characters must a password have?")
    visitor.page.wait_for_url(re.compile(r"[?&]c="))
    visitor.page.reload()
    visitor.page.locator("h2.fn-question").wait_for(timeout=START_MS)
    visitor.wait_for_answer()
    assert "14" in visitor.page.locator(".answer").inner_text()
    visitor.page.locator("[data-testid=stFeedback] button").last.click()
    visitor.page.get_by_text("Out of date").click()
    visitor.page.get_by_role("button", name="Send", exact=True).click()
    sync_api.expect(visitor.page.get_by_text("Thank you. It is kept beside the answer.")).to_be_visible()
    conversation = visitor.conversation()
    visitor.page.reload()
    visitor.page.locator(".chip").first.wait_for(timeout=START_MS)
    assert visitor.conversation() == conversation


def test_a_conversation_is_renamed_deleted_and_brought_back(visitor: Visitor) -> None:
    """All from the page, and the list follows."""
    visitor.go()
    visitor.ask("What is the fastest bird?")
    visitor.page.get_by_role("button", name="Stop").or_(visitor.page.get_by_role("button", name="Ask again")).first.wait_for()
    visitor.wait_for_answer()
    menu = visitor.page.get_by_role("button", name="Conversation", exact=False).last
    menu.click()
    visitor.page.get_by_role("button", name="Rename").click()
    visitor.page.get_by_role("textbox", name="Name").fill("Birds & <b>bees</b>")
    visitor.page.get_by_role("button", name="Save", exact=True).click()
    listed = visitor.page.get_by_role("button", name="Birds & <b>bees</b>")
    listed.wait_for()
    menu.click()
    visitor.page.get_by_role("button", name="Delete").click()
    visitor.page.get_by_role("button", name="Undo").click()
    listed.wait_for()


def test_an_uploaded_folder_can_be_asked(visitor: Visitor, tmp_path: Path) -> None:
    """A folder chosen in the browser is sent file by file, read, listed, and its words are quoted a moment later."""
    folder = tmp_path / "site notes"
    (folder / "roof").mkdir(parents=True)
    (folder / "roof" / "gulls.md").write_text(GULL, encoding="utf-8")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 this is no document")
    (folder / "empty.txt").touch()
    visitor.go("/library")
    visitor.picture("light-library")
    visitor.page.get_by_text("Add documents").first.click()
    visitor.page.locator("input[aria-label='Choose a folder']").set_input_files(str(folder))
    visitor.page.get_by_text("2 of 3 received").wait_for()
    assert "The file is empty." in visitor.page.locator(".upload").inner_text()
    # the report of the refresh before stands there until the new one begins, so it says nothing about this one
    visitor.page.get_by_role("button", name="site notes/roof/gulls.md").wait_for(timeout=START_MS)
    done = visitor.page.get_by_text("Last refresh:")
    done.wait_for(timeout=START_MS)
    assert "could not be read" in visitor.page.locator(".st-key-library").inner_text()
    done.click()
    visitor.picture("light-library-report")
    visitor.page.get_by_role("link", name="Ask").click()
    visitor.page.wait_for_selector("textarea")
    visitor.ask("When is the gull alarm tested?")
    visitor.wait_for_answer()
    assert "Thursday" in visitor.page.locator(".answer").last.inner_text()
    assert "gulls.md" in visitor.page.locator(".answer").last.inner_text()


@pytest.mark.parametrize(("name", "scheme", "width", "height"), [("dark", "dark", 1280, 860), ("narrow", "light", 390, 844)])
def test_pages_are_whole_in_the_dark_and_on_a_narrow_screen(
    browser: Any, address: str, name: str, scheme: str, width: int, height: int
) -> None:
    """Nothing is wider than the screen, and every page has its picture for a person to look at."""
    visitor = Visitor(browser, address, scheme, width, height)

    def fits() -> bool:
        return bool(visitor.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 1"))

    visitor.go()
    visitor.picture(f"{name}-welcome")
    assert fits()
    visitor.ask(HOTEL)
    visitor.wait_for_answer()
    visitor.picture(f"{name}-answer")
    assert fits()
    visitor.page.locator(".chip").first.click()
    visitor.page.wait_for_function("() => document.querySelector('.st-key-source img')?.naturalWidth > 0")
    visitor.picture(f"{name}-source-page")
    visitor.page.get_by_role("button", name="Close").click()
    visitor.go("/library")
    visitor.picture(f"{name}-library")
    assert fits()
    visitor.leave()
