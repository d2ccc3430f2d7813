"""A trained adapter: what it learns from passes the check, what is trained is what llama.cpp serves, and training can be resumed."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

import config
from config import ROOT, Settings
from errors import ModelMissing, UsageError
from ingest.types import Passage
from rag.cite import support
from rag.engine import adapter_file, files, open_model
from rag.engine.files import ModelFile
from rag.engine.model import LanguageModel
from rag.prompt import NOT_FOUND, prompt
from rag.types import Hit
from tests.towns import triples
from tune.adapter import export, loss, put_on, train
from tune.data import Triple
from tune.gate import keep
from tune.gguf_weights import load, to_halves, to_pairs
from tune.packs import Shelf, Tokens, answering, shortened, tokens

TEXT = "The town of Alder was founded in 1801 by a group of merchants who traded in wool. Who founded the town of Alder?"
SHIPPED = ROOT / "models" / "adapter" / "adapter.gguf"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return dataclasses.replace(config.load(), home=tmp_path_factory.mktemp("home"), context_tokens=1024, threads=1)


@pytest.fixture(scope="module")
def model(settings: Settings) -> Iterator[LanguageModel]:
    opened = LanguageModel(settings, file=files.bundled())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def random_adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An adapter of rank 2 with random weights, and the model in transformers that wears it."""
    torch.manual_seed(0)
    worn = load(files.bundled().path)
    parameters = put_on(worn, 2, half=False)
    with torch.no_grad():
        for name, each in parameters.items():
            if name.endswith(".b"):
                each.normal_(0, 0.05)
    path = tmp_path_factory.mktemp("adapter") / "random.gguf"
    export(worn, {name: each.detach() for name, each in parameters.items()}, path, 2, {"step": 0})
    return path, worn


def distributions(model: LanguageModel, ids: list[int]) -> numpy.ndarray[Any, Any]:
    return numpy.concatenate(list(model.distributions(ids)))


