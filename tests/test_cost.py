"""What an answer costs: an estimate that follows from CPU-seconds and the two settings."""

from __future__ import annotations

import pytest

from config import Settings
from rag.cost import cost, energy, money


def test_an_hour_of_one_core_costs_its_watts_times_the_price() -> None:
    settings = Settings(watts=20.0, price_per_kwh=0.25)
    assert energy(3600, settings) == pytest.approx(0.02)
    assert cost(3600, settings) == pytest.approx(0.005)


def test_no_work_costs_nothing_and_twice_the_work_costs_twice() -> None:
    settings = Settings()
    assert cost(0, settings) == 0
    assert cost(7, settings) == pytest.approx(2 * cost(3.5, settings))


@pytest.mark.parametrize(("value", "shown"), [(8.67e-07, "0.00000087 EUR"), (0.0, "0 EUR"), (0.125, "0.12 EUR"), (31.0, "31 EUR")])
def test_money_is_shown_without_powers_of_ten(value: float, shown: str) -> None:
    assert money(value, "EUR") == shown
