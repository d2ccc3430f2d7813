"""Settings → the engine process of an index folder: HTTP over a private Unix socket, answers as lines of JSON events.

It answers /health at once and loads the models meanwhile. Questions take turns (desk.py); searches, pages and lists do not wait for
them. SIGTERM ends it in order: what runs is stopped, kept, and told to its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import fcntl
import gc
import json
import logging
import logging.handlers
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from config import Settings
from errors import Busy, DocumentUnreadable, EngineUnavailable, FootnoteError, IndexMissing, UnknownUser, UsageError
from ingest import uploads
from ingest.open import collections
from ingest.publish import collection_folder, current
from rag.desk import Desk, Question, report, turns
from rag.held import HeldIndexes
from rag.jobs import Jobs
from rag.place import Place, fingerprint, place, prepare
from rag.suggest import suggest
from rag.threshold import fitted
from rag.visible import LOCAL, check_user, visible
from records.store import Records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.catalog import Document
    from ingest.embed import EmbedderLike, Vectors
    from ingest.open import Index
    from ingest.sandbox import Sandbox
    from rag.answer import Answerer
    from rag.engine import Model

LOCK_S = 10.0  # seconds to wait for an engine that is just ending
KEEPALIVE_S = 5.0  # seconds of silence after which an empty line tells the reader that the engine lives
GRACE_S = 3  # seconds that open requests are given when the engine ends
LOG_BYTES = 1_000_000  # of one log file; three are kept
IMAGES = 48  # pictures of pages kept in memory, about 0.3 MB each
SEARCHES = 4  # at once; more would only wait for the models, and keep the threads that requests need
BODY_BYTES = 2_000_000  # of a request that is no upload; a long conversation has a few thousand characters
STATUS = {UsageError: 400, UnknownUser: 403, IndexMissing: 404, Busy: 503, EngineUnavailable: 503}

log = logging.getLogger("footnote.engine")


class Engine:
    """What the routes share: models (once they are loaded), open indexes, the desk, refresh jobs, records."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self.stage = "starting"
        self.failure: FootnoteError | None = None
        self.answerer: Answerer | None = None
        self.model: Model | None = None
        self.code = fingerprint(settings)
        self.records = Records(settings.records)
        self.held = HeldIndexes(settings.index, self._embedder_name)
        self.desk = Desk(settings, place(settings).key, self.held, self.records)
        self.jobs = Jobs(settings)
        self.closing = threading.Event()
        self.touched = time.monotonic()
        self._loaded = threading.Event()
        self._sandbox: Sandbox | None = None
        self._sandbox_lock = threading.Lock()
        self._images: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._images_lock = threading.Lock()
        self._suggested: dict[tuple[str, str, str], list[str]] = {}
        self.searches = asyncio.Semaphore(SEARCHES)

    # ---- life

    def load(self) -> None:
        """Load embedder and language model, then begin to answer. What goes wrong is told by /health and to who asks."""
        try:
            self.stage = "loading the models"
            with ThreadPoolExecutor(1, "language model") as beside:  # reading it takes a second that importing torch leaves idle
                language_model = beside.submit(self._language_model)
                from ingest.embed import REMEMBERED, Embedder
                from rag.answer import Answerer, open_reader

                embedder = _OneThread(Embedder(self.settings, REMEMBERED))
                self.answerer = Answerer(self.settings, embedder)  # searching works from here on
                self._loaded.set()
                reader, weights = open_reader(self.settings)
                self.model = language_model.result()
            self.stage = "opening the index"
            self._open_index()
            self.answerer = dataclasses.replace(
                self.answerer, model=self.model, records=self.records, reader=reader, weights=weights
            )
            gc.collect()
            gc.freeze()  # what is loaded now stays: later collections need not look at it
            self._keep_instructions(self.model)
            self.desk.start(self.answerer)
            self.stage = "ready"
            log.info("ready after %.1f s with %s", time.time() - self.started, self.model.name)
        except FootnoteError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: /health must say that loading has ended
            number = report(error)
            self._failed(
                EngineUnavailable("The models could not be loaded.", f"The engine's log has the reason under number {number}.")
            )

    def _language_model(self) -> Model:
        from rag.engine import open_model

        return open_model(self.settings, self._say)

    def _keep_instructions(self, model: Model) -> None:
        """Have the model read now what every prompt begins with."""
        from rag.prompt import live, opening

        try:
            model.keep(opening((), model.chat, live(self.settings.home)))
        except FootnoteError as error:
            log.warning("the prompt's instructions were not read ahead: %s", error)  # whoever asks is told, with the cure

    def _failed(self, error: FootnoteError) -> None:
        log.error("not ready: %s", error)
        self.failure, self.stage = error, "failed"
        self.desk.fail(error)
        self._loaded.set()

    def _open_index(self) -> None:
        """Check and open the default collection now, so that the first question need not wait for it."""
        try:
            with self.held.use(self.settings.collection):
                pass
        except FootnoteError as error:
            log.info("the collection %s is not open: %s", self.settings.collection, error)

    def _say(self, text: str) -> None:
        self.stage = text
        log.info("%s", text)

    def _embedder_name(self) -> str:
        return self.searcher().embedder.name

    def searcher(self) -> Answerer:
        """What searches; waits while the embedder is being loaded."""
        self._loaded.wait()
        if self.answerer is None:
            raise self.failure or EngineUnavailable("The engine is not ready.", "Try again in a moment.")
        return self.answerer

    def interrupt_old(self) -> None:
        """Answers that an engine of this index folder left unfinished when it died are marked so."""
        from rag.desk import INTERRUPTED

        for message in self.records.unfinished(f"{place(self.settings).key}-"):
            self.records.update_message(message.id, text=INTERRUPTED, status="failed")

    def close(self) -> None:
        """End in order. What is still loading or answering after that is ended with the process."""
        ended = self.desk.close()
        self.jobs.close()
        with self._sandbox_lock:
            if self._sandbox is not None:
                self._sandbox.__exit__(None, None, None)
        self.held.close()
        if self.model is not None and ended:
            self.model.close()
        self.records.close()
        if not ended or self.stage not in ("ready", "failed"):
            log.info("ended while at work")
            os._exit(0)  # a thread is in native code, which an ordinary exit would pull away from under it

    # ---- what a health check says

    def health(self) -> dict[str, Any]:
        failure = self.failure
        return {
            "ready": self.stage == "ready",
            "stage": self.stage,
            "code": self.code,
            "pid": os.getpid(),
            "model": self.model.name if self.model is not None else "",
            "level": self.model.level if self.model is not None else "",
            "waiting": self.desk.waiting,
            "running": self.desk.running,
            "seconds": round(time.time() - self.started, 1),
            "error": {"error": type(failure).__name__, "message": failure.message, "cure": failure.cure} if failure else None,
        }

    # ---- documents and pages

    def collections(self) -> list[dict[str, Any]]:
        found = []
        for name in collections(self.settings.index):
            try:
                manifest = current(self.settings.index, name).manifest
            except FootnoteError as error:
                found.append({"name": name, "documents": 0, "passages": 0, "version": "", "refreshed": "", "error": str(error)})
            else:
                found.append(
                    {
                        "name": name,
                        "documents": manifest.documents,
                        "passages": manifest.passages,
                        "version": manifest.version,
                        "refreshed": manifest.created,
                        "refusal": fitted(self.settings.home, name),
                    }
                )
        return found

    def documents(self, collection: str, user: str) -> list[dict[str, Any]]:
        with self.held.use(collection) as index:
            shown = visible(user, index)
            return [_listed(each, index, shown) for each in index.catalog.documents() if each.id in shown or each.status == "failed"]

    def suggestions(self, collection: str, user: str) -> list[str]:
        with self.held.use(collection) as index:
            key = (collection, index.version, user)
            found = self._suggested.get(key)
            if found is None:
                found = suggest(index.catalog, visible(user, index))
                self._suggested = {key: found}
            return found

    def page_text(self, collection: str, document: int, page: int | None, user: str) -> dict[str, Any]:
        with self.held.use(collection) as index:
            found = _document(index, document, user)
            try:
                content = index.catalog.page(document, page)
            except KeyError:
                raise UsageError(f"{found.document} has no page {page}.", f"It has {found.pages} pages.") from None
            return {
                "text": content.text,
                "page": content.number,
                "pages": found.pages if content.number is not None else 0,
                "kind": found.kind,
                "headings": [dataclasses.asdict(each) for each in content.headings],
                "tables": [dataclasses.asdict(each) for each in content.tables],
                "document": found.document,
                "title": found.title,
                "date": found.date,
            }

    def page_image(self, collection: str, document: int, page: int, quotes: list[str], width: int, user: str) -> bytes:
        with self.held.use(collection) as index:
            found = _document(index, document, user)
        path = _original(found)
        key = (found.sha256, page, tuple(quotes), width)
        image = self._images.get(key)
        if image is None:
            image = self._rendering().render_page(path, page, quotes, width)
            with self._images_lock:
                self._images[key] = image
                while len(self._images) > IMAGES:
                    self._images.popitem(last=False)
        return image

    def _rendering(self) -> Sandbox:
        from ingest.sandbox import Sandbox

        with self._sandbox_lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self.settings, 1).__enter__()
            return self._sandbox

    def remove(self, collection: str, document: str, user: str) -> str:
        """Take an uploaded document away; returns the job that publishes the index without it."""
        check_user(user)
        label = document
        with contextlib.suppress(IndexMissing), self.held.use(collection) as index:
            found = next((each for each in index.catalog.documents() if each.document == document), None)
            if found is not None and found.source != uploads.SOURCE:
                raise UsageError(
                    f"{document} lies in the folder {found.source!r}, not among the uploads.",
                    "Delete it there and refresh the collection.",
                )
            label = found.path if found is not None else document
        if not uploads.remove(collection, label, self.settings):
            raise UsageError(f"There is no upload named {document!r}.", "The library page lists the names.")
        return self.jobs.start(collection)


