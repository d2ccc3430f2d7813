"""A receipt → the same text again, by the steps that made it; or what changed since, and what is no longer kept.

The answer is made from the receipt's own question, history, user, document filter, settings, prompt, evidence weights and index
version. What is no longer there is replaced by today's, and said. Nothing is written: no receipt, no index. The code is today's.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from errors import FootnoteError, UsageError
from rag.answer import Answerer, open_reader
from rag.evidence import Signs, Weights
from rag.place import code_version
from rag.prompt import live, parsed
from rag.receipt import settings_json
from rag.threshold import threshold
from rag.types import Turn

if TYPE_CHECKING:
    from ingest.embed import EmbedderLike
    from ingest.open import Index
    from rag.engine import Model
    from rag.reader import Reader
    from records.store import Receipt

# Settings that no answer depends on: where things lie, how files are read, what the page and the accounts show.
BESIDE = frozenset(
    """index home collection port upload_mb jobs parse_timeout_s parse_memory_mb max_file_mb max_pages max_chars ocr prune_limit
    passage_tokens keep_versions queue_limit watts price_per_kwh currency""".split()
)
OWN = ("index", "home", "server_key")  # always today's: a receipt does not say where things lie now, nor any secret
ERASED = {
    "document": "Source no longer kept: a document that this answer shows was purged, and the receipt's text went with it.",
    "conversation": "The receipt's text is no longer kept: its conversation was deleted.",
    "altered": "The receipt's text was altered after it was written, so it says nothing about the answer.",
    "": "The receipt's text is no longer kept.",
}
EXIT = {"same": 0, "differs": 3, "gone": 10}
DAMAGED = 4  # exit code where the chain of receipts is broken, whatever the text


@dataclass(frozen=True, slots=True)
class Replay:
    """`verdict`: same (the same sentences from the same places), differs, or gone (it cannot be answered again).

    `broken` says what is wrong with the chain of receipts at this one, `gone` what is no longer kept, `changed` what else is not as
    it was. `now` is None where nothing could be answered; `difference` is a unified diff of sentences and citations.
    """

    receipt: str
    created: str
    verdict: str
    then: str
    now: str | None
    broken: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    difference: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 same, 3 differs, 10 gone; 4 where the chain is broken."""
        return DAMAGED if self.broken else EXIT[self.verdict]


@dataclass(frozen=True, slots=True)
class Openers:
    """How embedder and language model are opened from settings; tests bring their own."""

    embedder: Callable[[Settings], EmbedderLike]
    model: Callable[[Settings], Model]


def replay(receipt: Receipt, broken: Sequence[str], settings: Settings, openers: Openers | None = None) -> Replay:
    """Answer again what `receipt` tells of and compare. `broken` is what `Records.verify_receipts` says of it."""
    body = receipt.body
    if body is None:
        return Replay(receipt.id, receipt.created, "gone", "", None, tuple(broken), (ERASED[receipt.erased],))
    gone: list[str] = []
    changed = list(_changed(body, settings))
    then = _settings(body["settings"], settings)
    try:
        with _opened(body, then, settings, openers or _openers(), gone, changed) as (answerer, index):
            again = answerer.answer(
                body["question"],
                index,
                history=[Turn(each["role"], each["content"]) for each in body["history"]],
                document=body["document"],
                user=receipt.user,
                keep=body.get("keep") or then.keep_passages,
            ).as_json()
    except FootnoteError as error:
        gone.append(f"It cannot be answered again: {error}")
        return Replay(receipt.id, receipt.created, "gone", body["answer"], None, tuple(broken), tuple(gone), tuple(changed))
    before, after = _lines(body), _lines(again)
    if body.get("stopped"):
        changed.append("The answer was stopped by hand; only what was shown by then is compared.")
        after = after[: len(before)]
    if [each["passage_id"] for each in body["passages"]] != [each["passage_id"] for each in again["passages"]]:
        changed.append("Other passages were found, or the same in another order.")
    return Replay(
        receipt.id, receipt.created, "same" if before == after else "differs", body["answer"], again["answer"],
        tuple(broken), tuple(gone), tuple(changed), tuple(difflib.unified_diff(before, after, "then", "now", lineterm="")),
    )


def _settings(then: Mapping[str, Any], settings: Settings) -> Settings:
    """Today's settings with the receipt's in their place, as far as they are still known."""
    known = {each.name for each in dataclasses.fields(settings)} - set(OWN)
    kept: dict[str, Any] = {
        name: Path(value) if isinstance(getattr(settings, name), Path) else value for name, value in then.items() if name in known
    }
    return dataclasses.replace(settings, **kept)


