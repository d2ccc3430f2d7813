"""Question sets → waits and throughput of this engine beside its peers: the same file, threads and prompts, greedy, in turn.

Nobody ignores the end of a turn: an answer has ANSWER_TOKENS tokens or ends where the model ends it, for everybody alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from bench import ceilings
from bench.measures import Bench, Measured
from bench.peers import Engine, PeerFailed, example_server, llama_server, locked, ours
from bench.workload import ANSWER_TOKENS, FOLLOW_UP, PEOPLE, SEED, STORY, Ask, Round, Workload, prefix, workload
from evals.prepare import opened
from evals.questions import read
from ingest.open import Index
from rag.answer import Answerer, open_reader
from rag.engine.context import Shape
from rag.engine.files import ModelFile, bundled, converted
from rag.engine.model import LanguageModel
from rag.prompt import prompt
from rag.types import Turn

ROUNDS = 5
PASSAGES = 16  # asked of retrieval; as many of them as fit go into the prompt
PASSAGE_TOKENS = 130  # of a short passage with its heading: no more are tried than could fit
STORY_TOKENS = 400
ADMITTED_AFTER = 20  # pieces of the running stream, before the long prompt comes
LONG_ANSWER_TOKENS = 8
COMPARED = 24  # answers whose text is compared with the one that our engine gives alone, with nothing kept
NEAR_TIE = 0.1  # natural log: two words whose probabilities differ by less than a tenth; rounding decides between them
WINDOW = 20480  # tokens that tuned servers keep: 2,560 for each of eight conversations, which the long prompt needs
MEMORY_MB = 8192  # of ours, for prompts that run and that are kept: what llama-server keeps beside its running ones unless told otherwise
LENGTHS = (128, 512)  # tokens of shorter prompts that both files read, beside whole ones: attention's share grows with them
CONVERSATION = 4096  # tokens of one conversation; what `Llama` is given, since its default of 512 refuses every prompt


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer as it came: when it was asked for, when each piece came, when it ended; seconds on one clock."""

    began: float
    times: tuple[float, ...]
    ended: float
    text: str

    @property
    def first_s(self) -> float:
        """To the first piece, or to the end where the model had nothing to say."""
        return (self.times[0] if self.times else self.ended) - self.began


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: which numbers, what is made of them, and the target. "s" and "ms": less is better; "/s", "/min": more is.

    `of`: "mean", the median of the rounds' means, or "p50" and "p95" of all numbers of all rounds.
    """

    label: str
    key: str
    of: str
    unit: str
    target: str = ""


ROWS = (
    Row("first token, one person, cold: mean", "one_cold", "mean", "s"),
    Row("… p95", "one_cold", "p95", "s"),
    Row("first token, one person, workplace: mean", "one_workplace", "mean", "s", "≥ 2× lock, ≥ 1.3× tuned llama-server"),
    Row("… p50", "one_workplace", "p50", "s"),
    Row("… p95", "one_workplace", "p95", "s"),
    Row("first token of a follow-up, another person in between", "follow", "mean", "s", "≥ 5× lock"),
    Row("8 people, cold: first token p50", "crowd_cold", "p50", "s"),
    Row("… p95", "crowd_cold", "p95", "s", "≥ 1.2× lock, ≥ 1× tuned llama-server"),
    Row("… whole answers a minute", "answers_cold", "mean", "/min"),
    Row("8 people, workplace: first token p50", "crowd_workplace", "p50", "s"),
    Row("… p95", "crowd_workplace", "p95", "s", "≥ 3× lock, ≥ 1× tuned llama-server"),
    Row("… whole answers a minute", "answers_workplace", "mean", "/min"),
    Row("8 people, prompts known: output tokens a second while writing", "writing", "mean", "/s", "≥ 1.5× lock, ≥ 1× tuned llama-server"),
    Row("a 2,000-token prompt is admitted: longest gap in a stream", "gap", "mean", "ms", "≥ 4× llama-server at its defaults"),
    Row("… its first token", "admitted", "mean", "s"),
)

NOBODY = "no engine"

Numbers = dict[str, list[list[float]]]  # key → the numbers of each round
Part = tuple[str, Callable[[Engine, Round], Mapping[str, list[float]]]]


def serving(bench: Bench) -> Measured:
    """Every row of the table for every engine. `limit` is the number of rounds, ROUNDS unless told."""
    rounds = bench.limit or ROUNDS
    file = converted(bench.settings, bench.say)
    model = LanguageModel(bench.settings, bench.say, file=file)  # counts tokens, and says at the end whether words are the same
    engines: list[Engine] = []
    try:
        asked = _workload(bench, model, rounds)
        engines.append(ours(dataclasses.replace(bench.settings, answers_at_once=PEOPLE, memory_mb=MEMORY_MB)))
        missing: dict[str, str] = {}
        heats: list[tuple[str, str, float]] = []
        for peer in _peers(bench.peers, file.path, bench.settings.logs, asked.heat, heats, missing, bench.say):
            engines.append(peer)
        found, texts = _rounds(engines, model, asked, bench.say, missing)
        same = _same_text(model, asked, texts, bench.say)
        shape = dataclasses.replace(model.shape, sequences=PEOPLE)
    finally:
        for each in engines:
            each.close()
        model.close()
    names = [each.name for each in engines]
    beyond, figures = _ceilings(bench, asked, file, shape, found)
    body = {
        "rounds": rounds, "seed": SEED, "exponent": asked.exponent, "shared": asked.shared, "passages_seen": asked.seen,
        "model": file.name, "found": found, "failed": missing, "heats": heats, "same_text": same, **figures,
    }  # fmt: skip
    return Measured(
        f"Serving: median of {rounds} rounds (in brackets how many times better Footnote is)",
        ("", *names, "target"),
        tuple(_line(row, names, found) for row in ROWS),
        body,
        (
            _told(asked),
            Measured("Options of the peers, tried on two crowds of four, workplace", ("peer", "options", "mean first token, s"), tuple(
                (name, options, f"{seconds:.2f}") for name, options, seconds in heats
            )),
            Measured("Peers that failed", ("peer", "why"), tuple(missing.items()) or (("none", ""),)),
            Measured(
                f"The same text as Footnote alone with nothing kept; a near tie: log-probabilities less than {NEAR_TIE} apart",
                ("engine", "answers", "equal", "differ at a near tie", "differ otherwise", "widest"),
                tuple(
                    (name, *(each[what] for what in ("answers", "equal", "near", "else")), f"{each['widest']:.3f}")
                    for name, each in same.items()
                ),
            ),
            *beyond,
        ),
    )  # fmt: skip


# ---- what is asked


def _workload(bench: Bench, model: LanguageModel, rounds: int) -> Workload:
    with contextlib.ExitStack() as stack:
        indexes: dict[str, Index] = {
            each.name: stack.enter_context(opened(bench.settings, each.name, bench.docs(each), bench.embedder)) for each in bench.sets
        }
        answerer = Answerer(bench.settings, bench.embedder, None, None, *open_reader(bench.settings))
        looked = itertools.count(1)

        def find(asked: tuple[str, str], room: int) -> Ask:
            bench.say(f"passages of question {next(looked)}")
            collection, question = asked
            hits = answerer.search(question, indexes[collection], keep=PASSAGES)[: room // PASSAGE_TOKENS]
            made = prompt(question, hits, model.chat, room)
            passages = frozenset((collection, hit.passage.id) for hit in made.hits)
            return Ask(collection, question, made.messages, made.tokens, passages)

        questions = [(each.name, one.question) for each in bench.sets for one in read(each.questions) if one.answerable and not one.history]
        return workload(list(dict.fromkeys(questions)), find, rounds)


def _told(asked: Workload) -> Measured:
    prompts = [ask for each in asked.rounds for ask in (*each.one_cold, *each.one_workplace, *each.crowd_cold, *each.crowd_workplace)]
    lengths = [len(ask.tokens) for ask in prompts]
    rows = (
        ("tokens of a prompt, median (least to most)", f"{statistics.median(lengths):.0f} ({min(lengths)} to {max(lengths)})"),
        ("tokens of the long prompt, median", f"{statistics.median(len(each.long.tokens) for each in asked.rounds):.0f}"),
        ("most tokens of an answer", ANSWER_TOKENS),
        ("workplace: Zipf exponent, seed", f"{asked.exponent:.2f}, {SEED}"),
        ("workplace: tokens that begin an earlier prompt alike", f"{asked.shared:.0%}"),
        ("workplace: passages that stood in an earlier prompt", f"{asked.seen:.0%}"),
    )
    return Measured("What was asked", ("", ""), rows)


# ---- who is asked


def _peers(
    wanted: Sequence[str], path: Path, logs: Path, heat: Sequence[Ask],
    heats: list[tuple[str, str, float]], missing: dict[str, str], say: Callable[[str], None],
) -> Iterator[Engine]:  # fmt: skip
    """Each peer at its defaults, then with the options that did best in a heat of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"n_threads": cores, "n_threads_batch": cores}
    eight = ["-np", "8", "-t", str(cores), "-c", str(WINDOW)]
    small = {"n_ctx": WINDOW, "n_seq_max": 16, "n_batch": 512, "n_ubatch": 512, "store_logits": False}
    families: dict[str, tuple[str, Callable[[str, Any], Engine], Any, dict[str, Any]]] = {
        "lock": (
            "Llama behind a lock",
            lambda name, options: locked(name, path, logs, options),
            {"n_ctx": CONVERSATION},
            {
                f"all cores, n_batch 512, flash attention {'on' if flash else 'off'}":
                {"n_ctx": CONVERSATION, "n_batch": 512, "flash_attn": flash, **threads}
                for flash in (False, True)
            },
        ),
        "llama-server": (
            "llama-server",
            lambda name, options: llama_server(name, path, logs, options),
            [],
            {
                " ".join(each): each
                for each in (
                    eight, [*eight, "--cache-reuse", "64"], [*eight, "--no-cache-idle-slots"], [*eight, "-sps", "0.01"],
                    [*eight, "--kv-unified", "--no-cache-idle-slots", "-sps", "0.01", "--cache-reuse", "64"],
                )
            },
        ),
        "examples": (
            "examples/server",
            lambda name, options: example_server(name, path, logs, options),
            {},
            {
                f"n_ctx {WINDOW}, 16 sequences, batches of 512, no stored logits, flash attention {'on' if flash else 'off'}":
                {**small, "flash_attn": flash}
                for flash in (False, True)
            },
        ),
    }  # fmt: skip
    for family, make, defaults, tuned in (families[each] for each in families if each in wanted):
        tried: dict[str, float] = {}
        for label, options in tuned.items():
            say(f"{family}, {label}")
            try:
                with contextlib.closing(make(family, options)) as engine:
                    tried[label] = _heat(engine, heat)
                heats.append((family, label, tried[label]))
            except PeerFailed as error:
                missing[f"{family}, {label}"] = f"{error.message} {error.cure}".strip()
        best = min(tried, key=lambda each: tried[each], default=None)
        for name, options in ((family, defaults), *([(f"{family}, tuned", tuned[best])] if best else [])):
            try:
                yield make(name, options)
            except PeerFailed as error:
                missing[name] = f"{error.message} {error.cure}".strip()


