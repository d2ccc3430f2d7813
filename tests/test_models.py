"""`rag models`: listing, adding a file, refusing addresses, measuring. The bench runs the real bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config import ROOT
from errors import ModelMissing, UsageError
from rag import models
from rag.engine import files
from rag.place import environment
from tests.engine_room import settings_in

GGUF = b"GGUF\x03\x00\x00\x00" + bytes(1000)


def test_the_bundled_model_is_listed_before_anything_was_done(tmp_path: Path) -> None:
    """A fresh installation knows the delivered file and says which one it will use."""
    listed = models.available(settings_in(tmp_path))["models"]
    assert [each["sha256"] for each in listed if each["name"] == files.BUNDLED_FILE] == [files.BUNDLED_SHA256]
    assert [each["name"] for each in listed if each["used"]] == [files.CONVERTED_FILE]
    assert files.BUNDLED_FILE in models.table(models.available(settings_in(tmp_path)))


def test_a_pulled_file_is_copied_recorded_and_usable_by_its_name(tmp_path: Path) -> None:
    """Its bytes are the original's, its SHA-256 is kept, and FOOTNOTE_MODEL=name finds it."""
    source = tmp_path / "own model.gguf"
    source.write_bytes(GGUF)
    settings = settings_in(tmp_path)
    pulled = models.pull(settings, str(source))
    assert Path(pulled["path"]).read_bytes() == GGUF and pulled["sha256"] == files.sha256(source)
    chosen = settings_in(tmp_path, model="own model.gguf")
    assert files.model_file(chosen, lambda _: None).sha256 == pulled["sha256"]
    assert [each["name"] for each in models.available(chosen)["models"] if each["used"]] == ["own model.gguf"]
    assert "own model.gguf" in models.table(pulled)


def test_a_pulled_file_that_changed_is_not_loaded(tmp_path: Path) -> None:
    """What was checked when it came is checked again when its size or time says that it changed."""
    source = tmp_path / "own.gguf"
    source.write_bytes(GGUF)
    models.pull(settings_in(tmp_path), str(source))
    (tmp_path / "home" / "models" / "own.gguf").write_bytes(GGUF + b"more")
    with pytest.raises(ModelMissing):
        files.model_file(settings_in(tmp_path, model="own.gguf"), lambda _: None)


@pytest.mark.parametrize("address", ["https://example.com/model.gguf", "http://localhost/model.gguf", "hf://someone/model"])
def test_an_address_is_refused_with_what_to_do_instead(address: str, tmp_path: Path) -> None:
    """Footnote fetches nothing by itself."""
    with pytest.raises(UsageError) as caught:
        models.pull(settings_in(tmp_path), address)
    assert "Download" in caught.value.cure


def test_what_is_no_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A text file, a missing file, no file, and Footnote's own names."""
    text = tmp_path / "notes.gguf"
    text.write_text("not a model")
    own = tmp_path / files.CONVERTED_FILE
    own.write_bytes(GGUF)
    for name in (str(text), str(tmp_path / "absent.gguf"), None, str(own)):
        with pytest.raises((UsageError, ModelMissing)):
            models.pull(settings_in(tmp_path), name)
    assert not list((tmp_path / "home").rglob("*.gguf"))


def test_the_command_line_lists_and_refuses(tmp_path: Path) -> None:
    """Through the real entry point: JSON on stdout, exit 2 with a cure for an address."""
    made = environment(settings_in(tmp_path))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rag", "models", *words], cwd=ROOT, env=made, capture_output=True, text=True, timeout=120
        )

    listed = command("list", "--json")
    assert listed.returncode == 0 and json.loads(listed.stdout)["models"]
    refused = command("pull", "https://example.com/m.gguf")
    assert refused.returncode == 2 and "Download" in refused.stderr


@pytest.mark.real
@pytest.mark.slow
def test_the_bench_measures_speed_and_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the bundled model are timed and compared; the conversion writes nearly the same."""
    monkeypatch.setattr(models, "ROUNDS", 1)
    monkeypatch.setattr(models, "PROMPT_TOKENS", 256)
    monkeypatch.setattr(models, "COMPARED_TOKENS", 192)
    result = models.bench(settings_in(tmp_path))
    delivered, converted = result["benched"]
    assert "Q4_1" in delivered["name"] and "Q4_0" in converted["name"]
    assert delivered["reading"]["median"] > 0 and converted["writing"]["median"] > 0
    agreement = result["agreement"]
    assert agreement["same_word"] > 0.7 and agreement["perplexity"][1] < 1.2 * agreement["perplexity"][0]
    assert "times as fast" in models.table(result)
