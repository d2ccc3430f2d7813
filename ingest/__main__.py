"""Command line → a refresh, or a look at what is there. The result goes to stdout, progress to stderr on a terminal only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import config
from config import Settings
from errors import FootnoteError, IndexMissing, LockHeld, UsageError
from ingest import publish
from ingest.types import FileReport, Report

COMMANDS = """commands:
  status               what each collection holds, where from, and which version is served
  verify               check every file of the index against its hash
  show FILE            what was read from a document of the collection, or would be from a file on disk
  rollback [VERSION]   serve the version before (or VERSION) again
  backup FILE.tar      write the served version and the uploads into one file
  restore FILE.tar     publish what a backup holds
  purge DOCUMENT       erase a document from every version, cache, receipt and upload

exit codes: 0 done or nothing to do, 1 failed and the old index is still served, 2 usage, 3 published but some files failed,
4 verify found damage, 10 no index, 11 another writer is at work, 12 no space, 130 interrupted (run it again to go on)"""
NAMES = ("status", "verify", "show", "rollback", "backup", "restore", "purge")
SHOWN_FAILURES = 20  # on a terminal; --json has all
WATCH_QUIET_S = 2.0  # a folder must be quiet this long before it is read
WATCH_POLL_S = 5.0  # how often to look where the system does not report changes
INTERRUPTED = 130
NICE = 10  # how much a refresh gives way to questions (POSIX niceness): a ninth of a core where both want all of it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service that is stopped ends like Ctrl-C
    settings = config.Settings()
    try:
        settings = config.load(
            index=options.index,
            collection=options.collection,
            jobs=options.jobs,
            parse_timeout_s=options.timeout,
            max_file_mb=options.max_mb,
        )
        logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
        words = options.words
        if words and words[0] in NAMES:
            return _command(words[0], words[1:], options, settings)
        if arguments is None:  # the command itself, not a program that calls this function
            _give_way()
        if options.watch:
            return _watch(options, settings)
        return _ingest(options, settings)
    except FootnoteError as error:
        _complain(error, options.json)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 the edge: a fault of the program is logged whole and told in one line
        return _fault(error, settings)
    except KeyboardInterrupt:
        print("Interrupted. What was read so far is kept: run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingest",
        description="Read folders of documents into a collection that can be asked.",
        usage="python -m ingest [FOLDER ...] [options]\n       python -m ingest COMMAND [options]",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="FOLDER", help="folders to read; none: every folder and upload the collection knows")
    add("--collection", metavar="NAME", help="the collection to work on (default: default)")
    add("--source", metavar="NAME", help="name of the folder in the collection (default: the folder's own name)")
    add("--index", metavar="DIR", help="folder of built indexes (default: indexes/)")
    add("--json", action="store_true", help="print the result as one JSON object")
    add("--progress-json", action="store_true", help=argparse.SUPPRESS)  # for the engine: JSON lines on stderr
    add("--dry-run", action="store_true", help="say what would be done and do nothing")
    add("--no-prune", action="store_true", help="keep documents whose files are gone")
    add("--force", action="store_true", help="read every file anew, and allow mass removal or another embedder")
    add("--jobs", type=_count, metavar="N", help="child processes that read files (default: one a core)")
    add("--timeout", type=_count, metavar="S", help="seconds a file may take (default: 30)")
    add("--max-mb", type=_count, metavar="N", help="MB of the largest file that is read (default: 100)")
    add("--only", action="append", default=[], metavar="GLOB", help="touch only files that fit; may be given again")
    add("--exclude", action="append", default=[], metavar="GLOB", help="treat files that fit as absent; remembered for the folder")
    add("--watch", action="store_true", help="stay and read the folders again whenever something in them changes")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


# -- ingest ------------------------------------------------------------------------------------------------------------


def _folders(options: argparse.Namespace) -> list[tuple[str, Path]]:
    folders = [Path(word).expanduser().resolve() for word in options.words]
    for word, folder in zip(options.words, folders, strict=True):
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.is_file() else "is not there"
            raise UsageError(f"{word} {what}.", "Name a folder of documents, or one of the commands in --help.")
    if options.source is not None:
        if len(folders) != 1:
            raise UsageError("--source names one folder.", "Give exactly one FOLDER with it.")
        if not options.source.strip() or "/" in options.source or options.source != options.source.strip():
            raise UsageError(f"{options.source!r} cannot be the name of a source.", "Use a word without slashes.")
        return [(options.source, folders[0])]
    return [(folder.name or "root", folder) for folder in folders]


def _give_way() -> None:
    """Questions come first. Linux shares cores by session before it looks at processes, so a session of our own steps back whole."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:  # started by the engine, cron or systemd; in a terminal the session is the person's
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")


