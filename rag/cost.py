"""Work → CPU-seconds, energy and money: the latter two an estimate from two settings, and labelled so wherever they are shown.

It knows the cores' work only: not the rest of the machine, idle time, a graphics card, a remote server, or what people and hardware cost.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from config import Settings

if TYPE_CHECKING:
    from records.store import Records

JOULES_PER_KWH = 3_600_000.0
COUNTED = ("answers", "prompt_tokens", "answer_tokens", "cpu_seconds")  # what is measured, as records.store.Spent names it

_lock = threading.Lock()
_shares: dict[int, float] = {}  # thread → CPU-seconds of what it is at work on
_counted = 0.0  # CPU-seconds of the process when the shares were last brought up to date


@contextmanager
def share() -> Iterator[None]:
    """While several threads are in such a block, what the process takes is theirs in equal parts: no core knows for whom it works."""
    thread = threading.get_ident()
    with _lock:
        _count()
        _shares[thread] = 0.0
    try:
        yield
    finally:
        with _lock:
            _count()
            del _shares[thread]


def cpu_seconds() -> float:
    """CPU-seconds of the calling thread's share so far; outside of one, those of the whole process."""
    with _lock:
        _count()
        return _shares.get(threading.get_ident(), _counted)


def _count() -> None:
    global _counted
    now = time.process_time()
    for thread in _shares:
        _shares[thread] += (now - _counted) / len(_shares)
    _counted = now


def energy(cpu_seconds: float, settings: Settings) -> float:
    """Estimated kWh of so much work of one core."""
    return cpu_seconds * settings.watts / JOULES_PER_KWH


def cost(cpu_seconds: float, settings: Settings) -> float:
    """Estimated money for so much work of one core, in `settings.currency`."""
    return energy(cpu_seconds, settings) * settings.price_per_kwh


def money(value: float, currency: str) -> str:
    """A cost as a person reads it, two digits of it and no powers of ten: "0.0000083 EUR"."""
    return f"{Decimal(f'{value:.2g}'):f} {currency}"


def costs(records: Records, settings: Settings, by: str, since: str = "") -> dict[str, Any]:
    """What answers took, by user, collection, model or day (UTC), from the day `since` on, at today's watts and price. Raises UsageError.

    CPU-seconds and tokens are measured; kWh and cost are estimated from them.
    """
    spent = [dataclasses.asdict(each) for each in records.spent(by, since)]
    total = {"group": "all", **{name: sum(each[name] for each in spent) for name in COUNTED}}
    for each in [*spent, total]:
        each["kwh"], each["cost"] = energy(each["cpu_seconds"], settings), cost(each["cpu_seconds"], settings)
    basis = {"watts": settings.watts, "price_per_kwh": settings.price_per_kwh, "currency": settings.currency}
    return {"by": by, "since": since or None, "estimated_from": basis, "groups": spent, "total": total}
