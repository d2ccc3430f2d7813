"""Command line → training: `python -m tune data | reader | adapter | gate | back | status | …`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import FootnoteError

SCORES = (  # what a candidate can be judged by, from 0 to 1; the first unless told
    "right_or_refused", "contains", "f1", "exact", "word_recall", "cited_gold", "refused_wrongly", "refused_rightly",
)  # fmt: skip

if TYPE_CHECKING:
    from tune.evidence import Case


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m tune", description="Trains small models on questions with known answers.")
    commands = whole.add_subparsers(dest="command", required=True)
    reader = commands.add_parser("reader", help="train the reader: question + passage → answer span, or none")
    reader.add_argument("--data", type=Path, required=True, help="JSONL of triples: group, question, passage, answer, start")
    reader.add_argument("--out", type=Path, required=True, help="folder for checkpoints and, in reader/, the result")
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--steps", type=int, default=2500, help="of 16 examples each")
    reader.add_argument("--rate", type=float, default=1.5e-4, help="highest learning rate")
    reader.add_argument("--hold-out", type=float, default=0.06, help="share of the documents kept aside")
    reader.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    reader.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    reader.add_argument("--start", type=Path, help="folder of an earlier reader to go on from")
    adapter = commands.add_parser("adapter", help="train a LoRA adapter for the bundled model: it answers in a sentence of the passages")
    adapter.add_argument("--data", type=Path, required=True, help="JSONL of triples, as for the reader")
    adapter.add_argument("--out", type=Path, required=True, help="folder for checkpoints and adapter.gguf, the best of them")
    adapter.add_argument("--seed", type=int, default=0)
    adapter.add_argument("--steps", type=int, default=600, help="of about six answers each")
    adapter.add_argument("--rank", type=int, default=16, help="size of what is added to each layer; 16: 9.8 MB")
    adapter.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    adapter.add_argument("--hold-out", type=float, default=0.06, help="share of the documents kept aside")
    adapter.add_argument("--threads", type=int, default=0, help="0: as many as torch takes; 1 on a busy machine")
    adapter.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    gathered = commands.add_parser("data", help="make triples to train on from indexed documents and reviewed questions")
    gathered.add_argument("output", type=Path, metavar="OUT.jsonl", help="file to write")
    gathered.add_argument("--index", type=Path, help="folder of indexes (default: the settings')")
    gathered.add_argument("--collection", help="collection whose documents are asked about (default: the settings')")
    gathered.add_argument("--count", type=int, default=2000, help="most questions made from the documents (2000)")
    gathered.add_argument("--questions", type=Path, action="append", default=[], help="JSONL of questions, such as reviewed feedback")
    gathered.add_argument("--half", choices=("tune", "report", "all"), default="tune", help="half of the documents to use (tune)")
    gathered.add_argument("--seed", type=int, default=0)
    gate = commands.add_parser("gate", help="measure a candidate against what is live; it goes live only if it is better")
    gate.add_argument("candidate", type=Path, metavar="CANDIDATE", help="adapter.gguf, or the folder of a reader")
    gate.add_argument("--questions", type=Path, required=True, help="JSONL of questions with known answers")
    gate.add_argument("--docs", type=Path, help="index this folder first, apart from the app's collections")
    gate.add_argument("--index", type=Path, help="folder of indexes (default: the settings')")
    gate.add_argument("--collection", help="collection to ask (default: the settings')")
    gate.add_argument("--kind", choices=("adapter", "reader"), help="default: what the candidate looks like")
    gate.add_argument("--level", choices=("verbatim", "compressed", "free"), help="level that goes live with the candidate")
    gate.add_argument("--half", choices=("tune", "report", "all"), default="report", help="half of the questions to ask (report)")
    gate.add_argument("--limit", type=int, help="only so many questions, spread over the set")
    gate.add_argument("--score", choices=SCORES, default=SCORES[0], help="what must rise (%(default)s)")
    gate.add_argument("--margin", type=share, default=0.02, help="how much a guarded score may fall (0.02)")
    gate.add_argument("--results", type=Path, help="where both results are kept (default: evals/results)")
    commands.add_parser("back", help="take back what went live last")
    commands.add_parser("status", help="show what is live, and every decision")
    export = commands.add_parser("export", help="write the reader as it stands at the last checkpoint")
    export.add_argument("--out", type=Path, required=True, help="folder given to `reader --out`")
    export.add_argument("--to", type=Path, required=True, help="folder to write reader.json and model.safetensors to")
    sure = commands.add_parser("calibrate", help="make a reader's margins probabilities, on the documents its training held out")
    sure.add_argument("--reader", type=Path, required=True, help="folder with reader.json, which is rewritten")
    sure.add_argument("--data", type=Path, required=True, help="the triples it was trained on")
    sure.add_argument("--threads", type=int, default=0)
    weigh = commands.add_parser("evidence", help="fit how sentences are picked and questions refused")
    weigh.add_argument("sets", nargs="+", metavar="COLLECTION=QUESTIONS", help="collections, each with questions about it")
    weigh.add_argument("--reader", type=Path, required=True, help="folder of a trained reader")
    weigh.add_argument("--index", type=Path, help="folder of indexes (default: the settings')")
    weigh.add_argument("--off-topic", type=Path, help="JSONL of questions that nothing answers, dealt out to the collections")
    weigh.add_argument("--limit", type=int, help="only so many questions of each set, spread over it")
    weigh.add_argument("--refuse", type=float, default=0.10, help="share of answerable questions that may be refused by mistake")
    weigh.add_argument("--write", action="store_true", help="write the weights into evidence.json of the reader's folder")
    weigh.add_argument("--threads", type=int, default=0)
    refuse = commands.add_parser("refusal", help="choose, for one collection, how often it may answer what it cannot")
    refuse.add_argument("--index", type=Path, help="folder of indexes (default: the settings')")
    refuse.add_argument("--collection", help="the collection (default: the settings')")
    refuse.add_argument("--tolerate", type=share, default=0.05, help="share of unanswerable questions that may be answered (0.05)")
    refuse.add_argument("--count", type=int, default=150, help="questions made from the documents (150)")
    refuse.add_argument("--questions", type=Path, action="append", default=[], help="JSONL of questions of your own; may be repeated")
    refuse.add_argument("--dry-run", action="store_true", help="measure and show the whole curve; change nothing")
    refuse.add_argument("--status", action="store_true", help="show what is in force")
    refuse.add_argument("--back", action="store_true", help="go back to the threshold that ships")
    refuse.add_argument("--json", action="store_true")
    shared = commands.add_parser("overlap", help="what training triples share with measured question sets; exit 1 where anything")
    shared.add_argument("train", type=Path)
    shared.add_argument("questions", type=Path, nargs="+")
    shared.add_argument("--no-docs", action="store_true", help="do not read the documents in docs/ beside each question set")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run(options)
    except FootnoteError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    if options.command == "reader":
        from tune.reader import train

        folder = train(
            options.data, options.out, seed=options.seed, steps=options.steps, rate=options.rate, hold_out=options.hold_out,
            threads=options.threads, resume=options.resume, start=options.start,
        )  # fmt: skip
        print(folder)
    elif options.command == "adapter":
        from tune.adapter import train as train_adapter

        print(train_adapter(
            options.data, options.out, seed=options.seed, steps=options.steps, rank=options.rank, rate=options.rate,
            hold_out=options.hold_out, threads=options.threads, resume=options.resume,
        ))  # fmt: skip
    elif options.command == "data":
        data(options)
    elif options.command == "gate":
        return gate(options)
    elif options.command in ("back", "status"):
        from config import load
        from tune.gate import back, status

        home = load().home
        if options.command == "back":
            taken = back(home)
            print(f"{taken['kind']} {taken['digest'][:12]} is taken back. Start Footnote again, so that its engine does without it.")
        print(status(home))
    elif options.command == "export":
        from tune.reader import export_checkpoint

        print(export_checkpoint(options.out, options.to))
    elif options.command == "calibrate":
        from tune.calibrate import calibrate

        print(json.dumps(calibrate(options.reader, options.data, threads=options.threads), indent=2))
    elif options.command == "evidence":
        print(json.dumps(evidence(options), indent=2))
    elif options.command == "refusal":
        refusal(options)
    elif options.command == "overlap":
        found = overlap(options)
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0 if all(each["clean"] for each in found.values()) else 1
    return 0


def data(options: argparse.Namespace) -> None:
    """Triples from the documents of one half, and from questions that people have looked at."""
    from config import load
    from evals.make import make
    from evals.questions import read
    from ingest.embed import Embedder
    from ingest.open import open_index
    from tune.gather import gather, lines_of, write

    settings = load(index=options.index, collection=options.collection)
    lines: list[dict[str, Any]] = []
    for path in options.questions:
        read(path)  # a line that is no question is named, with its number
        lines += lines_of(path)
    index = open_index(settings.index, settings.collection, Embedder(settings).name)
    try:
        triples, counts = gather(index.catalog, [*lines, *make(index.catalog, options.count, 0.0, options.seed)], options.half)
    finally:
        index.close()
    write(options.output, triples)
    documents = len({each.group for each in triples})
    print(f"{len(triples)} triples from {documents} documents: {options.output}")
    for reason, count in counts.most_common():
        print(f"{count:6}  {reason}")


def gate(options: argparse.Namespace) -> int:
    """0 where the candidate went live, 1 where it was refused."""
    import dataclasses

    from config import live, load
    from errors import UsageError
    from evals.prepare import opened, place
    from evals.questions import half, read, spread
    from evals.results import save
    from evals.units import kind_of as unit_of
    from ingest.embed import Embedder
    from rag.engine.files import sha256
    from tune import gate as gates

    kind = options.kind or gates.kind_of(options.candidate)
    settings, collection = place(load(), options.docs, options.index, options.collection)
    every = read(options.questions)
    questions = spread(half(every, options.half), options.limit)
    if not questions:
        raise UsageError("This half of the questions is empty.", "Ask about more documents, or use --half all.")
    embedder = Embedder(settings)
    changes = gates.changes(options.candidate, kind, options.level)
    candidate: dict[str, Any] = {**changes}
    rows, names, results = [], [], []
    with opened(settings, collection, options.docs, embedder) as index:
        for which, state in (("live", settings), ("candidate", dataclasses.replace(settings, **candidate))):
            name, found = gates.measured(state, questions, index, embedder, unit=unit_of(every), say=logging.getLogger(__name__).debug)
            rows.append(found)
            names.append(name)
            body = {"collection": collection, "index_version": index.version, "model": name, "half": options.half, "rows": found}
            results.append(save("run", f"{collection}-{which}", body, state, options.results).name)
        version = index.version
    verdict = gates.judge(rows[0], rows[1], options.score, options.margin)
    print(f"{len(questions)} questions; live now: {names[0]}; candidate: {names[1]}")
    print(gates.text(verdict))
    if verdict.reasons:
        print("\n".join(["Refused; what is live stays.", *verdict.reasons]))
        return 1
    about = {
        "questions": options.questions.name, "questions_sha256": sha256(options.questions), "half": options.half,
        "margin": options.margin, "collection": collection, "index_version": version, "models": names, "results": results,
    }
    gates.adopt(settings.home, options.candidate, kind, options.level, verdict, about)
    now = load()
    for name in changes:
        if getattr(now, name) != live(settings.home).get(name):
            raise UsageError(f"It is live, but {name} is set elsewhere, and that comes first.", f"Take {name} out of footnote.toml.")
    print("It is live from now on. Start Footnote again, so that its engine loads it. To go back: python -m tune back")
    return 0


def evidence(options: argparse.Namespace) -> dict[str, Any]:
    """Weights fitted on one half of the documents, and how they do on the other, collection by collection."""
    from config import load
    from errors import UsageError
    from evals.questions import read, spread
    from ingest.embed import REMEMBERED, Embedder
    from ingest.open import open_index
    from rag.evidence import WEIGHTS_FILE
    from rag.reader import Reader
    from tune.evidence import ANSWER, OF_READER, PICK, as_file, cases, fit, fit_answer, report, threshold_for

    settings = load(index=options.index, threads=options.threads or None)
    embedder, reader = Embedder(settings, REMEMBERED), Reader(options.reader, options.threads)
    off_topic = read(options.off_topic) if options.off_topic else []
    every = []
    for at, each in enumerate(options.sets):
        collection, equals, path = each.partition("=")
        if not equals:
            raise UsageError(f"{each!r} has no '='.", "Write it as COLLECTION=QUESTIONS.jsonl.")
        index = open_index(settings.index, collection, embedder.name)
        try:
            questions = [*spread(read(Path(path)), options.limit), *off_topic[at :: len(options.sets)]]
            every += cases(questions, collection, index, embedder, reader, settings.keep_passages, logging.getLogger("tune").info)
        finally:
            index.close()
    mine, other = [each for each in every if each.half == "tune"], [each for each in every if each.half == "report"]
    found: dict[str, Any] = {"reader": reader.name}
    for name, without in (("without reader", OF_READER), ("with reader", ())):
        weights = fit(mine, [sign for sign in PICK if sign not in without])
        answer = fit_answer(mine, weights, [sign for sign in ANSWER if sign not in without])
        threshold = threshold_for(mine, weights, answer, options.refuse)
        found[name] = {
            "pick": {key: round(value, 4) for key, value in weights.items()},
            "answer": {key: round(value, 4) for key, value in answer.items()},
            "threshold": round(threshold, 4),
            "fitted half": {set_: report(some, weights, answer) for set_, some in _by_collection(mine)},
            "other half": {set_: report(some, weights, answer) for set_, some in _by_collection(other)},
        }
    if options.write:  # with the reader: the last
        place = options.reader / WEIGHTS_FILE
        place.write_text(as_file(weights, answer, threshold, reader.name, options.refuse), encoding="utf-8")
        found["written"] = str(place)
    return found


def _by_collection(cases: list[Case]) -> list[tuple[str, list[Case]]]:
    return [(name, [each for each in cases if each.collection == name]) for name in dict.fromkeys(each.collection for each in cases)]


def share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError("must lie between 0 and 1, such as 0.05")
    return value


def refusal(options: argparse.Namespace) -> None:
    """Fits, shows or removes one collection's threshold."""
    from datetime import UTC, datetime

    from config import ROOT, load
    from evals.make import make
    from evals.prepare import place as placed
    from evals.questions import from_lines, read
    from ingest.embed import REMEMBERED, Embedder
    from ingest.open import open_index
    from rag.answer import open_reader
    from rag.threshold import fingerprint, fitted, place
    from tune.refusal import asked, curve, text
    from tune.refusal import refusal as fit

    settings, collection = placed(load(), None, options.index, options.collection)
    path = place(settings.home, collection)
    if options.status or options.back:
        found = fitted(settings.home, collection)
        if options.back:
            path.unlink(missing_ok=True)
        print(json.dumps(found) if options.json else text(collection, found, gone=options.back))
        return
    embedder = Embedder(settings, REMEMBERED)
    reader, weights = open_reader(settings)
    index = open_index(settings.index, collection, embedder.name)
    try:
        questions = from_lines(make(index.catalog, options.count, 0.0, settings.seed))
        for each in (*options.questions, ROOT / "evals" / "off_topic.jsonl"):
            questions += read(each)
        every = asked(questions, index, embedder, reader, weights, settings.keep_passages, logging.getLogger("tune").info)
        version = index.version
    finally:
        index.close()
    found = {
        **fit(every, options.tolerate), "collection": collection, "index_version": version, "weights": fingerprint(weights),
        "reader": reader.name if reader else "", "created": datetime.now(UTC).isoformat(timespec="seconds"), "curve": curve(every),
    }
    if not options.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    print(json.dumps(found) if options.json else text(collection, found, dry=options.dry_run))


def overlap(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Question set → what it shares with the training triples."""
    from tune.data import load_triples
    from tune.overlap import load_questions, texts_in
    from tune.overlap import overlap as compare

    triples = load_triples(options.train)
    found = {}
    for path in options.questions:
        folder = path.parent / "docs"
        read = texts_in(folder) if folder.is_dir() and not options.no_docs else None
        found[f"{path.parent.name}/{path.name}"] = compare(triples, load_questions(path), read).as_json()
    return found


if __name__ == "__main__":
    sys.exit(main())
