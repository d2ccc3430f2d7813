"""Folders → a new version of a collection, and a report: what was read, reused, removed, what failed and why.

The steps in order: scan, compare, parse (in the sandbox), chunk, embed (only texts never seen), catalog and vectors, publish.
Where nothing changed nothing heavy is imported and nothing is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import queue
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from config import Settings
from errors import IndexDamaged, IndexMismatch, IndexMissing, NoSpace, PruneRefused, UsageError
from ingest import publish, uploads
from ingest.catalog import Catalog, Document, Draft, DraftPassage
from ingest.chunk import RULES, chunk_document
from ingest.editions import RULES as EDITION_RULES
from ingest.editions import Edition
from ingest.embed import WINDOW_TEXTS, EmbedderLike, EmbeddingCache, Tokens, embedder_name, in_batches, model_of
from ingest.report import forget, keep
from ingest.scan import Changes, Scan, compare, fits, scan
from ingest.types import FileReport, Heading, Page, ParsedDocument, ParseFailure, Related, Report, SourceFile, Table
from ingest.unpack import forget as forget_containers
from ingest.unpack import remember, remembered, unpack

if TYPE_CHECKING:
    from ingest.publish import Version

READING = 2  # number of the rules by which files become pages; when it changes every file is read anew
FIRST_TEXTS = 16  # texts after which the embedder begins to load, while files are still being read
CACHE_SLACK = 3  # vectors kept in the cache, as a multiple of the passages published, before old ones are dropped
CACHE_LEAST = 20_000  # vectors that are always kept

Parsed = tuple[SourceFile, ParsedDocument | ParseFailure, float]


class Reader(Protocol):
    """What reads files: `ingest.sandbox.Sandbox`, or something simpler in a test."""

    def parse_all(self, files: Iterable[SourceFile]) -> Iterator[Parsed]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a refresh is. `stage`: scanning, reading, embedding, publishing; `file` is what was just done with one file."""

    stage: str
    done: int = 0
    total: int = 0
    file: FileReport | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A folder that a collection is made of, with the globs that are left out of it."""

    name: str
    root: Path
    exclude: tuple[str, ...] = ()


def sources(index: Path, collection: str) -> list[Source]:
    """The folders that the collection already knows, without uploads."""
    try:
        catalog = Catalog.open(publish.current(index, collection).folder / "catalog.sqlite")
    except IndexMissing:
        return []
    try:
        return _sources(catalog)
    finally:
        catalog.close()


def refresh(
    folders: Sequence[tuple[str, Path]],
    collection: str,
    settings: Settings,
    *,
    prune: bool = True,
    force: bool = False,
    dry_run: bool = False,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] = lambda progress: None,
    embedder: Callable[[], EmbedderLike] | None = None,
    reader: Callable[[], AbstractContextManager[Reader]] | None = None,
    purge: Sequence[str] = (),
) -> Report:
    """Brings a collection up to date with its folders and publishes it, if anything changed.

    folders: (source name, folder); none means every source the collection knows, uploads included. `only` limits the run to files
    that fit; nothing else is touched. `exclude` treats what fits as absent, and is remembered for the source. `force` reads every
    file anew, lifts the guard against mass removal, and accepts another embedder. `purge` names documents (source/path) to
    erase, and then nothing is scanned. `progress` is called from two threads.
    Raises LockHeld, PruneRefused, NoSpace, DiskFailed, IndexMismatch, UsageError; the version served before is then untouched.
    """
    began = time.monotonic()
    root = publish.collection_folder(settings.index, collection)
    with publish.lock(settings.index, collection), publish.told_of_space(root), told_by_sqlite(root):
        publish.sweep(settings.index, collection)
        done = _Refresh(collection, settings, progress, embedder, reader).run(
            folders, prune, force, dry_run, tuple(only), tuple(exclude), tuple(purge), began
        )
        if purge:
            forget(settings.index, collection)
            forget_containers(root)
        elif not dry_run:
            keep(done, settings.index)
        return done


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one run has to do, on top of `version`."""

    version: Version | None
    changes: Changes
    gone: tuple[Document, ...]
    erase: frozenset[int]  # documents to purge
    purged: dict[str, int]  # SHA-256 of bytes that are not read again → when they were purged, in ns
    sources: dict[str, Source]
    embedder: str
    rules: str  # by which passages are cut and embedded
    recut: bool  # whether those are not the ones of `version`
    moved_sources: bool
    compare: bool  # whether `version` was made before documents were compared by today's rules

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to publish."""
        changes = self.changes
        some = changes.new or changes.changed or changes.moved or self.gone or self.erase
        return self.version is not None and not (some or self.recut or self.moved_sources or self.compare)


class _Refresh:
    """One run, under the lock."""

    def __init__(
        self,
        collection: str,
        settings: Settings,
        progress: Callable[[Progress], None],
        embedder: Callable[[], EmbedderLike] | None,
        reader: Callable[[], AbstractContextManager[Reader]] | None,
    ) -> None:
        self.collection = collection
        self.settings = settings
        self.progress = progress
        self.root = publish.collection_folder(settings.index, collection)
        self.embedder = embedder
        self.reader = reader
        self.warnings: list[str] = []
        self.files: list[FileReport] = []
        self.related: tuple[Related, ...] = ()
        self.inside: frozenset[str] = frozenset()  # source/path of what was found in containers

    def run(
        self,
        folders: Sequence[tuple[str, Path]],
        prune: bool,
        force: bool,
        dry_run: bool,
        only: tuple[str, ...],
        exclude: tuple[str, ...],
        purge: tuple[str, ...],
        began: float,
    ) -> Report:
        version = self._current(force)
        catalog = Catalog.open(version.folder / "catalog.sqlite") if version else None
        try:
            known_sources = {each.name: each for each in _sources(catalog)} if catalog else {}
            documents = catalog.documents() if catalog else []
            purged: dict[str, int] = json.loads((catalog.fact("purged") if catalog else None) or "{}")
            facts = (catalog.fact("chunk") if catalog else None) or ""
            compared = catalog.fact("editions") if catalog else None
            self.related = _related(documents, catalog.editions().values()) if catalog else ()
        finally:
            if catalog:
                catalog.close()
        if purge and version:
            name, rules = version.manifest.embedder, facts  # erasing needs no model and changes nothing else
        else:
            name = self._embedder_name()
            rules = f"{RULES}/{self.settings.passage_tokens}/{name}"
        if version and model_of(version.manifest.embedder) != model_of(name) and not force:
            raise IndexMismatch(
                f"The collection {self.collection!r} was built with {version.manifest.embedder}, but the settings name {name}.",
                f"Run: python -m ingest --collection {self.collection} --force",
            )
        reread = version is not None and version.manifest.reading != READING
        named, scans = ({}, {}) if purge else self._scan(folders, known_sources, only, exclude)
        in_scope = [each for each in documents if each.source in scans and (not only or fits(each.path, only))]
        with _Staging(self.root) as staging, contextlib.ExitStack() as copies:
            files = [file for found in scans.values() for file in found.files]
            if self.settings.unpack and files:
                known = {} if force or reread else {(each.source, each.path): each.sha256 for each in documents}
                files = self._unpack(files, known, purged, {each.name: each.exclude for each in named.values()}, bool(only), copies)
            changes = self._without_purged(compare(files, in_scope, staging.seen, force or reread), purged)
            plan = _Plan(
                version=version,
                changes=changes,
                gone=changes.gone if prune else (),
                erase=frozenset(each.id for each in documents if f"{each.source}/{each.path}" in purge),
                purged=purged,
                sources={**known_sources, **named},
                embedder=name,
                rules=rules,
                recut=facts != rules,
                # a folder's new place is published, so that the next run without a folder finds it
                moved_sources=any(known_sources.get(each) != source for each, source in named.items()),
                compare=compared != str(EDITION_RULES),
            )
            self._guard(plan.gone, in_scope, named, force)
            if dry_run or (plan.nothing and not force):
                if not dry_run:
                    staging.drop_parsed()
                    for document, file in changes.unchanged:
                        if file.mtime_ns != document.mtime_ns and file.mtime_ns:
                            staging.saw(file)
                return self._report(version, plan, began, dry_run)
            published = self._build(plan, staging)
            staging.done()
            return self._report(published, plan, began, False)

    # -- what there is -------------------------------------------------------------------------------------------------

    def _current(self, force: bool) -> Version | None:
        """The version to build on; None where there is none yet, or a damaged one that `force` lets go."""
        try:
            version = publish.current(self.settings.index, self.collection)
            wrong = publish.faults(version) if force else []
            if wrong:
                raise IndexDamaged("; ".join(wrong))
            return version
        except IndexMissing:
            return None
        except IndexDamaged as damage:
            if not force:
                raise
            self.warnings.append(f"The index was damaged and is built anew ({damage.message})")
            return None

    def _embedder_name(self) -> str:
        return self.embedder().name if self.embedder else embedder_name(self.settings)

    def _scan(
        self, folders: Sequence[tuple[str, Path]], known: dict[str, Source], only: tuple[str, ...], exclude: tuple[str, ...]
    ) -> tuple[dict[str, Source], dict[str, Scan]]:
        self.progress(Progress("scanning"))
        named: dict[str, Source] = {}
        for name, folder in folders:
            if name in named:
                raise UsageError(f"Two folders are named {name!r}.", "Ingest one of them with --source NAME.")
            if name == uploads.SOURCE:
                raise UsageError(f"The name {name!r} is kept for uploaded files.", "Choose another with --source NAME.")
            named[name] = Source(name, folder.resolve(), exclude)
        everything = not folders
        if everything:
            named = {name: dataclasses.replace(each, exclude=each.exclude + exclude) for name, each in known.items()}
        scans: dict[str, Scan] = {}
        for name, source in named.items():
            if everything and not source.root.is_dir():
                scans[name] = Scan(())  # the guard decides: an unmounted share looks like this
                self.warnings.append(f"{source.root} (source {name}) is not there")
            else:
                scans[name] = scan(source.root, name, only, source.exclude)
            self.warnings.extend(scans[name].refused)
        if everything:
            sent = [file for file in uploads.files(self.collection, self.settings) if not only or fits(file.path, only)]
            scans[uploads.SOURCE] = Scan(tuple(file for file in sent if not fits(file.path, exclude)))
            if not known and not sent and not self._has_version():
                raise IndexMissing(
                    f"The collection {self.collection!r} has no sources yet.",
                    f"Run: python -m ingest FOLDER --collection {self.collection}",
                )
        return named, scans

    def _unpack(
        self,
        files: Sequence[SourceFile],
        known: Mapping[tuple[str, str], str],
        purged: Mapping[str, int],
        exclude: Mapping[str, Sequence[str]],
        in_part: bool,
        copies: contextlib.ExitStack,
    ) -> list[SourceFile]:
        """The files with what their containers hold; copies of it lie there until `copies` is closed."""
        from ingest.sandbox import Sandbox

        def is_known(file: SourceFile) -> bool:
            return known.get((file.source, file.path)) == file.sha256 or file.sha256 in purged or stays_out(file)

        def stays_out(file: SourceFile) -> bool:
            return file.inside is not None and fits(file.path, exclude.get(file.source, ()))

        before = remembered(self.root) if known else {}
        sandbox = copies.enter_context(Sandbox(self.settings, 1))
        found = unpack(files, sandbox, before, is_known, lambda done: self.progress(Progress("unpacking", done, len(files))))
        remember(self.root, {**before, **found.held} if in_part else found.held)
        self.warnings.extend(found.left_out)
        files = [file for file in found.files if not stays_out(file)]
        self.inside = frozenset(f"{file.source}/{file.path}" for file in files if file.inside)
        return files

    def _is_read(self, file: SourceFile, warning: str) -> bool:
        """Whether a warning speaks of an attachment that is a document of its own."""
        name = warning.removeprefix("attachment ").removesuffix(" was not read")
        return f"{file.source}/{file.path}/{name}" in self.inside

    def _has_version(self) -> bool:
        return (self.root / "CURRENT").exists()

    def _without_purged(self, changes: Changes, purged: dict[str, int]) -> Changes:
        """Leaves out files that were purged, unless they were sent again since."""

        def stays_out(file: SourceFile) -> bool:
            at = purged.get(file.sha256)
            return at is not None and not (file.source == uploads.SOURCE and file.mtime_ns > at)

        for file in filter(stays_out, changes.new):
            self.warnings.append(f"{file.path} was purged and is not read again; delete the file itself")
        return dataclasses.replace(changes, new=tuple(file for file in changes.new if not stays_out(file)))

    def _guard(self, gone: Sequence[Document], known: Sequence[Document], named: dict[str, Source], force: bool) -> None:
        if force:
            return
        for name, source in named.items():
            total = sum(1 for each in known if each.source == name)
            leaving = sum(1 for each in gone if each.source == name)
            if total and leaving / total > self.settings.prune_limit:
                raise PruneRefused(
                    f"{leaving} of {total} documents of the source {name!r} are no longer in {source.root}, more than "
                    f"{self.settings.prune_limit:.0%}. Nothing was changed.",
                    "Is the folder complete and its share mounted? If they are to go, use --force; to keep them, --no-prune; "
                    "if this is another folder of the same name, --source NAME.",
                )

    # -- making the new version ----------------------------------------------------------------------------------------

    def _build(self, plan: _Plan, staging: _Staging) -> Version:
        version = plan.version
        wrong = publish.faults(version) if version else []
        if wrong:
            raise IndexDamaged(
                f"The index is damaged: {'; '.join(wrong)}.",
                f"Run: python -m ingest rollback --collection {self.collection}, or ingest the folders again with --force.",
            )
        folder = publish.drafts(self.settings.index, self.collection)
        try:
            with publish.told_of_space(folder), told_by_sqlite(folder):
                if version:
                    shutil.copyfile(version.folder / "catalog.sqlite", folder / "catalog.sqlite")
                draft = Draft(folder / "catalog.sqlite")
                try:
                    manifest = self._fill(draft, folder, plan, staging)
                finally:
                    draft.close()
                return publish.publish(
                    self.settings.index,
                    self.collection,
                    folder,
                    manifest,
                    keep=self.settings.keep_versions,
                    probe=probe,
                    erase_older=bool(plan.erase),
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fill(self, draft: Draft, folder: Path, plan: _Plan, staging: _Staging) -> publish.Manifest:
        """Writes the files of the new version into `folder`."""
        for document in plan.gone:
            draft.remove(document.id)
        forgotten = self._erase(draft, plan)
        with _Embedding(self.root / "embeddings.sqlite", plan.embedder, self._load_embedder, self.progress) as embedding:
            passages = _Passages(self.settings, embedding)
            if plan.recut:
                self._cut_again(draft, plan.changes, passages)
            for document, file in plan.changes.moved:
                self._move(draft, document, file, passages)
            for document, file in plan.changes.unchanged:
                if file.place != document.absolute or (file.mtime_ns and file.mtime_ns != document.mtime_ns):
                    draft.update_file(document.id, file)
            self._read(draft, plan.changes, staging, passages)
            embedding.finish()
            self.progress(Progress("publishing"))
            self.related = _related(draft.documents(), draft.compare(anew=plan.compare))
            draft.set_fact("editions", str(EDITION_RULES))
            draft.set_fact("chunk", plan.rules)
            draft.set_fact("purged", json.dumps({sha256: at for sha256, at in sorted(plan.purged.items()) if sha256}))
            facts = [[each.name, str(each.root), list(each.exclude)] for each in plan.sources.values()]
            draft.set_fact("sources", json.dumps(facts))
            rows, documents = draft.passages(), len(draft.documents())
            draft.seal(erase=bool(plan.erase))
            dimensions = self._save_vectors(folder, rows, plan, embedding)
            needed = {key for _, key in rows}
            embedding.cache.forget([key for key in forgotten if key not in needed])
            embedding.cache.trim(needed, max(CACHE_LEAST, CACHE_SLACK * len(rows)))
        return publish.Manifest(
            format=publish.FORMAT,
            version="",
            collection=self.collection,
            created="",
            embedder=plan.embedder,
            dimensions=dimensions,
            reading=READING,
            passage_tokens=self.settings.passage_tokens,
            documents=documents,
            passages=len(rows),
            files={},
        )

    def _erase(self, draft: Draft, plan: _Plan) -> list[bytes]:
        """Removes documents that are purged; returns the keys of their vectors."""
        keys: list[bytes] = []
        for document in draft.documents() if plan.erase else ():
            if document.id in plan.erase:
                keys += draft.keys_of(document.id)
                plan.purged[document.sha256] = time.time_ns()
                draft.remove(document.id)
                self.files.append(FileReport(document.document, "removed"))
        return keys

    def _load_embedder(self) -> EmbedderLike:
        if self.embedder:
            return self.embedder()
        from ingest.embed import Embedder, cores

        return Embedder(self.settings, workers=self.settings.threads or cores())

    def _cut_again(self, draft: Draft, changes: Changes, passages: _Passages) -> None:
        """New rules or another embedder: passages are made anew from the pages that are kept; no file is read for it."""
        about_to_change = {document.id for document, _ in changes.changed}
        for document in draft.documents():
            if document.status == "ready" and document.id not in about_to_change:
                parsed = ParsedDocument(kind=document.kind, title=document.title, pages=tuple(draft.pages(document.id)))
                draft.replace_passages(document.id, parsed.title, document.path, passages(parsed))

    def _move(self, draft: Draft, document: Document, file: SourceFile, passages: _Passages) -> None:
        """The same bytes at another path. A title made from the file's name follows it, and is embedded anew."""
        old, new = fallback_title(document.path), fallback_title(file.path)
        if document.title == old and old != new:
            parsed = ParsedDocument(kind=document.kind, title=new, pages=tuple(draft.pages(document.id)))
            draft.update_file(document.id, file)
            draft.retitle(document.id, new)
            draft.replace_passages(document.id, new, file.path, passages(parsed))
        else:
            draft.move(document.id, file)

    def _read(
        self,
        draft: Draft,
        changes: Changes,
        staging: _Staging,
        passages: _Passages,
    ) -> None:
        added = publish.now()
        replaced = {(file.source, file.path): document for document, file in changes.changed}
        to_read = [*changes.new, *(file for _, file in changes.changed)]
        for done, (file, result, seconds) in enumerate(self._parse(to_read, staging), 1):
            document = replaced.get((file.source, file.path))
            status = "changed" if document else "added"
            if isinstance(result, ParseFailure):
                draft.fail(file, result, added=added, replacing=document)
                report = FileReport(file.path, "failed", seconds=seconds, reason=result.reason, cure=result.cure)
            else:
                parsed = result if result.title else dataclasses.replace(result, title=fallback_title(file.path))
                parsed = dataclasses.replace(parsed, warnings=tuple(each for each in parsed.warnings if not self._is_read(file, each)))
                ids = draft.add(file, parsed, passages(parsed), added=added, replacing=document)
                report = FileReport(
                    file.path,
                    status,
                    pages=len(parsed.pages),
                    passages=len(ids),
                    tables=sum(len(page.tables) for page in parsed.pages),
                    ocr_pages=parsed.ocr_pages,
                    seconds=round(seconds, 3),
                    warnings=parsed.warnings,
                )
            self.files.append(report)
            self.progress(Progress("reading", done, len(to_read), report))

    def _parse(self, files: Sequence[SourceFile], staging: _Staging) -> Iterator[Parsed]:
        """Results as they come: first what an interrupted run already read, then from the children."""
        fresh: list[SourceFile] = []
        for file in files:
            staged = staging.get(file)
            if staged is not None:
                yield file, staged, 0.0
            elif not file.sha256:
                yield file, ParseFailure("damaged", "The file cannot be opened.", "Check who may read it."), 0.0
            else:
                fresh.append(file)
        if not fresh:
            return
        with self._open_reader() as reader:
            for file, result, seconds in reader.parse_all(fresh):
                file = _still_same(file)
                if not isinstance(result, ParseFailure):
                    result = _tidy(result)
                    staging.put(file, result)
                yield file, result, seconds

    def _open_reader(self) -> AbstractContextManager[Reader]:
        if self.reader:
            return self.reader()
        from ingest.sandbox import Sandbox

        return Sandbox(self.settings, self.settings.jobs)

    def _save_vectors(self, folder: Path, rows: Sequence[tuple[int, bytes]], plan: _Plan, embedding: _Embedding) -> int:
        import numpy

        from ingest import vectors

        ids = numpy.fromiter((number for number, _ in rows), dtype=numpy.int64, count=len(rows))
        old_ids, old = numpy.zeros(0, dtype=numpy.int64), None
        version = plan.version
        if version and version.manifest.embedder == plan.embedder:
            old_ids, old = vectors.load(version.folder / "passages.npy", version.folder / "vectors.npy")
        kept = numpy.isin(ids, old_ids, assume_unique=True)
        missing = [(row, rows[row][1]) for row in numpy.flatnonzero(~kept).tolist()]
        found = embedding.cache.get([key for _, key in missing])
        dimensions = version.manifest.dimensions if version and old is not None else embedding.dimensions()
        made = numpy.zeros((len(rows), dimensions), dtype=numpy.float32)
        for row, key in missing:
            made[row] = found[key]
        if old is not None:
            made[kept] = old[numpy.searchsorted(old_ids, ids[kept])]
        vectors.save(folder / "passages.npy", folder / "vectors.npy", ids, made)
        return dimensions

    # -- telling -------------------------------------------------------------------------------------------------------

    def _report(self, version: Version | None, plan: _Plan, began: float, dry_run: bool) -> Report:
        files, changes = list(self.files), plan.changes
        if dry_run:
            files += [FileReport(file.path, "added") for file in changes.new]
            files += [FileReport(file.path, "changed") for _, file in changes.changed]
        files += [FileReport(file.path, "moved", pages=document.pages, passages=document.passages) for document, file in changes.moved]
        files += [FileReport(document.document, "removed") for document in plan.gone]
        for document, _ in changes.unchanged:
            if document.status == "failed":
                files.append(FileReport(document.document, "failed", reason=document.reason, cure=document.cure))
            else:
                files.append(FileReport(document.document, "unchanged", pages=document.pages, passages=document.passages))
        return Report(
            collection=self.collection,
            version=version.name if version else "",
            files=tuple(files),
            warnings=tuple(self.warnings),
            passages=version.manifest.passages if version else 0,
            seconds=round(time.monotonic() - began, 3),
            related=self.related,
        )


