"""Command line → training: `python -m tune reader | export | evidence | overlap`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

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
    return 0


if __name__ == "__main__":
    sys.exit(main())
