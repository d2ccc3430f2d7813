"""The smallest model that is not worse is found where it is shown, and only there; each model is measured in a process of its own."""

from __future__ import annotations

import json
import re
import struct
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest

from config import Settings
from errors import UsageError
from evals.intervals import at_least
from evals.ladder import Ladder, Measured, conclusion, ladder, text
from evals.models import entries, label, megabytes, open_entry
from evals.picture import picture
from evals.run import CITING, WORDING
from tests.model_server import ModelServer
from tests.sample_company import ROOT, company, evals

ADAPTERS = sorted((ROOT / "models").rglob("*adapter*.gguf"))
SETTINGS = Settings(watts=36.0, price_per_kwh=1.0)


def measured(name: str, size: float | None, right: list[float], memory: float = 900.0, cpu: float = 1.0) -> Measured:
    """A model that got these questions right (1) or wrong (0)."""
    rows: list[dict[str, Any]] = [
        {
            "id": str(at), "question": "?", "answerable": True, "found": True, "seconds": 1.0, "first_sentence_s": 0.5, "cpu_s": cpu,
            **dict.fromkeys((*WORDING, *CITING)), "contains": score, "number_wrong": 1 - score,
        }
        for at, score in enumerate(right)
    ]
    spread = {"p50": 1.0, "p95": 2.0, "n": len(rows)}
    summary = {"seconds": spread, "first_sentence_s": spread}
    result = {"model": name, "level": "free", "memory_mb": memory, "summary": summary, "rows": rows}
    return Measured(name, size, result, f"{name}.json")


def climb(*models: Measured, score: str = "right_or_refused", margin: float = 0.05) -> Ladder:
    return ladder(models, score, margin, SETTINGS)


# the bound


def test_equal_answers_to_a_few_questions_prove_little() -> None:
    """Ten questions without a difference leave about 3 in 10 open, a hundred about 3 in 100: the rule of three."""
    assert -0.31 < at_least([0.0] * 10) < -0.2
    assert -0.031 < at_least([0.0] * 100) < -0.02


def test_the_bound_falls_with_every_question_lost() -> None:
    losses = [at_least([-1.0] * lost + [0.0] * (100 - lost)) for lost in (0, 3, 10, 30)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < -0.3


def test_the_bound_is_seldom_above_the_truth() -> None:
    """Of 300 sets of 60 questions from a model that truly loses one in ten, at most 8 % have a bound that flatters it."""
    random = numpy.random.default_rng(0)
    wrong = sum(at_least(list(-(random.random(60) < 0.1).astype(float))) > -0.1 for _ in range(300))
    assert wrong / 300 <= 0.08


# the ladder


def test_the_smallest_model_that_is_not_worse_is_chosen() -> None:
    """Half the size and equally good on 200 questions: that one. A quarter of the size and always wrong: not."""
    found = climb(measured("large", 400, [1.0] * 200), measured("tiny", 90, [0.0] * 200), measured("middle", 200, [1.0] * 199 + [0.0]))
    assert found.best.name == "large" and found.smallest.name == "middle"
    assert [(each.name, each.not_worse) for each in found.rungs] == [("tiny", False), ("middle", True), ("large", True)]


def test_the_margin_is_the_admins() -> None:
    """Four questions in a hundred lost: not worse by more than 0.15, but that it is not by more than 0.05 is not shown."""
    large, small = measured("large", 400, [1.0] * 100), measured("small", 90, [1.0] * 96 + [0.0] * 4)
    assert climb(large, small, margin=0.15).smallest.name == "small"
    assert climb(large, small, margin=0.05).smallest.name == "large"


def test_too_few_questions_are_said_to_be_too_few() -> None:
    """Twenty questions cannot show a margin of 0.05, however equal the answers."""
    found = climb(measured("large", 400, [1.0] * 19 + [0.0]), measured("small", 90, [1.0] * 18 + [0.0] * 2))
    assert found.smallest is found.best and "too few for a margin of 0.05" in conclusion(found)


def test_of_two_equally_good_models_the_smaller_is_the_best() -> None:
    found = climb(measured("large", 400, [1.0, 0.0]), measured("small", 90, [0.0, 1.0]))
    assert found.best.name == found.smallest.name == "small"


def test_memory_decides_between_files_of_one_size() -> None:
    found = climb(measured("hungry", 90, [1.0] * 9, memory=999), measured("modest", 90, [1.0] * 9, memory=500))
    assert found.smallest.name == "modest"


def test_where_less_is_better_the_model_with_less_is_best() -> None:
    """Wrong amounts stated: the model that states none wins, and its score is shown as measured."""
    found = climb(measured("large", 400, [0.0] * 20), measured("small", 90, [1.0] * 20), score="number_wrong")
    assert found.best.name == "small" and found.best.score.mean == 0.0


def test_cost_is_cpu_seconds_times_watts_times_price_and_called_an_estimate() -> None:
    """100 CPU seconds of a core at 36 W are 0.001 kWh; at 1 a kWh that is 0.001."""
    found = climb(measured("only", 90, [1.0] * 9, cpu=100.0))
    assert found.rungs[0].cost == pytest.approx(0.001)
    assert "estimated" in text(found, SETTINGS)


def test_a_servers_model_is_the_largest_and_its_cost_unknown() -> None:
    """What it takes over there nobody here can see: it is not called small or cheap."""
    found = climb(measured("http://there", None, [1.0] * 200), measured("here", 90, [1.0] * 200))
    assert found.smallest.name == "here" and found.rungs[-1].cost is None


def test_a_model_that_cannot_be_measured_does_not_end_the_ladder() -> None:
    found = climb(measured("fine", 90, [1.0] * 9), Measured("broken", failure="It is no GGUF file."))
    assert found.failed == (("broken", "It is no GGUF file."),)
    assert "Not measured: broken: It is no GGUF file." in text(found, SETTINGS)
    with pytest.raises(UsageError, match="no GGUF"):
        climb(Measured("broken", failure="It is no GGUF file."))


def test_a_score_that_applies_to_no_question_is_refused() -> None:
    with pytest.raises(UsageError, match="cited_gold"):
        climb(measured("fine", 90, [1.0] * 9), score="cited_gold")


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0, 5.0])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(UsageError, match="margin"):
        climb(measured("fine", 90, [1.0] * 9), margin=margin)


