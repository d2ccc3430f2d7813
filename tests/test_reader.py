"""The reader finds answering spans, and the training that makes it keeps its promises."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config import ROOT
from errors import ModelMissing, UsageError
from evals.questions import Gold, Question
from ingest.types import Passage
from rag.evidence import Signs, load_weights
from rag.reader import Reader, span_scores
from rag.types import Hit
from tests.towns import triples
from tune.cloze import cloze, perturb
from tune.data import Example, Triple, cut, draw, load_triples, pools, sentence_spans, split, without_answer
from tune.evidence import FEATURES, PICK, Case, as_file, fit, fit_answer, probability, report, right, threshold_for
from tune.overlap import overlap
from tune.reader import export, new_model, train

LEAVE = (
    "Employees receive 28 days of paid leave a year. Unused days may be carried over until 31 March. "
    "Requests go to the line manager at least two weeks before the first day of leave."
)
PARKING = "The car park behind the Leeds office opens at 6 am. Visitors report to the gate and show their badge."
SHIPPED = ROOT / "models" / "reader"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader folder whose answers mean nothing: for what must hold of any weights."""
    torch.manual_seed(3)
    return export(new_model(None), tmp_path_factory.mktemp("untrained"), {"step": 0})


def test_every_made_question_is_answered_by_the_span_it_names() -> None:
    """A made question's offsets give a piece of its passage that the question itself no longer holds."""
    chance = random.Random(1)
    made = [(text, each) for text in {t.passage for t in triples()} for each in cloze(text, sentence_spans(text), 5, chance)]
    assert len(made) >= 12
    for text, (question, start, end) in made:
        assert 0 <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end] != ""
        assert question


def test_a_question_turned_wrong_is_another_question() -> None:
    """Names, numbers and opposites are exchanged for others; where there is nothing to exchange, nothing is returned."""
    chance = random.Random(2)
    assert perturb("When was Alder founded?", "The town of Birch lies north of Cedar.", chance) in {
        "When was Birch founded?",
        "When was Cedar founded?",
    }
    changed = perturb("How many people moved in 1894?", "", chance)
    assert changed is not None and changed.startswith("How many people moved in 18") and "1894" not in changed
    assert perturb("What is it?", "", random.Random(5)) in (None, "What isn't it?")


def test_no_document_is_on_both_sides_of_the_split() -> None:
    """Held-out documents are never trained on, and nothing is lost."""
    kept, held = split(triples(), 0.4)
    assert kept and held
    assert not {each.group for each in kept} & {each.group for each in held}
    assert len(kept) + len(held) == len(triples())


def test_about_a_third_of_what_is_drawn_has_no_answer() -> None:
    """More would teach only to refuse, fewer never to."""
    drawn = draw(pools(triples(), 0), 600, random.Random(0), (100, 400))
    share = sum(not each.answered for each in drawn) / len(drawn)
    assert 0.25 <= share <= 0.5


def test_a_passage_without_its_answer_no_longer_holds_it() -> None:
    """What is shown as "does not answer" must not answer."""
    for each in triples():
        text = without_answer(each)
        assert text is None or (each.answer is not None and each.answer not in text)


@pytest.mark.parametrize("letters", [60, 120, 200])
def test_a_stretch_of_a_passage_keeps_its_answer(letters: float) -> None:
    """Cutting moves the offsets along with the text."""
    for seed in range(30):
        for each in triples():
            if each.answer is None or each.start is None:
                continue
            example = Example("squad2", each.group, each.question, each.passage, each.start, each.start + len(each.answer))
            shorter = cut(example, letters, random.Random(seed))
            assert shorter.passage[shorter.start : shorter.end] == each.answer


