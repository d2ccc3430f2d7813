"""The library page: what is in a collection, what could not be read and why, and how to add, refresh and remove."""

from __future__ import annotations

import math
import posixpath
import re
from typing import Any

import streamlit as st

from errors import FootnoteError
from ui import parts, upload

ROWS = 20  # documents on one page of the list; each costs the web process about a millisecond a click
NAMES_SHOWN = 200  # of files in the report of a refresh; the rest is counted
COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SLOW_S = 0.1  # seconds of one file from which they are shown
UPLOADS = "uploads"  # the source of documents that came through the browser
BUSY = ("waiting", "running")  # states of a refresh that is not over
CHANGES = (("added", "Added"), ("changed", "Changed"), ("moved", "Moved"), ("removed", "Removed"), ("failed", "Not read"))
WORDS = dict(CHANGES) | {"unchanged": "Unchanged"}


@parts.edge
def page() -> None:
    client = parts.backend().client
    collections = client.collections()
    collection = _collection([each["name"] for each in collections])
    row = next((each for each in collections if each["name"] == collection), {})
    with st.container(key="library"):
        if said := st.session_state.pop("said", ""):
            parts.notice(said, kind="done")
        if trouble := st.session_state.pop("library_trouble", None):
            parts.notice(*trouble)
        documents = client.documents(collection, parts.USER) if row.get("version") else []
        failed = [each for each in documents if each.get("status") == "failed"]
        _header(collection, [each["name"] for each in collections], row, len(documents) - len(failed))
        job = client.job(collection)
        running = job.get("state") in BUSY
        st.fragment(_job, run_every=1.0 if running else None)(collection, running)
        _add(collection, first=not documents)
        if failed:
            _failures(collection, failed)
        if documents:
            _documents(collection, documents)
        elif not running:
            parts.show(
                '<div class="fn-empty"><h3>Nothing here yet</h3><p>Drop a folder above. '
                "Footnote reads the files, and a moment later they can be asked.</p></div>"
            )


def _collection(names: list[str]) -> str:
    state = st.session_state
    if state.get("collection") not in names and state.get("collection") != state.get("new_collection"):
        default = parts.backend().settings.collection
        state["collection"] = default if default in names or not names else names[0]
    chosen: str = state.get("collection") or parts.backend().settings.collection
    return chosen


def _header(collection: str, names: list[str], row: dict[str, Any], ready: int) -> None:
    parts.show('<h1 class="fn-title">Library</h1>')
    with st.container(key="library-bar", horizontal=True, vertical_alignment="bottom", gap="small"):
        listed = [*names, *([collection] if collection not in names else [])]
        chosen = st.selectbox(
            "Collection", listed, index=listed.index(collection), key=f"choose-collection-{collection}-{len(listed)}", width=260
        )
        if chosen != collection:
            st.session_state["collection"], st.session_state["document"] = chosen, ""
            st.rerun()
        with (
            st.popover("New collection", icon=":material/add:", key="new-collection"),
            st.form("new-collection-form", border=False),
        ):
            name = st.text_input("Name", max_chars=64, placeholder="for example handbook", help="Letters, digits, dots, dashes")
            if st.form_submit_button("Create", type="primary"):
                if COLLECTION.fullmatch(name.strip()):
                    st.session_state["collection"] = st.session_state["new_collection"] = name.strip()
                    st.rerun()
                st.error("Use letters, digits, dots and dashes, and start with a letter or digit.")
        if row.get("version"):
            st.button(
                "Refresh",
                icon=":material/sync:",
                key="refresh",
                on_click=_refresh,
                args=(collection,),
                help="Look for new, changed and deleted files",
            )
    facts = [
        parts.count(ready, "document"),
        parts.count(int(row.get("passages") or 0), "passage"),
        f"refreshed {parts.ago(row['refreshed'])}" if row.get("refreshed") else "",
        str(row.get("version") or "not built yet"),
    ]
    parts.quiet(" · ".join(each for each in facts if each))
    if measured := (row.get("refusal") or {}).get("measured"):
        false, lost = (measured[name]["mean"] for name in ("false_answers", "wrong_refusals"))
        parts.quiet(
            f"Measured on its own questions: {false:.0%} of what it cannot answer is answered all the same, "
            f"{lost:.0%} of what it can answer is refused"
        )


