"""`python -m evals`: retrieval, run, compare, make. Tables and JSON on stdout, progress on stderr, errors with their cure."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import config
from errors import FootnoteError
from evals.questions import HALVES, Question, half, read, spread
from evals.units import KINDS, kind_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 usage, 10 no index, 130 interrupted."""
    chosen = parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen) or 0)
    except FootnoteError as error:
        print(f"{error.message}\n{error.cure}".strip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line's shape; docs/measuring.md is checked against it."""
    top = argparse.ArgumentParser(
        prog="python -m evals", description="Measure retrieval and answers on questions with known answers."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    found = _command(commands, "retrieval", _retrieval, "how well the passages that answer are found")
    answered = _command(commands, "run", _run, "how good whole answers are, through the code that people are served by")
    for each in (found, answered):
        each.add_argument("questions", type=Path, metavar="QUESTIONS.jsonl", help="questions with known answers")
        each.add_argument("--docs", type=Path, metavar="FOLDER", help="index this folder first, apart from the app's collections")
        each.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes")
        each.add_argument("--collection", metavar="NAME", help="collection to ask")
        each.add_argument("--half", choices=HALVES, default="all", help="questions to choose with, to report on, or all")
        each.add_argument("--where", action="append", default=[], metavar="FIELD=TEXT", help="only where the field holds TEXT")
        each.add_argument("--limit", type=_positive, metavar="N", help="only N questions, spread over the set")
        each.add_argument("--unit", choices=KINDS, help="what counts as found (default: what the set names)")
        each.add_argument("--page-slack", type=int, default=0, metavar="N", help="pages either side that are right (default: 0)")
        each.add_argument("--results", type=Path, metavar="DIR", help="where the result is kept (default: evals/results)")
        each.add_argument("--json", action="store_true", help="print JSON instead of a table")
    found.add_argument("--baseline", action="store_true", help="measure 180-word chunks with BM25 and vectors fused beside it")
    answered.add_argument("-k", dest="keep", type=_positive, metavar="N", help="passages in the prompt")
    answered.add_argument("--model", metavar="FILE", help="a GGUF model instead of the one in the settings")
    answered.add_argument("--level", choices=("verbatim", "compressed", "free"), help="how freely the model may word")
    compared = _command(commands, "compare", _compare, "two results of `run` or `retrieval`, question by question")
    compared.add_argument("before", type=Path, metavar="A.json", help="the earlier result")
    compared.add_argument("after", type=Path, metavar="B.json", help="the later result")
    compared.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made = _command(commands, "make", _make, "a question set from indexed documents")
    made.add_argument("output", type=Path, metavar="QUESTIONS.jsonl", help="file to write")
    made.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes")
    made.add_argument("--collection", metavar="NAME", help="collection to make questions of")
    made.add_argument("--count", type=_positive, default=200, metavar="N", help="questions with an answer (default: %(default)s)")
    made.add_argument("--unanswerable", type=float, default=0.25, metavar="SHARE", help="as many without (default: %(default)s)")
    made.add_argument("--foreign", metavar="NAME", help="collection to take those from (default: asked of other documents)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="another draw of the same size (default: %(default)s)")
    return top


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    made.set_defaults(run=run)
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _questions(chosen: argparse.Namespace) -> tuple[list[Question], str]:
    """The questions to ask, and the unit that the whole set names: it must not change with --limit or --half."""
    questions = read(chosen.questions, chosen.where)
    return spread(half(questions, chosen.half), chosen.limit), chosen.unit or kind_of(questions)


def _retrieval(chosen: argparse.Namespace) -> None:
    from evals.prepare import opened, place
    from evals.results import save
    from evals.retrieval import retrieval
    from ingest.embed import Embedder
    from rag.answer import Answerer

    questions, unit = _questions(chosen)
    settings, collection = place(config.load(), chosen.docs, chosen.index, chosen.collection)
    embedder = Embedder(settings)
    with opened(settings, collection, chosen.docs, embedder) as index:
        scores = retrieval(
            questions, index, Answerer(settings, embedder), unit=unit, slack=chosen.page_slack,
            baseline_cache=settings.home / "evals" / "baseline" if chosen.baseline else None,
        )
        body = {
            "collection": collection, "index_version": index.version, "embedder": embedder.name, "half": chosen.half,
            "summary": _plain(scores.summary()), "rows": scores.details(),
        }
    path = save("retrieval", collection, body, settings, chosen.results)
    print(json.dumps(body["summary"], indent=1) if chosen.json else scores.text())
    print(f"Kept in {path}", file=sys.stderr)


def _run(chosen: argparse.Namespace) -> None:
    from evals.prepare import opened, place
    from evals.results import save
    from evals.run import run, summary, text
    from ingest.embed import Embedder
    from rag.answer import Answerer, open_reader
    from rag.engine import open_model

    questions, unit = _questions(chosen)
    settings = config.load(model=chosen.model, model_level=chosen.level, keep_passages=chosen.keep)
    settings, collection = place(settings, chosen.docs, chosen.index, chosen.collection)
    embedder = Embedder(settings)
    with opened(settings, collection, chosen.docs, embedder) as index:
        model = open_model(settings, say=_say)
        try:
            answerer = Answerer(settings, embedder, model, None, *open_reader(settings))
            rows = run(questions, index, answerer, unit=unit, slack=chosen.page_slack, say=_say)
        finally:
            model.close()
        scores = summary(rows)
        body = {
            "collection": collection, "index_version": index.version, "embedder": embedder.name, "model": model.name,
            "level": model.level, "half": chosen.half, "summary": _plain(scores), "rows": rows,
        }
    path = save("run", collection, body, settings, chosen.results)
    print(json.dumps(body["summary"], indent=1) if chosen.json else text(scores))
    print(f"Kept in {path}", file=sys.stderr)


def _compare(chosen: argparse.Namespace) -> None:
    from evals.compare import compare, text
    from evals.results import load

    difference = compare(load(chosen.before), load(chosen.after))
    print(json.dumps(_plain(difference), indent=1, ensure_ascii=False) if chosen.json else text(difference))


def _make(chosen: argparse.Namespace) -> None:
    from evals.make import make, write
    from evals.prepare import opened
    from ingest.embed import Embedder

    settings = config.load(index=chosen.index, collection=chosen.collection)
    embedder = Embedder(settings)
    with opened(settings, settings.collection, None, embedder) as index:
        if chosen.foreign:
            with opened(settings, chosen.foreign, None, embedder) as foreign:
                questions = make(index.catalog, chosen.count, chosen.unanswerable, chosen.seed, foreign.catalog)
        else:
            questions = make(index.catalog, chosen.count, chosen.unanswerable, chosen.seed)
    write(chosen.output, questions)
    answerable = sum(1 for each in questions if each["answerable"])
    print(f"{answerable} questions with an answer and {len(questions) - answerable} without: {chosen.output}")


def _plain(value: Any) -> Any:
    """Intervals as JSON, all the way down."""
    from evals.intervals import Interval

    if isinstance(value, Interval):
        return value.as_json()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
