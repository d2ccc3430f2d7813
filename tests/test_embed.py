"""Embedding: unit vectors from the bundled model; texts already seen cost nothing."""

import itertools
from pathlib import Path

import numpy
import pytest

import config
from errors import ModelMissing, UsageError
from ingest.embed import PATHS, Embedder, EmbeddingCache, Tokens, embedder_name, in_batches, model_of, plain

TEXTS = ["", "Hello", "What is the parental leave policy for part-time employees? " * 60, "我们有二十天假期 😀 naïve"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(config.Settings())


@pytest.mark.real
def test_near_in_meaning_is_near(embedder: Embedder) -> None:
    """Different words, same meaning, against same topic, other meaning."""
    leave, holiday, invoice = embedder.passages(
        ["annual leave entitlement", "how many vacation days do I get", "send the invoice to finance"]
    )
    assert leave @ holiday > leave @ invoice + 0.2


@pytest.mark.real
def test_vectors_are_unit_float32_in_the_order_given(embedder: Embedder) -> None:
    """One or many, alone or together, a text has one vector."""
    together = embedder.passages(TEXTS)
    assert together.dtype == numpy.float32 and together.shape == (4, embedder.dimensions)
    assert numpy.abs(numpy.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert numpy.abs(together - numpy.concatenate([embedder.passages([each]) for each in TEXTS])).max() < 1e-5
    assert embedder.passages([]).shape == (0, embedder.dimensions)


def test_tokens_are_counted_where_they_start() -> None:
    """Counting by places agrees with counting, also beyond the part that is counted at once."""
    tokens = Tokens(config.Settings())
    text = "Unbelievably long handbooks, page after page.\n" * 4000
    starts = tokens.starts(text)
    assert len(starts) == tokens.count(text) and starts == sorted(starts)
    assert tokens.count("") == 0 and tokens.starts("") == []


def test_the_name_says_model_and_weights() -> None:
    """An index built with other weights is refused by this name."""
    assert embedder_name(config.Settings()) == "all-MiniLM-L6-v2:53aa5117"


def test_the_name_says_how_vectors_are_made() -> None:
    """Exact vectors keep the name they had; others carry their mark, and both are known to be one model."""
    exact, other = (embedder_name(config.Settings(embedding=each)) for each in PATHS)
    assert other == f"{exact}+bf16" and model_of(exact) == model_of(other) == exact
    with pytest.raises(UsageError, match="exact, bf16"):
        embedder_name(config.Settings(embedding="int1"))


@pytest.mark.real
def test_fast_vectors_are_unit_and_near_the_exact_ones(embedder: Embedder) -> None:
    """What the setting costs: less than a thousandth of a cosine; on a processor without bf16 it is refused with the cure."""
    try:
        fast = Embedder(config.Settings(embedding="bf16"))
    except UsageError as error:
        assert "exact" in error.cure
        return
    vectors = fast.passages(TEXTS)
    assert fast.name == f"{embedder.name}+bf16" and vectors.dtype == numpy.float32
    assert numpy.abs(numpy.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert (vectors * embedder.passages(TEXTS)).sum(axis=1).min() > 0.999
    assert numpy.abs(vectors - embedder.passages(TEXTS)).max() > 1e-6  # it does something


def test_texts_of_like_length_are_embedded_together() -> None:
    """Every text once; no batch holds a text that is longer than one of a later batch."""
    texts = ["word " * (number * 37 % 100) for number in range(200)]
    batches = list(in_batches(texts))
    assert sorted(at for batch in batches for at in batch) == list(range(200))
    longest = [[len(texts[at]) for at in batch] for batch in batches]
    assert all(max(before) <= min(after) for before, after in itertools.pairwise(longest))


def test_a_folder_without_weights_is_said_to_be_missing(tmp_path: Path) -> None:
    """With the setting that names it, and never a look at the network."""
    with pytest.raises(ModelMissing, match=r"model\.safetensors"):
        Embedder(config.Settings(embedder=str(tmp_path)))


def test_the_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """Bit for bit, also after it was closed; spacing does not make another text, another embedder does."""
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    keys = [cache.key(f"text {number}", "e:1") for number in range(1200)]
    rows = numpy.random.default_rng(0).normal(size=(1200, 4)).astype(numpy.float32)
    cache.put(dict(zip(keys, rows, strict=True)))
    cache.close()
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    found = cache.get([*keys, cache.key("other", "e:1")])
    assert len(found) == 1200 and all((found[key] == row).all() for key, row in zip(keys, rows, strict=True))
    assert cache.known(keys) == set(keys)
    assert cache.key("a  b\n", "e:1") == cache.key("a b", "e:1") != cache.key("a b", "e:2")
    cache.forget(keys[:2])
    assert cache.known(keys) == set(keys[2:])
    cache.trim(set(keys[5:10]), 100)
    assert cache.known(keys) == set(keys[5:10])
    cache.close()


def test_a_damaged_cache_costs_time_only(tmp_path: Path) -> None:
    """It is made anew; nothing is lost but work."""
    (tmp_path / "cache.sqlite").write_bytes(b"broken" * 1000)
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    assert cache.known([b"x"]) == set()
    cache.close()


@pytest.mark.real
def test_remembered_vectors_are_those_that_were_made() -> None:
    """Known and new texts mixed, more than are kept, and one text twice."""
    remembering, plain = Embedder(config.Settings(), remember=3), Embedder(config.Settings())
    for texts in (["a b", "c d"], ["c d", "e f", "c d"], ["g h", "a b", "c d"], ["a b", "c d", "e f", "g h"], []):
        assert numpy.abs(remembering.passages(texts) - plain.passages(texts)).max(initial=0.0) < 1e-5


@pytest.mark.real
def test_workers_side_by_side_make_the_vectors_of_one(embedder: Embedder) -> None:
    """Long and short texts mixed, in the order given, for exact vectors equal up to rounding; what others compute keeps its threads."""
    import torch

    threads = torch.get_num_threads()
    two = Embedder(config.Settings(threads=threads), workers=2)
    texts = [*TEXTS, *("word " * (number * 37 % 300) + str(number) for number in range(40))]
    assert numpy.abs(two.passages(texts) - embedder.passages(texts)).max() < 1e-5
    assert two.passages([]).shape == (0, two.dimensions)
    assert torch.get_num_threads() == threads


@pytest.mark.real
def test_batches_make_the_vectors_of_the_librarys_own_loop(embedder: Embedder) -> None:
    """What the bench compares with is the same model: equal up to rounding, whatever is embedded with what."""
    texts = [f"Rule {number}: " + "staff may book a desk at home. " * (number % 9) for number in range(30)]
    assert numpy.abs(plain(config.Settings())(texts) - embedder.passages(texts)).max() < 1e-5