def _refresh(collection: str) -> None:
    _try(lambda: parts.backend().client.refresh(collection))


def _try(act: Any) -> bool:
    """Do what a click asked for; what goes wrong is shown in the next drawing."""
    try:
        act()
    except FootnoteError as error:
        st.session_state["library_trouble"] = (error.message, error.cure)
        return False
    return True


def _add(collection: str, first: bool) -> None:
    backend = parts.backend()
    open_first = st.session_state.setdefault(f"adding-{collection}", first)  # and not closed again by the first document
    with st.expander("Add documents", expanded=open_first, icon=":material/library_add:", key=f"add-{collection}"):
        how = st.segmented_control(
            "How",
            ["From this computer", "A folder on the server"],
            default="From this computer",
            required=True,
            key="add-how",
            label_visibility="collapsed",
        )
        if how == "From this computer":
            parts.upload_view(
                {
                    "collection": collection,
                    "token": backend.upload_token,
                    "path": upload.PATH,
                    "limit_mb": backend.settings.upload_mb,
                },
                key=f"upload-{collection}",
                finished=lambda: _uploaded(collection),
            )
        else:
            with st.form("add-folder", border=False):
                path = st.text_input(
                    "Folder",
                    placeholder="/srv/documents/handbook",
                    help="On the machine that runs Footnote. Files stay where they are and are read again when they change.",
                )
                if (
                    st.form_submit_button("Add this folder", type="primary")
                    and path.strip()
                    and _try(lambda: backend.client.add_folder(collection, path.strip()))
                ) or "library_trouble" in st.session_state:
                    st.rerun()


def _uploaded(collection: str) -> None:
    result = (st.session_state.get(f"upload-{collection}") or {}).get("finished") or {}
    if result.get("kept"):
        _refresh(collection)


@parts.edge
def _job(collection: str, was_running: bool) -> None:
    """What the refresh is doing now, or what the last one did; drawn again every second while one runs."""
    job = parts.backend().client.job(collection)
    running = job.get("state") in BUSY
    if running != was_running:
        st.rerun()
    if running:
        done, total = int(job.get("done") or 0), int(job.get("total") or 0)
        label = (
            f"Reading {min(done + 1, total)} of {total}"
            if total and done < total
            else "Building the index"
            if total
            else "Looking for changes"
        )
        with st.container(key="job", border=True):
            st.progress(min(1.0, done / total) if total else 0.0, text=label)
            _files(job.get("files") or [], running=True)
        return
    if job.get("message"):
        parts.notice(job["message"], job.get("cure", ""))
    report = job.get("report")
    if report:
        _report(report, job)


def _files(files: list[dict[str, Any]], running: bool = False) -> None:
    shown = files[-8:] if running else files[:NAMES_SHOWN]
    rows = []
    for each in shown:
        what = parts.escape(each.get("status", ""))
        word = parts.escape(WORDS.get(each.get("status", ""), each.get("status", "")))
        facts = " · ".join(
            fact
            for fact in (
                parts.count(each["pages"], "page") if each.get("pages") else "",
                parts.count(each["passages"], "passage") if each.get("passages") else "",
                parts.count(each["tables"], "table") if each.get("tables") else "",
                parts.count(each["ocr_pages"], "scanned page") if each.get("ocr_pages") else "",
                f"{each['seconds']:.1f} s" if each.get("seconds", 0) >= SLOW_S else "",
                *each.get("warnings", ()),
            )
            if fact
        )
        why = " ".join(part for part in (each.get("reason", ""), each.get("cure", "")) if part)
        below = f'<span class="fn-quiet">{parts.escape(why or facts)}</span>' if why or facts else ""
        name = f'<span class="fn-name">{parts.escape(each["document"])}</span>'
        rows.append(f'<li>{name}<span class="fn-tag fn-{what}">{word}</span>{below}</li>')
    if rows:
        more = len(files) - len(shown)
        rest = f'<p class="fn-quiet">and {more:,} more</p>' if more > 0 and not running else ""
        parts.show(f'<ul class="fn-files">{"".join(rows)}</ul>{rest}')