def _related(documents: Iterable[Document], editions: Iterable[Edition]) -> tuple[Related, ...]:
    """What `editions` say, by the names shown, in their order."""
    names = {each.id: each.document for each in documents}
    found = [Related(names[each.document], names[each.other], each.kind, each.overlap) for each in editions]
    return tuple(sorted(found, key=lambda each: (each.document.lower(), each.document)))


def fallback_title(path: str) -> str:
    """The title that parsers give a document that states none: its file's name without the extension."""
    from ingest.parse.clean import clean_line

    name = PurePosixPath(path).name
    return clean_line(PurePosixPath(name).stem.replace("_", " ")) or name


def _sources(catalog: Catalog) -> list[Source]:
    return [Source(name, Path(root), tuple(exclude)) for name, root, exclude in json.loads(catalog.fact("sources") or "[]")]


def _still_same(file: SourceFile) -> SourceFile:
    """The file as it was hashed; without hash and time where it changed while it was read, so that it is read again next time."""
    try:
        facts = file.absolute.stat()
    except OSError:
        return dataclasses.replace(file, mtime_ns=0)
    changed = facts.st_size != file.size or (file.mtime_ns and file.source != uploads.SOURCE and facts.st_mtime_ns != file.mtime_ns)
    return dataclasses.replace(file, sha256="", mtime_ns=0) if changed else file


