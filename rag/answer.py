"""The steps from a question to a cited answer, in order: read this file first.

condense → retrieve (who asks decides what exists) → an amount to look up or compute? → enough evidence? → prompt → write, each sentence
checked → other sources that contradict it → receipt.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from errors import UsageError
from rag.condense import condense
from rag.conflict import differing
from rag.cost import cost, cpu_seconds
from rag.evidence import WEIGHTS, Weights, evidence, load_weights, only
from rag.figures import figure
from rag.prompt import NOT_FOUND, Wording, live, opening, prompt
from rag.receipt import MadeWith, receipt
from rag.retrieve import retrieve
from rag.threshold import threshold
from rag.types import Answer, Hit, Prompt, Sentence, Turn
from rag.visible import LOCAL, visible
from rag.write import Writing, promising, undecided, write

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.engine import Model
    from rag.reader import Reader
    from records.store import Records

Emit = Callable[[dict[str, Any]], None]


def open_reader(settings: Settings) -> tuple[Reader | None, Weights]:
    """The reader that the settings name, with the weights fitted for it; without one, evidence goes by the embedder alone.

    A relative folder counts from the checkout. Raises ModelMissing where a reader is named and is not what it should be.
    """
    if not settings.reader:
        return None, WEIGHTS
    from rag.reader import Reader

    folder = ROOT / settings.reader
    weights = load_weights(folder)
    return Reader(folder, settings.threads), weights


def _silent(_: dict[str, Any]) -> None:
    pass


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True, slots=True)
class Answerer:
    """What answering needs, loaded once: the command line, the engine process and the evaluation all use this class.

    `model` may be None where only `search` is called; `records` None means that no receipt is kept. `reader` and `weights` go
    together: see `open_reader`. `shown_from` None means the collection's threshold, `wording` None the prompt that is live.
    """

    settings: Settings
    embedder: EmbedderLike
    model: Model | None = None
    records: Records | None = None
    reader: Reader | None = None
    weights: Weights = WEIGHTS
    shown_from: float | None = None
    wording: Wording | None = None

    def search(
        self,
        question: str,
        index: Index,
        *,
        history: Sequence[Turn] = (),
        document: str | None = None,
        user: str = LOCAL,
        keep: int | None = None,
    ) -> list[Hit]:
        """The passages that an answer would be written from, best first. Raises UsageError, UnknownUser."""
        return self._hits(condense(_checked(question), history), index, _allowed(index, document, user), keep)

    def answer(
        self,
        question: str,
        index: Index,
        *,
        history: Sequence[Turn] = (),
        document: str | None = None,
        user: str = LOCAL,
        keep: int | None = None,
        emit: Emit = _silent,
        should_stop: Callable[[], bool] = _never,
        conversation: str = "",
    ) -> Answer:
        """Answer `question` from `index`; `emit` hears of stages, sources and sentences as they come.

        Args:
            history: the conversation before, oldest first.
            document: a glob; only documents whose name matches are looked at.
            user: who asks; decides which documents exist.
            keep: passages for the prompt, settings.keep_passages unless told.
            should_stop: asked between tokens; when true the answer ends with what is shown so far.

        Raises UsageError for an empty question or a glob that matches nothing, UnknownUser, EngineUnavailable.
        """
        if self.model is None:
            raise TypeError("this Answerer was made for search only")
        clock, cpu = _Clock(), cpu_seconds()
        emit({"event": "stage", "stage": "searching"})
        searched = condense(_checked(question), history)
        allowed = _allowed(index, document, user)
        hits = self._hits(searched, index, allowed, keep)
        clock.lap("search")
        amount = figure(searched, index, allowed, hits)
        if amount is not None:
            hits = list(amount.hits)
            clock.lap("figures")
        emit({"event": "sources", "passages": [each.as_json() for each in hits]})
        emit({"event": "stage", "stage": "reading"})
        shown_from = self.shown_from or threshold(self.settings.home, index.manifest.collection, self.weights)
        weights = dataclasses.replace(self.weights, threshold=shown_from)
        computed = amount.sentence if amount is not None else None
        stop_reading = self._read_ahead(() if computed else hits)
        found = evidence(searched, () if computed or should_stop() else hits, self.embedder, self.reader, weights)
        if amount is not None and amount.may_quote is not None:
            found = only(found, hits, amount.may_quote)
        if not found.enough:
            stop_reading()
        clock.lap("evidence")
        shown: list[Sentence] = []
        if computed is not None:
            clock.mark("first_sentence")
            shown.append(computed)
            emit(_told(computed))
        differ, notes = "", list[str]()
        made: Prompt | None = None
        spent = self.model.usage()
        if found.enough and not should_stop():
            room = self.model.context_tokens - self.settings.answer_tokens
            asked_about = undecided(found, hits) if self.model.level == "verbatim" else promising(found, hits)
            wording = self.wording or live(self.settings.home)
            made = prompt(searched, asked_about, self.model.chat, room, wording) if asked_about else None
            if made is not None and self.model.level != "verbatim" and len(made.hits) < len(asked_about):
                notes.append(f"Only {len(made.hits)} of {len(asked_about)} passages fit into the model's window.")
            clock.lap("prompt")
            emit({"event": "stage", "stage": "writing"})
            if found.candidates:
                writing = Writing(
                    searched, tuple(hits), made, found, self.model.level, self.settings.answer_sentences, self.settings.answer_tokens
                )
                for sentence in write(writing, self.model, should_stop):
                    if not shown:
                        clock.mark("first_sentence")
                    shown.append(sentence)
                    emit(_told(sentence))
                    if should_stop():
                        break
                else:
                    other, differ = differing(shown, found.candidates, hits)
                    if other is not None:
                        shown.append(other)
                        emit(_told(other))
            clock.lap("writing")
        stopped = should_stop()
        if amount is not None and not shown and amount.note:
            notes.append(amount.note)
        clock.mark("total")
        used = {name: value - spent.get(name, 0) for name, value in self.model.usage().items()}
        cpu = cpu_seconds() - cpu
        answer = Answer(
            text=_text(shown) or ("" if stopped else NOT_FOUND),
            sentences=tuple(shown),
            found=bool(shown),
            hits=tuple(hits),
            model=self.model.name,
            index_version=index.version,
            timings=clock.seconds,
            usage={**used, "cpu_seconds": round(cpu, 3), "cost": cost(cpu, self.settings)},
            currency=self.settings.currency,
            question=searched,
            stopped=stopped,
            notes=(*([differ] if differ else []), *notes),
        )
        if self.records is not None:
            made_with = MadeWith(
                self.settings, index.manifest, self.reader.name if self.reader else "", weights, keep or self.settings.keep_passages
            )
            number = receipt(answer, question, history, made, document, made_with, self.records, user, conversation)
            answer = dataclasses.replace(answer, receipt=number)
        return answer

    def _hits(self, searched: str, index: Index, allowed: frozenset[int], keep: int | None) -> list[Hit]:
        keep, pool = keep or self.settings.keep_passages, self.settings.pool_passages
        return retrieve(searched, index, self.embedder, keep, allowed, pool, self.reader)

    def _read_ahead(self, hits: Sequence[Hit]) -> Callable[[], None]:
        """Have a model that writes read the instructions and the surest passage while the evidence is still weighed; what ends that."""
        if self.model is None or self.model.level == "verbatim" or not hits:
            return lambda: None
        return self.model.expect(opening(hits, self.model.chat, self.wording or live(self.settings.home)))


def _allowed(index: Index, document: str | None, user: str) -> frozenset[int]:
    """The documents that may be looked at: what `user` may see of those that match the glob `document`."""
    allowed = visible(user, index)
    if document:
        allowed = allowed & frozenset(index.catalog.match(document))
        if not allowed:
            raise UsageError(f"No document matches {document!r}.", "Names are paths as the library page shows them; * matches any part.")
    return allowed


class _Clock:
    """Seconds by step since the last lap, and since the start."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 4), now

    def mark(self, name: str) -> None:
        self.seconds[name] = round(time.monotonic() - self.started, 4)


def _checked(question: str) -> str:
    plain = " ".join(question.split())
    if not plain:
        raise UsageError("The question is empty.", "Type a question.")
    if len(plain) > 4000:
        raise UsageError(f"The question has {len(plain)} characters; at most 4,000 are read.", "Ask a shorter question.")
    return plain


def _told(sentence: Sentence) -> dict[str, Any]:
    return {
        "event": "sentence",
        "text": sentence.text,
        "how": sentence.how,
        "key": sentence.key,
        "citations": [each.as_json() for each in sentence.citations],
    }


def _text(sentences: Sequence[Sentence]) -> str:
    return " ".join(f"{each.text} " + "".join(f"[{number}]" for number in dict.fromkeys(c.n for c in each.citations)) for each in sentences)
