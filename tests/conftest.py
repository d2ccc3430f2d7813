"""The order of the tests: quick ones first, then real models, the browser last, so that a plain mistake is told in seconds.

With `--full`, tests that take a sample of what could go wrong go through all of it, and print their tables with `-s`.
"""

import pytest

_LATER = {"slow": 1, "real": 2, "browser": 3}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="whole counts of faults and mutated files instead of a sample: an hour or more")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: max((_LATER.get(mark.name, 0) for mark in item.iter_markers()), default=0))


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the whole count was asked for."""
    return bool(request.config.getoption("--full"))