def _heat(engine: Engine, heat: Sequence[Ask]) -> float:
    """Mean wait of two crowds, the second of whom asks some of what the first did."""
    half = len(heat) // 2
    return statistics.mean(each.first_s for some in (heat[:half], heat[half:]) for each in crowd(engine, some, ANSWER_TOKENS))


# ---- asking


def listen(engine: Engine, ask: Ask, most: int) -> Heard:
    """One answer, to its end."""
    began = time.perf_counter()
    times, pieces = [], []
    for piece in engine.write(ask, most):
        if piece:
            times.append(time.perf_counter())
            pieces.append(piece)
    return Heard(began, tuple(times), time.perf_counter(), "".join(pieces))


def crowd(engine: Engine, asks: Sequence[Ask], most: int) -> list[Heard]:
    """Everybody asks at the same moment."""
    together = threading.Barrier(len(asks))

    def one(ask: Ask) -> Heard:
        together.wait()
        return listen(engine, ask, most)

    with ThreadPoolExecutor(len(asks)) as people:
        return list(people.map(one, asks))


def _rounds(
    engines: Sequence[Engine], model: LanguageModel, asked: Workload, say: Callable[[str], None], missing: dict[str, str]
) -> tuple[dict[str, Numbers], dict[str, dict[Ask, str]]]:
    """Engine → its numbers, and → what it answered to the crowds' questions."""
    found: dict[str, Numbers] = {each.name: defaultdict(list) for each in engines}
    texts: dict[str, dict[Ask, str]] = {each.name: {} for each in engines}
    story = _ask(model, STORY, (Turn("user", STORY),))
    parts: tuple[Part, ...] = (
        ("one person, cold", lambda engine, each: {"one_cold": _one(engine, each.one_cold)}),
        ("one person, workplace", lambda engine, each: {"one_workplace": _one(engine, each.one_workplace)}),
        ("follow-up", lambda engine, each: {"follow": _follow(engine, model, *each.follow)}),
        ("8 people, cold", lambda engine, each: _crowd(engine, "cold", each.crowd_cold, texts[engine.name])),
        ("8 people, prompts known", lambda engine, each: {"writing": _written_a_second(crowd(engine, each.crowd_cold, ANSWER_TOKENS))}),
        ("8 people, workplace", lambda engine, each: _crowd(engine, "workplace", each.crowd_workplace, texts[engine.name])),
        ("a long prompt is admitted", lambda engine, each: _gap(engine, story, each.long)),
    )
    before: Part = ("what was asked before", lambda engine, _: _warm(engine, asked.warm))
    for number, each in enumerate(asked.rounds):
        for what, measure in (*([before] if number == 0 else []), *parts):
            for turn in range(len(engines)):
                engine = engines[(turn + number) % len(engines)]  # nobody is always the first
                if f"{engine.name}, {what}" in missing:
                    continue
                say(f"round {number + 1} of {len(asked.rounds)}, {what}: {engine.name}")
                try:
                    for key, values in measure(engine, each).items():
                        found[engine.name][key].append(values)
                        told = ", ".join(f"{value:.3f}" for value in values)
                        print(f"round {number + 1}, {engine.name}, {key}: {told}", file=sys.stderr, flush=True)  # a run takes an hour
                except PeerFailed as error:
                    missing[f"{engine.name}, {what}"] = error.message
    return found, texts