def _report(report: dict[str, Any], job: dict[str, Any]) -> None:
    """The last refresh in one line, and its files when opened."""
    files = job.get("files") or []
    counts = {status: _count(report, files, status) for status, _ in CHANGES}
    said = [f"{number:,} {word.lower()}" for (status, word) in CHANGES if (number := counts[status])]
    seconds = report.get("seconds")
    when = parts.ago(job["finished"]) if job.get("finished") else ""
    line = (
        "Last refresh: "
        + (", ".join(said) or "nothing had changed")
        + (f" · {seconds:.1f} s" if seconds is not None else "")
        + (f" · {when}" if when else "")
    )
    changed = [each for each in files if each.get("status") != "unchanged"]
    warnings = report.get("warnings") or []
    related = report.get("related") or []
    if not changed and not warnings and not related:
        parts.quiet(line)
        return
    with st.expander(parts.plain(line), icon=":material/history:", key="last-refresh"):
        for each in warnings:
            parts.notice(str(each))
        _files(changed)
        if related:
            rows = "".join(
                f'<li><span class="fn-name">{parts.escape(each["document"])}</span>'
                f'<span class="fn-quiet">{parts.escape(_relation(each["kind"], each["other"]))}</span></li>'
                for each in related[:NAMES_SHOWN]
            )
            rest = f'<p class="fn-quiet">and {len(related) - NAMES_SHOWN:,} more</p>' if len(related) > NAMES_SHOWN else ""
            parts.show(f'<h3>Older versions and near-duplicates</h3><ul class="fn-files">{rows}</ul>{rest}')


def _relation(kind: str, other: str) -> str:
    return f"older version; newer: {other}" if kind == "older" else f"nearly the same as {other}"


def _count(report: dict[str, Any], files: list[dict[str, Any]], status: str) -> int:
    given = report.get(status)
    if isinstance(given, int):
        return given
    if isinstance(given, list):
        return len(given)
    return sum(1 for each in files if each.get("status") == status)


def _failures(collection: str, failed: list[dict[str, Any]]) -> None:
    """What could not be read, why, and what to do; an upload can be taken away here, a file of a folder in its folder."""
    parts.show(f'<h2 class="fn-section">{parts.count(len(failed), "file")} could not be read</h2>')
    uploaded = [each for each in failed if each.get("source") == UPLOADS][:ROWS]
    for each in uploaded:
        with st.container(key=f"failed-{each['id']}", horizontal=True, vertical_alignment="center", gap="small", wrap=False):
            _files([each])
            remove = f"remove-{each['id']}"
            st.button("Remove", key=remove, type="tertiary", on_click=_remove, args=(collection, each["document"]))
    _files([each for each in failed if each not in uploaded])


def _remove(collection: str, document: str) -> None:
    if _try(lambda: parts.backend().client.remove(collection, document)):
        st.session_state["said"] = f"{document} is being removed."