def _ingest(options: argparse.Namespace, settings: Settings) -> int:
    from ingest.refresh import Progress, refresh

    before = ""
    with contextlib.suppress(FootnoteError):
        before = publish.current(settings.index, settings.collection).name
    show = _json_progress if options.progress_json else _progress(sys.stderr) if sys.stderr.isatty() else (lambda progress: None)
    report = refresh(
        _folders(options),
        settings.collection,
        settings,
        prune=not options.no_prune,
        force=options.force,
        dry_run=options.dry_run,
        only=options.only,
        exclude=options.exclude,
        progress=show,
    )
    if options.progress_json:
        for each in report.files:
            if each.status not in ("unchanged", "failed"):
                _json_progress(Progress("published", file=each))
    elif sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(json.dumps(report_json(report), ensure_ascii=False) if options.json else report_text(report, options.dry_run))
    return 3 if report.count("failed") and report.version != before else 0


def report_json(report: Report) -> dict[str, Any]:
    """The contract's shape of a report."""
    counts = {status: report.count(status) for status in ("added", "changed", "moved", "removed", "unchanged")}
    failed = [{"document": each.document, "reason": each.reason, "cure": each.cure} for each in report.files if each.status == "failed"]
    listed = [dataclasses.asdict(each) for each in report.files if each.status not in ("unchanged", "removed", "failed")]
    warnings = [*report.warnings, *(f"{each.document}: {warning}" for each in report.files for warning in each.warnings)]
    return {
        "version": report.version,
        **counts,
        "failed": failed,
        "warnings": warnings,
        "files": listed,
        "related": [dataclasses.asdict(each) for each in report.related],
        "passages": report.passages,
        "seconds": report.seconds,
    }


def report_text(report: Report, dry_run: bool) -> str:
    """The report for a person: what failed and how to cure it, warnings, and one line that sums up."""
    body = report_json(report)
    lines: list[str] = []
    if dry_run:
        lines += [f"{each.status:8} {each.document}" for each in report.files if each.status not in ("unchanged", "failed")]
    failed = body["failed"]
    for each in failed[:SHOWN_FAILURES]:
        lines.append(f"failed   {each['document']}: {each['reason']} {each['cure']}".rstrip())
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"         and {len(failed) - SHOWN_FAILURES} more; --json lists all")
    for warning in body["warnings"][:SHOWN_FAILURES]:
        lines.append(f"warning  {warning}")
    if len(body["warnings"]) > SHOWN_FAILURES:
        lines.append(f"         and {len(body['warnings']) - SHOWN_FAILURES} more; --json lists all")
    lines += _related_lines(report)
    if read := [each for each in report.files if each.status in ("added", "changed") and not dry_run]:
        pages, tables, scanned = (sum(getattr(each, name) for each in read) for name in ("pages", "tables", "ocr_pages"))
        slowest = max(read, key=lambda each: each.seconds)
        lines.append(
            f"read     {pages:,} pages, {tables:,} tables, {scanned:,} scanned pages; longest {slowest.document}, {slowest.seconds:.1f} s"
        )
    counts = "  ".join(f"{name} {body[name]:,}" for name in ("added", "changed", "moved", "removed", "unchanged"))
    place = "would be done" if dry_run else report.version or "nothing published"
    lines.append(f"{counts}  failed {len(failed):,} | {report.passages:,} passages | {place} | {report.seconds:.1f} s")
    return "\n".join(lines)


def _related_lines(report: Report) -> list[str]:
    """What the documents of this run have to do with others; what was told when it came is not told every night."""
    touched = {each.document for each in report.files if each.status in ("added", "changed", "moved")}
    told = [each for each in report.related if each.document in touched or each.other in touched]
    said = {"older": "an older version of", "alike": "nearly the same as"}
    lines = [f"{each.kind:8} {each.document}: {said[each.kind]} {each.other} ({each.overlap:.0%} shared)" for each in told]
    rest = len(lines) - SHOWN_FAILURES
    return lines[:SHOWN_FAILURES] + ([f"         and {rest} more; --json lists all"] if rest > 0 else [])