def _ask(model: LanguageModel, question: str, messages: tuple[Turn, ...]) -> Ask:
    return Ask("", question, messages, tuple(model.chat(messages)))


def _warm(engine: Engine, asks: Sequence[Ask]) -> dict[str, list[float]]:
    for ask in asks:
        listen(engine, ask, 1)
    return {}


def _one(engine: Engine, asks: Sequence[Ask]) -> list[float]:
    return [listen(engine, ask, ANSWER_TOKENS).first_s for ask in asks]


def _follow(engine: Engine, model: LanguageModel, first: Ask, other: Ask) -> list[float]:
    """A conversation, somebody else, then the conversation's next question, with the answer that this engine gave in it."""
    said = listen(engine, first, ANSWER_TOKENS).text
    listen(engine, other, ANSWER_TOKENS)
    turns = (*first.messages, Turn("assistant", said), Turn("user", FOLLOW_UP))
    return [listen(engine, _ask(model, FOLLOW_UP, turns), ANSWER_TOKENS).first_s]


def _crowd(engine: Engine, column: str, asks: Sequence[Ask], texts: dict[Ask, str]) -> dict[str, list[float]]:
    heard = crowd(engine, asks, ANSWER_TOKENS)
    texts.update((ask, each.text) for ask, each in zip(asks, heard, strict=True))
    seconds = max(each.ended for each in heard) - min(each.began for each in heard)
    return {f"crowd_{column}": [each.first_s for each in heard], f"answers_{column}": [60 * len(heard) / seconds]}


