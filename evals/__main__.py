"""`python -m evals`: retrieval, run, follow, audit, compare, ladder, prompts, make, feedback.

Tables and JSON on stdout, progress and errors on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from errors import FootnoteError, UsageError
from evals.questions import HALVES, Question, half, read, spread
from evals.units import KINDS, kind_of

if TYPE_CHECKING:
    from ingest.open import Index
    from rag.answer import Answerer
    from rag.prompt import Wording

SCORES = (  # what models and prompts can be ranked by, from 0 to 1; the first unless told
    "right_or_refused", "contains", "f1", "exact", "word_recall", "cited_gold", "number_right", "number_wrong", "refused_wrongly",
    "refused_rightly",
)


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
    followed = _command(commands, "follow", _follow, "how well follow-ups are understood: what they ask for is found")
    for each in (found, answered, followed):
        each.add_argument("questions", type=Path, metavar="QUESTIONS.jsonl", help="questions with known answers")
        _asking(each)
        each.add_argument("--half", choices=HALVES, default="all", help="questions to choose with, to report on, or all")
    found.add_argument("--baseline", action="store_true", help="measure 180-word chunks with BM25 and vectors fused beside it")
    _answering(answered, model=True)
    climbed = _command(commands, "ladder", _ladder, "every model on the same questions, and the smallest that is not worse")
    climbed.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="folders of GGUF files, files, bundled:Q8_0, …")
    climbed.add_argument("--questions", type=Path, required=True, metavar="FILE", help="questions with known answers")
    _asking(climbed)
    climbed.add_argument("--half", choices=HALVES, default="all", help="questions to choose with, to report on, or all")
    _answering(climbed, model=False)
    climbed.add_argument("--margin", type=float, default=0.05, metavar="SHARE", help="how much worse is not worse (default: 0.05)")
    tuned = _command(commands, "prompts", _prompts, "two prompts on the same questions; the better may go live")
    tuned.add_argument("names", nargs="*", metavar="NAME", help="two prompts: files in prompts/ or in the data folder's prompts/")
    tuned.add_argument("--questions", type=Path, metavar="FILE", help="questions with known answers")
    _asking(tuned)
    _answering(tuned, model=True)
    for each in (climbed, tuned):
        each.add_argument("--score", choices=SCORES, default=SCORES[0], help="what is better or worse (default: %(default)s)")
    does = tuned.add_mutually_exclusive_group()
    does.add_argument("--adopt", action="store_true", help="the better one goes live, if the held-out half confirms it")
    does.add_argument("--back", action="store_true", help="the prompt before the live one is live again")
    does.add_argument("--status", action="store_true", help="show which prompt is live and the decisions that led there")
    compared = _command(commands, "compare", _compare, "two results of `run` or `retrieval`, question by question")
    compared.add_argument("before", type=Path, metavar="A.json", help="the earlier result")
    compared.add_argument("after", type=Path, metavar="B.json", help="the later result")
    compared.add_argument("--json", action="store_true", help="print JSON instead of a table")
    audited = _command(commands, "audit", _audit, "whether each shown sentence is supported by the span it cites: by code, and a sheet")
    audited.add_argument("results", type=Path, nargs="+", metavar="RESULT.json", help="kept results of `run`, or one filled sheet (.csv)")
    audited.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes that the answers came from")
    audited.add_argument("--sheet", type=Path, metavar="FILE.csv", help="write sentences beside their sources for a person to judge")
    audited.add_argument("--sample", type=_positive, default=300, metavar="N", help="answers in the sheet (default: %(default)s)")
    audited.add_argument("--seed", type=int, default=0, metavar="N", help="another draw of the same size (default: %(default)s)")
    audited.add_argument("--judged", type=Path, metavar="FILE.csv", help="what people said before; a filled sheet is added to it")
    made = _command(commands, "make", _make, "a question set from indexed documents")
    made.add_argument("output", type=Path, metavar="QUESTIONS.jsonl", help="file to write")
    made.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes")
    made.add_argument("--collection", metavar="NAME", help="collection to make questions of")
    made.add_argument("--count", type=_positive, default=200, metavar="N", help="questions with an answer (default: %(default)s)")
    made.add_argument("--unanswerable", type=float, default=0.25, metavar="SHARE", help="as many without (default: %(default)s)")
    made.add_argument("--foreign", metavar="NAME", help="collection to take those from (default: asked of other documents)")
    made.add_argument(
        "--conversations", type=Path, metavar="FILE", help="make follow-ups of this set's questions instead; needs no index"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="another draw of the same size (default: %(default)s)")
    judged = _command(commands, "feedback", _feedback, "a question set from people's thumbs")
    judged.add_argument("output", type=Path, metavar="OUT.jsonl", help="file to write")
    judged.add_argument("--collection", metavar="NAME", help="collection whose answers were judged")
    return top


def _asking(command: argparse.ArgumentParser) -> None:
    """Options that say what is asked, of what, and where the result goes."""
    command.add_argument("--docs", type=Path, metavar="FOLDER", help="index this folder first, apart from the app's collections")
    command.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes")
    command.add_argument("--collection", metavar="NAME", help="collection to ask")
    command.add_argument("--where", action="append", default=[], metavar="FIELD=TEXT", help="only where the field holds TEXT")
    command.add_argument("--limit", type=_positive, metavar="N", help="only N questions, spread over the set")
    command.add_argument("--unit", choices=KINDS, help="what counts as found (default: what the set names)")
    command.add_argument("--page-slack", type=int, default=0, metavar="N", help="pages either side that are right (default: 0)")
    command.add_argument("--results", type=Path, metavar="DIR", help="where the result is kept (default: evals/results)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _answering(command: argparse.ArgumentParser, model: bool) -> None:
    """Options that say what answers."""
    command.add_argument("-k", dest="keep", type=_positive, metavar="N", help="passages in the prompt")
    command.add_argument("--level", choices=("verbatim", "compressed", "free"), help="how freely the model may word")
    if model:
        command.add_argument("--model", metavar="MODEL", help="a GGUF file, bundled:Q8_0, FILE+ADAPTER.gguf or http://… instead")


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
    return spread(half(questions, getattr(chosen, "half", "all")), chosen.limit), chosen.unit or kind_of(questions)


def _retrieval(chosen: argparse.Namespace) -> None:
    from evals.prepare import opened, place
    from evals.results import save
    from evals.retrieval import retrieval
    from ingest.embed import REMEMBERED, Embedder
    from rag.answer import Answerer, open_reader

    questions, unit = _questions(chosen)
    settings, collection = place(config.load(), chosen.docs, chosen.index, chosen.collection)
    embedder = Embedder(settings, REMEMBERED)
    with opened(settings, collection, chosen.docs, embedder) as index:
        scores = retrieval(
            questions, index, Answerer(settings, embedder, None, None, *open_reader(settings)), unit=unit, slack=chosen.page_slack,
            baseline_cache=settings.home / "evals" / "baseline" if chosen.baseline else None,
        )
        body = {
            "collection": collection, "index_version": index.version, "embedder": embedder.name, "half": chosen.half,
            "summary": _plain(scores.summary()), "rows": scores.details(),
        }
    path = save("retrieval", collection, body, settings, chosen.results)
    print(json.dumps(body["summary"], indent=1) if chosen.json else scores.text())
    print(f"Kept in {path}", file=sys.stderr)


def _follow(chosen: argparse.Namespace) -> None:
    from evals.follow import follow
    from evals.prepare import opened, place
    from evals.results import save
    from ingest.embed import REMEMBERED, Embedder
    from rag.answer import Answerer, open_reader

    questions, unit = _questions(chosen)
    settings, collection = place(config.load(), chosen.docs, chosen.index, chosen.collection)
    embedder = Embedder(settings, REMEMBERED)
    with opened(settings, collection, chosen.docs, embedder) as index:
        answerer = Answerer(settings, embedder, None, None, *open_reader(settings))
        found = follow(questions, index, answerer, unit=unit, slack=chosen.page_slack)
        body = {
            "collection": collection, "index_version": index.version, "embedder": embedder.name, "half": chosen.half,
            "summary": _plain(found.summary()), "rows": found.details(),
        }
    path = save("follow", collection, body, settings, chosen.results)
    print(json.dumps(body["summary"], indent=1) if chosen.json else found.text())
    print(f"Kept in {path}", file=sys.stderr)


def _run(chosen: argparse.Namespace) -> None:
    from evals.results import peak_memory_mb, save
    from evals.run import run, summary, text
    from rag.prompt import live

    questions, unit = _questions(chosen)
    with _answerer(chosen) as (answerer, index, collection):
        rows = run(questions, index, answerer, unit=unit, slack=chosen.page_slack, say=_say)
        scores = summary(rows)
        body = {
            **_made_with(answerer, index, collection), "prompt": live(answerer.settings.home).label, "half": chosen.half,
            "memory_mb": round(peak_memory_mb(), 1), "summary": _plain(scores), "rows": rows,
        }
    path = save("run", collection, body, answerer.settings, chosen.results)
    print(json.dumps(body["summary"], indent=1) if chosen.json else text(scores))
    print(f"Kept in {path}", file=sys.stderr)


@contextmanager
def _answerer(chosen: argparse.Namespace) -> Iterator[tuple[Answerer, Index, str]]:
    """The answerer of the app with the model, level and passages that were asked for, an index, and its collection."""
    from evals.models import open_entry
    from evals.prepare import opened, place
    from ingest.embed import REMEMBERED, Embedder
    from rag.answer import Answerer, open_reader
    from rag.engine import open_model

    settings = config.load(model_level=chosen.level, keep_passages=chosen.keep)
    settings, collection = place(settings, chosen.docs, chosen.index, chosen.collection)
    embedder = Embedder(settings, REMEMBERED)
    with opened(settings, collection, chosen.docs, embedder) as index:
        own = dataclasses.replace(settings, model_level=chosen.level or "")  # a level in the settings is meant for the model in them
        model = open_entry(chosen.model, own, _say) if chosen.model else open_model(settings, _say)
        try:
            yield Answerer(settings, embedder, model, None, *open_reader(settings)), index, collection
        finally:
            model.close()


def _made_with(answerer: Answerer, index: Index, collection: str) -> dict[str, Any]:
    model = answerer.model
    return {
        "collection": collection, "index_version": index.version, "embedder": answerer.embedder.name,
        "model": model.name if model else "", "level": model.level if model else "",
    }


def _ladder(chosen: argparse.Namespace) -> None:
    from evals.ladder import ladder, measure, text
    from evals.models import entries
    from evals.picture import picture
    from evals.prepare import opened, place
    from evals.results import FOLDER, save
    from ingest.embed import REMEMBERED, Embedder

    models, (_, unit) = entries(chosen.models), _questions(chosen)
    settings, collection = place(config.load(), chosen.docs, chosen.index, chosen.collection)
    with opened(settings, collection, chosen.docs, Embedder(settings, REMEMBERED)) as index:
        version = index.version
    given = {
        "--index": settings.index, "--collection": collection, "--half": chosen.half, "--limit": chosen.limit, "--unit": unit,
        "--page-slack": chosen.page_slack, "-k": chosen.keep, "--level": chosen.level,
    }
    run = [str(chosen.questions.resolve()), *(f"--where={each}" for each in chosen.where)]
    run += [part for name, value in given.items() if value is not None for part in (name, str(value))]
    found = ladder(measure(models, run, settings, chosen.results or FOLDER, _say), chosen.score, chosen.margin, settings)
    body = {"collection": collection, "index_version": version, "half": chosen.half, **_plain(dataclasses.asdict(found))}
    path = save("ladder", collection, body, settings, chosen.results)
    drawn = path.with_suffix(".svg")
    drawn.write_text(picture(found, settings.currency), encoding="utf-8")
    print(json.dumps(body, indent=1, ensure_ascii=False) if chosen.json else text(found, settings))
    print(f"Kept in {path} and {drawn.name}", file=sys.stderr)


def _prompts(chosen: argparse.Namespace) -> int:
    from evals import prompts
    from rag.prompt import live, opened

    home = config.load().home
    if chosen.status:
        print(prompts.status(home))
        return 0
    if chosen.back:
        entry = prompts.back(home)
        print(f"{entry['after']} is live again, instead of {entry['before']}.")
        return 0
    if len(set(chosen.names)) != 2 or chosen.questions is None:
        raise UsageError("Two prompts and --questions FILE are needed.", "Or: python -m evals prompts --status")
    wordings = [opened(name, home) for name in chosen.names]
    served = live(home)
    if chosen.adopt and (chosen.model or chosen.level or chosen.keep):
        raise UsageError("--adopt measures what people are served by.", "Leave out --model, --level and -k; set them in footnote.toml.")
    if chosen.adopt and served.label not in [each.label for each in wordings]:
        raise UsageError(f"{served.label} is live, and neither prompt is it.", f"Compare with {served.name}.")
    return _compare_prompts(chosen, wordings, served)


def _compare_prompts(chosen: argparse.Namespace, wordings: Sequence[Wording], served: Wording) -> int:
    from evals import prompts
    from evals.results import save

    questions, unit = _questions(chosen)
    with _answerer(chosen) as (answerer, index, collection):
        rows = prompts.measure(wordings, questions, index, answerer, unit=unit, slack=chosen.page_slack, say=_say)
        made_with = _made_with(answerer, index, collection)
    judgement = prompts.judge(rows, (wordings[0].label, wordings[1].label), chosen.score)
    body = _plain(dataclasses.asdict(judgement))
    path = save("prompts", collection, {**made_with, "judgement": body, "rows": rows}, answerer.settings, chosen.results)
    print(json.dumps(body, indent=1, ensure_ascii=False) if chosen.json else prompts.text(judgement))
    winner = next((each for each in wordings if each.label == judgement.winner), None)
    if winner is None or not judgement.confirmed:
        said = f"Nothing goes live: {served.label} stays."
    elif winner.label == served.label:
        said = f"{served.label} is live already and stays."
    elif chosen.adopt:
        prompts.adopt(answerer.settings.home, winner, judgement, {**made_with, "results": path.name})
        said = f"{winner.label} is live from now on, instead of {served.label}. To go back: python -m evals prompts --back"
    else:
        said = f"{served.label} is live. To let {winner.label} go live, run this again with --adopt."
    print(said, file=sys.stderr if chosen.json else sys.stdout)
    print(f"Kept in {path}", file=sys.stderr)
    return int(chosen.adopt and not judgement.confirmed)


def _compare(chosen: argparse.Namespace) -> None:
    from evals.compare import compare, text
    from evals.results import load

    difference = compare(load(chosen.before), load(chosen.after))
    print(json.dumps(_plain(difference), indent=1, ensure_ascii=False) if chosen.json else text(difference))


def _audit(chosen: argparse.Namespace) -> int:
    from contextlib import closing

    from evals.audit import FALSE, NO, audit, judged, keep, read_sheet, sample, text, write_sheet
    from evals.results import load
    from ingest.open import open_index

    if [each.suffix for each in chosen.results] == [".csv"]:
        rows = read_sheet(chosen.results[0])
        if chosen.judged:
            print(f"{chosen.judged} holds {keep(rows, chosen.judged)} judged sentences.", file=sys.stderr)
    else:
        rows = []
        for path in chosen.results:
            result = load(path)
            with closing(open_index(chosen.index or config.load().index, result["collection"])) as index:
                numbers = {each.document: each.id for each in index.catalog.documents()}

                def page_text(document: str, page: int | None, index: Index = index, numbers: dict[str, int] = numbers) -> str:
                    return str(index.catalog.page(numbers[document], page).text)

                rows += audit(result, page_text)
        if chosen.judged:
            rows = judged(rows, chosen.judged)
        if chosen.sheet:
            write_sheet(chosen.sheet, sample(rows, chosen.sample, chosen.seed))
            print(f"Fill in the last columns of {chosen.sheet}, then: python -m evals audit {chosen.sheet}", file=sys.stderr)
    print(text(rows))
    return int(any(each.code == FALSE or each.supported == NO for each in rows))


def _make(chosen: argparse.Namespace) -> None:
    from evals.conversations import conversations
    from evals.make import make, write
    from evals.prepare import opened
    from ingest.embed import REMEMBERED, Embedder

    if chosen.conversations:
        questions = conversations(read(chosen.conversations), chosen.count, chosen.seed)
        write(chosen.output, questions)
        print(f"{len(questions)} follow-ups in {len({each['conversation'] for each in questions})} conversations: {chosen.output}")
        return
    settings = config.load(index=chosen.index, collection=chosen.collection)
    embedder = Embedder(settings, REMEMBERED)
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


def _feedback(chosen: argparse.Namespace) -> None:
    from evals.feedback import feedback
    from evals.make import write
    from records import Records

    settings = config.load(collection=chosen.collection)
    if chosen.output.exists():
        raise UsageError(f"{chosen.output} is already there.", "Name another file, or remove it: it may hold what somebody reviewed.")
    with Records(settings.records) as records:
        lines = feedback(records, settings.collection)
    write(chosen.output, lines)
    waiting = sum(bool(each.get("review")) for each in lines)
    print(f"{len(lines)} questions from feedback, {waiting} of them wait for review, in {chosen.output}.")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