def test_what_is_trained_is_what_is_served(settings: Settings, random_adapter: tuple[Path, Any], tmp_path: Path) -> None:
    """The same tokens get the same log-probabilities from transformers with the adapter and from llama.cpp with its file.

    GGUF orders the rows of q and k otherwise; an adapter written without that order is loaded without a word and does something else.
    """
    plain = tmp_path / "f16.gguf"
    files.quantise(files.bundled().path, plain, quantisation="F16")
    path, worn = random_adapter
    without = LanguageModel(settings, file=ModelFile(plain, files.sha256(plain), True))
    wearing = LanguageModel(settings, file=ModelFile(plain, files.sha256(plain), True), adapter=path)
    try:
        ids = wearing.tokenize(TEXT)
        with torch.no_grad():
            trained = worn(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        served, before = distributions(wearing, ids), distributions(without, ids)
    finally:
        without.close()
        wearing.close()
    assert numpy.abs(served - before).mean() > 0.2
    assert numpy.abs(served - trained).mean() < 0.02
    assert numpy.abs(served - trained).max() < 0.2


def test_rows_go_to_pairs_and_back() -> None:
    rows = numpy.arange(24).reshape(12, 2)
    assert (to_halves(to_pairs(rows, 3), 3) == rows).all()
    assert to_pairs(rows, 3)[:4, 0].tolist() == [0, 4, 2, 6]


def test_an_adapter_is_a_part_of_the_models_name(settings: Settings, random_adapter: tuple[Path, Any]) -> None:
    """A receipt must say which adapter wrote an answer: two files of the same name are two models."""
    path, _ = random_adapter
    opened = open_model(dataclasses.replace(settings, adapter=str(path)))
    assert opened.name.startswith("SmolLM2-135M-Instruct.Q4_0 (")
    assert opened.name.endswith(f" + random ({files.sha256(path)[:12]})")
    opened.close()


def test_an_adapter_for_another_model_is_refused_with_the_reason(settings: Settings, tmp_path: Path) -> None:
    """Another family, another size, a file that is no adapter, a file that is not there: each says what is wrong."""

    def made(family: str, width: int) -> Path:
        path = tmp_path / f"{family}-{width}.gguf"
        writer = gguf.GGUFWriter(path, family)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 1.0)
        for part, shape in (("a", (2, width)), ("b", (width, 2))):
            writer.add_tensor(f"blk.0.attn_q.weight.lora_{part}", numpy.zeros(shape, numpy.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    for path, reason in (
        (made("gemma", 576), "arch mismatch"), (made("llama", 1024), "incorrect shape"), (files.bundled().path, "general.type"),
        (ROOT / "README.md", "not a GGUF file"), (tmp_path / "none.gguf", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ModelMissing, match=reason):
            open_model(dataclasses.replace(settings, adapter=str(path)))


def test_an_adapter_that_went_live_is_compared_with_its_hash(settings: Settings, random_adapter: tuple[Path, Any]) -> None:
    """Its folder is called by the SHA-256 that it had; a byte changed since then is noticed before it answers anybody."""
    path, _ = random_adapter
    place = keep(settings.home, path, "adapter") / "adapter.gguf"
    live = dataclasses.replace(settings, adapter=str(place))
    assert adapter_file(live) == place
    with place.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"\x01")
    with pytest.raises(ModelMissing, match="has changed since it went live"):
        adapter_file(live)


def test_what_an_adapter_learns_to_say_passes_the_check() -> None:
    """Every answer of a pack is supported, at level compressed, by the very passages that its prompt shows, or is a refusal."""
    shelf, told, refused = Shelf(triples()), 0, 0
    for number in range(60):
        pack = shelf.pack(random.Random(number))
        assert pack is not None
        for each in pack.asked:
            told, refused = told + each.answered, refused + (not each.answered)
            if each.answered:
                assert support(each.target, [hit.passage.text for hit in pack.hits], "compressed") is not None, each
            else:
                assert each.target == NOT_FOUND
    assert told > 3 * refused > 0  # with more refusals it learns nothing else


def test_a_long_answer_loses_its_tail_but_never_a_condition() -> None:
    """Brackets and a clause that says something else go; "unless" and what it says stay, or the rule would be another."""
    long = (
        "In addition, unused days of leave (at most five of them) may be carried over to the following year until the end of March, "
        "which is when the payroll department in Leeds closes its books and sends every employee a new statement of leave."
    )
    short = shortened(long, "the end of March")
    assert short == "Unused days of leave may be carried over to the following year until the end of March."
    kept = long.replace("which is when", "unless")
    assert "unless the payroll" in shortened(kept, "the end of March")


def test_the_answer_is_the_sentence_that_holds_it() -> None:
    """Only where it is shown: in a stretch without it, nothing is."""
    passage = "The bridge is 40 metres long. The town was founded in 1801 by merchants from the coast."
    triple = Triple("squad2", "Alder", "When?", passage, "1801", passage.index("1801"))
    assert answering(triple, passage) == "The town was founded in 1801 by merchants from the coast."
    assert answering(triple, passage[:29]) == ""


def test_questions_that_share_passages_learn_what_each_would_alone(model: LanguageModel) -> None:
    """Reading the passages once for six questions is a matter of speed: the loss is that of six prompts of the app."""
    pack = next(each for number in range(20) if (each := Shelf(triples()).pack(random.Random(number))) and len(each.asked) > 2)
    together = tokens(pack, model.chat, model.tokenize, model.end)
    assert len(together.prefix) > 60
    first = (*together.prefix, *together.branches[0])
    assert first[: -together.answers[0]] == prompt(pack.asked[0].question, pack.hits, model.chat, 2000).tokens
    weights = load(files.bundled().path)
    with torch.no_grad():
        whole, count = loss(weights, together)
        apart = [
            loss(weights, Tokens(together.prefix, (branch,), (answer,)))
            for branch, answer in zip(together.branches, together.answers, strict=True)
        ]
        row = torch.tensor([first])
        straight = weights(row).logits[0, -together.answers[0] - 1 : -1]
        alone = torch.nn.functional.cross_entropy(straight, row[0, -together.answers[0] :], reduction="sum")
    assert count == sum(each for _, each in apart)
    assert float(whole) == pytest.approx(sum(float(each) for each, _ in apart), rel=1e-3)
    assert float(apart[0][0]) == pytest.approx(float(alone), rel=1e-3)


def test_a_resumed_training_is_the_same_training(tmp_path: Path, settings: Settings, model: LanguageModel) -> None:
    """Two steps, stopped after the first and resumed, end in the same file as two steps at once; the file is worn and changes words."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in triples()), encoding="utf-8")
    options: dict[str, Any] = {
        "seed": 1, "rank": 2, "hold_out": 0.3, "threads": 1, "checkpoint_steps": 1, "packs": 1, "held_packs": 1, "rate": 1e-2,
        "steps": 3, "say": lambda _: None,
    }  # fmt: skip
    straight = train(data, tmp_path / "straight", **options)

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("kept step 1"):
            raise Stopped

    with pytest.raises(Stopped):
        train(data, tmp_path / "resumed", **{**options, "say": stop})
    resumed = train(data, tmp_path / "resumed", **{**options, "resume": True})
    assert resumed.read_bytes() == straight.read_bytes()
    with pytest.raises(UsageError, match="other settings"):
        train(data, tmp_path / "resumed", **{**options, "resume": True, "seed": 2})
    wearing = LanguageModel(settings, file=files.bundled(), adapter=straight)
    ids = wearing.tokenize(TEXT)
    assert numpy.abs(distributions(wearing, ids) - distributions(model, ids)).max() > 0.01
    wearing.close()


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no adapter ships with this version")
def test_the_adapter_that_ships_is_small_and_says_how_it_was_made() -> None:
    """12 MB at most, made for the bundled model and the prompt that ships."""
    assert SHIPPED.stat().st_size <= 12_000_000
    field = gguf.GGUFReader(SHIPPED).get_field("footnote.training")
    assert field is not None
    training = json.loads(field.contents())
    assert training["base_sha256"] == files.BUNDLED_SHA256


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no adapter ships with this version")
def test_the_adapter_that_ships_answers_in_a_sentence_of_the_source_where_the_bare_model_rambles(
    settings: Settings, model: LanguageModel
) -> None:
    """What is written passes the check and holds the fact; asked what the source does not say, it says so."""
    text = (
        "The canteen in Leith opens at half past eleven. Visitors pay 9 pounds for lunch, staff pay 4 pounds. "
        "Bicycles are kept in the yard behind the workshop, and the gate is locked at eight in the evening."
    )
    hits = [Hit(Passage(1, "house.md", 1, "House rules", None, "", text, 0, len(text)), 1.0, "both")]
    wearing = LanguageModel(settings, file=files.bundled(), adapter=SHIPPED)

    def told(by: LanguageModel, question: str) -> str:
        return "".join(by.generate(prompt(question, hits, by.chat, 900).tokens, max_tokens=60, should_stop=lambda: False)).strip()

    try:
        right = 0
        for question, fact in (
            ("When does the canteen open?", "half past eleven"), ("What do visitors pay for lunch?", "9 pounds"),
            ("When is the gate locked?", "eight in the evening"), ("Where are bicycles kept?", "behind the workshop"),
        ):  # fmt: skip
            answer = told(wearing, question)
            assert answer == NOT_FOUND or support(answer, [text], "compressed") is not None, answer
            right += fact in answer
        assert right >= 3  # it refuses too often, see its card
        assert told(wearing, "Who was the first king of Norway?") == NOT_FOUND
        bare = [told(model, "Where are bicycles kept?"), told(model, "Who was the first king of Norway?")]
        assert any(support(each, [text], "compressed") is None and each != NOT_FOUND for each in bare)
    finally:
        wearing.close()
