"""Every setting: default, unit, reason. The only reader of the environment and of footnote.toml.

A command line flag beats the environment (`FOOTNOTE_<NAME>`), which beats `footnote.toml` beside this file or in
`FOOTNOTE_HOME`, which beats what `python -m tune gate` let go live, which beats the default. `docs/settings.md` is checked
against this file by a test.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import UsageError

ROOT = Path(__file__).resolve().parent
LIVE = "live.jsonl"  # in the data folder: what went live and what was taken back, a line each, oldest first
TUNED = ("adapter", "reader", "model_level")  # settings that such a decision may hold


def setting(default: Any, reason: str) -> Any:
    """A field with the reason for its default, which `docs/settings.md` repeats."""
    return field(default=default, metadata={"reason": reason})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, resolved. Paths are absolute; sizes and times name their unit."""

    index: Path = setting(ROOT / "indexes", "folder of built indexes; one engine process serves one such folder")
    home: Path = setting(ROOT / "var", "data folder: records, uploads, converted models, logs, socket (FOOTNOTE_HOME)")
    collection: str = setting("default", "collection used when none is named")

    # models
    model: str = setting("", "path of a GGUF model; empty: the bundled SmolLM2-135M-Instruct")
    adapter: str = setting("", "path of a GGUF LoRA adapter for that model, as python -m tune adapter makes them; empty: none")
    model_level: str = setting("", "verbatim, compressed or free; empty: verbatim for the bundled model, free for others")
    embedder: str = setting("", "folder of a sentence-transformers model; empty: the bundled all-MiniLM-L6-v2")
    embedding: str = setting(
        "exact", "exact, or bf16: passages and questions in 16 bits where the processor can, faster; a change embeds everything anew"
    )
    reader: str = setting("models/reader", "folder of the trained reader that marks answers in passages; empty: the embedder alone")
    context_tokens: int = setting(3072, "tokens of the language model's window; a prompt with passages has 1500, SmolLM2 could read 8192")
    memory_mb: int = setting(1024, "MB for what the language model has read: running prompts, then earlier ones that new ones begin like")
    threads: int = setting(0, "threads for models; 0: all cores this process may use")
    server_url: str = setting("", "OpenAI-compatible server used instead of the in-process model; empty: none")
    server_model: str = setting("", "model name sent to server_url")
    server_key: str = setting("", "bearer token for server_url")

    # reading files
    jobs: int = setting(0, "child processes that parse; 0: one a core")
    parse_timeout_s: int = setting(
        30, "seconds of processor time a file may take to parse, plus 10 for each 10 MB; by the clock eight times as long"
    )
    parse_memory_mb: int = setting(1500, "resident MB of one parsing child before it is ended")
    max_file_mb: int = setting(100, "MB of one file; larger ones are reported, not read")
    max_pages: int = setting(5000, "pages read of one document")
    max_chars: int = setting(20_000_000, "characters kept of one document")
    unpack: bool = setting(False, "read what archives hold and what is attached to mails and PDFs, too, as documents of their own")
    ocr: bool = setting(True, "read scanned pages with offline OCR where rapidocr is installed")
    prune_limit: float = setting(0.30, "share of a source's documents that may vanish before a refresh stops and asks")

    # passages and retrieval
    passage_tokens: int = setting(180, "tokens of one passage; the embedder reads 256 and the heading path needs room")
    keep_passages: int = setting(5, "passages that reach the prompt (-k)")
    pool_passages: int = setting(100, "passages taken from each of keywords and vectors before they are fused")
    keep_versions: int = setting(3, "published versions kept for rollback")

    # answers
    answer_tokens: int = setting(160, "most tokens of one answer; three or four sentences")
    answer_sentences: int = setting(3, "most sentences shown of one answer")
    answers_at_once: int = setting(
        4, "answers on the way at once, of which one searches and the others are written; the model reads them side by side"
    )
    queue_limit: int = setting(32, "questions that may wait; the next one is told the engine is busy")
    queue_limit_person: int = setting(8, "of these, questions of one person (conversation, as long as there is one user)")
    seed: int = setting(0, "seed for sampling; decoding is greedy, so it matters only to samplers that use it")

    # cost, an estimate: CPU-seconds × watts × price
    watts: float = setting(15.0, "W of one busy core, an assumption: 65 to 120 W over 4 to 8 cores; better: what a plug meter shows")
    price_per_kwh: float = setting(0.30, "price of a kWh in `currency`, an assumption near European households' 0.29; yours is on the bill")
    currency: str = setting("EUR", "currency of price_per_kwh; a name only, nothing is converted")

    # web app
    port: int = setting(8501, "port of the web app on 127.0.0.1")
    upload_mb: int = setting(100, "MB of one uploaded file")

    @property
    def records(self) -> Path:
        """The SQLite file of conversations, feedback and receipts."""
        return self.home / "records.sqlite"

    @property
    def uploads(self) -> Path:
        """Uploaded originals, content-addressed, a folder a collection."""
        return self.home / "uploads"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def models(self) -> Path:
        """Converted and pulled models."""
        return self.home / "models"