class _OneThread:
    """An embedder that several threads may call, and that works in one: torch keeps threads and buffers for each that calls it."""

    def __init__(self, embedder: EmbedderLike) -> None:
        self._embedder = embedder
        self._thread = ThreadPoolExecutor(1, "embedder")
        self.name, self.dimensions = embedder.name, embedder.dimensions

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._thread.submit(self._embedder.passages, texts).result()

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self._thread.submit(self._embedder.questions, texts).result()

    def count_tokens(self, text: str) -> int:
        return self._embedder.count_tokens(text)


def _document(index: Index, document: int, user: str) -> Document:
    if document not in visible(user, index):
        raise UsageError(
            "This document is not in the collection any longer.", "Ask again, so that the answer points to what is there now."
        )
    return index.catalog.document(document)


def _original(document: Document) -> Path:
    """The original, as long as it is the file that was indexed."""
    try:
        facts = document.absolute.stat()
    except OSError:
        container = next((each for each in document.absolute.parents if each.is_file()), None)
        if container is not None:
            inside = len(document.absolute.relative_to(container).parts)
            name = document.path.rsplit("/", inside)[0]
            raise UsageError(f"{document.document} lies inside {name}.", "Open that file; the text is here.") from None
        raise UsageError(f"The original of {document.document} is no longer at its place.", "Its text is still here.") from None
    if facts.st_size != document.size:
        raise UsageError(f"The original of {document.document} has changed since it was indexed.", "Refresh the collection.")
    return document.absolute


