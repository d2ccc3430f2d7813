"""The pages of the web app over a scripted client: `streamlit run tests/scripted_app.py`, to look at without an engine."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import streamlit as st  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

import app as front_door  # noqa: E402
from tests.scripted_client import scripted_backend  # noqa: E402
from ui import backend, upload  # noqa: E402

home = Path(os.environ.get("FOOTNOTE_HOME") or tempfile.mkdtemp(prefix="footnote-"))
backend.use(scripted_backend(home))

app = st.App(
    ROOT / "ui" / "front.py",
    routes=[upload.route(backend.shared)],
    middleware=[Middleware(front_door.SecurityHeaders)],
    on_script_error=front_door.on_script_error,
)