def load(**flags: Any) -> Settings:
    """Settings from flags, environment, footnote.toml and defaults, in that order; a flag of None is absent.

    Raises UsageError for an unknown name or a value of the wrong type.
    """
    fields = {each.name: each for each in dataclasses.fields(Settings)}
    home = Path(os.environ.get("FOOTNOTE_HOME") or ROOT / "var").expanduser().resolve()
    values: dict[str, Any] = {}
    for toml in (ROOT / "footnote.toml", home / "footnote.toml"):
        if toml.is_file():
            try:
                found = tomllib.loads(toml.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"{toml} cannot be read: {error}.", "Mend the line it names.") from None
            for name in found:
                if name not in fields:
                    raise UsageError(f"{toml} sets {name!r}, which is no setting.", "See docs/settings.md for the names.")
            values.update(found)
    for name in fields:
        text = os.environ.get(f"FOOTNOTE_{name.upper()}")
        if text is not None:
            values[name] = text
    for name, value in flags.items():
        if name not in fields:
            raise TypeError(f"no setting named {name}")
        if value is not None:
            values[name] = value
    values = {**live(Path(values.get("home") or home).expanduser().resolve()), **values}
    return Settings(**{name: _typed(fields[name], value) for name, value in values.items()})


def live(home: Path) -> dict[str, str]:
    """Settings that went live after they had scored better, with the files they name inside the data folder `home`."""
    standing: dict[str, str] = {}
    for decision in standing_decisions(home):
        standing.update(decision["settings"])
    return {name: str(home / value) if name in ("adapter", "reader") and value else value for name, value in standing.items()}


def standing_decisions(home: Path) -> list[dict[str, Any]]:
    """The decisions that were not taken back, oldest first. Raises UsageError where they cannot be read: none is guessed."""
    path = home / LIVE
    standing: list[dict[str, Any]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            decision = json.loads(line)
            if decision["action"] == "back":
                standing.pop()
            elif all(name in TUNED and isinstance(value, str) for name, value in decision["settings"].items()):
                standing.append(decision)
            else:
                raise ValueError(f"settings {decision['settings']}")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        cure = "Restore it from a backup, or move it away: nothing that was trained is live then."
        raise UsageError(f"{path} cannot be read ({error!r}).", cure) from None
    return standing


def _typed(known: dataclasses.Field[Any], value: Any) -> Any:
    kind: Any = type(known.default)
    try:
        if isinstance(known.default, Path):
            return Path(value).expanduser().resolve()
        if kind is bool and isinstance(value, str):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
        if kind is bool and not isinstance(value, bool):
            raise ValueError
        return kind(value)
    except (KeyError, ValueError, TypeError):
        raise UsageError(f"{known.name} = {value!r} is not a {kind.__name__}.", "See docs/settings.md.") from None