def _listed(document: Document, index: Index, shown: frozenset[int]) -> dict[str, Any]:
    fields = {
        each.name: getattr(document, each.name)
        for each in dataclasses.fields(document)
        if each.name not in ("absolute", "mtime_ns")
    }
    edition = index.catalog.editions().get(document.id)
    if edition is not None and edition.other in shown:
        fields["related"] = {"kind": edition.kind, "other": index.catalog.document(edition.other).document}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


# ---- routes

Handler = Callable[[Engine, Request], Awaitable[Response]]


def application(engine: Engine) -> Starlette:
    """The engine's routes."""

    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            number, started = secrets.token_hex(3), time.monotonic()
            engine.touched = started
            status: int = 500
            try:
                response = await handler(engine, request)
                status = response.status_code
                return response
            except FootnoteError as error:
                status = STATUS.get(type(error), 422)
                kind = error.kind if isinstance(error, DocumentUnreadable) else ""
                return JSONResponse(
                    {"error": type(error).__name__, "message": error.message, "cure": error.cure, "kind": kind}, status
                )
            except ClientDisconnect:
                status = 499
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - the edge: a fault in one request is told under a number and the engine lives on
                fault = report(error)
                cure = f"The engine's log has the reason under number {fault}."
                return JSONResponse(
                    {"error": "FootnoteError", "message": "Something went wrong in the engine.", "cure": cure}, 500
                )
            finally:  # questions travel in bodies, so no path carries one into the log
                log.info("%s %s %s %d %.0f ms", number, method, request.url.path, status, (time.monotonic() - started) * 1000)

        return Route(path, answer, methods=[method])

    return Starlette(
        routes=[
            route("/health", _health),
            route("/shutdown", _shutdown, "POST"),
            route("/collections", _collections),
            route("/collections/{collection}/documents", _documents),
            route("/collections/{collection}/suggestions", _suggestions),
            route("/collections/{collection}/documents/{document:int}/text", _text),
            route("/collections/{collection}/documents/{document:int}/image", _image, "POST"),
            route("/collections/{collection}/documents/{document:int}/original", _file),
            route("/collections/{collection}/uploads", _upload, "POST"),
            route("/collections/{collection}/remove", _remove, "POST"),
            route("/collections/{collection}/refresh", _refresh, "POST"),
            route("/collections/{collection}/folders", _folder, "POST"),
            route("/collections/{collection}/job", _job),
            route("/search", _search, "POST"),
            route("/answers", _ask, "POST"),
            route("/answers/{answer}", _state),
            route("/answers/{answer}/events", _events),
            route("/answers/{answer}/stop", _stop, "POST"),
        ]
    )


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > BODY_BYTES:
            raise UsageError("The request is too long.", "Ask a shorter question, or start a new conversation.")
    try:
        value = json.loads(data or b"{}")
    except ValueError:
        raise UsageError("The request is not JSON.") from None
    if not isinstance(value, dict):
        raise UsageError("The request is not a JSON object.")
    return value