def test_a_training_line_whose_answer_is_elsewhere_is_refused(tmp_path: Path) -> None:
    """Wrong offsets would be learnt, so the line is named."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"group": "a", "question": "q", "passage": "the answer", "answer": "answer", "start": 3}\n')
    with pytest.raises(UsageError, match="line 1"):
        load_triples(path)


def test_span_scores_are_start_plus_end_and_never_past_the_end() -> None:
    """Every span of at most the given length is scored, and no other."""
    logits = np.array([[1.0, 5.0], [2.0, 6.0], [4.0, 7.0]])
    found = span_scores(logits, 2)
    assert found[0].tolist() == [6.0, 7.0]
    assert found[1].tolist() == [8.0, 9.0]
    assert found[2, 0] == 11.0 and found[2, 1] < -1e8
    assert span_scores(logits, 2, 0.5)[0].tolist() == [6.0, 6.5]


def test_neighbours_in_a_batch_do_not_change_a_reading(untrained: Path) -> None:
    """Padding and order are invisible in the results."""
    reader = Reader(untrained, 1)
    texts = [LEAVE, PARKING, "Short.", LEAVE * 6, ""]
    together = reader.read("How many days of leave are there?", texts)
    for text, reading in zip(texts, together, strict=True):
        alone = reader.read("How many days of leave are there?", [text])[0]
        assert (alone.start, alone.end) == (reading.start, reading.end) or reader.half  # near ties of weights that mean nothing
        assert alone.score == pytest.approx(reading.score, abs=0.1 if reader.half else 1e-3)
        assert alone.null_score == pytest.approx(reading.null_score, abs=0.1 if reader.half else 1e-3)


def test_a_long_passage_is_read_to_its_end(untrained: Path) -> None:
    """Texts beyond the window are read in overlapping stretches; a sentence of the last one gets a real score."""
    reader = Reader(untrained, 1)
    text = " ".join(f"Paragraph {number} says nothing of interest to anybody at all." for number in range(120))
    spans = sentence_spans(text)
    reading = reader.read("What does it say?", [text], [spans])[0]
    assert 0 <= reading.start < reading.end <= len(text)
    assert len(reading.sentences) == len(spans)
    assert min(reading.sentences) > -40.0
    assert max(reading.sentences) == pytest.approx(reading.margin, abs=30.0)


def test_weights_that_are_not_the_named_ones_are_refused(untrained: Path, tmp_path: Path) -> None:
    """One changed byte is noticed before anything is loaded."""
    for name in ("reader.json", "model.safetensors"):
        (tmp_path / name).write_bytes((untrained / name).read_bytes())
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(ModelMissing, match=r"reader\.json"):
        Reader(tmp_path, 1)


def test_the_shipped_weights_stay_small(untrained: Path) -> None:
    """Word embeddings come from the embedder's folder, so a reader is under 25 MB."""
    assert (untrained / "model.safetensors").stat().st_size < 25_000_000


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Same seed, same data: stopping at a checkpoint and resuming gives the weights of one run."""

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line == "kept step 2":
            raise Stopped

    data = tmp_path / "train.jsonl"
    data.write_text("".join(line + "\n" for line in map(as_line, triples())))
    options: dict[str, Any] = {"seed": 1, "steps": 3, "hold_out": 0.0, "threads": 1, "checkpoint_steps": 1}
    whole = train(data, tmp_path / "whole", **options, say=lambda line: None)
    with pytest.raises(Stopped):
        train(data, tmp_path / "parts", **options, say=stop)
    resumed = train(data, tmp_path / "parts", **options, resume=True, say=lambda line: None)
    one, other = (load_file(str(each / "model.safetensors")) for each in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-4) for name in one)
    with pytest.raises(UsageError, match="other settings"):
        train(data, tmp_path / "parts", **{**options, "seed": 2}, resume=True, say=lambda line: None)


def as_line(triple: Triple) -> str:
    import json

    names = ("source", "group", "question", "passage", "answer", "start")
    return json.dumps({name: getattr(triple, name) for name in names})


def test_shared_questions_documents_and_passages_are_reported() -> None:
    """A measured set that trained questions leaked into is not clean, and says where."""
    measured = [
        {"question": "when was Alder FOUNDED", "gold": [{"doc": "Other.txt"}]},
        {"question": "What else?", "gold": [{"doc": "birch.docx", "text": f"As it says: {LEAVE}"}]},
    ]
    found = overlap([*triples(), Triple("x", "g", "Why?", LEAVE, None, None)], measured)
    assert found.documents == ("Birch",)
    assert found.passages == (LEAVE[:100],)
    assert not found.questions, "a question of four words is equal by chance"
    assert not found.clean
    long = [{"question": "When was Alder founded then"}]
    assert overlap([Triple("x", "g", "When was Alder founded, then?", "p", None, None)], long).questions
    assert overlap(triples(), [{"question": "What is the capital of Peru?"}]).clean


def test_fitted_weights_pick_and_refuse_by_the_sign_that_tells() -> None:
    """One feature points to the answer, the others are noise: the fit finds it, and its chance of an answer orders questions."""
    noise = np.random.default_rng(0)
    made = []
    for number in range(120):
        features = noise.normal(size=(6, len(FEATURES)))
        right = np.zeros(6, dtype=bool)
        if number % 3:
            right[number % 6] = True
            features[number % 6, FEATURES.index("sentence")] += 5.0
        made.append(Case(str(number), "default", "tune", bool(number % 3), True, features, right))
    weights = fit(made)
    others = [abs(weights[name]) for name in PICK if name != "sentence"]
    assert weights["sentence"] > 3 * max(others)
    answer = fit_answer(made, weights)
    found = report(made, weights, answer)
    assert found["top1"] > 0.9
    assert found["refused_at"]["0.10"]["unanswerable"] > 0.8
    threshold = threshold_for(made, weights, answer, 0.1)
    assert sum(probability(each, weights, answer) < threshold for each in made if each.answerable) == 8
    assert 0.0 <= probability(made[0], weights, answer) < probability(made[1], weights, answer) <= 1.0


def test_written_weights_are_those_the_answers_use(tmp_path: Path) -> None:
    """What the fit writes is what evidence loads, sign by sign."""
    pick = {"similarity": 1.0, "coverage": 2.0, "rank": 3.0, "sentence": 4.0, "bias": -5.0}
    answer = {"sentence": 0.5, "coverage": 1.5, "similarity": 2.5, "bias": -3.5}
    (tmp_path / "evidence.json").write_text(as_file(pick, answer, 0.25, "reader-0", 0.1))
    weights = load_weights(tmp_path)
    assert weights.pick == Signs(**pick)
    assert weights.answer == Signs(**answer)
    assert weights.threshold == 0.25


def test_a_sentence_is_right_where_the_answer_stands_and_on_its_page() -> None:
    """A short answer word for word, a long one by most of the sentence's words; another page or document is wrong."""
    def hit(document: str, page: int) -> Hit:
        return Hit(Passage(1, document, 1, "", page, "", "", 0, 0), 1.0, "both")

    short = Question("1", "How many days?", ("28 days",), True, (Gold("leave.pdf", 4),))
    assert right("Everyone gets 28 days a year.", hit("leave.pdf", 5), short)
    assert not right("Everyone gets 28 days a year.", hit("leave.pdf", 6), short)
    assert not right("Everyone gets 28 days a year.", hit("other.pdf", 4), short)
    assert not right("Everyone gets 20 days a year.", hit("leave.pdf", 4), short)
    long = Question("2", "Who approves?", ("The line manager approves leave in writing before the journey is booked",), True, ())
    assert right("Leave is approved in writing by the manager.", hit("leave.pdf", 4), long)
    assert not right("Bicycles are kept in the yard behind the hall.", hit("leave.pdf", 4), long)


@pytest.mark.real
def test_the_shipped_reader_finds_the_span_and_its_sentence() -> None:
    """Offsets are those of the passage, and the sentence that answers scores above the others."""
    reader = Reader(SHIPPED, 1)
    spans = sentence_spans(LEAVE)
    reading = reader.read("How many days of paid leave do employees receive?", [LEAVE], [spans])[0]
    assert "28" in LEAVE[reading.start : reading.end]
    assert reading.end - reading.start < 40
    assert reading.sentences[0] == max(reading.sentences) == pytest.approx(reading.margin)
    assert reading.spans[0] == (reading.start, reading.end)
    assert all(left <= start < end <= right for (left, right), (start, end) in zip(spans, reading.spans, strict=True))


@pytest.mark.real
def test_the_shipped_reader_prefers_no_answer_in_an_unrelated_passage() -> None:
    """The passage about leave answers a question about leave; the one about parking does not."""
    reader = Reader(SHIPPED, 1)
    for question in ("How many days of paid leave do employees receive?", "Until when may unused days be carried over?"):
        right, wrong = reader.read(question, [LEAVE, PARKING])
        assert right.answer_probability > 0.5 > wrong.answer_probability
        assert right.margin > wrong.margin + 1.0
