"""What the evaluation says is true on cases whose right answer can be worked out by hand."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import parser as bench_parser
from bench.measures import MEASURES
from config import Settings
from errors import UsageError
from evals import metrics
from evals.__main__ import parser as evals_parser
from evals.baseline import CHUNK_WORDS, OVERLAP_WORDS, Baseline, chunks
from evals.compare import compare, verdict
from evals.intervals import interval, paired
from evals.make import _cells, asked
from evals.prepare import folder_name
from evals.questions import Gold, Question, half, half_of, read
from evals.results import load, save
from evals.units import Span, StoredPage, Units, kind_of


class WordHash:
    """An embedder without a model: a text is the sum of its words' signs, so common words make texts near."""

    name = "word-hash"
    dimensions = 64

    def passages(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._one(text) for text in texts])

    questions = passages

    def _one(self, text: str) -> np.ndarray:
        total = np.zeros(self.dimensions, dtype=np.float32)
        for word in text.lower().split():
            bits = np.unpackbits(np.frombuffer(hashlib.sha256(word.encode()).digest()[:8], dtype=np.uint8))
            total += bits.astype(np.float32) * 2 - 1
        return total / (np.linalg.norm(total) or 1.0)


def question(**fields: object) -> Question:
    given_fields = {"id": "q", "question": "?", "answers": (), "answerable": True, "gold": (), **fields}
    return Question(**given_fields)  # type: ignore[arg-type]


# questions


def test_a_question_set_in_the_agreed_form_is_read(tmp_path: Path) -> None:
    """Golds, several answers, a scoped question's document and unanswerable lines survive reading."""
    lines = [
        {"id": "a", "question": "How long?", "answer": "Two weeks", "answerable": True, "gold": [{"doc": "x.pdf", "page": 3}]},
        {"id": "b", "question": "Who?", "answers": ["Ann", "Ann Lee"], "gold": [{"doc": "y.md", "text": "Ann."}], "scoped": True},
        {"id": "c", "question": "Why?", "answerable": False, "gold": [], "kind": "off_topic", "related_doc": "y.md"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in lines) + "\n\n", encoding="utf-8")
    a, b, c = read(path)
    assert a.gold == (Gold("x.pdf", 3),) and a.answers == ("Two weeks",) and a.document is None
    assert b.document == "y.md" and b.answers == ("Ann", "Ann Lee") and b.answerable
    assert not c.answerable and c.answers == () and c.kind == "off_topic" and c.related == "y.md"
    assert [each.id for each in read(path, ["kind=off_topic"])] == ["c"]