def _tidy(parsed: ParsedDocument) -> ParsedDocument:
    """Pages of nothing but space become empty, so that passages always join to their page."""
    if all(page.text.strip() or not page.text for page in parsed.pages):
        return parsed
    pages = tuple(page if page.text.strip() else Page(page.number, "") for page in parsed.pages)
    return dataclasses.replace(parsed, pages=pages)


def probe(folder: Path) -> None:
    """Opens a version as a reader would and looks up its first passage by number, words and vector."""
    from ingest.vectors import Vectors

    catalog = Catalog.open(folder / "catalog.sqlite")
    try:
        vectors = Vectors.open(folder)
        if not len(vectors):
            return
        first = int(vectors.ids[0])
        passage = catalog.passages([first])
        nearest = vectors.search(vectors.vectors[0], 1)
        if not passage or not nearest or abs(nearest[0][1] - 1.0) > 1e-3:
            raise IndexDamaged("The new version does not find its own first passage.", "Run the command again with --force.")
        catalog.search_keywords(passage[0].text[:200], 1)
    finally:
        catalog.close()


@contextlib.contextmanager
def told_by_sqlite(folder: Path) -> Iterator[None]:
    """SQLite's code for a full disk, as NoSpace, and the one for a disk that failed, as DiskFailed."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits say in which call
        if code == sqlite3.SQLITE_FULL:
            raise NoSpace(f"There is no space left for {folder} ({error}).", "Free some space and run the same command again.") from error
        if code == sqlite3.SQLITE_IOERR:  # a quota that is used up, too: SQLite does not tell them apart
            raise publish.disk_failed(folder, str(error)) from error
        raise


class _Passages:
    """A document → its passages, whose texts are wanted from the embedder."""

    def __init__(self, settings: Settings, embedding: _Embedding) -> None:
        self._settings = settings
        self._embedding = embedding
        self._tokens: Tokens | None = None

    def __call__(self, parsed: ParsedDocument) -> list[DraftPassage]:
        self._tokens = self._tokens or Tokens(self._settings)
        made: list[DraftPassage] = []
        for position, piece in chunk_document(parsed, self._tokens.starts, self._settings):
            text = parsed.pages[position].text[piece.start : piece.end]
            key = self._embedding.want(f"{piece.context}\n{text}" if piece.context else text)
            made.append(DraftPassage(position, piece.start, piece.end, piece.section, piece.context, text, key))
        return made


class _Embedding:
    """Embeds texts on a thread of its own while files are still being parsed; the model is loaded only if a text is new."""

    def __init__(self, path: Path, name: str, load: Callable[[], EmbedderLike], progress: Callable[[Progress], None]) -> None:
        self.cache = EmbeddingCache(path)
        self._path, self._name, self._load, self._progress = path, name, load, progress
        self._queue: queue.Queue[list[tuple[bytes, str]] | None] = queue.Queue()
        self._known: set[bytes] = set()
        self._waiting: list[tuple[bytes, str]] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self._embedder: EmbedderLike | None = None
        self._done = self._total = 0

    def __enter__(self) -> _Embedding:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._stopped.set()
        if self._thread:
            self._queue.put(None)
            self._thread.join()
        self.cache.close()

    def want(self, text: str) -> bytes:
        """The key under which the text's vector will be found after `finish`."""
        key = EmbeddingCache.key(text, self._name)
        if key not in self._known:
            self._known.add(key)
            self._waiting.append((key, text))
            if len(self._waiting) >= (WINDOW_TEXTS if self._thread else FIRST_TEXTS):
                self._hand_over()
        return key

    def finish(self) -> None:
        """Returns when every wanted vector is in the cache."""
        self._hand_over()
        if self._thread:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure

    def dimensions(self) -> int:
        if self._embedder is None:
            self._embedder = self._load()
        return self._embedder.dimensions

    def _hand_over(self) -> None:
        if self._failure:
            raise self._failure
        stored = self.cache.known([key for key, _ in self._waiting])
        missing = [each for each in self._waiting if each[0] not in stored]
        self._waiting = []
        if not missing:
            return
        self._total += len(missing)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="embedding")
            self._thread.start()
        self._queue.put(missing)

    def _work(self) -> None:
        try:
            with contextlib.closing(EmbeddingCache(self._path, check=False)) as cache:
                self._embedder = self._embedder or self._load()
                while (some := self._queue.get()) is not None:
                    for places in in_batches([text for _, text in some]):
                        if self._stopped.is_set():
                            return
                        part = [some[at] for at in places]
                        vectors = self._embedder.passages([text for _, text in part])
                        cache.put({key: vector for (key, _), vector in zip(part, vectors, strict=True)})
                        self._done += len(part)
                        self._progress(Progress("embedding", self._done, self._total))
        except BaseException as error:  # noqa: BLE001 reported by the thread that asked
            self._failure = error