def _progress(stream: Any) -> Callable[[Any], None]:
    began = time.monotonic()
    last = [0.0]
    read = [""]

    def show(progress: Any) -> None:
        now = time.monotonic()
        if progress.stage == "reading":
            name = progress.file.document if progress.file else ""
            read[0] = f"{progress.done:,} of {progress.total:,} files read"
            line = f"{read[0]}  {name}"
        elif progress.stage == "embedding":
            line = f"{read[0]}  {progress.done:,} of {progress.total:,} passages embedded"
        elif progress.stage == "unpacking":
            line = f"{progress.done:,} of {progress.total:,} files looked into"
        else:
            line = f"{progress.stage}…"
        if now - last[0] > 0.1 or progress.stage not in ("unpacking", "reading", "embedding"):
            last[0] = now
            width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 100
            stream.write(f"\r\x1b[K{f'{now - began:5.0f} s  {line}'[: max(20, width - 1)]}")
            stream.flush()

    return show


def _json_progress(progress: Any) -> None:
    print(json.dumps(dataclasses.asdict(progress), ensure_ascii=False), file=sys.stderr, flush=True)


def _fault(error: Exception, settings: Settings) -> int:
    """Logs what is nobody's fault but the program's; returns the exit code."""
    number = f"{time.time_ns() // 1_000_000 % 1_000_000:06d}"
    log = settings.logs / "ingest.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{publish.now()} fault {number}\n{''.join(traceback.format_exception(error))}\n")
        where = f"Its details are in {log} under {number}."
    except OSError:
        traceback.print_exception(error)
        where = ""
    print(f"Footnote failed ({type(error).__name__}: {error}). The index is as it was. {where}".strip(), file=sys.stderr)
    return 1


def _complain(error: FootnoteError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.message, "cure": error.cure}, ensure_ascii=False))
    print(f"{error.message}\n{error.cure}".strip(), file=sys.stderr)


def _watch(options: argparse.Namespace, settings: Settings) -> int:
    from ingest.refresh import sources
    from ingest.watch import changes

    folders = [folder for _, folder in _folders(options)]
    folders = folders or [each.root for each in sources(settings.index, settings.collection)]
    code = None
    try:
        for _ in changes(folders, WATCH_QUIET_S, WATCH_POLL_S):
            try:
                code = _ingest_when_free(options, settings)
            except FootnoteError as error:
                if code is None:
                    raise  # the very first run: said at once, not waited for
                _complain(error, options.json)
            options.force = False
            sys.stdout.flush()
            if sys.stderr.isatty():
                print("Watching for changes; stop with Ctrl-C.", file=sys.stderr)
    except KeyboardInterrupt:
        if code is None:
            raise
    return code or 0


def _ingest_when_free(options: argparse.Namespace, settings: Settings) -> int:
    """A refresh that waits for another writer to finish, since nobody will run it again."""
    while True:
        try:
            return _ingest(options, settings)
        except LockHeld as error:
            _complain(error, False)
            time.sleep(WATCH_POLL_S)


# -- commands ----------------------------------------------------------------------------------------------------------


def _command(name: str, words: list[str], options: argparse.Namespace, settings: Settings) -> int:
    wanted = {"status": (0, 0), "verify": (0, 0), "rollback": (0, 1)}.get(name, (1, 1))
    if not wanted[0] <= len(words) <= wanted[1]:
        raise UsageError(f"{name} takes {'one name' if wanted[1] else 'no name'}.", "See python -m ingest --help.")
    if name == "status":
        return _status(options, settings)
    if name == "verify":
        return _verify(options, settings)
    if name == "show":
        return _show(words[0], options, settings)
    if name == "rollback":
        return _rollback(words[0] if words else None, options, settings)
    if name == "backup":
        return _backup(Path(words[0]), options, settings)
    if name == "restore":
        return _restore(Path(words[0]), options, settings)
    return _purge(words[0], options, settings)


def _tell(body: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(body, ensure_ascii=False) if as_json else text)


def _named(options: argparse.Namespace, settings: Settings) -> list[str]:
    """The collections a command is about: the one named, or all."""
    if options.collection:
        return [settings.collection]
    found = publish.collections(settings.index)
    if not found:
        raise IndexMissing(f"There is no index in {settings.index} yet.", "Run: python -m ingest FOLDER")
    return found