def test_a_line_that_is_no_question_is_named(tmp_path: Path) -> None:
    """A person who writes a set by hand is told which line to mend."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "fine"}\n{"id": 2}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read(path)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30))
def test_no_document_is_on_both_sides(names: list[str]) -> None:
    """Questions about one document stay together, and the halves make up the whole."""
    asked = [question(id=str(at), gold=(Gold(name),)) for at, name in enumerate(names)]
    tune, report = half(asked, "tune"), half(asked, "report")
    assert not {each.gold[0].document for each in tune} & {each.gold[0].document for each in report}
    assert len(tune) + len(report) == len(half(asked, "all")) == len(names)


def test_an_unanswerable_question_goes_with_the_document_it_is_about() -> None:
    """Else a threshold could be fitted on the very article that is reported."""
    assert half_of(question(answerable=False, related="Force.md")) == half_of(question(gold=(Gold("Force.md"),)))


# intervals


def test_an_interval_holds_its_mean_and_narrows_with_more_questions() -> None:
    """Ten times the questions, about a third of the width."""
    few, many = interval([0.0, 1.0] * 20), interval([0.0, 1.0] * 200)
    assert few.low < few.mean == 0.5 < few.high
    assert 2.5 < (few.high - few.low) / (many.high - many.low) < 4


def test_the_interval_of_a_proportion_is_about_the_textbook_one() -> None:
    """The normal approximation of 0.5 over 400 questions is ± 0.049."""
    found = interval([0.0, 1.0] * 200)
    assert abs((found.high - found.low) / 2 - 1.96 * math.sqrt(0.25 / 400)) < 0.005


def test_a_difference_on_the_same_questions_is_judged_in_pairs() -> None:
    """One system is a little better on every question: the paired interval is above 0 although the two overlap widely."""
    before = [float(at % 7) for at in range(70)]
    after = [each + 0.1 for each in before]
    gain = paired(after, before)
    assert gain.low > 0.09 and interval(after).low < interval(before).high


def test_nothing_scored_is_no_zero() -> None:
    """An average over no questions is left out, in JSON too (which knows no NaN)."""
    assert interval([]).as_json() == {"mean": None, "low": None, "high": None, "n": 0}


# units


PARAGRAPHS = "\n\n".join((
    "Title",
    "The red fox jumps over the lazy dog today.",
    "A second paragraph speaks of ships, sails and harbours.",
    "The end of it all.",
))


def test_pages_are_the_unit_where_the_set_names_pages() -> None:
    """And documents where it names nothing smaller."""
    assert kind_of([question(gold=(Gold("a.pdf", 2, text="x"),))]) == "page"
    assert kind_of([question(gold=(Gold("a.md", section="Leave"),))]) == "document"
    assert kind_of([question(gold=(Gold("a.md", text="Some text"),)), question()]) == "paragraph"


def test_a_unit_counts_once_where_its_first_passage_is_found() -> None:
    """Three passages of one page are one found page."""
    units = Units([StoredPage("a.pdf", 1, "x" * 90), StoredPage("a.pdf", 2, "y" * 90)], "page")
    spans = [Span("a.pdf", 2, 0, 30), Span("a.pdf", 2, 30, 60), Span("a.pdf", 1, 0, 30)]
    assert units.ranking(spans) == [("a.pdf", 2, 0), ("a.pdf", 1, 0)]


def test_a_page_of_a_document_without_pages_is_the_document() -> None:
    """A set may say page 1 of a Markdown file; the index knows no pages there."""
    units = Units([StoredPage("a.md", None, "text")], "page")
    assert units.wanted(Gold("a.md", 1)) == {("a.md", None, 0)} == set(units.of(Span("a.md", None, 0, 4)))


def test_pages_beside_the_gold_one_count_only_with_slack() -> None:
    """Labels made by word overlap are a page off at times."""
    units = Units([StoredPage("a.pdf", number, "text") for number in (1, 2, 3, 4)], "page")
    assert units.wanted(Gold("a.pdf", 2)) == {("a.pdf", 2, 0)}
    assert units.wanted(Gold("a.pdf", 1), slack=1) == {("a.pdf", 1, 0), ("a.pdf", 2, 0)}


def test_a_gold_paragraph_is_found_in_the_stored_text_by_its_words() -> None:
    """Spacing and line breaks differ between a set's text and any parser's."""
    gold = Gold("a.md", text="The red  fox jumps\nover the lazy dog today.")
    units = Units([StoredPage("a.md", None, PARAGRAPHS)], "paragraph", [gold])
    at = PARAGRAPHS.index("red fox")
    assert units.wanted(gold) == set(units.of(Span("a.md", None, at, at + 25))) and len(units.wanted(gold)) == 1


def test_a_gold_text_cut_by_the_parser_stays_one_unit() -> None:
    """A slide's text may be stored as several paragraphs; finding any of them is finding it."""
    gold = Gold("a.md", text="The red fox jumps over the lazy dog today. A second paragraph speaks of ships, sails and harbours.")
    units = Units([StoredPage("a.md", None, PARAGRAPHS)], "paragraph", [gold])
    (unit,) = units.wanted(gold)
    ships = PARAGRAPHS.index("A second")
    assert unit in units.of(Span("a.md", None, ships, ships + 56))


