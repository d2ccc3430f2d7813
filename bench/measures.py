"""Question sets → one measurement each: complete index, retrieval, quotes, refresh, start and first sentence, cost of a click.

Every measure returns rows for the table and a body for the JSON. Timings are reported, never judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sets import QuestionSet
from bench.timing import Timing, timing
from config import ROOT, Settings
from errors import FootnoteError
from evals.intervals import Interval
from evals.metrics import RANKED
from evals.prepare import opened
from evals.questions import Question, half_of, read, spread
from evals.results import save
from evals.run import WRONGLY_REFUSED
from evals.units import kind_of

if TYPE_CHECKING:
    from ingest.embed import Embedder
    from ingest.open import Index
    from rag.client import Client

REPEATS = 5
CHANGED_SHARE = 0.01  # of a set's files, for the refresh after a change
CHANGED_TEXT = 1000  # last characters of a changed file: about the passage that has to be embedded again
LOAD = "import json, sys; import config; from ingest.embed import Embedder; Embedder(config.load()).passages(json.load(sys.stdin))"
TYPICAL_QUESTIONS = 20  # asked of each set for the time to the first sentence
OFF_TOPIC = ROOT / "evals" / "off_topic.jsonl"
ANSWERED = ("contains", "short_f1", "cited_gold", "number_right", "number_wrong")  # of each set's answers
BUILT = ("index", "retrieval", "answers", "people", "serving")  # they only look at an index: it may be one that people are served from
READY = (*BUILT, "embed", "cold", "waiting", "dense")  # they, too, when they are named
FIRST = "recall@5"  # more than 0: a gold place is among the first five
ANSWER_SLACK = 1  # pages either side of the gold one: where a page is counted from differs
TEXT_SUFFIXES = (".md", ".txt", ".html", ".csv", ".rst")  # a line can be added to these without breaking them
COMMAND_S = 3600  # longest a command may take
PEERS = ("lock", "llama-server", "examples")  # of the measure serving: `Llama` behind a lock, and the two servers


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measure gets. `settings` point to folders of the bench's own, unless the indexes were `built` before; `say` hears of
    progress, `results` is where answers are kept, one by one."""

    sets: tuple[QuestionSet, ...]
    settings: Settings
    embedder: Embedder
    limit: int | None = None
    folder: Path | None = None  # that the sets lie in; some measures find more there
    say: Callable[[str], None] = lambda _: None
    built: bool = False
    results: Path | None = None
    people: int = 20  # who ask at once
    minutes: float = 1.0  # that they ask for
    peers: tuple[str, ...] = PEERS  # beside whom the engine is measured

    def docs(self, each: QuestionSet) -> Path | None:
        """What the set's index is brought up to date with first: nothing where it was built before."""
        return None if self.built else each.docs


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure's outcome: table head and rows, and all of it as JSON."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    body: dict[str, Any] = field(default_factory=dict)
    also: tuple[Measured, ...] = ()  # further tables of the same run; their bodies are part of this one's


def completeness(bench: Bench) -> Measured:
    """Every file of every set is indexed, or named with a reason."""
    from ingest.refresh import refresh

    rows: list[tuple[object, ...]] = []
    body = {}
    for each in bench.sets:
        report = None
        if not bench.built:
            bench.say(f"indexing {each.name}")
            report = refresh([(each.name, each.docs)], each.name, bench.settings, embedder=lambda: bench.embedder)
        with opened(bench.settings, each.name, None, bench.embedder) as index:
            documents = index.catalog.documents()
        files = {path.relative_to(each.docs).as_posix() for path in each.files()}
        ready = {document.path for document in documents if document.status == "ready"}
        failed = {document.path: f"{document.reason} {document.cure}" for document in documents if document.status != "ready"}
        silent = sorted(files - ready - set(failed))
        rows.append((
            each.name, len(files), len(ready), len(failed), len(silent), sum(document.pages for document in documents),
            sum(document.passages for document in documents), f"{report.seconds:.1f}" if report else "–",
        ))
        body[each.name] = {
            "files": len(files), "ready": len(ready), "failed": failed, "silent": silent,
            "without_text": sorted(each.path for each in documents if each.status == "ready" and not each.passages),
            "warnings": {document.path: list(document.warnings) for document in documents if document.warnings},
            **({"added": report.count("added"), "seconds": round(report.seconds, 2)} if report else {}),
        }
    head = ("set", "files", "indexed", "failed, with reason", "neither", "pages", "passages", "seconds of this refresh")
    return Measured("Index completeness", head, tuple(rows), body)