def _documents(collection: str, documents: list[dict[str, Any]]) -> None:
    parts.show('<h2 class="fn-section">Documents</h2>')
    ready = [each for each in documents if each.get("status") != "failed"]
    wanted = ""
    if len(documents) > ROWS // 2:
        wanted = (
            st.text_input(
                "Find a document", key="find-document", placeholder="Find by name or title", label_visibility="collapsed"
            )
            .strip()
            .lower()
        )
    found = [each for each in ready if wanted in f"{each['document']} {each.get('title', '')}".lower()] if wanted else ready
    pages = max(1, math.ceil(len(found) / ROWS))
    number = st.pagination(pages, key=f"pages-{collection}-{wanted}") if pages > 1 else 1
    shown = found[(number - 1) * ROWS : number * ROWS]
    if not shown:
        parts.quiet("No document has that name.")
    with st.container(key="documents", gap=None):
        for each in shown:
            with st.container(key=f"row-{each['id']}", horizontal=True, vertical_alignment="center", gap="small", wrap=False):
                st.button(
                    parts.plain(each["document"]),
                    key=f"document-{each['id']}",
                    type="tertiary",
                    width="stretch",
                    wrap=False,
                    on_click=_open,
                    args=(each["id"],),
                )
                st.html(f'<span class="fn-facts">{parts.escape(_facts(each))}</span>', width="content")

    chosen = next((each for each in documents if each["id"] == st.session_state.get("document_open")), None)
    if chosen:
        name = parts.plain(posixpath.basename(chosen["document"]))
        st.dialog(name, width="medium", on_dismiss=_close)(_detail)(collection, chosen)


def _open(document: int) -> None:
    st.session_state["document_open"] = document
    st.session_state.pop("removing", None)


def _close() -> None:
    st.session_state.pop("document_open", None)


def _facts(document: dict[str, Any]) -> str:
    warnings = document.get("warnings") or ()
    return " · ".join(
        fact
        for fact in (
            {"older": "older version", "alike": "near-duplicate"}.get((document.get("related") or {}).get("kind", ""), ""),
            parts.count(len(warnings), "remark") if warnings else "",
            parts.count(int(document["pages"]), "page")
            if document.get("pages") and document.get("kind") in ("pdf", "pptx")
            else "",
            parts.count(int(document.get("passages") or 0), "passage"),
            document.get("date") or "",
        )
        if fact
    )


@parts.edge
def _detail(collection: str, document: dict[str, Any]) -> None:
    backend = parts.backend()
    facts = {
        "Name": document["document"],
        "Title": document.get("title", ""),
        "Format": document.get("kind", ""),
        "Date in the document": document.get("date") or "none stated",
        "Pages": str(document.get("pages") or ""),
        "Passages": f"{int(document.get('passages') or 0):,}",
        "Tables": str(document.get("tables") or ""),
        "Scanned pages": str(document.get("ocr_pages") or ""),
        "Size": f"{int(document.get('size') or 0) / 1000:,.0f} kB",
        "Added": parts.ago(document.get("added", "")),
        "Source": document.get("source", ""),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{parts.escape(value)}</dd>" for name, value in facts.items() if value)
    parts.show(f'<dl class="fn-list">{rows}</dl>')
    if related := document.get("related"):
        said = _relation(related["kind"], related["other"])
        parts.notice(said[0].upper() + said[1:], kind="done")
    for warning in document.get("warnings") or ():
        parts.notice(warning)
    uploaded = document.get("source") == UPLOADS
    with st.container(horizontal=True, gap="small"):
        if st.button("Ask this document", type="primary", key="ask-this", icon=":material/chat:"):
            st.session_state["collection"], st.session_state["document"] = collection, document["document"]
            st.session_state["scope_of"] = ""
            _close()
            st.switch_page(st.session_state["pages"]["chat"])
        st.download_button(
            "Original",
            lambda: backend.client.original(collection, int(document["id"]))[1],
            key="download-this",
            file_name=posixpath.basename(document["document"]),
            on_click="ignore",
            icon=":material/download:",
        )
        remove = uploaded and st.button("Remove", key="remove-this", icon=":material/delete:")
    if not uploaded:
        parts.quiet("To remove it, delete the file in its folder and refresh the collection.")
    if remove:
        st.session_state["removing"] = document["id"]
    if st.session_state.get("removing") == document["id"]:
        parts.notice("Remove it from the collection? Answers will no longer use it.", "The uploaded copy is deleted.")
        if st.button("Yes, remove it", type="primary", key="remove-yes"):
            _remove(collection, document["document"])
            _close()
            st.rerun()
