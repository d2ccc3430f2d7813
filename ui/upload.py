"""One uploaded file, streamed → the collection's uploads. The whole file is never in memory.

Streamlit's own uploader keeps every file in memory for as long as the tab is open, so files come through this route instead.
Only pages of this app know its token, and the browser's own Origin must be this host: other sites cannot upload.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errors import EngineUnavailable, FootnoteError
from ui.backend import Backend, report

PATH = "/upload"
MEGABYTE = 1_000_000


def route(backend: Callable[[], Backend]) -> Route:
    """`POST /upload?collection=NAME&label=PATH` with the file as body → {"document"} or {"message", "cure"}."""

    async def upload(request: Request) -> Response:
        try:
            return await _upload(request, backend())
        except ClientDisconnect:
            return _refused(400, "The upload was broken off.", "Choose the file again.")
        except EngineUnavailable as error:
            backend().start()
            return _refused(503, error.message, error.cure)
        except FootnoteError as error:
            return _refused(400, error.message, error.cure)
        except Exception as error:  # noqa: BLE001 - the edge of a request: reported with a number
            number = report(error)
            return _refused(500, "Something went wrong in Footnote itself.", f"The log has the reason under number {number}.")

    return Route(PATH, upload, methods=["POST"])


async def _upload(request: Request, backend: Backend) -> Response:
    if not secrets.compare_digest(request.headers.get("x-footnote-token", "").encode(), backend.upload_token.encode()):
        return _refused(403, "This page is out of date.", "Reload it, then choose the files again.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return _refused(403, "Another site tried to upload a file here.", "Nothing was kept.")
    collection, label = request.query_params.get("collection", ""), request.query_params.get("label", "")
    if not collection or not label:
        return _refused(400, "The file has no name.", "Choose it again.")
    limit = backend.settings.upload_mb * MEGABYTE
    too_large = _refused(
        413,
        f"Larger than {backend.settings.upload_mb} MB.",
        "Put it into a folder on this machine and add that folder, or raise upload_mb.",
    )
    if int(request.headers.get("content-length") or 0) > limit:
        return too_large
    received = 0
    with tempfile.TemporaryFile(dir=backend.settings.home) as spool:
        async for piece in request.stream():
            received += len(piece)
            if received > limit:
                return too_large
            await run_in_threadpool(spool.write, piece)
        if received == 0:
            return _refused(400, "The file is empty.", "Nothing was added.")
        spool.seek(0)
        added = await run_in_threadpool(backend.client.upload, collection, label, spool)
    return JSONResponse({"document": added.get("document") or label})


def _refused(status: int, message: str, cure: str) -> Response:
    return JSONResponse({"message": message, "cure": cure}, status_code=status)