def _user(values: Any) -> str:
    return str(values.get("user") or LOCAL)


def _text_of(values: dict[str, Any], name: str, required: bool = True) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        if value is None and not required:
            return ""
        raise UsageError(f"The request lacks {name!r}.")
    return value


def _whole(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name!r} must be a whole number.")
    return value


async def _health(engine: Engine, _: Request) -> Response:
    return JSONResponse(engine.health())


async def _shutdown(_: Engine, __: Request) -> Response:
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)  # after this response is on its way
    return JSONResponse({"ending": True})


async def _collections(engine: Engine, _: Request) -> Response:
    return JSONResponse(await run_in_threadpool(engine.collections))


async def _documents(engine: Engine, request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(engine.documents, request.path_params["collection"], _user(request.query_params)))


async def _suggestions(engine: Engine, request: Request) -> Response:
    return JSONResponse(
        await run_in_threadpool(engine.suggestions, request.path_params["collection"], _user(request.query_params))
    )


async def _text(engine: Engine, request: Request) -> Response:
    page = request.query_params.get("page")
    if page is not None and not page.isdecimal():
        raise UsageError(f"{page!r} is no page number.")
    where = request.path_params
    return JSONResponse(
        await run_in_threadpool(
            engine.page_text,
            where["collection"],
            where["document"],
            int(page) if page is not None else None,
            _user(request.query_params),
        )
    )


async def _image(engine: Engine, request: Request) -> Response:
    body, where = await _body(request), request.path_params
    page, width = _whole(body, "page"), _whole(body, "width") or 1200
    quotes = body.get("quotes") or []
    if page is None or not isinstance(quotes, list) or not all(isinstance(each, str) for each in quotes):
        raise UsageError("A picture needs a page number and a list of quotes.")
    width = max(100, min(width, 3000))
    image = await run_in_threadpool(engine.page_image, where["collection"], where["document"], page, quotes, width, _user(body))
    return Response(image, media_type="image/png")


async def _file(engine: Engine, request: Request) -> Response:
    def find() -> tuple[Path, str]:
        with engine.held.use(request.path_params["collection"]) as index:
            found = _document(index, request.path_params["document"], _user(request.query_params))
        return _original(found), found.path.rpartition("/")[2]

    path, name = await run_in_threadpool(find)
    return FileResponse(path, media_type="application/octet-stream", headers={"X-Name": quote(name)})


