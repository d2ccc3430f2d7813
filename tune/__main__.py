"""Command line → training: `python -m tune reader | export | calibrate | evidence | overlap`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import FootnoteError


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
    export = commands.add_parser("export", help="write the reader as it stands at the last checkpoint")
    export.add_argument("--out", type=Path, required=True, help="folder given to `reader --out`")
    export.add_argument("--to", type=Path, required=True, help="folder to write reader.json and model.safetensors to")
    sure = commands.add_parser("calibrate", help="make a reader's margins probabilities, on the documents its training held out")
    sure.add_argument("--reader", type=Path, required=True, help="folder with reader.json, which is rewritten")
    sure.add_argument("--data", type=Path, required=True, help="the triples it was trained on")
    sure.add_argument("--threads", type=int, default=0)
    weigh = commands.add_parser("evidence", help="fit how sentences are picked and questions refused")
    weigh.add_argument("questions", type=Path, help="JSONL: id, question, answers, answerable, gold, related_doc")
    weigh.add_argument("--reader", type=Path, required=True, help="folder of a trained reader")
    weigh.add_argument("--index", type=Path, help="folder of indexes (default: the settings')")
    weigh.add_argument("--collection", help="collection that holds the documents asked about")
    weigh.add_argument("-k", type=int, help="passages read for one question (default: the settings')")
    weigh.add_argument("--fit-half", choices=("tune", "report"), default="tune", help="half of the documents to fit on")
    weigh.add_argument("--refuse", type=float, default=0.10, help="share of answerable questions that may be refused by mistake")
    weigh.add_argument("--write", action="store_true", help="write the weights into evidence.json of the reader's folder")
    weigh.add_argument("--elsewhere", type=Path, help="JSONL of triples: 200 of their questions join as ones nothing here answers")
    weigh.add_argument("--threads", type=int, default=0)
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
    elif options.command == "export":
        from tune.reader import export_checkpoint

        print(export_checkpoint(options.out, options.to))
    elif options.command == "calibrate":
        from tune.calibrate import calibrate

        print(json.dumps(calibrate(options.reader, options.data, threads=options.threads), indent=2))
    elif options.command == "evidence":
        print(json.dumps(evidence(options), indent=2))
    elif options.command == "overlap":
        found = overlap(options)
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0 if all(each["clean"] for each in found.values()) else 1
    return 0


def evidence(options: argparse.Namespace) -> dict[str, Any]:
    """Weights fitted on one half of the documents, and how they do on both, against nearness in meaning alone."""
    from config import load
    from ingest.embed import Embedder
    from ingest.open import open_index
    from rag.evidence import WEIGHTS_FILE
    from rag.reader import Reader
    from tune.data import load_triples
    from tune.evidence import FEATURES, as_file, cases, elsewhere, fit, fit_answer, half, report, threshold_for
    from tune.overlap import load_questions

    settings = load(index=options.index, collection=options.collection, threads=options.threads or None)
    embedder = Embedder(settings)
    reader = Reader(options.reader, options.threads)
    index = open_index(settings.index, settings.collection, embedder.name)
    try:
        questions = load_questions(options.questions)
        if options.elsewhere is not None:
            names = [each.document for each in index.catalog.documents()]
            questions += elsewhere(load_triples(options.elsewhere), names, 200, settings.seed)
        every = cases(questions, index, embedder, reader, options.k or settings.keep_passages)
    finally:
        index.close()
    mine, other = half(every, options.fit_half), half(every, "report" if options.fit_half == "tune" else "tune")
    found: dict[str, Any] = {"reader": reader.name}
    ways = {"similarity": FEATURES[:1], "without reader": FEATURES[:3], "reader": FEATURES[3:], "all": FEATURES}
    for name, use in ways.items():
        weights = fit(mine, use)
        answer = fit_answer(mine, weights)
        found[name] = {
            "pick": {key: round(value, 4) for key, value in weights.items()},
            "answer": {key: round(value, 4) for key, value in answer.items()},
            "fitted half": report(mine, weights, answer),
            "other half": report(other, weights, answer),
        }
    if options.write:  # the last way is the whole of it
        place = options.reader / WEIGHTS_FILE
        threshold = threshold_for(mine, weights, answer, options.refuse)
        place.write_text(as_file(weights, answer, threshold, reader.name, options.refuse), encoding="utf-8")
        found["written"] = str(place)
    return found


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
