"""How the memory is made on this machine: measured once, remembered, and the usual way unless another is clearly better."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import config
from rag.engine import files, fit
from rag.engine.context import Shape, Weights, cores
from rag.engine.fit import DRAFTS, PEOPLE, Trial


def trial(threads: int, flash: bool, read_rate: float, alone_s: float, eight_s: float) -> Trial:
    steps = {count: alone_s + (eight_s - alone_s) * (count - 1) / 7 for count in PEOPLE}
    return Trial(Shape(8, 1536, threads, threads, flash), 1024, read_rate, steps, {count: alone_s * count for count in DRAFTS})


def never() -> bool:
    return False


def test_the_usual_shape_stays_unless_another_is_clearly_better() -> None:
    """Five per cent are noise; twice as fast is not."""
    usual = trial(4, True, 1000, 0.010, 0.040)
    assert fit.chosen([usual, trial(2, True, 1040, 0.0098, 0.039)]) is usual
    better = trial(4, False, 2000, 0.005, 0.020)
    assert fit.chosen([usual, better]) is better


def test_threads_that_write_alone_are_chosen_apart() -> None:
    """Reading wants all cores; a single token may be written faster by fewer."""
    found = fit.chosen([trial(4, True, 1000, 0.010, 0.040), trial(2, True, 500, 0.005, 0.080)])
    assert (found.shape.threads, found.shape.threads_batch) == (2, 4)


def test_a_machine_is_measured_once(tmp_path: Path) -> None:
    """The first use says that it measures and remembers the figures; the second reads them, and memory goes by the settings."""
    settings = dataclasses.replace(config.load(), home=tmp_path, context_tokens=1024, memory_mb=120)
    said: list[str] = []
    file = files.model_file(settings, lambda _: None)
    weights = Weights(file.path)
    try:
        usual = fit.shape(weights, file, settings, said.append, lambda: True)
        assert usual == Shape(*fit.room(weights, settings), cores(), cores(), True) and not said, "a busy machine is not measured"
        first = fit.shape(weights, file, settings, said.append, never)
        assert len(said) == 1
        assert fit.shape(weights, file, settings, said.append, never) == first and len(said) == 1
        more = fit.shape(weights, file, dataclasses.replace(settings, memory_mb=240), said.append, never)
        assert more == dataclasses.replace(first, sequences=more.sequences) and more.sequences > first.sequences and len(said) == 1
        assert fit.room(weights, dataclasses.replace(settings, memory_mb=1)) == (1, 1024) and fit.store_bytes(weights, settings) > 0
        entry = next(value for name, value in files.register(settings).items() if name.startswith(fit.KEY))
        assert 0 < entry["behind"] <= 256, "eight prompts of more than that are more than memory_mb"
        assert set(entry["step_ms"]) == {str(each) for each in PEOPLE} and entry["read_rate"] > 0
    finally:
        weights.close()