def _written_a_second(heard: Sequence[Heard]) -> list[float]:
    """Pieces, of one token each, that come after somebody's first, over the seconds in which anybody is between first and last."""
    spans = sorted((each.times[0], each.times[-1]) for each in heard if len(each.times) > 1)
    seconds, until = 0.0, 0.0
    for start, end in spans:
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return [sum(len(each.times) - 1 for each in heard if each.times) / seconds] if seconds else []


def _gap(engine: Engine, story: Ask, long: Ask) -> dict[str, list[float]]:
    """Somebody's story is being written when a long prompt comes: the longest pause until that one's first word."""
    times: list[float] = []
    enough = threading.Event()

    def tell() -> None:
        for piece in engine.write(story, STORY_TOKENS):
            if piece:
                times.append(time.perf_counter())
                if len(times) >= ADMITTED_AFTER:
                    enough.set()
        enough.set()

    with ThreadPoolExecutor(1) as teller:
        telling = teller.submit(tell)
        enough.wait()
        admitted = listen(engine, long, LONG_ANSWER_TOKENS)
        telling.result()
    first = admitted.began + admitted.first_s
    gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later > admitted.began and earlier < first]
    return {"gap": [max(gaps)] if gaps else [], "admitted": [admitted.first_s]}


# ---- the same words?