def _status(options: argparse.Namespace, settings: Settings) -> int:
    from ingest.catalog import Catalog
    from ingest.refresh import sources

    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for collection in _named(options, settings):
        version = publish.current(settings.index, collection)
        catalog = Catalog.open(version.folder / "catalog.sqlite")
        try:
            documents = catalog.documents()
        finally:
            catalog.close()
        failed = [each for each in documents if each.status == "failed"]
        folders = sources(settings.index, collection)
        row: dict[str, Any] = {
            "collection": collection,
            "version": version.name,
            "created": version.manifest.created,
            "documents": len(documents) - len(failed),
            "failed": [{"document": each.document, "reason": each.reason, "cure": each.cure} for each in failed],
            "passages": version.manifest.passages,
            "embedder": version.manifest.embedder,
            "sources": [{"name": each.name, "folder": str(each.root), "there": each.root.is_dir()} for each in folders],
            "versions": [each.name for each in publish.versions(settings.index, collection)],
            "bytes": sum(int(known["size"]) for known in version.manifest.files.values()),
        }
        rows.append(row)
        lines.append(
            f"{collection}: {len(documents) - len(failed):,} documents, {version.manifest.passages:,} passages, "
            f"{len(failed):,} failed | {version.name} of "
            f"{row['created']} | {row['bytes'] / 1e6:,.1f} MB | {row['embedder']}"
        )
        lines += [f"  {each['name']}: {each['folder']}{'' if each['there'] else ' (not there now)'}" for each in row["sources"]]
        lines += [f"  failed {each.document}: {each.reason} {each.cure}".rstrip() for each in failed[:SHOWN_FAILURES]]
    _tell({"collections": rows}, "\n".join(lines), options.json)
    return 0


def _verify(options: argparse.Namespace, settings: Settings) -> int:
    from errors import IndexDamaged
    from ingest import catalog
    from ingest.vectors import Vectors

    wrong: list[str] = []
    checked: list[str] = []
    for collection in _named(options, settings):
        try:
            served: publish.Version | None = publish.current(settings.index, collection)
        except IndexDamaged as error:
            served = None
            wrong.append(f"{collection}: {error.message}")
        for folder in publish.versions(settings.index, collection):
            name = f"{collection} {folder.name}"
            checked.append(name)
            try:
                version = publish.read_version(folder)
                found = publish.faults(version) or catalog.check(folder / "catalog.sqlite")
                if not found:
                    vectors = Vectors.open(folder)
                    if len(vectors) != version.manifest.passages:
                        found = [f"{len(vectors)} vectors for {version.manifest.passages} passages"]
            except IndexDamaged as error:
                found = [error.message]
            served_mark = " (served)" if served and served.name == folder.name else ""
            wrong += [f"{name}{served_mark}: {each}" for each in found]
    text = "\n".join(wrong) if wrong else f"{len(checked)} versions checked, nothing wrong."
    if wrong:
        text += "\nRun: python -m ingest rollback, or ingest the folders again with --force."
    _tell({"checked": checked, "damage": wrong}, text, options.json)
    return IndexDamaged.exit_code if wrong else 0


def _show(name: str, options: argparse.Namespace, settings: Settings) -> int:
    from ingest.catalog import Catalog

    catalog = None
    try:
        catalog = Catalog.open(publish.current(settings.index, settings.collection).folder / "catalog.sqlite")
    except IndexMissing:
        if not Path(name).is_file():
            raise
    try:
        place = Path(name).expanduser().resolve()
        documents = catalog.documents() if catalog else []
        found = [each for each in documents if name in (each.document, f"{each.source}/{each.path}") or each.absolute == place]
        if not found and catalog and not place.is_file():
            matching = catalog.match(name)
            found = [each for each in documents if each.id in matching]
        if len(found) > 1:
            raise UsageError(f"{name} fits {len(found)} documents: {', '.join(each.document for each in found[:5])} …", "Name one of them.")
        if found and catalog:
            document = found[0]
            body: dict[str, Any] = {
                "document": document.document,
                "source": document.source,
                "status": document.status,
                "kind": document.kind,
                "title": document.title,
                "date": document.date,
                "reason": document.reason,
                "cure": document.cure,
                "warnings": list(document.warnings),
                "file": str(document.absolute),
                "pages": [{"page": page.number, "text": page.text} for page in catalog.pages(document.id)],
                "passages": [
                    {
                        "page": each.page,
                        "section": each.section,
                        "start": each.start,
                        "end": each.end,
                        "context": each.context,
                        "text": each.text,
                    }
                    for each in catalog.passages_of(document.id)
                ],
            }
        elif place.is_file():
            body = _read_one(place, settings)
        else:
            raise UsageError(f"{name} is neither a document of {settings.collection!r} nor a file.", "See python -m ingest status.")
    finally:
        if catalog:
            catalog.close()
    _tell(body, _shown(body), options.json)
    return 0


