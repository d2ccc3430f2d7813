"""`python -m rag models`: which language models there are, how one is added, how fast and how alike they are.

Nothing is downloaded here: a model comes from a wheel that is installed, or from a file that a person has put on this machine.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ROOT, Settings
from errors import ModelMissing, NoSpace, UsageError
from rag.engine import files

if TYPE_CHECKING:
    from rag.engine.model import LanguageModel

PROMPT_TOKENS = 1200  # a typical prompt: instructions, five passages, a question
WRITTEN_TOKENS = 48  # enough to time writing, few enough that five rounds take a minute
ROUNDS = 5  # models take turns, so that a busy moment of the machine hits all of them; medians are shown with their spread
COMPARED_TOKENS = 512  # positions at which two models' next words are compared
Say = Callable[[str], None]


def available(settings: Settings, name: str | None = None, say: Say = lambda _: None) -> dict[str, Any]:
    """The bundled model as delivered and converted, what was pulled, and which one is used."""
    if name:
        raise UsageError("models list takes no file.", "Run: python -m rag models list")
    rows: dict[str, dict[str, Any]] = {}
    known = files.register(settings)
    try:
        delivered = files.bundled()
        rows[delivered.path.name] = _row(delivered.path, delivered.sha256, "delivered with Footnote")
    except ModelMissing as missing:
        rows[files.BUNDLED_FILE] = {"name": files.BUNDLED_FILE, "path": "", "megabytes": 0.0, "sha256": "", "about": str(missing)}
    used = Path(settings.model).name if settings.model else files.CONVERTED_FILE
    for path in sorted(settings.models.glob("*.gguf")):
        entry = known.get(path.name, {})
        about = (
            "converted from the delivered one" if path.name == files.CONVERTED_FILE else f"pulled from {entry.get('pulled', 'elsewhere')}"
        )
        rows[path.name] = _row(path, str(entry.get("sha256", "")), about)
    if settings.model and used not in rows and Path(settings.model).expanduser().is_file():
        path = Path(settings.model).expanduser()
        rows[used] = _row(path, str(known.get(str(path.resolve()), {}).get("sha256", "")), "named in the settings")
    for row in rows.values():
        row["used"] = row["name"] == used and not settings.server_url
    if used not in rows and not settings.model:
        rows[used] = {
            "name": used,
            "path": "",
            "megabytes": 0.0,
            "sha256": "",
            "about": "made at the first question",
            "used": True,
        }
    return {"models": [*rows.values()], "adapter": settings.adapter, "server": settings.server_url}


def _row(path: Path, sha256: str, about: str) -> dict[str, Any]:
    return {
        "name": path.name,
        "path": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "sha256": sha256,
        "about": about,
    }


def pull(settings: Settings, name: str | None = None, say: Say = lambda _: None) -> dict[str, Any]:
    """Copy a GGUF file into the data folder and keep its SHA-256, so that a change of its bytes is noticed.

    Raises UsageError for an address: Footnote fetches nothing by itself.
    """
    if not name:
        raise UsageError("models pull needs a file.", "Example: python -m rag models pull ~/Downloads/model.gguf")
    if "://" in name:
        raise UsageError(
            f"{name} is an address, and Footnote fetches nothing by itself.",
            "Download the file with a browser or another tool, then run: python -m rag models pull PATH",
        )
    source = Path(name).expanduser()
    if not source.is_file():
        raise UsageError(f"{source} is not a file on this machine.", "Give the path of a .gguf file that you have downloaded.")
    files.header(source)
    target = settings.models / (source.name if source.suffix == ".gguf" else f"{source.name}.gguf")
    if target.name in (files.CONVERTED_FILE, files.REGISTER):
        raise UsageError(f"{target.name} is the name of Footnote's own conversion.", "Rename the file and pull it again.")
    if target.exists() and target.samefile(source):
        raise UsageError(f"{source} lies in {settings.models} already.", f"Use it with FOOTNOTE_MODEL={target.name}")
    settings.models.mkdir(parents=True, exist_ok=True)
    size = source.stat().st_size
    if shutil.disk_usage(settings.models).free < size + 100_000_000:  # bytes; a disk filled to the brim breaks other things
        raise NoSpace(
            f"{source.name} needs {size / 1e6:,.0f} MB in {settings.models}.",
            "Free some space, or set FOOTNOTE_MODEL to where it is.",
        )
    say(f"Copying {source.name} ({size / 1e6:,.0f} MB)…")
    arriving = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, arriving)
        digest = files.sha256(arriving)
        if digest != files.sha256(source):
            raise ModelMissing(f"{source} changed while it was copied.", "Pull it again when it is complete.")
        arriving.replace(target)
    finally:
        arriving.unlink(missing_ok=True)
    facts = target.stat()
    files.record(
        settings,
        target.name,
        {"sha256": digest, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "pulled": str(source.resolve())},
    )
    return {
        "pulled": target.name,
        "path": str(target),
        "sha256": digest,
        "megabytes": round(size / 1e6, 1),
        "use": f"FOOTNOTE_MODEL={target.name}",
    }


def bench(settings: Settings, name: str | None = None, say: Say = lambda _: None) -> dict[str, Any]:
    """Speed of the converted bundled model (or of the file `name`) beside the delivered one, and how alike they write.

    Reading and writing in tokens a second, models taking turns. Agreement is measured at COMPARED_TOKENS places of a text,
    only where both have the same vocabulary.
    """
    from rag.engine import fit
    from rag.engine.context import cores
    from rag.engine.model import LanguageModel

    base = files.bundled()
    other = files.model_file(dataclasses.replace(settings, model=name or ""), say)
    chosen = (base,) if other.sha256 == base.sha256 else (base, other)
    say("Trying threads and flash attention…")
    fits = [fit.again(each, settings) for each in chosen]
    models = [LanguageModel(settings, say, file=each) for each in chosen]
    try:
        text = _text()
        speeds: tuple[dict[str, Any], ...] = tuple({"reading": [], "writing": []} for _ in models)
        for number in range(ROUNDS):
            say(f"Round {number + 1} of {ROUNDS}…")
            for model, speed in zip(models, speeds, strict=True):
                reading, writing = _speed(model, text)
                speed["reading"].append(reading)
                speed["writing"].append(writing)
        rows = [
            {"name": model.name, "megabytes": round(each.path.stat().st_size / 1e6, 1)}
            | {what: _spread(values) for what, values in speed.items()}
            | {"fit": found}
            for model, each, speed, found in zip(models, chosen, speeds, fits, strict=True)
        ]
        report: dict[str, Any] = {
            "benched": rows,
            "threads": settings.threads or cores(),
            "prompt_tokens": PROMPT_TOKENS,
            "written_tokens": WRITTEN_TOKENS,
            "rounds": ROUNDS,
        }
        if len(models) == 2:
            pairs = zip(speeds[0]["reading"], speeds[1]["reading"], strict=True)
            report["reading_ratio"] = _spread([second / first for first, second in pairs])
            report["agreement"] = _agreement(models[0], models[1], text)
        return report
    finally:
        for model in models:
            model.close()


def table(result: dict[str, Any]) -> str:
    """What `available`, `pull` or `bench` returned, for a person."""
    if "pulled" in result:
        what = f"{result['pulled']} ({result['megabytes']:,.1f} MB, SHA-256 {result['sha256'][:12]}…)"
        return f"{what} is there.\nUse it with: {result['use']}"
    if "benched" in result:
        return _bench_table(result)
    lines = [
        f"{'→' if each['used'] else ' '} {each['name']:<44} {each['megabytes']:>9,.1f} MB  {each['sha256'][:12]:<12}  {each['about']}"
        for each in result["models"]
    ]
    if result["adapter"]:
        lines.append(f"+ {result['adapter']}, an adapter that the model wears.")
    if result["server"]:
        lines.append(f"→ {result['server']} (FOOTNOTE_SERVER_URL) is used instead.")
    return "\n".join(lines)


def _bench_table(result: dict[str, Any]) -> str:
    lines = [f"{'model':<48} {'MB':>8} {'reading tok/s':>22} {'writing tok/s':>22}"]
    lines += [
        f"{each['name']:<48} {each['megabytes']:>8,.1f} {_shown(each['reading']):>22} {_shown(each['writing']):>22}"
        for each in result["benched"]
    ]
    if "reading_ratio" in result:
        ratio, agreement = result["reading_ratio"], result["agreement"]
        lines.append(f"Prompts are read {ratio['median']:.2f} times as fast ({ratio['least']:.2f} to {ratio['most']:.2f}).")
        if agreement is None:
            lines.append("The two have different vocabularies, so their words are not compared.")
        else:
            lines.append(
                f"Same next word at {agreement['same_word']:.1%} of {agreement['places']} places; "
                f"mean divergence {agreement['divergence']:.4f} nats; "
                f"perplexity {agreement['perplexity'][0]:.2f} as delivered, {agreement['perplexity'][1]:.2f} here."
            )
    lines += [f"{each['name']} on this machine: {_fit(each['fit'])}" for each in result["benched"]]
    lines.append(
        f"{result['threads']} threads, {result['prompt_tokens']} tokens of prompt, {result['written_tokens']} written, "
        f"{result['rounds']} rounds."
    )
    return "\n".join(lines)


def _fit(found: dict[str, Any]) -> str:
    people = ", ".join(f"{count}: {1000 * int(count) / step:.0f}" for count, step in found["step_ms"].items())
    flash = "with" if found["flash"] else "without"
    threads = f"{found['threads_batch']} threads to read, {found['threads']} to write alone, {flash} flash attention"
    return f"{threads}; behind prompts of {found['behind']} tokens, tokens a second by people who write at once: {people}."


def _shown(spread: dict[str, float]) -> str:
    return f"{spread['median']:.0f} ({spread['least']:.0f}–{spread['most']:.0f})"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def _text() -> str:
    """Prose that nobody needs to download: the sample company's own pages, and Footnote's guides."""
    found = sorted((ROOT / "examples").rglob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
    text = "\n\n".join(each.read_text(encoding="utf-8") for each in found)
    return (
        text
        if len(text) > PROMPT_TOKENS * 6
        else "The warehouse opens at seven and closes at four, except on public holidays. " * PROMPT_TOKENS
    )


def _speed(model: LanguageModel, text: str) -> tuple[float, float]:
    """(tokens read a second, tokens written a second) of one prompt that shares nothing with the last."""
    prompt = model.tokenize(text[: PROMPT_TOKENS * 8])[:PROMPT_TOKENS]
    prompt = prompt[: model.context_tokens - WRITTEN_TOKENS - 1]
    model.clear()
    before = model.usage()
    started = time.perf_counter()
    pieces = model.generate(prompt, max_tokens=WRITTEN_TOKENS)
    next(pieces, "")
    read = time.perf_counter() - started
    for _ in pieces:
        pass
    after = model.usage()
    written = after["answer_s"] - before["answer_s"]
    return len(prompt) / read, (after["answer_tokens"] - before["answer_tokens"]) / max(written, 1e-9)


def _agreement(first: LanguageModel, second: LanguageModel, text: str) -> dict[str, Any] | None:
    """How alike two models' next words are: share of equal best words, mean KL divergence, perplexity of each on the text."""
    tokens = first.tokenize(text[: COMPARED_TOKENS * 8])[:COMPARED_TOKENS]
    if second.tokenize(text[: COMPARED_TOKENS * 8])[:COMPARED_TOKENS] != tokens:
        return None
    same, places, divergence, losses = 0, 0, 0.0, [0.0, 0.0]
    for one, other in zip(first.distributions(tokens), second.distributions(tokens), strict=True):
        same += int((one.argmax(axis=1) == other.argmax(axis=1)).sum())
        divergence += float((math.e**one * (one - other)).sum())
        for row in range(len(one)):
            if places + row + 1 < len(tokens):
                following = tokens[places + row + 1]
                losses[0] -= float(one[row, following])
                losses[1] -= float(other[row, following])
        places += len(one)
    perplexities = tuple(round(math.exp(loss / (len(tokens) - 1)), 3) for loss in losses)
    return {
        "places": places,
        "same_word": round(same / places, 4),
        "divergence": round(divergence / places, 5),
        "perplexity": perplexities,
    }


list = available  # the command's name; nothing in this file needs the built-in