def _same_text(
    model: LanguageModel, asked: Workload, texts: Mapping[str, Mapping[Ask, str]], say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    asks = [ask for each in asked.rounds for pair in zip(each.crowd_cold, each.crowd_workplace, strict=True) for ask in pair]
    asks = list(dict.fromkeys(asks))[:COMPARED]
    same: dict[str, dict[str, Any]] = {name: {"answers": 0, "equal": 0, "near": 0, "else": 0, "widest": 0.0} for name in texts}
    for number, ask in enumerate(asks, 1):
        say(f"the same text, {number} of {len(asks)}")
        model.clear()
        alone = "".join(model.generate(ask.tokens, max_tokens=ANSWER_TOKENS))
        for name, said in texts.items():
            if ask not in said:
                continue
            each = same[name]
            each["answers"] += 1
            if said[ask] == alone:
                each["equal"] += 1
                continue
            apart = distance(model, ask.tokens, alone, said[ask])
            each["near" if apart < NEAR_TIE else "else"] += 1
            each["widest"] = max(each["widest"], apart)
    return same


def distance(model: LanguageModel, tokens: Sequence[int], one: str, other: str) -> float:
    """How far apart, in natural logarithms, the model finds the words with which two answers part."""
    ours, theirs = model.tokenize(one), model.tokenize(other)
    common = prefix(ours, theirs)
    if common in (len(ours), len(theirs)):  # one goes on where the other ends
        ours, theirs = [*ours, model.end], [*theirs, model.end]
    scores = model.score([*tokens, *ours[:common]], [ours[common : common + 1], theirs[common : common + 1]])
    return abs(scores[0] - scores[1])


# ---- what nobody could be quicker than; the converted file beside the delivered one


def _ceilings(
    bench: Bench, asked: Workload, file: ModelFile, shape: Shape, found: Mapping[str, Numbers]
) -> tuple[tuple[Measured, ...], dict[str, Any]]:
    """Tables and their numbers."""
    bench.say("what no engine could be quicker than")
    whole = asked.rounds[0].crowd_cold[0].tokens
    bound: Numbers = {**ceilings.waits(asked, _fastest(asked, found)), "writing": [[PEOPLE / ceilings.step_s(file.path, shape, whole)]]}
    reading = _reading(bench, asked, file)
    kinds = {each.path.name: ceilings.operations(each.path, shape, whole, len(asked.rounds)) for each in (bundled(), file)}
    products, free = ceilings.most(*kinds.values())
    beside = {NOBODY: bound, **found}
    tables = (
        Measured(
            "What no engine could be quicker than: unread tokens read once, as fast as anybody read a prompt alone, and nothing else done; "
            "steps of eight answers without a pause (in brackets how many times better that is)",
            ("", *beside), tuple(_line(row, tuple(beside), beside)[:-1] for row in ROWS if row.key in bound),
        ),
        Measured(
            "Prompt reading of the bundled model, tokens a second (target: ≥ 3×)", ("tokens of the prompt", *reading, "ratio"), tuple(
                (length or f"{len(whole)} or so", *(f"{each[length]:.0f}" for each in reading.values()), f"{_ratio(reading, length):.2f}×")
                for length in (*LENGTHS, 0)
            ),
        ),
        Measured(
            f"… {len(whole)} tokens, seconds by operation. Products with weights: {products:.2f}×; {free:.2f}× if they took no time at all",
            ("file", "products with weights", "attention", "the rest"),
            tuple((name, *(f"{each:.2f}" for each in ceilings.shares(spent))) for name, spent in kinds.items()),
        ),
    )  # fmt: skip
    return tables, {"bound": bound, "reading": reading, "operations": kinds}


def _reading(bench: Bench, asked: Workload, file: ModelFile) -> dict[str, dict[int, float]]:
    """File → tokens of a prompt, 0 for a whole one → tokens read a second, nothing kept: the median of a prompt a round, the two files in
    turn."""
    models: dict[str, LanguageModel] = {}
    speeds: dict[str, dict[int, list[float]]] = {}
    try:
        for each in (file, bundled()):
            models[each.path.name] = LanguageModel(bench.settings, bench.say, file=each)
            speeds[each.path.name] = defaultdict(list)
        for number, one in enumerate(asked.rounds, 1):
            bench.say(f"reading, {number} of {len(asked.rounds)}")
            for length in (*LENGTHS, 0):
                tokens = one.crowd_cold[0].tokens[: length or None]
                for name, model in models.items():
                    model.clear()
                    began = time.perf_counter()
                    next(model.generate(tokens, max_tokens=1), None)
                    speeds[name][length].append(len(tokens) / (time.perf_counter() - began))
    finally:
        for model in models.values():
            model.close()
    return {name: {length: statistics.median(each) for length, each in speed.items()} for name, speed in speeds.items()}


def _fastest(asked: Workload, found: Mapping[str, Numbers]) -> float:
    """Tokens a second at which the quickest engine read a cold prompt, nobody else asking: the median."""
    lengths = [len(ask.tokens) for each in asked.rounds for ask in each.one_cold]
    return max(
        statistics.median(length / seconds for length, seconds in zip(lengths, itertools.chain(*numbers["one_cold"]), strict=False))
        for numbers in found.values() if numbers.get("one_cold")
    )  # fmt: skip


# ---- numbers


def percentile(values: Sequence[float], share: float) -> float:
    return float(numpy.percentile(values, share))


def _ratio(reading: Mapping[str, Mapping[int, float]], length: int) -> float:
    converted_file, delivered = (speed[length] for speed in reading.values())
    return converted_file / delivered


def _of(rounds: Sequence[Sequence[float]], what: str) -> float | None:
    every = [each for one in rounds for each in one]
    if not every:
        return None
    if what == "mean":
        return statistics.median(statistics.mean(one) for one in rounds if one)
    return percentile(every, float(what[1:]))


def _line(row: Row, names: Sequence[str], found: Mapping[str, Numbers]) -> tuple[object, ...]:
    values = [_of(found[name].get(row.key, []), row.of) if name in found else None for name in names]
    ours = values[0]
    cells = []
    for value in values:
        if value is None:
            cells.append("–")
            continue
        shown = {"s": f"{value:.2f} s", "ms": f"{1000 * value:.0f} ms", "/s": f"{value:.0f}", "/min": f"{value:.1f}"}[row.unit]
        if ours and value and cells:
            better = ours / value if row.unit.startswith("/") else value / ours
            shown += f" ({better:.2f}×)"
        cells.append(shown)
    return (row.label, *cells, row.target)
