"""The serving benchmark asks everybody the same, is what it says it is, and hears the same words from ours and from a plain `Llama`."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import config
from bench import ceilings
from bench.apart import Apart, Failed
from bench.locked import Locked
from bench.peers import PeerFailed, locked, ours
from bench.serving import NEAR_TIE, Heard, _peers, _written_a_second, crowd, distance
from bench.workload import SHARED, Ask, Find, prefix, shared, workload, zipf
from errors import UsageError
from ingest.types import Passage
from rag.engine.context import Shape
from rag.engine.files import bundled, converted
from rag.engine.model import LanguageModel
from rag.prompt import prompt
from rag.types import Hit, Turn

ROUNDS = 2
ROOT = Path(__file__).resolve().parent.parent


def word_tokens(messages: Sequence[Turn]) -> list[int]:
    """A token a word, as a model's template would give them."""
    return [hash(word) for turn in messages for word in (turn.role, *turn.content.split())]


def finder(passages: int) -> Find:
    """Lays 8 of `passages` passages, drawn by the question, into the prompt that the app uses."""
    texts = [" ".join(f"word{number}x{at}" for at in range(150)) for number in range(passages)]

    def find(asked: tuple[str, str], room: int) -> Ask:
        collection, question = asked
        numbers = random.Random(question).sample(range(passages), 8)
        hits = [
            Hit(Passage(number, f"doc{number}.md", number, "", None, "", texts[number], 0, len(texts[number])), 1.0, "both")
            for number in numbers
        ]
        made = prompt(question, hits, word_tokens, room)
        return Ask(collection, question, made.messages, made.tokens, frozenset((collection, hit.passage.id) for hit in made.hits))

    return find


QUESTIONS = [(name, f"{name}: what about {number}?") for number in range(300) for name in ("one", "two")]


def test_cold_prompts_share_nothing_but_the_system_prompt() -> None:
    """Not with each other, nor with the workplace's: an engine that remembered everything would still have to read them."""
    made = workload(QUESTIONS, finder(3000), ROUNDS)
    cold = [ask for each in made.rounds for ask in (*each.one_cold, *each.follow, *each.crowd_cold, each.long)]
    others = [ask for each in made.rounds for ask in (*each.one_workplace, *each.crowd_workplace)] + [*made.warm, *made.heat]
    head = word_tokens([cold[0].messages[0]]) + word_tokens([Turn("user", "[1]")])
    for number, ask in enumerate(cold):
        assert list(ask.tokens[: len(head)]) == head and len(ask.passages) == 8
        for other in (*cold[:number], *others):
            assert not ask.passages & other.passages
            assert prefix(ask.tokens, other.tokens) <= len(head)


def test_the_workplaces_share_is_as_stated() -> None:
    """Counted anew over everything that was asked, in the order in which it is asked."""
    made = workload(QUESTIONS, finder(3000), ROUNDS)
    asked = [ask for each in made.rounds for ask in (*each.one_workplace, *each.crowd_workplace)]
    before = list(made.warm)
    total = common = 0
    for number, ask in enumerate(asked):
        earlier = [*before, *asked[:number]]
        total += len(ask.tokens)
        common += max(prefix(ask.tokens, each.tokens) for each in earlier)
    assert common / total == pytest.approx(made.shared)
    assert made.shared == pytest.approx(SHARED, abs=0.06)  # the exponents tried are 0.05 apart, and few questions are drawn


def test_what_nobody_could_be_quicker_than_counts_every_unread_token_once() -> None:
    """In the order in which it is asked; a prompt that comes again is down to its last token, the crowd's shortest is read first."""
    made = workload(QUESTIONS, finder(3000), ROUNDS)
    asked = [ask for each in made.rounds for ask in (*each.one_workplace, *each.crowd_workplace)]
    counted = [count for one, crowd in ceilings.unread(made) for count in (*one, *crowd)]
    total = sum(len(ask.tokens) for ask in asked)
    again = sum(ask in (*made.warm, *asked[:number]) for number, ask in enumerate(asked))
    assert sum(counted) - again == pytest.approx((1 - made.shared) * total, abs=1) and counted.count(1) == again
    waits = ceilings.waits(made, rate=100.0)
    for (one, many), alone, together in zip(ceilings.unread(made), waits["one_workplace"], waits["crowd_workplace"], strict=True):
        assert alone == [count / 100 for count in one]
        assert together == sorted(together) and together[-1] == pytest.approx(sum(many) / 100)


def test_the_most_that_faster_products_could_bring() -> None:
    """What is not a product with weights takes as long in both files."""
    delivered, converted = ({"MUL_MAT": products, "FLASH_ATTN_EXT": 2.0, "ADD": 1.0} for products in (9.0, 3.0))
    assert ceilings.most(delivered, converted) == (3.0, 4.0)
    assert ceilings.shares(converted) == (3.0, 2.0, 1.0)


@pytest.mark.real
def test_operations_of_the_real_model_are_told_apart() -> None:
    """Products with weights, attention and the rest make up a prompt's reading; a step of eight is timed."""
    shape = Shape(sequences=8, window=512, threads=2, threads_batch=2, flash=True)
    spent = ceilings.operations(bundled().path, shape, range(100, 300), 1)
    assert {ceilings.PRODUCTS, ceilings.ATTENTION, "RMS_NORM", "ROPE", "ADD"} <= set(spent) and min(spent.values()) > 0
    assert 0 < ceilings.step_s(bundled().path, shape, range(100, 300)) < sum(spent.values()) * 20


