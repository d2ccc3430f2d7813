"""No citation's quote ever differs from the stored text at its offsets, whatever is asked and whatever a model says."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import config
from evals.questions import read, spread
from evals.run import wrong_quotes
from ingest.embed import Embedder
from ingest.open import Index, open_index
from ingest.refresh import refresh
from rag.answer import Answerer, open_reader
from rag.engine import open_model
from rag.types import Answer
from tests.fakes import TextReader, WordEmbedder
from tests.scripted_model import ScriptedModel

ROOT = Path(__file__).resolve().parent.parent
COMPANY = ROOT / "examples" / "alderwick-cycles"
REAL_QUESTIONS = 10  # of examples/questions.jsonl; every answer of the bundled model takes seconds

# Text that shifts offsets where somebody counts bytes, trims, or repairs: accents, wide letters, emoji, tables, lists, twins.
TEXTS = {
    "leave.md": (
        "# Leave\n\nFull-time staff get 25 days of leave. Part-time staff get 12 days.\n\n- Notice: two weeks.\n- Form: HR-7.\n"
    ),
    "leave-old.md": "# Leave\n\nFull-time staff get 21 days of leave. Part-time staff get 12 days.\n\n- Notice: two weeks.\n",
    "prices.md": (
        "# Prices\n\n| Item | Price |\n|---|---|\n| Rowing boat | £14 |\n| Canoe | £11 |\n\n"
        "Prices rise by 3.5 % in May, e.g. £14 → £14.49.\n"
    ),
    "küche.md": "# Küche\n\nDie Küche öffnet um 9:30 Uhr. Gäste zahlen 4,50 € – Mitarbeiter nichts! 🍲 Mahlzeit.\n",
    "休暇.md": "# 休暇\n\n正社員は年に二十五日の休暇があります。申請は二週間前までです。\n",
    "slides.txt": (
        "First slide of the briefing says little.\f"
        "Second slide: the pump stops at 80 degrees. It restarts at 60 degrees.\f"
    ),
}
SCRAPS = ["[1].", "[2]", "[9]", "\n", "...", "🍲", "not", ". ", "14"]
WORDS = sorted({word for text in TEXTS.values() for word in text.split()})


def differing(answer: Answer, index: Index) -> list[str]:
    """Quotes that are not the stored text at their offsets: by the JSON a person gets, and the same by the evaluation."""
    stored = {
        (document.document, page.number): page.text
        for document in index.catalog.documents() for page in index.catalog.pages(document.id)
    }
    told = json.loads(json.dumps(answer.as_json()))["citations"]
    wrong = [
        each["quote"] for each in told
        if not each["quote"] or stored[each["document"], each["page"]][each["start"] : each["end"]] != each["quote"]
    ]
    assert wrong_quotes(answer, index) == len(wrong)
    return wrong


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[config.Settings, Index]]:
    """TEXTS, indexed with word vectors and read without children."""
    folder = tmp_path_factory.mktemp("citations")
    (folder / "docs").mkdir()
    for name, text in TEXTS.items():
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    found = config.load(index=folder / "indexes", home=folder / "home")
    refresh([("docs", folder / "docs")], "default", found, embedder=WordEmbedder, reader=TextReader)
    index = open_index(found.index, "default")
    yield found, index
    index.close()


@given(
    asked=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
    said=st.lists(st.sampled_from([*WORDS, *SCRAPS]), max_size=40),
    whole=st.lists(st.sampled_from(sorted(TEXTS.values())), max_size=2),
    level=st.sampled_from(["verbatim", "compressed", "free"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_quote_is_the_stored_text_whatever_the_model_says(
    small: tuple[config.Settings, Index], asked: list[str], said: list[str], whole: list[str], level: str
) -> None:
    """Questions of any of the documents' words; a model that says source text, scraps of it, made-up marks and nonsense."""
    found, index = small
    model = ScriptedModel(" ".join([*said, *whole]), level)
    answer = Answerer(found, WordEmbedder(), model).answer(" ".join(asked), index)
    assert differing(answer, index) == []


@given(seed=st.integers(0, 10_000), level=st.sampled_from(["compressed", "free"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_bent_sentence_is_quoted_as_it_stands(small: tuple[config.Settings, Index], seed: int, level: str) -> None:
    """A sentence of a source with words left out or turned round: if it is shown, its quote is the unbent one."""
    found, index = small
    chance = random.Random(seed)
    name = chance.choice(sorted(TEXTS))
    sentence = chance.choice([line for line in TEXTS[name].replace("\f", "\n").split("\n") if len(line) > 10])
    words = [word for word in sentence.split() if chance.random() > 0.2]
    if chance.random() < 0.5:
        chance.shuffle(words)
    answer = Answerer(found, WordEmbedder(), ScriptedModel(" ".join(words) + ".", level)).answer(sentence, index)
    assert differing(answer, index) == []


@pytest.mark.real
@pytest.mark.slow
def test_quotes_of_the_sample_company_are_its_stored_text(tmp_path: Path) -> None:
    """The whole way with nothing replaced: every format of the sample company, the real embedder, the bundled model."""
    found = config.load(index=tmp_path / "indexes", home=tmp_path / "home")
    embedder = Embedder(found)
    report = refresh([("company", COMPANY)], "default", found, embedder=lambda: embedder)
    assert report.count("added") > 20
    index = open_index(found.index, "default", embedder.name)
    model = open_model(found)
    try:
        answerer = Answerer(found, embedder, model, None, *open_reader(found))
        asked = spread(read(ROOT / "examples" / "questions.jsonl"), REAL_QUESTIONS)
        answers = [answerer.answer(each.question, index) for each in asked]
    finally:
        model.close()
    assert [quote for answer in answers for quote in differing(answer, index)] == []
    assert sum(bool(answer.citations) for answer in answers) >= REAL_QUESTIONS // 3  # else nothing was tested
    index.close()
