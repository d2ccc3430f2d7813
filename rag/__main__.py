"""`python -m rag`: ask, search, replay, costs, serve, models, selfcheck. Results on stdout, progress on stderr, errors with a cure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from errors import FootnoteError, UsageError
from rag.visible import LOCAL, check_user

if TYPE_CHECKING:
    from config import Settings
    from rag.types import Turn

HOW = {
    "quoted": "Quoted from the documents",
    "shortened": "Shortened from the documents",
    "computed": "Computed from the table rows quoted",
    "written": "Written by the model, checked against the documents",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 usage, 10 no index, 130 interrupted; `replay` has 3, 4 and 10 too)."""
    chosen = parser().parse_args(arguments)
    try:
        settings = config.load(
            index=getattr(chosen, "index", None), collection=getattr(chosen, "collection", None),
            keep_passages=getattr(chosen, "keep", None),
        )
        return int(chosen.run(chosen, settings) or 0)
    except FootnoteError as error:
        if getattr(chosen, "json", False):
            print(json.dumps({"error": error.message, "cure": error.cure}, ensure_ascii=False))
        print(f"{error.message}\n{error.cure}".strip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    """The command line's shape; docs/commands.md is checked against it."""
    top = argparse.ArgumentParser(prog="python -m rag", description="Ask indexed documents; answers carry their sources.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    ask = _command(commands, "ask", _ask, "answer a question from the documents")
    search = _command(commands, "search", _search, "list the passages that bear on a question")
    for each in (ask, search):
        each.add_argument("question", nargs="?", metavar="QUESTION", help="the question; or --questions")
        each.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines with id and question; one JSON line each comes back")
        each.add_argument("--collection", metavar="NAME", help="collection to ask (default: %(default)s → settings)")
        each.add_argument("--document", metavar="GLOB", help="only documents whose name matches")
        each.add_argument("--as", dest="user", default=LOCAL, metavar="USER", help="who asks (default: local)")
        each.add_argument("--history", type=Path, metavar="FILE", help='conversation before: JSON list of {"role", "content"}')
        each.add_argument("-k", dest="keep", type=_positive, metavar="N", help="passages to keep")
        each.add_argument("--json", action="store_true", help="print one JSON object")
    again = _command(commands, "replay", _replay, "answer again what a receipt tells of, and say what changed")
    again.add_argument("receipt", metavar="ID", help="the receipt's id: \"receipt\" in ask --json")
    again.add_argument("--json", action="store_true", help="print one JSON object")
    spent = commands.add_parser("costs", help="add up what answers took", description="Add up what answers took; money is estimated.")
    spent.set_defaults(run=_costs)
    spent.add_argument("--by", choices=("user", "collection", "model", "day"), default="collection", help="a line for each collection, …")
    spent.add_argument("--since", type=_day, metavar="DATE", help="only answers of this day and later, as 2025-03-04 (UTC)")
    spent.add_argument("--json", action="store_true", help="print one JSON object")
    serve = _command(commands, "serve", _serve, "run the engine process of an index folder")
    serve.add_argument("--idle-exit", type=int, default=0, metavar="S", help="end after S seconds without a question (default: never)")
    serve.add_argument("--stop", action="store_true", help="end the engine that runs for this index folder, in order")
    models = _command(commands, "models", _models, "list, add or measure language models")
    models.add_argument("action", choices=("list", "pull", "bench"), help="what to do")
    models.add_argument("name", nargs="?", metavar="FILE", help="a GGUF file (pull, bench)")
    models.add_argument("--json", action="store_true", help="print one JSON object")
    check = _command(commands, "selfcheck", _selfcheck, "prove that nothing leaves this machine")
    check.add_argument("--offline", action="store_true", help="index, ask and serve with every outbound attempt refused and counted")
    check.add_argument("--strace", action="store_true", help="count system calls too, where strace is installed")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    return top


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    made.set_defaults(run=run)
    made.add_argument("--index", type=Path, metavar="DIR", help="folder of indexes (default: indexes/)")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError("must be from 1 to 100")
    return number


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError("must be a day, as 2025-03-04") from None


def _ask(chosen: argparse.Namespace, settings: Settings) -> int:
    return _each(chosen, settings, "ask")


def _search(chosen: argparse.Namespace, settings: Settings) -> int:
    return _each(chosen, settings, "search")


def _each(chosen: argparse.Namespace, settings: Settings, verb: str) -> int:
    if (chosen.question is None) == (chosen.questions is None):
        raise UsageError("Give either a question or --questions FILE.", f'Example: python -m rag {verb} "How many days of leave do I get?"')
    check_user(chosen.user)
    history = _history(json.loads(_read(chosen.history)), str(chosen.history)) if chosen.history else ()
    if chosen.questions is None:
        (result,) = _results([(chosen.question, history, chosen.document)], chosen, settings, verb)
        print(json.dumps(result, ensure_ascii=False, indent=1) if chosen.json else _plain(result))
        return 0
    lines = list(_batch(chosen.questions))
    asked = [
        (line["question"], _history(line["history"], str(line.get("id"))) if line.get("history") else history,
         line.get("document") or chosen.document)
        for line in lines
    ]
    for line, result in zip(lines, _results(asked, chosen, settings, verb), strict=True):
        print(json.dumps({"id": line.get("id"), **result}, ensure_ascii=False), flush=True)
    return 0


def _results(
    asked: Sequence[tuple[str, Sequence[Turn], str | None]], chosen: argparse.Namespace, settings: Settings, verb: str
) -> Iterator[dict[str, Any]]:
    """Results in the order asked: from the running engine of this index folder, else by models loaded here, once."""
    from rag.client import Client

    client = Client(settings)
    if client.running():
        for question, history, document in asked:
            options: dict[str, Any] = {"user": chosen.user, "document": document, "history": history, "keep": chosen.keep}
            if verb == "ask":
                yield client.ask_and_wait(question, settings.collection, **options)
            else:
                yield {"passages": client.search(question, settings.collection, **options)}
        return
    from ingest.embed import REMEMBERED, Embedder
    from ingest.open import open_index

    embedder = Embedder(settings, REMEMBERED)
    with closing(open_index(settings.index, settings.collection, embedder.name)) as index:
        from rag.answer import Answerer, open_reader

        if verb == "search":
            answerer = Answerer(settings, embedder, None, None, *open_reader(settings))
            for question, history, document in asked:
                hits = answerer.search(question, index, history=history, document=document, user=chosen.user)
                yield {"passages": [each.as_json() for each in hits]}
            return
        from rag.engine import open_model
        from records.store import Records

        with closing(open_model(settings, _say)) as model, closing(Records(settings.records)) as records:
            answerer = Answerer(settings, embedder, model, records, *open_reader(settings))
            for question, history, document in asked:
                yield answerer.answer(question, index, history=history, document=document, user=chosen.user).as_json()


def _batch(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number} is not JSON: {error.msg}.", "Each line is one JSON object.") from None
        if not isinstance(value, dict) or not isinstance(value.get("question"), str):
            raise UsageError(f'{path}, line {number} has no "question".', 'Each line needs "id" and "question".')
        yield value


def _history(value: Any, where: str) -> tuple[Turn, ...]:
    from rag.types import Turn

    if not isinstance(value, list) or not all(
        isinstance(each, dict) and each.get("role") in ("user", "assistant") and isinstance(each.get("content"), str) for each in value
    ):
        cure = 'It is a JSON list of {"role": "user" or "assistant", "content": text}.'
        raise UsageError(f"The history of {where} is not a conversation.", cure)
    return tuple(Turn(each["role"], each["content"]) for each in value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Check the path and that it is UTF-8 text.") from None


def _plain(result: dict[str, Any]) -> str:
    """A result for a person at a terminal."""
    if "answer" not in result:
        listed = [f"{n}. {_place(each)}  ({each['score']:.4f})\n{each['text'].strip()}" for n, each in enumerate(result["passages"], 1)]
        return "\n\n".join(listed) or "Nothing found."
    lines = [result["answer"], ""]
    if result["found"]:
        lines.append(f"{HOW.get(result['how'], 'Partly written, partly quoted')}:")
        lines += [f"  [{each['n']}] {_place(each)}: “{' '.join(each['quote'].split())}”" for each in result["citations"]]
    else:
        lines.append("Nearest passages:")
        lines += [f"  {n}. {_place(each)}" for n, each in enumerate(result["passages"], 1)]
    lines += [f"Note: {note}" for note in result.get("notes", [])]
    return "\n".join(lines)


def _place(each: dict[str, Any]) -> str:
    page = f", p. {each['page']}" if each["page"] is not None else ""
    section = f" ({each['section']})" if each["section"] else ""
    older = f" [older version; newer: {each['newer']}]" if each.get("newer") else ""
    return f"{each['document']}{page}{section}{older}"


def _replay(chosen: argparse.Namespace, settings: Settings) -> int:
    from rag.replay import find, replay

    receipt, broken = find(chosen.receipt, settings)
    found = replay(receipt, broken, settings)
    if chosen.json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1))
        return found.exit_code
    told = {"same": "The same text.", "differs": "Not the same text.", "gone": "It cannot be replayed."}
    print(f"Receipt {found.receipt} of {found.created[:16].replace('T', ' ')} UTC: {told[found.verdict]}")
    for title, lines in (("Chain of receipts broken", found.broken), ("No longer kept", found.gone), ("Changed since", found.changed)):
        print(*([f"\n{title}:"] + [f"- {line}" for line in lines] if lines else []), sep="\n", end="\n" if lines else "")
    if found.verdict != "gone":
        print("", *(found.difference or [found.then]), sep="\n")
    return found.exit_code


def _costs(chosen: argparse.Namespace, settings: Settings) -> int:
    from rag.cost import costs, money
    from records.store import Records

    with closing(Records(settings.records)) as records:
        found = costs(records, settings, chosen.by, chosen.since or "")
    if chosen.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return 0
    print(f"{chosen.by:32} {'answers':>8} {'CPU-seconds':>12} {'tokens read':>12} {'written':>9} {'kWh*':>10} cost*")
    for each in [*found["groups"], found["total"]]:
        counts = f"{each['answers']:8,} {each['cpu_seconds']:12,.1f} {each['prompt_tokens']:12,.0f} {each['answer_tokens']:9,.0f}"
        print(f"{each['group'] or '(not known)':32} {counts} {each['kwh']:10.5f} {money(each['cost'], settings.currency)}")
    print(f"* estimated from CPU-seconds, {settings.watts:g} W a core and {settings.price_per_kwh:g} {settings.currency} a kWh (settings)")
    return 0


def _serve(chosen: argparse.Namespace, settings: Settings) -> int:
    if chosen.stop:
        from rag.client import Client

        Client(settings).shutdown()
        return 0
    from rag.serve import serve

    serve(settings, idle_exit_s=chosen.idle_exit)
    return 0


def _models(chosen: argparse.Namespace, settings: Settings) -> int:
    from rag import models

    result = getattr(models, chosen.action)(settings, chosen.name, say=_say)
    print(json.dumps(result, ensure_ascii=False, indent=1) if chosen.json else models.table(result))
    return 0


def _selfcheck(chosen: argparse.Namespace, settings: Settings) -> int:
    from rag.selfcheck import selfcheck

    if not chosen.offline:
        raise UsageError("selfcheck knows one check so far.", "Run: python -m rag selfcheck --offline")
    report = selfcheck(settings, strace=chosen.strace, say=_say)
    print(json.dumps(report, ensure_ascii=False, indent=1) if chosen.json else report["summary"])
    return 1 if report["attempts"] else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