def _changed(body: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """What today's installation would do otherwise than the one that wrote the receipt."""
    then, now = body["settings"], settings_json(settings)
    for name, value in then.items():
        if name in BESIDE:
            continue
        if name not in now:
            yield f"The setting {name} is no longer known; it was {value!r}."
        elif now[name] != value:
            yield f"The setting {name} is {now[name]!r} today; {value!r} was used, then and now."
    if "code" not in body:
        yield "An earlier Footnote wrote this receipt: code, prompt file, reader and evidence weights are not in it, today's are used."
        return
    if body["code"] != code_version():
        yield f"The code is another one: {body['code']} then, {code_version()} now."
    if body["prompt"]:
        today = live(settings.home)
        if today.text != body["prompt"]["wording"]:
            yield f"The prompt in force is {today.label} today; the receipt's, {body['prompt']['name']}, was used, then and now."


@contextmanager
def _opened(
    body: Mapping[str, Any], then: Settings, settings: Settings, openers: Openers, gone: list[str], changed: list[str]
) -> Iterator[tuple[Answerer, Index]]:
    """What the receipt was made with, each part replaced by today's where it is gone."""
    embedder, index = _index(body, then, settings, openers.embedder, gone, changed)
    with closing(index):
        reader, weights = _reader(body, then, settings, gone, changed)
        with closing(_model(openers.model, then, settings, gone)) as model:
            if model.name != body["model"]:
                changed.append(f"The language model is {model.name} now; it was {body['model']}.")
            prompt = body["prompt"] or {}
            wording = parsed(prompt["name"].rpartition(" v")[0], prompt["wording"]) if prompt.get("wording") else None
            yield Answerer(then, embedder, model, None, reader, weights, weights.threshold, wording), index


def _openers() -> Openers:
    from ingest.embed import Embedder
    from rag.engine import open_model

    return Openers(Embedder, open_model)


def _index(
    body: Mapping[str, Any], then: Settings, settings: Settings, open_: Callable[[Settings], EmbedderLike], gone: list[str],
    changed: list[str],
) -> tuple[EmbedderLike, Index]:
    from ingest.open import open_index

    collection, version = body["collection"], body["index_version"]
    try:
        embedder = open_(then)
        index = open_index(settings.index, collection, embedder.name, version=version)
    except FootnoteError as error:
        embedder = open_(settings)
        index = open_index(settings.index, collection, embedder.name)
        gone.append(f"{error.message} Version {index.version} was asked instead.")
        there = {each.document for each in index.catalog.documents()}
        gone += [f"{name} is no longer in the collection." for name in sorted({each["document"] for each in body["citations"]} - there)]
    else:
        if body.get("index_sha256", "") not in ("", index.manifest.files["catalog.sqlite"]["sha256"]):
            changed.append(f"Version {version} of the index is another one of that name: the index was built anew.")
    return embedder, index


def _reader(
    body: Mapping[str, Any], then: Settings, settings: Settings, gone: list[str], changed: list[str]
) -> tuple[Reader | None, Weights]:
    try:
        reader, weights = open_reader(then)
    except FootnoteError as error:
        gone.append(f"{error.message} Today's evidence was used instead.")
        return open_reader(settings)
    weights = dataclasses.replace(weights, threshold=threshold(settings.home, body["collection"], weights))
    name = reader.name if reader else ""
    if body.get("reader", name) != name:
        changed.append(f"The reader is {name or 'none'} now; it was {body['reader'] or 'none'}.")
    if "weights" in body and body["weights"] != dataclasses.asdict(weights):
        try:
            pick, answer = (Signs(**body["weights"][part]) for part in ("pick", "answer"))
            weights = Weights(pick, answer, **{key: value for key, value in body["weights"].items() if key not in ("pick", "answer")})
            changed.append("The evidence's weights or threshold are others today; the receipt's were used, then and now.")
        except TypeError:
            changed.append("The evidence is weighed by other signs today; today's weights were used.")
    return reader, weights


def _model(open_: Callable[[Settings], Model], then: Settings, settings: Settings, gone: list[str]) -> Model:
    try:
        return open_(then)
    except FootnoteError as error:
        model = open_(settings)
        gone.append(f"{error.message} {model.name} was asked instead.")
        return model


def _lines(answer: Mapping[str, Any]) -> list[str]:
    """Sentences and citations of an answer (or a receipt's body), a line each, for comparing."""
    if not answer["sentences"]:
        return [answer["answer"]] if answer["answer"] else []
    cited = iter(answer["citations"])
    lines = []
    for sentence in answer["sentences"]:
        lines.append(sentence["text"])
        for each in [next(cited) for _ in sentence["citations"]]:
            page = "" if each["page"] is None else f", p. {each['page']}"
            lines.append(f"  [{each['n']}] {each['document']}{page}, {each['start']}–{each['end']}: {' '.join(each['quote'].split())}")
    return lines


def find(receipt: str, settings: Settings) -> tuple[Receipt, list[str]]:
    """A receipt by its id, and what is wrong with it in the chain. Raises UsageError where there is none."""
    from records.store import Records

    found, broken = None, list[str]()
    if settings.records.exists():
        with Records(settings.records) as records:
            found, broken = records.receipt(receipt), records.verify_receipts(receipt)
    if found is None:
        raise UsageError(
            f"There is no receipt {receipt!r} in {settings.records}.", 'Answers name theirs: "receipt" in python -m rag ask --json.'
        )
    return found, broken
