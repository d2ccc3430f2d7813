"""A collection's own threshold: chosen for a tolerated share, measured elsewhere, in force only for the weights it was fitted with."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config import ROOT, Settings
from errors import UsageError
from rag.answer import Answerer
from rag.evidence import WEIGHTS, Signs
from rag.threshold import fingerprint, fitted, place, threshold
from tests.folder import Folder
from tests.scripted_model import ScriptedModel
from tune.refusal import Asked, refusal

OFF_TOPIC = ROOT / "evals" / "off_topic.jsonl"


def made(count: int = 400) -> list[Asked]:
    """Answerable ones are surer by and large; the two kinds overlap."""
    chance = random.Random(4)
    return [
        Asked("tune" if at % 4 < 2 else "report", bool(at % 2), min(1.0, max(0.0, chance.gauss(0.7 if at % 2 else 0.3, 0.15))))
        for at in range(count)
    ]


def keep(home: Path, collection: str, value: float, weights: str) -> Path:
    path = place(home, collection)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"threshold": value, "tolerated": 0.05, "weights": weights}))
    return path


@pytest.mark.parametrize("tolerate", [0.01, 0.05, 0.2])
def test_no_more_than_the_tolerated_share_is_answered_where_it_was_chosen(tolerate: float) -> None:
    """And the least such threshold is taken: the next lower one would answer too many, so nothing is refused without need."""
    asked = made()
    found = refusal(asked, tolerate)
    assert found["chosen_on"]["false_answers"]["mean"] <= tolerate
    lower = sorted((each.probability for each in asked if each.half == "tune" and not each.answerable), reverse=True)
    assert sum(each >= found["threshold"] for each in lower) == int(tolerate * len(lower))


def test_a_stricter_choice_refuses_more() -> None:
    refused = [refusal(made(), tolerate)["measured"]["wrong_refusals"]["mean"] for tolerate in (0.2, 0.05, 0.01)]
    assert refused == sorted(refused)


def test_too_few_questions_are_said_and_fit_nothing() -> None:
    with pytest.raises(UsageError, match="answerable questions in the half"):
        refusal(made(60), 0.05)


def test_a_threshold_holds_for_its_weights_only(tmp_path: Path) -> None:
    """Other weights give other probabilities; a broken file is as good as none."""
    path = keep(tmp_path, "hr", 0.9, fingerprint(WEIGHTS))
    assert threshold(tmp_path, "hr", WEIGHTS) == 0.9 and threshold(tmp_path, "other", WEIGHTS) == WEIGHTS.threshold
    assert threshold(tmp_path, "hr", dataclasses.replace(WEIGHTS, answer=Signs(similarity=3.0))) == WEIGHTS.threshold
    assert threshold(tmp_path, "hr", dataclasses.replace(WEIGHTS, threshold=0.1)) == 0.9
    for broken in ("", "{", "[]", '{"threshold": 7, "weights": "x"}', '{"threshold": "a", "weights": "x"}'):
        path.write_text(broken)
        assert fitted(tmp_path, "hr") is None and threshold(tmp_path, "hr", WEIGHTS) == WEIGHTS.threshold


def test_answers_follow_the_collections_threshold(tmp_path: Path) -> None:
    """The same question is answered or not by what was fitted."""
    folder = Folder(tmp_path)
    folder.write("leave.md", "Full-time employees get 25 days of annual leave a year.")
    folder.refresh()
    index = folder.open()
    try:
        answerer = Answerer(folder.settings, folder.embedder, ScriptedModel(level="verbatim"))
        question = "How many days of annual leave do full-time employees get?"
        assert answerer.answer(question, index).found
        path = keep(folder.settings.home, "default", 1.0, fingerprint(WEIGHTS))
        assert not answerer.answer(question, index).found
        assert dataclasses.replace(answerer, shown_from=0.01).answer(question, index).found
        path.unlink()
        assert answerer.answer(question, index).found
    finally:
        index.close()


def test_the_off_topic_questions_are_many_and_no_two_alike() -> None:
    lines = [json.loads(line) for line in OFF_TOPIC.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 200 and len({each["question"].casefold() for each in lines}) == len(lines)
    assert {each["kind"] for each in lines} == {"off_topic", "nonsense"} and not any(each["answerable"] for each in lines)


def tune(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tune", *arguments], cwd=ROOT, env={**os.environ, "FOOTNOTE_HOME": str(home)}, capture_output=True, text=True
    )


@pytest.mark.real
def test_an_admin_chooses_sees_and_goes_back(tmp_path: Path) -> None:
    """The command on the sample company with the real embedder: what was measured is kept, shown, and taken away again."""
    settings = Settings(index=tmp_path / "indexes", home=tmp_path / "home")
    ingest = ["-m", "ingest", str(ROOT / "examples" / "alderwick-cycles"), "--index", str(settings.index)]
    quick = [part for kind in ("md", "html", "txt", "docx") for part in ("--only", f"*.{kind}")]
    done = subprocess.run(
        [sys.executable, *ingest, *quick],
        cwd=ROOT, env={**os.environ, "FOOTNOTE_HOME": str(settings.home)}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    options = ("refusal", "--index", str(settings.index))
    done = tune(settings.home, *options, "--tolerate", "0.05", "--count", "120", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert fitted(settings.home, "default") == found
    assert found["chosen_on"]["false_answers"]["mean"] <= 0.05 and found["measured"]["false_answers"]["n"] >= 20
    assert f"{found['threshold']:.3f}" in tune(settings.home, *options, "--status").stdout
    assert tune(settings.home, *options, "--back").returncode == 0 and fitted(settings.home, "default") is None