async def _upload(engine: Engine, request: Request) -> Response:
    """The body is the file; it goes to disk as it comes and never lies in memory as a whole."""
    collection, label = request.path_params["collection"], unquote(request.headers.get("x-label", ""))
    check_user(unquote(request.headers.get("x-user", LOCAL)))
    if not label:
        raise UsageError("The upload has no name.")
    collection_folder(engine.settings.index, collection)  # refuses what cannot be a name
    arriving = engine.settings.uploads / f".arriving-{secrets.token_hex(8)}"
    limit = engine.settings.upload_mb * 1_000_000
    size = 0
    await run_in_threadpool(arriving.parent.mkdir, 0o700, True, True)
    try:
        with arriving.open("xb") as file:  # whole before it is kept: a browser that leaves must not leave half a document
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise UsageError(
                        f"{label} is larger than {engine.settings.upload_mb} MB.", "Put it into a folder and add that folder."
                    )
                await run_in_threadpool(file.write, part)

        def keep() -> dict[str, Any]:
            with arriving.open("rb") as stream:
                kept = uploads.add(collection, label, stream, engine.settings)
            return {"document": kept.path, "size": kept.size, "sha256": kept.sha256}

        return JSONResponse(await run_in_threadpool(keep))
    finally:
        arriving.unlink(missing_ok=True)


async def _remove(engine: Engine, request: Request) -> Response:
    body = await _body(request)
    job = await run_in_threadpool(engine.remove, request.path_params["collection"], _text_of(body, "document"), _user(body))
    return JSONResponse({"job": job})


async def _refresh(engine: Engine, request: Request) -> Response:
    collection = request.path_params["collection"]
    check_user(_user(await _body(request)))
    collection_folder(engine.settings.index, collection)
    return JSONResponse({"job": engine.jobs.start(collection)})


async def _folder(engine: Engine, request: Request) -> Response:
    body, collection = await _body(request), request.path_params["collection"]
    check_user(_user(body))
    collection_folder(engine.settings.index, collection)
    path = Path(_text_of(body, "path")).expanduser()
    if not path.is_absolute() or not path.is_dir():
        raise UsageError(f"{path} is not a folder on this machine.", "Give the whole path of a folder, beginning with /.")
    return JSONResponse({"job": engine.jobs.start(collection, (str(path.resolve()),))})


async def _job(engine: Engine, request: Request) -> Response:
    return JSONResponse(engine.jobs.state(request.path_params["collection"]))


async def _search(engine: Engine, request: Request) -> Response:
    body = await _body(request)

    def find() -> list[dict[str, Any]]:
        searcher = engine.searcher()
        with engine.held.use(_text_of(body, "collection")) as index:
            hits = searcher.search(
                _text_of(body, "question"),
                index,
                history=turns(body.get("history")) or (),
                user=_user(body),
                keep=_whole(body, "keep"),
                document=_text_of(body, "document", required=False) or None,
            )
        return [each.as_json() for each in hits]

    async with engine.searches:
        return JSONResponse({"passages": await run_in_threadpool(find)})


async def _ask(engine: Engine, request: Request) -> Response:
    body = await _body(request)
    question = Question(
        question=_text_of(body, "question"),
        collection=_text_of(body, "collection"),
        user=_user(body),
        document=_text_of(body, "document", required=False) or None,
        history=turns(body.get("history")),
        conversation=_text_of(body, "conversation", required=False),
        message=_whole(body, "message"),
        keep=_whole(body, "keep"),
    )
    check_user(question.user)
    asked = await run_in_threadpool(engine.desk.ask, question)
    return JSONResponse({"id": asked.id, "message": asked.message}, 201)


async def _state(engine: Engine, request: Request) -> Response:
    return JSONResponse(engine.desk.find(request.path_params["answer"]).state())


async def _stop(engine: Engine, request: Request) -> Response:
    asked = engine.desk.find(request.path_params["answer"])
    asked.stop.set()  # now, whatever other requests keep the threads
    await run_in_threadpool(engine.desk.end, asked.id)
    return JSONResponse({"stopping": True})