class _Staging:
    """What a run has read but not yet published, so that an interrupted run goes on; and hashes of files that were only touched.

    A file of its own, made when it is first needed and removed when a version is published.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "staged.sqlite"
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> _Staging:
        if self._path.exists():
            try:
                if self._open().execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    self.done()
            except sqlite3.DatabaseError:
                self.done()  # damaged by a lost current: only time is lost with it
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._database:
            self._database.close()
            self._database = None

    def seen(self, file: SourceFile) -> str:
        """The hash of a file that had this size and time before; "" where it is not known."""
        if not self._database:
            return ""
        row = self._database.execute(
            "SELECT sha256 FROM seen WHERE source = ? AND path = ? AND size = ? AND mtime_ns = ?",
            (file.source, file.path, file.size, file.mtime_ns),
        ).fetchone()
        return str(row[0]) if row else ""

    def saw(self, file: SourceFile) -> None:
        self._open().execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", (file.source, file.path, file.size, file.mtime_ns, file.sha256)
        )

    def get(self, file: SourceFile) -> ParsedDocument | None:
        if not self._database or not file.sha256:
            return None
        row = self._database.execute("SELECT body FROM parsed WHERE key = ?", (self._key(file),)).fetchone()
        if row is None:
            return None
        try:
            return _from_json(json.loads(zlib.decompress(row[0])))
        except zlib.error:
            return None  # damaged: it is read again

    def put(self, file: SourceFile, parsed: ParsedDocument) -> None:
        if file.sha256:
            body = zlib.compress(json.dumps(dataclasses.asdict(parsed), ensure_ascii=False).encode(), 1)
            self._open().execute("INSERT OR REPLACE INTO parsed VALUES (?, ?)", (self._key(file), body))

    def drop_parsed(self) -> None:
        """Removes what a run left that was stopped after it had published."""
        if self._database and self._database.execute("SELECT count(*) FROM parsed").fetchone()[0]:
            self.done()

    def done(self) -> None:
        """Removes the file: what it held is published."""
        if self._database:
            self._database.close()
            self._database = None
        for end in ("", "-journal"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _key(self, file: SourceFile) -> str:
        return hashlib.sha256(f"{READING}\0{PurePosixPath(file.path).name}\0{file.sha256}".encode()).hexdigest()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS parsed (key TEXT PRIMARY KEY, body BLOB NOT NULL)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS seen "
                "(source TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, sha256 TEXT, PRIMARY KEY (source, path))"
            )
            self._path.chmod(0o600)
        return self._database


def _from_json(body: dict[str, object]) -> ParsedDocument:
    fields = dict(body)
    pages = tuple(
        Page(
            number=page["number"],
            text=page["text"],
            headings=tuple(Heading(**each) for each in page["headings"]),
            tables=tuple(Table(**each) for each in page["tables"]),
        )
        for page in fields.pop("pages")  # type: ignore[attr-defined]
    )
    return ParsedDocument(
        pages=pages,
        people=tuple(fields.pop("people")),  # type: ignore[arg-type]
        warnings=tuple(fields.pop("warnings")),  # type: ignore[arg-type]
        **fields,  # type: ignore[arg-type]
    )


__all__ = ["Progress", "Reader", "Source", "fallback_title", "refresh", "sources", "told_by_sqlite"]