def retrieval(bench: Bench) -> Measured:
    """Our retrieval beside the plain baseline, on the same questions and text; also on the half that nothing was chosen with."""
    from evals.retrieval import retrieval as measured
    from rag.answer import Answerer, open_reader

    rows: list[tuple[object, ...]] = []
    body = {}
    reader = open_reader(bench.settings)
    for each in bench.sets:
        bench.say(f"retrieval on {each.name}")
        with opened(bench.settings, each.name, bench.docs(each), bench.embedder) as index:
            scores = measured(
                _asked(bench, each), index, Answerer(bench.settings, bench.embedder, None, None, *reader), unit=_unit(each),
                baseline_cache=bench.settings.home / "baseline",
            )
        held = dataclasses.replace(scores, questions=tuple(one for one in scores.questions if half_of(one) == "report"))
        for label, some in ((each.name, scores), (f"{each.name}, report half", held)):
            if not some.questions:
                continue
            summary = some.summary()
            for system, found in summary.items():
                if isinstance(found, dict):
                    first = sum(value > 0 for value in some.values(system, FIRST)) if system in some.scores else ""
                    rows.append((label, summary["unit"], system, *(found[measure] for measure in RANKED), first))
            body[label] = {
                name: {measure: value.as_json() for measure, value in found.items()} if isinstance(found, dict) else found
                for name, found in summary.items()
            }
        body[each.name]["seconds"] = {system: timing(seconds).as_json() for system, seconds in scores.seconds.items()}
    return Measured("Retrieval", ("set", "unit", "system", *RANKED, "questions with a gold place in the first 5"), tuple(rows), body)


def answers(bench: Bench) -> Measured:
    """Every answer to every question: no quote differs from the stored text, and what the answers are worth, also on the half of the
    documents that nothing was chosen with. Each set is asked our own off-topic questions, too."""
    from evals.audit import FALSE, READ
    from evals.run import curve, run, summary
    from rag.answer import Answerer, open_reader
    from rag.engine import open_model

    worth: list[tuple[object, ...]] = []
    refused: list[tuple[object, ...]] = []
    body = {}
    model = open_model(bench.settings, say=bench.say)
    reader = open_reader(bench.settings)
    nonsense = spread(read(OFF_TOPIC), bench.limit)
    shares = [f"{share:.2f}" for share in WRONGLY_REFUSED]
    try:
        for each in bench.sets:
            with opened(bench.settings, each.name, bench.docs(each), bench.embedder) as index:
                answerer = Answerer(bench.settings, bench.embedder, model, None, *reader)
                asked, say = _asked(bench, each), partial(_about, bench, each.name)
                said = run(asked, index, answerer, unit=_unit(each), slack=ANSWER_SLACK, say=say)
                strange = run(nonsense, index, answerer, say=say)
                audited = _audited(each.name, [*said, *strange], index)
                made_with = {"collection": each.name, "index_version": index.version, "model": model.name, "level": model.level}
            for name, rows in ((each.name, said), (f"{each.name}-off-topic", strange)):
                save("run", name, {**made_with, "rows": rows}, bench.settings, bench.results)
            held = {question.id for question in asked if half_of(question) == "report"}
            theirs = summary(strange)["refused_rightly"]
            for label, some in ((each.name, said), (f"{each.name}, report half", [row for row in said if row["id"] in held])):
                scores, at = summary(some), curve(some)
                by_kind = scores["refused_rightly_by_kind"]
                kinds = ", ".join(f"{kind} {round(found.mean * found.n)} of {found.n}" for kind, found in by_kind.items())
                body[label] = {name: value.as_json() if hasattr(value, "as_json") else value for name, value in scores.items()}
                body[label]["refused_rightly_by_kind"] = {kind: value.as_json() for kind, value in by_kind.items()}
                body[label]["curve"] = {share: value.as_json() for share, value in at.items()}
                worth.append((
                    label, len(some), *(_with_count(scores[name]) if name.startswith("number") else scores[name] for name in ANSWERED),
                    scores["first_sentence_s"]["p50"], scores["seconds"]["p95"],
                ))
                refused.append((
                    label, scores["refused_wrongly"], scores["refused_rightly"], kinds or "–", *(at.get(share, "–") for share in shares),
                ))
            body[each.name].update({
                "off_topic_refused": theirs.as_json(), "audited": audited,
                "wrong": [row for row in (*said, *strange) if row["quotes_wrong"]],
            })
    finally:
        model.close()
    shown = [
        (
            each.name, body[each.name]["citations"], len(body[each.name]["wrong"]), sum(body[each.name]["audited"].values()),
            body[each.name]["audited"].get(READ, 0), body[each.name]["audited"].get(FALSE, 0),
            Interval(**body[each.name]["off_topic_refused"]),
        )
        for each in bench.sets
    ]
    return Measured(
        f"Answers ({model.name})",
        (
            "set", "questions", "gold answer shown", "short answer F1", "gold place cited (± 1 page)", "amounts right", "amounts wrong",
            "first sentence p50, s", "answer p95, s",
        ),
        tuple(worth), body,
        (
            Measured(
                "Refusals; the last columns: of the unanswerable, refused at the threshold that refuses this share of the answerable",
                ("set", "wrongly refused", "rightly refused", "by kind", *shares), tuple(refused),
            ),
            Measured(
                "Sources",
                (
                    "set", "citations", "answers with a quote that differs", "sentences audited by their words", READ, FALSE,
                    "our off-topic questions refused",
                ),
                tuple(shown),
            ),
        ),
    )