async def _events(engine: Engine, request: Request) -> Response:
    asked = engine.desk.find(request.path_params["answer"])
    after = request.query_params.get("after", "0")
    if not after.isdecimal():
        raise UsageError(f"{after!r} is no number of events.")

    async def lines() -> AsyncIterator[bytes]:
        sent, more, loop = int(after), asyncio.Event(), asyncio.get_running_loop()

        def listener() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(more.set)

        with asked.lock:
            asked.listeners.add(listener)
        try:
            while True:
                more.clear()
                finished, fresh = asked.finished, asked.events[sent:]  # in this order: the last event comes before the end
                sent += len(fresh)
                if fresh:
                    yield b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in fresh)
                    continue
                if finished or engine.closing.is_set():
                    return
                try:
                    await asyncio.wait_for(more.wait(), KEEPALIVE_S)
                except TimeoutError:
                    yield b"\n"
        finally:
            with asked.lock:
                asked.listeners.discard(listener)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


# ---- the process


class _Server(uvicorn.Server):
    """Tells the engine of the end before open requests are waited for: streams end at once, answers are stopped."""

    def __init__(self, settings: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(settings)
        self._ending = ending

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._ending()
        super().handle_exit(sig, frame)


def serve(settings: Settings, idle_exit_s: float = 0) -> None:
    """Serve until SIGTERM or Ctrl-C, or `idle_exit_s` seconds without a request (0: never).

    Returns at once where another engine serves this index folder. Raises EngineUnavailable where no socket can be made.
    """
    found = place(settings)
    prepare(found)
    _logging(settings)
    with found.lock.open("a") as lock:
        if not _taken(lock.fileno()):
            sys.stderr.write("An engine for this index folder is running already.\n")
            return
        engine = Engine(settings)
        listening = _listen(found)
        try:
            found.pid.write_text(
                json.dumps({"pid": os.getpid(), "code": engine.code, "started": engine.started}), encoding="utf-8"
            )
            engine.interrupt_old()
            threading.Thread(target=engine.load, name="load", daemon=True).start()
            sys.stderr.write(f"The engine serves {settings.index} at {found.socket}\n")
            _run(engine, listening, idle_exit_s)
        finally:
            found.socket.unlink(missing_ok=True)  # nobody finds a server that is ending
            found.pid.unlink(missing_ok=True)
            engine.close()
            log.info("ended")


def _taken(lock: int) -> bool:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def _listen(found: Place) -> socket.socket:
    """The socket, readable and writable by this user alone from its first moment."""
    found.socket.unlink(missing_ok=True)  # a dead engine's; the lock says that no living one has it
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(found.socket))
    except OSError as error:
        made.close()
        raise EngineUnavailable(
            f"{found.socket} cannot be made: {error}.", "Set FOOTNOTE_HOME to a folder on a local disk."
        ) from None
    finally:
        os.umask(before)
    made.listen(64)
    return made


def _run(engine: Engine, listening: socket.socket, idle_exit_s: float) -> None:
    def ending() -> None:
        engine.closing.set()
        current = engine.desk
        threading.Thread(target=current.close, name="ending", daemon=True).start()

    # uvicorn gives a signal on to the handler that was there before: these let `serve` end in order
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    server = _Server(
        uvicorn.Config(
            application(engine),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
            loop="asyncio",
            http="h11",
            ws="none",
        ),
        ending,
    )
    if idle_exit_s:
        threading.Thread(target=_watch_idleness, args=(engine, idle_exit_s), name="idleness", daemon=True).start()
    server.run(sockets=[listening])


def _watch_idleness(engine: Engine, idle_exit_s: float) -> None:
    while not engine.closing.wait(min(idle_exit_s, 5.0)):
        idle = time.monotonic() - max(engine.touched, engine.desk.touched)
        if idle > idle_exit_s and not engine.desk.busy and not engine.jobs.busy:
            log.info("ending after %.0f s without a request", idle)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _logging(settings: Settings) -> None:
    """Rotated log in the data folder: request ids, paths, times, faults; never the text of a question or a document."""
    settings.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(
        settings.logs / "engine.log", maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    faulthandler.enable()  # a native crash leaves its Python stack in engine.out