def test_a_passage_over_a_border_stands_for_what_it_holds_most_of() -> None:
    """A few words of the next paragraph do not make it found."""
    units = Units([StoredPage("a.md", None, PARAGRAPHS)], "paragraph")
    fox, ships = PARAGRAPHS.index("The red"), PARAGRAPHS.index("A second")
    assert units.of(Span("a.md", None, fox, ships + 8)) == [("a.md", None, 1)]


def test_a_gold_that_is_not_in_the_index_is_wanted_but_never_found() -> None:
    """It scores 0 instead of being left out of the average."""
    units = Units([StoredPage("a.md", None, PARAGRAPHS)], "paragraph", [gold := Gold("b.md", text="Nowhere to be seen.")])
    assert units.wanted(gold) == frozenset()
    assert metrics.ranking_scores({"q": []}, {"q": frozenset()})["q"]["recall@5"] == 0.0


# metrics


def test_rankings_are_scored_as_worked_out_by_hand() -> None:
    """Golds at ranks 2 and 7 of ten."""
    units = [("d", number, 0) for number in range(10)]
    scores = metrics.ranking_scores({"q": units}, {"q": frozenset({units[1], units[6]})})["q"]
    gain = (1 / math.log2(3) + 1 / math.log2(8)) / (1 + 1 / math.log2(3))
    assert scores == pytest.approx({"recall@1": 0, "recall@5": 0.5, "recall@10": 1, "nDCG@10": gain, "MRR": 0.5})


def test_a_question_that_found_nothing_scores_nothing() -> None:
    """It is in the average all the same."""
    assert set(metrics.ranking_scores({}, {"q": frozenset({("d", 1, 0)})})["q"].values()) == {0.0}


@pytest.mark.parametrize(
    ("shown", "answers", "exact", "f1", "contains"),
    [
        ("The Normans.", ["Normans"], 1, 1, 1),
        ("In 1066 the Normans came", ["Normans", "the Danes"], 0, 0.4, 1),
        ("Abnormal weather", ["normal"], 0, 0, 0),
        ("", ["Normans"], 0, 0, 0),
        ("", [], 1, 1, 0),
        ("It was so", [], 0, 0, 0),
    ],
)
def test_wording_is_scored_as_squad_scores_it(shown: str, answers: list[str], exact: float, f1: float, contains: float) -> None:
    """Case, punctuation and articles do not count; the best of several gold answers does."""
    assert metrics.exact_match(shown, answers) == exact
    assert metrics.f1(shown, answers) == pytest.approx(f1)
    assert metrics.contains(shown, answers) == contains


def test_amounts_are_read_with_their_scale_and_sign() -> None:
    """Years are no amounts; brackets are a filing's minus."""
    assert metrics.numbers("In 2023 sales were $1,577.5 million, up 3%; the loss was (12).") == [1577.5e6, 3.0, -12.0]
    assert metrics.numbers("From June 30, 2023 to 4 July, all 20 may be carried over, and from May 12,000 more.") == [20.0, 12000.0]


@pytest.mark.parametrize(
    ("shown", "answer", "verdict"),
    [
        ("Net income was 1,577 in the year.", "$1577.00", "right"),
        ("It was $1.58 billion.", "$1577.00", "right"),
        ("It was $1.66 billion.", "$1577.00", "wrong"),
        ("The report says so.", "$1577.00", "none"),
        ("Any text 5", "Yes, it grew", ""),
        ("The cycle was (3.7) days.", "-3.7", "right"),
    ],
)
def test_an_amount_is_right_within_one_percent(shown: str, answer: str, verdict: str) -> None:
    """A wrong number stated is another thing than none stated."""
    assert metrics.number_verdict(shown, [answer]) == verdict