def _audited(name: str, rows: Sequence[dict[str, Any]], index: Index) -> dict[str, int]:
    """Verdict of the audit → shown sentences."""
    from evals.audit import audit

    numbers = {each.document: each.id for each in index.catalog.documents()}

    def page_text(document: str, page: int | None) -> str:
        return str(index.catalog.page(numbers[document], page).text)

    return dict(Counter(each.code for each in audit({"name": name, "rows": rows}, page_text)))


def _with_count(found: Interval) -> str:
    """An interval and the count behind it: sets with few amounts are read by the count."""
    return f"{found} ({round(found.mean * found.n)} of {found.n})" if found.n else "–"


def _about(bench: Bench, name: str, text: str) -> None:
    bench.say(f"{name}: {text}")


def refreshing(bench: Bench) -> Measured:
    """`python -m ingest` on a copy of the largest set, or of --limit of its files: nothing changed, then 1 % of them changed, as a command
    is used."""
    largest = max(bench.sets, key=lambda each: len(each.files()))
    every = largest.files()
    files = every[:: max(1, len(every) // (bench.limit or len(every)))][: bench.limit]
    copy = bench.settings.home / "refreshed" / largest.name
    if copy.exists():
        shutil.rmtree(copy)
    for path in files:
        target = copy / path.relative_to(largest.docs)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(str(path), str(target))
    name = f"{largest.name}-{len(files)}-refreshed"
    bench.say(f"first index of a copy of {largest.name}")
    _ingest(bench, copy, name)
    unchanged = []
    for turn in range(REPEATS):
        bench.say(f"refresh, nothing changed, {turn + 1} of {REPEATS}")
        seconds, report = _ingest(bench, copy, name)
        if report["added"] or report["changed"] or report["removed"]:
            raise FootnoteError("A refresh with nothing changed changed something.", f"It reported: {report}")
        unchanged.append(seconds)
    texts = [path for path in sorted(copy.rglob("*")) if path.suffix.lower() in TEXT_SUFFIXES]
    count = max(1, round(len(files) * CHANGED_SHARE))
    changed, alone = [], []
    for turn in range(REPEATS if texts else 0):
        bench.say(f"refresh, {count} files changed, {turn + 1} of {REPEATS}")
        step = max(1, len(texts) // count)
        some = texts[turn % step :: step][:count]
        for path in some:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"\n\nChanged in turn {turn}.\n")
        seconds, _ = _ingest(bench, copy, name)
        changed.append(seconds)
        alone.append(_loaded(bench, [path.read_text(encoding="utf-8", errors="replace")[-CHANGED_TEXT:] for path in some]))
    rows: list[tuple[object, ...]] = [(largest.name, len(files), "nothing", timing(unchanged))]
    if changed:
        beyond = [seconds - load for seconds, load in zip(changed, alone, strict=True)]
        rows.append((largest.name, len(files), f"{count} files", timing(changed)))
        rows.append(("", "", "a process that only loads the model and embeds as many changed ends", timing(alone)))
        rows.append(("", "", f"{count} files, beyond that", timing(beyond)))
    body = {
        "set": largest.name, "files": len(files), "files_changed": count, "nothing_changed": timing(unchanged).as_json(),
        "some_changed": timing(changed).as_json(), "load_and_embedding": timing(alone).as_json(),
    }
    return Measured("Refresh, whole command with its start", ("set", "files", "changed", "time"), tuple(rows), body)


def _loaded(bench: Bench, texts: Sequence[str]) -> float:
    """Seconds of a process that loads the embedder as a refresh does, embeds these texts, and ends."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", LOAD], cwd=ROOT, env={**os.environ, "FOOTNOTE_HOME": str(bench.settings.home)}, input=json.dumps(texts),
        text=True, timeout=COMMAND_S, check=True,
    )
    return time.perf_counter() - began


def starting(bench: Bench) -> Measured:
    """Engine start with a built index, then the time to sources and first sentence, asked as the app asks."""
    from rag.client import Client

    for each in bench.sets:
        bench.say(f"index of {each.name}")
        with opened(bench.settings, each.name, each.docs, bench.embedder):
            pass
    starts: list[float] = []
    for turn in range(REPEATS + 1):  # the first one fills the page cache and is left out
        bench.say(f"engine start {turn} of {REPEATS}")
        client = Client(bench.settings)
        client.shutdown()
        client = Client(bench.settings)
        began = time.perf_counter()
        client.start(300)
        starts.append(time.perf_counter() - began)
        if turn < REPEATS:
            client.shutdown()
    rows: list[tuple[object, ...]] = [("engine start", timing(starts[1:]))]
    body: dict[str, Any] = {"engine_start": timing(starts[1:]).as_json(), "model": client.health()["model"]}
    try:
        for each in bench.sets:
            questions = spread([question for question in read(each.questions) if question.answerable], TYPICAL_QUESTIONS)
            sources, sentences = _first_words(client, each.name, questions, bench.say)
            rows += [(f"{each.name}: sources shown", sources), (f"{each.name}: first sentence shown", sentences)]
            body[each.name] = {"sources": sources.as_json(), "first_sentence": sentences.as_json()}
    finally:
        client.shutdown()
    return Measured("Start and first sentence", ("", "median (spread, repetitions)"), tuple(rows), body)


def clicking(bench: Bench) -> Measured:
    """CPU that the web process spends on a click, measured in a real browser (needs Playwright and its Chromium)."""
    bench.say("clicks in a browser")
    for each in bench.sets[:1]:
        with opened(bench.settings, each.name, each.docs, bench.embedder):
            pass
    command = [
        sys.executable, str(ROOT / "scripts" / "click_cpu.py"), "--index", str(bench.settings.index),
        "--home", str(bench.settings.home), "--collection", bench.sets[0].name,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Measured("CPU of a click", ("", ""), (("not measured", reason),), {"not_measured": reason})
    found: dict[str, list[float]] = json.loads(done.stdout)
    timings = {name: timing(seconds) for name, seconds in found.items()}
    body = {name: each.as_json() for name, each in timings.items()}
    return Measured("CPU of a click, web process", ("click", "CPU"), tuple(timings.items()), body)


def _reading(bench: Bench) -> Measured:
    from bench.reading import reading

    return reading(bench)


def _embedding(bench: Bench) -> Measured:
    from bench.embedding import embedding

    return embedding(bench)


def _finding(bench: Bench) -> Measured:
    from bench.embedding import finding

    return finding(bench)


def _cold(bench: Bench) -> Measured:
    from bench.cold import cold

    return cold(bench)


def _waiting(bench: Bench) -> Measured:
    from bench.waiting import waiting

    return waiting(bench)


def _people(bench: Bench) -> Measured:
    from bench.people import people

    return people(bench)


def _serving(bench: Bench) -> Measured:
    from bench.serving import serving

    return serving(bench)


def _dense(bench: Bench) -> Measured:
    from bench.million import dense

    return dense(bench)


def _million(bench: Bench) -> Measured:
    from bench.million import million

    return million(bench)


MEASURES: dict[str, Callable[[Bench], Measured]] = {
    "parse": _reading, "embed": _embedding, "embed-finds": _finding,
    "index": completeness, "retrieval": retrieval, "answers": answers, "cold": _cold,
    "refresh": refreshing, "start": starting, "click": clicking,
    "waiting": _waiting, "people": _people, "serving": _serving, "dense": _dense, "million": _million,
}


def _asked(bench: Bench, each: QuestionSet) -> list[Question]:
    return spread(read(each.questions), bench.limit)


def _unit(each: QuestionSet) -> str:
    return kind_of(read(each.questions))


def _ingest(bench: Bench, folder: Path, collection: str) -> tuple[float, dict[str, Any]]:
    """Wall seconds of the command, and its report."""
    command = [
        sys.executable, "-m", "ingest", str(folder), "--collection", collection, "--index", str(bench.settings.index), "--json",
    ]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "FOOTNOTE_HOME": str(bench.settings.home)}, capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 3):  # 3: published, some files failed and are listed
        said = done.stderr.strip()[-500:]
        raise FootnoteError(f"python -m ingest ended with {done.returncode}: {said}", "Run it by hand to see more.")
    return seconds, json.loads(done.stdout)


def _first_words(
    client: Client, collection: str, questions: Sequence[Question], say: Callable[[str], None]
) -> tuple[Timing, Timing]:
    sources: list[float] = []
    sentences: list[float] = []
    for number, question in enumerate(questions, 1):
        say(f"{collection}: first sentence {number} of {len(questions)}")
        began = time.perf_counter()
        seen = set()
        for event in client.events(client.ask(question.question, collection, document=question.document)):
            if event["event"] in ("sources", "sentence") and event["event"] not in seen:
                seen.add(event["event"])
                (sources if event["event"] == "sources" else sentences).append(time.perf_counter() - began)
    return timing(sources), timing(sentences)


def copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)  # not the mode: measured folders may be read-only
    with contextlib.suppress(OSError):
        stat = Path(source).stat()
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
