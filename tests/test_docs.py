"""The guides are true: commands exist, options are written down, the settings page is the settings, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from scripts.settings_page import page

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = ("ingest", "rag ask", "rag search", "rag replay", "rag costs", "rag serve", "rag models", "rag selfcheck")
INGEST_COMMANDS = ("status", "verify", "show", "rollback", "backup", "restore", "purge")


@cache
def _help(command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-k)\b", text)) - {"--help"}


def _sections() -> dict[str, str]:
    """docs/commands.md: command → its section (ask and search share one)."""
    parts = re.split(r"^## ", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    return {
        command: body for part in parts for title, _, body in [part.partition("\n")]
        for command in re.findall(r"python -m ([a-z ]+?)(?:,|$)", title)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_documented_and_no_other(command: str) -> None:
    """docs/commands.md against --help, both ways."""
    assert _options(_help(command)) == _options(_sections()[command])


def test_every_command_is_documented() -> None:
    """Commands named by the help of `python -m rag` and `python -m ingest` have their place in docs/commands.md."""
    known = set(re.findall(r"^    (\w+)(?: |$)", _help("rag"), re.M))
    assert {f"rag {each}" for each in known} | {"ingest"} == set(_sections())
    told = re.findall(r"`python -m ingest (\w+)", _sections()["ingest"])
    listed = re.search(r"^commands:\n(.*?)\n\n", _help("ingest"), re.M | re.S)
    assert listed is not None
    assert told == re.findall(r"^  (\w+)", listed[1], re.M) == list(INGEST_COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_commands_that_a_page_shows_exist(page: Path) -> None:
    """Every `python -m …`, `make …` and script that a guide tells people to run is there, options included."""
    text = page.read_text(encoding="utf-8")
    for command, rest in re.findall(r"python -m (ingest|rag \w+)([^\n|`]*)", text):
        if command.split()[0] == "ingest" and (first := rest.split()[:1]) and first[0] in INGEST_COMMANDS:
            rest = rest.replace(first[0], "", 1)
        assert _options(rest.split("#")[0].split(">>")[0]) <= _options(_help(command)), f"{command}{rest}"
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:^    |`)make (\w+)", text, re.M)) <= targets
    for script in re.findall(r"\b((?:scripts|examples)/[\w.-]+\.(?:sh|py))", text):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_links_of_a_page_lead_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_settings_page_is_current() -> None:
    """When this fails, run: python scripts/settings_page.py >docs/settings.md"""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page()


def test_torch_has_one_version_everywhere() -> None:
    """It is installed by a line of its own, so its version stands in three files."""
    files = ("README.md", "requirements.txt", "scripts/setup.sh", "docs/operators.md")
    texts = [(ROOT / each).read_text(encoding="utf-8") for each in files]
    assert len({version for text in texts for version in re.findall(r"torch==([\d.]+\d)", text)}) == 1


def test_what_readme_promises_to_install_is_what_setup_installs() -> None:
    """The plain commands of the README and scripts/setup.sh name the same requirement files."""
    names = {f"requirements{kind}.txt" for kind in ("", "-nodeps")} | {"constraints.txt"}
    for each in ("README.md", "scripts/setup.sh"):
        assert names <= set(re.findall(r"[\w-]+\.txt", (ROOT / each).read_text(encoding="utf-8"))), each


def test_every_target_that_people_use_is_explained() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+):", text, re.M)) == set(re.findall(r"^(\w+):  ## \S", text, re.M))
    assert {"run", "test", "check", "bench"} <= set(re.findall(r"^(\w+):", text, re.M))