def test_the_same_seed_makes_the_same_workload() -> None:
    """And another seed another one."""
    one, again, other = (workload(QUESTIONS, finder(3000), ROUNDS, seed) for seed in (3, 3, 4))
    assert one == again
    assert one.rounds != other.rounds


def test_too_few_documents_are_said_to_be_too_few() -> None:
    """Rather than asking something cold that was read before."""
    with pytest.raises(UsageError, match="passages of their own"):
        workload(QUESTIONS, finder(300), ROUNDS)


def test_a_larger_exponent_repeats_more() -> None:
    """At 0 all questions are as likely; Zipf's law is what makes some come back."""
    pool = [Ask("a", str(number), (), tuple(range(number, number + 50))) for number in range(50)]
    shares = [shared(zipf(pool, 200, exponent, 1))[0] for exponent in (0.0, 1.0, 2.0)]
    assert shares == sorted(shares)
    assert len(set(zipf(pool, 200, 0.0, 1))) > 2 * len(set(zipf(pool, 200, 2.0, 1)))


def test_writing_is_counted_over_the_time_in_which_somebody_writes() -> None:
    """Two who write at once are twice as fast as one after the other; the pause between two is nobody's writing."""
    together = [Heard(0, (1.0, 2.0, 3.0), 3.0, "abc"), Heard(0, (1.0, 2.0, 3.0), 3.0, "abc")]
    apart = [Heard(0, (1.0, 2.0, 3.0), 3.0, "abc"), Heard(0, (11.0, 12.0, 13.0), 13.0, "abc")]
    assert _written_a_second(together) == [2.0] and _written_a_second(apart) == [1.0]
    assert Heard(1.0, (), 4.0, "").first_s == 3.0


def test_what_an_engine_apart_says_comes_piece_by_piece_to_whoever_asked(tmp_path: Path) -> None:
    """Several at once; what its libraries print is no answer; a failure reaches the one whom it concerns."""
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import time\n"
        "from bench.apart import serve\n"
        "def make(options):\n"
        "    def write(messages, most):\n"
        "        print('a library says hello')\n"
        "        if messages[0]['content'] == 'fail':\n"
        "            raise ValueError('no such word')\n"
        "        for number in range(most):\n"
        "            time.sleep(0.001)\n"
        "            yield f\"{options['greeting']} {messages[0]['content']} {number};\"\n"
        "    return write\n"
        "serve(make)\n"
    )
    one = Apart([sys.executable, str(engine)], {"greeting": "hello"}, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        with ThreadPoolExecutor(4) as people:
            said = list(people.map(lambda name: list(one.write([{"role": "user", "content": name}], 3)), "abcd"))
        assert said == [[f"hello {name} {number};" for number in range(3)] for name in "abcd"]
        with pytest.raises(Failed, match="no such word"):
            list(one.write([{"role": "user", "content": "fail"}], 3))
        one._process.kill()
        with pytest.raises(Failed, match=r"gone|ended"):
            list(one.write([{"role": "user", "content": "a"}], 3))
    finally:
        one.close()


def test_an_engine_apart_that_cannot_start_says_why(tmp_path: Path) -> None:
    """And leaves no process behind."""
    with pytest.raises(PeerFailed, match="did not start"):
        locked("plain", tmp_path / "missing.gguf", tmp_path, {})


@pytest.mark.real
def test_ours_and_a_plain_llama_say_the_same_up_to_near_ties(tmp_path: Path) -> None:
    """The same file, prompts and tokens: alone, two at once, and `Llama` behind a lock."""
    settings = dataclasses.replace(config.load(), home=tmp_path, context_tokens=1024)
    file = converted(settings, lambda _: None)
    model = LanguageModel(settings, file=file)
    engines = [ours(settings), locked("plain", file.path, tmp_path, {"n_ctx": 1024})]
    try:
        asks = []
        for town in ("Bremen", "Turin"):
            text = f"{town} has a market every Friday.\n\nWhen is the market of {town}?"
            turns = (Turn("system", "Answer from the text."), Turn("user", text))
            asks.append(Ask("towns", town, turns, tuple(model.chat(turns))))
        alone = ["".join(model.generate(ask.tokens, max_tokens=12)) for ask in asks]
        for engine in engines:
            for ask, text, heard in zip(asks, alone, crowd(engine, asks, 12), strict=True):
                assert heard.text and heard.first_s > 0
                assert heard.text == text or distance(model, ask.tokens, text, heard.text) < NEAR_TIE
        plain = Locked(str(file.path), n_ctx=1024)
        list(plain.write([{"role": turn.role, "content": turn.content} for turn in asks[0].messages], 4))
        assert plain.read_last(len(asks[0].tokens)) == asks[0].tokens
        plain.close()
    finally:
        for engine in engines:
            engine.close()
        model.close()


def test_only_the_peers_that_are_wanted_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where llama-server was not made, each of its ways to run is named with a reason, and nobody else is."""
    monkeypatch.setattr("bench.peers.BUILT", tmp_path)
    missing: dict[str, str] = {}
    assert list(_peers(["llama-server"], tmp_path / "model.gguf", tmp_path, [], [], missing, lambda _: None)) == []
    assert missing and all(name.startswith("llama-server") and "scripts/llama_server.sh" in why for name, why in missing.items())