# the picture


def test_the_picture_shows_every_model_and_runs_nothing() -> None:
    """A model's name may be anything; it is text in the picture, and the picture is well-formed."""
    right = [1.0] * 9
    found = climb(measured("<script>&", 90, right), measured("b", 200, [0.0] * 9), measured("http://there", None, right, memory=950))
    drawn = ElementTree.fromstring(picture(found, "EUR"))
    words = " ".join("".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "<script>&" in words and "http://there" in words and "best − 0.05" in words
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == 3
    assert not list(drawn.iter("{http://www.w3.org/2000/svg}script"))


def test_models_of_the_same_memory_are_drawn_side_by_side() -> None:
    found = climb(*(measured(name, 90, [1.0] * 9) for name in "abc"))
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', picture(found, "EUR"))]
    assert all(after - before > 15 for before, after in zip(places, places[1:], strict=False))


# entries


def header(path: Path, kind: bytes) -> Path:
    """The first bytes of a GGUF file: version 3, no tensors, one key that says whether it is a model or an adapter."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 12) + b"general.type"
    path.write_bytes(head + struct.pack("<IQ", 8, len(kind)) + kind)
    return path


def test_a_folder_is_its_models_without_adapters(tmp_path: Path) -> None:
    """An adapter is no model: measured alone it would only fail."""
    for name, kind in (("b.gguf", b"model"), ("a.gguf", b"model"), ("lora.gguf", b"adapter")):
        header(tmp_path / name, kind)
    (tmp_path / "notes.txt").write_text("no model")
    assert [label(each) for each in entries([str(tmp_path), "bundled", "bundled"])] == ["a", "b", "bundled"]
    with pytest.raises(UsageError, match=r"no \.gguf"):
        (tmp_path / "empty").mkdir()
        entries([str(tmp_path / "empty")])


def test_an_adapter_is_named_after_a_plus(tmp_path: Path) -> None:
    """A plus in a file's own name is part of the name."""
    adapter = header(tmp_path / "house.gguf", b"adapter")
    odd = header(tmp_path / "one+two.gguf", b"model")
    assert label(entries([f"bundled:Q8_0+{adapter}"])[0]) == "bundled:Q8_0 + house"
    assert label(entries([str(odd)])[0]) == "one+two"
    with pytest.raises(UsageError, match=r"nowhere\.gguf"):
        megabytes("bundled+nowhere.gguf", Settings(home=tmp_path))


def test_a_quantisation_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Q9"):
        megabytes("bundled:Q9", Settings(home=tmp_path))


# with the real models


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the bundled model is served as another machine would serve it."""
    server = ModelServer(Settings(home=tmp_path / "home"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
    assert server.answered > 0
    server.model.close()


@pytest.mark.real
@pytest.mark.slow
def test_the_ladder_of_the_bundled_model_here_and_on_a_server_is_climbed(tmp_path: Path, address: str) -> None:
    """Two quantisations in their own processes, the same model behind an address, a file that is not there: table, JSON, picture."""
    asked = company(tmp_path)
    models = ["bundled:Q8_0", "bundled", address, str(tmp_path / "gone.gguf")]
    done = evals(tmp_path, "ladder", "--models", *models, *asked, "--limit", "4", "--margin", "0.7", FOOTNOTE_ANSWER_TOKENS="16")
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "results").glob("*-ladder-*.json")
    found = json.loads(kept.read_text(encoding="utf-8"))
    rungs = {each["name"]: each for each in found["rungs"]}
    assert list(rungs) == ["bundled", "bundled:Q8_0", address]
    assert rungs["bundled"]["level"] == rungs["bundled:Q8_0"]["level"] == "verbatim" and rungs[address]["level"] == "free"
    assert all(each["score"]["n"] == 4 and each["memory"] > 200 for each in rungs.values())
    assert rungs["bundled"]["size"] < rungs["bundled:Q8_0"]["size"] and rungs["bundled"]["cost"] > 0
    assert rungs["bundled"]["cpu"] > 0 and rungs[address]["cost"] is None
    assert found["failed"][0][0] == "gone" and "does not exist" in found["failed"][0][1]
    assert "smallest not worse" in done.stdout and "Not measured: gone" in done.stdout and found["commit"]
    ElementTree.parse(kept.with_suffix(".svg"))
    for each in rungs.values():  # every rung is a result of its own, which `compare` reads
        rows = json.loads((tmp_path / "results" / each["kept"]).read_text(encoding="utf-8"))["rows"]
        assert len(rows) == 4 and all(row["quotes_wrong"] == 0 for row in rows)


@pytest.mark.real
def test_an_adapter_is_worn_by_the_model_before_its_plus(tmp_path: Path) -> None:
    """A random adapter on one layer: the model scores words otherwise than without it, and both files are counted."""
    adapter = tmp_path / "tiny.gguf"
    random = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(adapter, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_tensor("blk.0.ffn_up.weight.lora_a", random.normal(size=(4, 576)).astype(numpy.float16))
    writer.add_tensor("blk.0.ffn_up.weight.lora_b", random.normal(size=(1536, 4)).astype(numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings = Settings(home=tmp_path / "home", context_tokens=256)
    scores = []
    for entry in entries(["bundled", f"bundled+{adapter}"]):
        model = open_entry(entry, settings)
        scores.append(model.score(model.tokenize("The capital of France is"), [model.tokenize(" Paris")])[0])
        assert ("tiny" in model.name) == ("tiny" in entry) and model.level == "verbatim"
        model.close()
    assert abs(scores[0] - scores[1]) > 0.01
    plain, worn = (megabytes(each, settings) or 0.0 for each in ("bundled", f"bundled+{adapter}"))
    assert worn - plain == pytest.approx(adapter.stat().st_size / 1e6)
    with pytest.raises(UsageError, match="holds no"):
        entries([str(tmp_path)])  # the adapter alone is no model


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not ADAPTERS, reason="no adapter ships")
def test_the_adapter_that_ships_is_a_rung_of_its_own(tmp_path: Path) -> None:
    """The same file with and without it: the adapter's megabytes are counted, and it is named in the result."""
    done = evals(tmp_path, "ladder", "--models", f"bundled+{ADAPTERS[0]}", *company(tmp_path), "--limit", "2", "--margin", "0.9")
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "results").glob("*-ladder-*.json")
    (rung,) = json.loads(kept.read_text(encoding="utf-8"))["rungs"]
    assert rung["name"] == f"bundled + {ADAPTERS[0].stem}" and ADAPTERS[0].stem in rung["model"]
    assert rung["size"] > ADAPTERS[0].stat().st_size / 1e6 + 80
