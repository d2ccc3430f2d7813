"""The order of the tests: quick ones first, then real models, the browser last, so that a plain mistake is told in seconds."""

import pytest

_LATER = {"slow": 1, "real": 2, "browser": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: max((_LATER.get(mark.name, 0) for mark in item.iter_markers()), default=0))