def test_citations_are_scored_both_ways() -> None:
    """Two of three citations are right; one of two golds is reached."""
    one, two, other = ("d", 1, 0), ("d", 2, 0), ("d", 9, 0)
    cited = [frozenset({one}), frozenset({one}), frozenset({other})]
    assert metrics.citation_scores(cited, [frozenset({one}), frozenset({two})]) == pytest.approx((2 / 3, 0.5, 1.0))
    assert metrics.citation_scores([], [frozenset({one})]) is None


# baseline


@given(st.integers(min_value=0, max_value=1000))
def test_baseline_chunks_hold_every_word_and_overlap_as_said(words: int) -> None:
    """Every chunk but the last has 180 words, and the next begins 140 later."""
    page = StoredPage("d", None, " ".join(f"w{at}" for at in range(words)))
    found = [page.text[span.start : span.end].split() for span in chunks(page)]
    assert {word for chunk in found for word in chunk} == set(page.text.split())
    assert all(len(chunk) == CHUNK_WORDS for chunk in found[:-1])
    assert all(after[0] == before[CHUNK_WORDS - OVERLAP_WORDS] for before, after in zip(found, found[1:], strict=False))


def test_the_baseline_finds_by_words_and_keeps_its_vectors(tmp_path: Path) -> None:
    """A second run with the same chunks embeds nothing; a document filter is obeyed; odd questions find what vectors find."""
    pages = [
        StoredPage("leave.md", None, "employees get thirty days of annual leave each year"),
        StoredPage("travel.md", None, "book flights with the travel desk and keep receipts"),
    ]

    class Counting(WordHash):
        calls = 0

        def passages(self, texts: list[str]) -> np.ndarray:
            self.calls += 1
            return super().passages(texts)

    embedder = Counting()
    first = Baseline(pages, embedder, tmp_path)  # type: ignore[arg-type]
    assert first.search("how many days of leave", 2)[0].document == "leave.md"
    assert [each.document for each in first.search("annual leave", 2, frozenset({"travel.md"}))] == ["travel.md"]
    assert len(first.search("zzz???", 2)) == 2
    Baseline(pages, embedder, tmp_path)  # type: ignore[arg-type]
    assert embedder.calls == 1


# made questions


@pytest.mark.parametrize(
    ("sentence", "kind", "wording", "answer"),
    [
        ("The retention schedule is the list of how long each record is kept.", "definition", "What is the retention schedule?",
         "the list of how long each record is kept"),
        ("Claims must be filed with the travel desk within 30 days of the journey.", "amount",
         "Claims must be filed with the travel desk within how many days of the journey?", "30"),
        ("The company pays 80 percent of the fee for a course.", "amount",
         "The company pays what percentage of the fee for a course?", "80 percent"),
        ("The allowance for a home office is $500 in the first year.", "amount",
         "The allowance for a home office is how much in the first year?", "$500"),
    ],
)
def test_a_sentence_is_asked_about_in_its_own_words(sentence: str, kind: str, wording: str, answer: str) -> None:
    """The answer is cut from the sentence, so it is right by construction."""
    assert (kind, wording, answer) in list(asked(sentence))


@pytest.mark.parametrize(
    "sentence",
    [
        "It must be filed with the travel desk within 30 days.",
        "Part-time staff get 10 days and full-time staff get 20 days of leave in the year.",
        "See page 12.",
        "The two-year battery warranty and the map with 46 dealers",
    ],
)
def test_a_sentence_that_leans_on_others_or_holds_two_amounts_is_not_asked_about(sentence: str) -> None:
    """What "it" is, or which of two amounts is meant, could not be known."""
    assert not [each for each in asked(sentence) if each[0] == "amount"]


def test_table_cells_are_asked_about_by_row_and_header() -> None:
    """Both shapes of stored tables: a header row above, or headers in each row."""
    found: list[tuple[str, str]] = []
    header = _cells("| Grade | Notice period |", [], found)
    assert _cells("|---|---|", header, found) == header and not found
    _cells("| Senior | 12 weeks |", header, found)
    _cells("City: Bremen | Staff: 41", [], found)
    assert found == [("What is the notice period for Senior?", "12 weeks"), ("What is the staff for Bremen?", "41")]


