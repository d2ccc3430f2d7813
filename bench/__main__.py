"""`python -m bench FOLDER [MEASURE…]`: tables on stdout, JSON in bench/results/, progress on stderr."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import config
from bench.machine import machine
from bench.measures import BUILT, MEASURES, PEERS, READY, Bench
from bench.sets import question_sets
from errors import FootnoteError, UsageError
from evals.results import save, table
from ingest.embed import REMEMBERED, Embedder
from rag.place import MALLOC

RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measures; returns the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    chosen = parser().parse_args(arguments)
    try:
        _bench(chosen)
    except FootnoteError as error:
        print(f"{error.message}\n{error.cure}".strip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's shape; docs/measuring.md is checked against it."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Measure this checkout over documents with questions.")
    made.add_argument("data", type=Path, metavar="FOLDER", help="holds the sets: folders with docs/ and questions.jsonl")
    made.add_argument("measures", nargs="*", metavar="MEASURE", help=f"any of: {', '.join(MEASURES)} (default: all)")
    made.add_argument("--sets", nargs="+", default=(), metavar="NAME", help="only these sets")
    made.add_argument("--limit", type=int, metavar="N", help="only N questions (or passages, or files) of each set, spread over it")
    made.add_argument(
        "--index", type=Path, metavar="DIR", help=f"indexes built before, named as the sets: only looked at, by {', '.join(READY)}"
    )
    made.add_argument("--people", type=int, default=20, metavar="N", help="who ask at once, for the measure people (default: 20)")
    made.add_argument("--minutes", type=float, default=1.0, metavar="M", help="that they ask for (default: 1)")
    made.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=f"of serving: {', '.join(PEERS)}")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where JSON is kept (default: bench/results)")
    return made


def _bench(chosen: argparse.Namespace) -> None:
    unknown = [each for each in chosen.measures if each not in MEASURES]
    if unknown:
        raise UsageError(f"There is no measure named {unknown[0]!r}.", f"There are: {', '.join(MEASURES)}.")
    sets = question_sets(chosen.data, chosen.sets)
    names = chosen.measures or (BUILT if chosen.index else tuple(MEASURES))
    if chosen.index and not set(names) <= set(READY):
        raise UsageError(f"With --index only these measures go: {', '.join(READY)}.", "The others build indexes of their own.")
    settings = config.load()
    settings = dataclasses.replace(settings, index=chosen.index or settings.home / "bench" / "indexes", home=settings.home / "bench")
    if not chosen.index:
        settings.index.mkdir(parents=True, exist_ok=True)
    where = machine()
    print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in where.items()))
    embedder = Embedder(settings, REMEMBERED)
    bench = Bench(
        tuple(sets), settings, embedder, chosen.limit, chosen.data, _say, chosen.index is not None, chosen.results, chosen.people,
        chosen.minutes, tuple(chosen.peers),
    )  # fmt: skip
    for name in names:
        measured = MEASURES[name](bench)
        _say("")
        for each in (measured, *measured.also):
            print(f"\n## {each.title}\n\n{table(each.head, each.rows)}", flush=True)
        path = save("bench", name, {"machine": where, "limit": chosen.limit, "body": measured.body}, settings, chosen.results)
        print(f"Kept in {path.name}", file=sys.stderr)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _as_the_engine() -> None:
    """Begin again with malloc set up as in the engine's process, since some measures run the model in this one; it is read at the start."""
    wanted = {**MALLOC, **os.environ}
    if wanted != dict(os.environ):
        os.execve(sys.executable, sys.orig_argv, wanted)


if __name__ == "__main__":
    _as_the_engine()
    sys.exit(main())
