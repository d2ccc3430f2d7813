"""A stand-in for rag.client.Client that answers from a script: the pages run against it without an engine or models."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import config
from errors import FootnoteError, UsageError
from records import Records
from ui.backend import Backend

LEAVE = (
    "Leave\n\nAnnual leave\n\nFull-time employees have 25 days of paid leave a year. Part-time employees have leave in "
    "proportion to their hours.\n\n| Years of service | Days |\n| --- | --- |\n| 0 to 5 | 25 |\n| over 5 | 28 |\n\n"
    "- Leave must be asked for two weeks ahead.\n- Five days may be carried over until 31 March."
)
TRAVEL = (
    "Travel\n\nMeals are paid up to $40 a day; see *travel* and <b>hotel</b> rules. "
    "Trains are preferred to planes :smile: below 600 km."
)
DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": 1,
        "source": "company",
        "path": "handbook/leave.md",
        "document": "handbook/leave.md",
        "kind": "md",
        "title": "Leave",
        "date": "2025-03-01",
        "size": 1200,
        "pages": 1,
        "passages": 3,
        "status": "ready",
        "reason": "",
        "cure": "",
        "warnings": [],
        "added": "2025-06-01T10:00:00+00:00",
    },
    {
        "id": 2,
        "source": "company",
        "path": "travel [2025].pdf",
        "document": "travel [2025].pdf",
        "kind": "pdf",
        "title": "Travel policy",
        "date": "2025-01-01",
        "size": 48_000,
        "pages": 3,
        "passages": 5,
        "status": "ready",
        "reason": "",
        "cure": "",
        "warnings": ["Page 3 has no text."],
        "added": "2025-06-01T10:00:00+00:00",
    },
    {
        "id": 3,
        "source": "uploads",
        "path": "salaries.pdf",
        "document": "salaries.pdf",
        "kind": "pdf",
        "title": "",
        "date": None,
        "size": 9_000,
        "pages": 0,
        "passages": 0,
        "status": "failed",
        "reason": "The file is encrypted.",
        "cure": "Save it without a password and add it again.",
        "warnings": [],
        "added": "2025-06-01T10:00:00+00:00",
    },
]


def passage(document: int, quote: str, page: int | None, section: str, number: int) -> dict[str, Any]:
    """A Hit as JSON whose text is `quote`."""
    text = LEAVE if document == 1 else TRAVEL
    row = DOCUMENTS[document - 1]
    start = text.index(quote)
    return {
        "document": row["document"],
        "page": page,
        "section": section,
        "score": 1.0 / number,
        "text": quote,
        "title": row["title"],
        "date": row["date"],
        "start": start,
        "end": start + len(quote),
        "document_id": document,
        "passage_id": number,
        "found_by": "both",
    }


LEAVE_QUOTE = "Full-time employees have 25 days of paid leave a year."
TRAVEL_QUOTE = "Meals are paid up to $40 a day; see *travel* and <b>hotel</b> rules."
PASSAGES = [
    passage(1, LEAVE_QUOTE, None, "Leave › Annual leave", 1),
    passage(2, TRAVEL_QUOTE, 2, "Travel", 2),
    passage(1, "- Five days may be carried over until 31 March.", None, "Leave › Annual leave", 3),
]


def citation(number: int) -> dict[str, Any]:
    """A Citation as JSON of the whole passage `number`."""
    hit = PASSAGES[number - 1]
    return {**{name: hit[name] for name in hit if name not in ("score", "text", "found_by")}, "n": number, "quote": hit["text"]}


SENTENCES: list[dict[str, Any]] = [
    {"text": LEAVE_QUOTE, "how": "quoted", "citations": [citation(1)]},
    {"text": TRAVEL_QUOTE, "how": "quoted", "citations": [citation(2)]},
]


def answer_json(question: str, sentences: list[dict[str, Any]], stopped: bool = False) -> dict[str, Any]:
    """An Answer as JSON."""
    return {
        "answer": " ".join(f"{each['text']} [{each['citations'][0]['n']}]" for each in sentences) or "The documents do not say.",
        "found": bool(sentences),
        "how": "quoted" if sentences else "",
        "citations": [each for sentence in sentences for each in sentence["citations"]],
        "sentences": [{**each, "citations": [c["n"] for c in each["citations"]]} for each in sentences],
        "passages": PASSAGES,
        "model": "SmolLM2-135M-Instruct Q4_0",
        "index_version": "v000001",
        "question": question,
        "timings": {"total": 2.4},
        "usage": {"cpu_seconds": 0.7, "cost": 8.7e-07},
        "currency": "EUR",
        "receipt": "r1",
        "stopped": stopped,
        "notes": ["A newer version of this document exists: travel [2026].pdf"] if sentences else [],
    }


class ScriptedClient:
    """Answers in steps: every look at a running answer moves it on, so a test decides how far it gets.

    Questions with "moon" in them are not in the documents; `fails` is raised by the next call of `ask`.
    """

    def __init__(self, records: Records, *, empty: bool = False, page: Callable[[], bytes] | None = None) -> None:
        self.records = records
        self.empty = empty
        self.page = page or (lambda: png(120, 160))
        self.listed: list[dict[str, Any]] = [dict(each) for each in DOCUMENTS]
        self.asked: list[dict[str, Any]] = []
        self.uploaded: dict[str, bytes] = {}
        self.removed: list[str] = []
        self.folders: list[str] = []
        self.fails: FootnoteError | None = None
        self.hold = False  # while true a running answer stays where it is
        self.running: dict[str, dict[str, Any]] = {}
        self.job_state: dict[str, Any] = {"state": "none", "files": [], "report": None}
        self._lock = threading.Lock()

    def start(self, wait_s: float) -> None:
        pass

    def health(self) -> dict[str, Any]:
        return {"state": "ready"}

    def collections(self) -> list[dict[str, Any]]:
        return (
            []
            if self.empty
            else [
                {
                    "name": "default",
                    "documents": 2,
                    "passages": 8,
                    "version": "v000001",
                    "refreshed": "2025-06-01T10:00:00+00:00",
                },
                {"name": "legal", "documents": 1, "passages": 4, "version": "v000007", "refreshed": "2025-06-01T10:00:00+00:00"},
            ]
        )

    def documents(self, collection: str, user: str) -> list[dict[str, Any]]:
        return [] if self.empty else self.listed

    def suggestions(self, collection: str, user: str) -> list[str]:
        return ["How many days of leave do I have?", "What is paid for meals & <b>hotels</b> ($ a day)?"]

    def ask(
        self,
        question: str,
        collection: str,
        *,
        user: str,
        document: str | None = None,
        history: list[dict[str, str]] | None = None,
        conversation: str | None = None,
        message: int | None = None,
        keep: int | None = None,
    ) -> str:
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        answer_id = f"a{len(self.asked)}"
        self.asked.append(
            {"question": question, "collection": collection, "document": document, "history": history, "message": message}
        )
        if conversation is not None:
            if message is None:
                self.records.add_message(conversation, "user", question, user)
                message = self.records.add_message(conversation, "assistant", "", user, status="writing", answer_id=answer_id)
            else:
                self.records.update_message(message, text="", status="writing", answer_id=answer_id)
        self.running[answer_id] = {"looks": 0, "question": question, "message": message, "stopped": False}
        return answer_id

    def answer(self, answer_id: str) -> dict[str, Any]:
        with self._lock:
            if answer_id not in self.running:
                raise UsageError("The engine does not know this answer.")
            run = self.running[answer_id]
            if not self.hold:
                run["looks"] += 1
            looks = run["looks"]
            sentences = [] if "moon" in run["question"] else SENTENCES
            if run["stopped"] or looks > 6:
                shown = sentences[: max(0, looks - 4)] if run["stopped"] else sentences
                answer = answer_json(run["question"], shown, stopped=run["stopped"])
                if run["message"] is not None:
                    self.records.update_message(run["message"], text=answer["answer"], status="done", answer=answer)
                return {"state": "done", "passages": PASSAGES, "sentences": shown, "answer": answer}
            state = ("queued", "queued", "searching", "reading", "writing", "writing", "writing")[looks]
            return {
                "state": state,
                "position": 2,
                "estimate_s": 8,
                "passages": PASSAGES if looks >= 3 else [],
                "sentences": sentences[: max(0, looks - 4)],
            }

    def events(self, answer_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        return iter(())

    def stop(self, answer_id: str) -> None:
        self.running[answer_id]["stopped"] = True

    def page_text(self, collection: str, document_id: int, page: int | None) -> dict[str, Any]:
        text = LEAVE if document_id == 1 else TRAVEL
        heads = (
            [{"start": 0, "level": 1, "text": "Leave"}, {"start": 7, "level": 2, "text": "Annual leave"}]
            if document_id == 1
            else []
        )
        return {
            "text": text,
            "headings": heads,
            "pages": DOCUMENTS[document_id - 1]["pages"],
            "kind": DOCUMENTS[document_id - 1]["kind"],
        }

    def page_image(self, collection: str, document_id: int, page: int, quotes: list[str], width: int) -> bytes:
        return self.page()

    def original(self, collection: str, document_id: int) -> tuple[str, bytes]:
        return str(DOCUMENTS[document_id - 1]["document"]), b"the file"

    def upload(self, collection: str, label: str, file: BinaryIO) -> dict[str, Any]:
        if label.endswith(".exe"):
            raise UsageError("Programs are not read.", "Add documents.")
        self.uploaded[label] = file.read()
        return {"document": label}

    def remove(self, collection: str, document: str) -> None:
        self.removed.append(document)

    def refresh(self, collection: str) -> str:
        failed = {"document": "salaries.pdf", "reason": "The file is encrypted.", "cure": "Save it without a password."}
        self.job_state = {
            "state": "done",
            "started": 1_750_000_000.0,
            "seconds": 3.2,
            "message": "",
            "cure": "",
            "done": 3,
            "total": 3,
            "files": [
                {
                    "document": "new.md",
                    "status": "added",
                    "pages": 1,
                    "passages": 2,
                    "tables": 1,
                    "warnings": ["1 picture was not read."],
                },
                {"document": "handbook/leave.md", "status": "unchanged"},
                {"status": "failed", **failed},
            ],
            "report": {
                "version": "v000002",
                "added": 1,
                "changed": 0,
                "moved": 0,
                "removed": 0,
                "unchanged": 1,
                "failed": [failed],
                "warnings": ["leave.md and leave old.md say nearly the same."],
                "passages": 9,
                "seconds": 3.2,
            },
        }
        return "j1"

    def add_folder(self, collection: str, path: str) -> str:
        if not path.startswith("/srv"):
            raise UsageError(f"{path} is not a folder.", "Check the path.")
        self.folders.append(path)
        return self.refresh(collection)

    def job(self, collection: str) -> dict[str, Any]:
        return self.job_state

    def shutdown(self) -> None:
        pass


def scripted_backend(home: Path, **how: Any) -> Backend:
    """A backend over a ScriptedClient, ready at once."""
    settings = config.load(home=home)
    records = Records(settings.records)
    backend = Backend(settings, ScriptedClient(records, **how), records)  # type: ignore[arg-type]
    backend.state = "ready"
    return backend


def png(width: int, height: int) -> bytes:
    """A plain white picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    rows = io.BytesIO()
    for _ in range(height):
        rows.write(b"\0" + b"\xff" * width)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.getvalue())) + chunk(b"IEND", b"")