# comparing


def result(rows: list[dict[str, object]], **settings: object) -> dict[str, object]:
    return {"kind": "retrieval", "commit": "c", "settings": settings, "rows": rows}


def test_a_comparison_names_what_changed_and_whether_it_is_more_than_chance() -> None:
    """Better on most questions is said; the setting and the questions are listed."""
    def rows(scores: list[float]) -> list[dict[str, object]]:
        return [
            {"id": str(at), "question": f"q{at}", "footnote": dict.fromkeys(metrics.RANKED, score)}
            for at, score in enumerate(scores)
        ]

    difference = compare(result(rows([0.0] * 10), pool_passages=50), result(rows([1.0] * 8 + [0.0] * 2), pool_passages=100))
    score = difference["scores"]["recall@5"]
    assert score["verdict"] == "better" and score["difference"].mean == pytest.approx(0.8)
    assert [each["id"] for each in score["changed"]] == [str(at) for at in range(8)]
    assert difference["settings"] == {"pool_passages": [50, 100]}


def test_results_of_other_questions_are_not_compared() -> None:
    """An average over other questions says nothing."""
    row: dict[str, object] = {"id": "a", "question": "q", "footnote": dict.fromkeys(metrics.RANKED, 1.0)}
    with pytest.raises(UsageError, match="no question"):
        compare(result([row]), result([{**row, "id": "b"}]))


def test_a_comparison_is_not_compared() -> None:
    """A ladder's rungs have results of their own, which can be."""
    ladder: dict[str, object] = {"kind": "ladder", "commit": "c", "settings": {}}
    with pytest.raises(UsageError, match="ladder"):
        compare(ladder, ladder)


def test_less_is_better_where_less_is_better() -> None:
    """Fewer wrong refusals is a gain, and an interval around 0 is none."""
    assert verdict(paired([0.0] * 20, [1.0] * 20), low_is_better=True) == "better"
    assert verdict(paired([0.0, 1.0] * 10, [1.0, 0.0] * 10)) == ""


# results


def test_a_kept_result_says_what_was_measured_and_no_path_or_key(tmp_path: Path) -> None:
    """A result may be passed on: it carries commit and settings, and nothing of the machine."""
    settings = Settings(server_key="secret", model="/somewhere/private/model.gguf")
    path = save("retrieval", "set", {"summary": {"recall@5": interval([1.0])}}, settings, tmp_path)
    body = load(path)
    assert body["kind"] == "retrieval" and body["commit"] and body["settings"]["keep_passages"] == settings.keep_passages
    assert body["settings"]["model"] == "model.gguf"
    assert not [each for each in ("secret", "/somewhere", str(Path.home())) if each in path.read_text()]


def test_a_folder_called_docs_takes_its_parents_name(tmp_path: Path) -> None:
    """Sets lie in SET/docs; their indexes must not share a name."""
    assert folder_name(tmp_path / "Staff rules" / "docs") == "Staff-rules"
    assert folder_name(tmp_path / "rules") == "rules"


# the guide


def test_the_guide_names_every_option_and_no_other() -> None:
    """docs/measuring.md against the parsers of `python -m evals` and `python -m bench`, both ways."""
    def options(*commands: argparse.ArgumentParser) -> set[str]:
        return {name for command in commands for each in command._actions for name in each.option_strings} - {"-h", "--help"}

    text = (Path(__file__).resolve().parent.parent / "docs" / "measuring.md").read_text(encoding="utf-8")
    (commands,) = [each for each in evals_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    told = set(re.findall(r"`(--[a-z-]+|-k)\b", text))
    assert told == options(*commands.choices.values(), bench_parser())
    for name in commands.choices:
        assert f"## python -m evals {name}\n" in text
    for name in MEASURES:
        assert f"| `{name}` |" in text
