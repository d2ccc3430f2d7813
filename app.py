"""The web app's front door: `streamlit run app.py`. It serves the pages in ui/, takes uploads, and draws nothing itself.

It also says what a browser may do with the pages: load nothing from anywhere else, and be shown in no other site's frame.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui import backend, parts, upload

HEADERS = {
    # 'unsafe-inline', 'unsafe-eval', data: and blob: are what Streamlit's own pages need; no other host is named
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityHeaders:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


@asynccontextmanager
async def engine_from_the_start(_: st.App) -> AsyncIterator[None]:
    """Start the engine with the web app, not with the first person who opens it."""
    backend.shared()
    yield


def on_script_error(error: Exception) -> bool:
    parts.fault(error)
    return True


app = st.App(
    Path(__file__).parent / "ui" / "front.py",
    routes=[upload.route(backend.shared)],
    middleware=[Middleware(SecurityHeaders)],
    lifespan=engine_from_the_start,
    on_script_error=on_script_error,
)