def _read_one(path: Path, settings: Settings) -> dict[str, Any]:
    """What would be read from a file that is in no collection."""
    from ingest.chunk import chunk_document
    from ingest.embed import Tokens
    from ingest.sandbox import Sandbox
    from ingest.types import ParseFailure, SourceFile

    facts = path.stat()
    with Sandbox(settings, 1) as sandbox:
        _, result, _ = next(iter(sandbox.parse_all([SourceFile("", path.name, path, facts.st_size, facts.st_mtime_ns)])))
    body: dict[str, Any] = {"document": path.name, "file": str(path), "pages": [], "passages": []}
    if isinstance(result, ParseFailure):
        return {
            **body,
            "status": "failed",
            "kind": result.kind,
            "reason": result.reason,
            "cure": result.cure,
            "title": "",
            "warnings": [],
        }
    pieces = chunk_document(result, Tokens(settings).starts, settings)
    return {
        **body,
        "status": "not in the collection",
        "kind": result.kind,
        "title": result.title,
        "date": result.date,
        "reason": "",
        "cure": "",
        "warnings": list(result.warnings),
        "pages": [{"page": page.number, "text": page.text} for page in result.pages],
        "passages": [
            {
                "page": result.pages[position].number,
                **dataclasses.asdict(piece),
                "text": result.pages[position].text[piece.start : piece.end],
            }
            for position, piece in pieces
        ],
    }


def _shown(body: dict[str, Any]) -> str:
    lines = [f"{body['document']}  ({body['kind']}, {body['status']})", f"file     {body['file']}"]
    lines += [f"{name:8} {body[name]}" for name in ("title", "date", "reason", "cure") if body.get(name)]
    lines += [f"warning  {warning}" for warning in body["warnings"]]
    for each in body["passages"]:
        place = f"page {each['page']}, " if each["page"] is not None else ""
        lines += ["", f"-- {place}{each['start']}–{each['end']}  {each['section']}".rstrip(), each["text"].rstrip("\n")]
    return "\n".join(lines)


def _rollback(name: str | None, options: argparse.Namespace, settings: Settings) -> int:
    publish.collection_folder(settings.index, settings.collection)
    if not (settings.index / settings.collection).is_dir():
        publish.current(settings.index, settings.collection)
    with publish.lock(settings.index, settings.collection):
        version = publish.rollback(settings.index, settings.collection, name)
    _tell(
        {"version": version.name, "passages": version.manifest.passages},
        f"{version.name} of {version.manifest.created} is served again ({version.manifest.passages:,} passages).",
        options.json,
    )
    return 0


def _backup(target: Path, options: argparse.Namespace, settings: Settings) -> int:
    from ingest.backup import backup

    name, size = backup(target.expanduser().resolve(), settings.collection, settings)
    _tell({"version": name, "file": str(target), "bytes": size}, f"{name} written to {target} ({size / 1e6:,.1f} MB).", options.json)
    return 0


def _restore(origin: Path, options: argparse.Namespace, settings: Settings) -> int:
    from ingest.backup import restore

    version = restore(origin.expanduser().resolve(), settings.collection if options.collection else None, settings)
    manifest = version.manifest
    _tell(
        {"version": version.name, "collection": manifest.collection, "passages": manifest.passages},
        f"{manifest.collection}: {manifest.passages:,} passages restored as {version.name}.",
        options.json,
    )
    return 0


def _purge(name: str, options: argparse.Namespace, settings: Settings) -> int:
    from ingest.purge import purge

    body = purge(name, settings.collection, settings)
    lines = [f"{body['document']} was erased: {body['passages']} passages, {body['receipts']} receipts. No earlier version is left."]
    if body["file"]:
        lines.append(f"The file itself is still at {body['file']}; it is not read again, and only you can delete it.")
    _tell(body, "\n".join(lines), options.json)
    return 0


__all__ = ["FileReport", "main", "report_json", "report_text"]

if __name__ == "__main__":
    sys.exit(main())
