"""CPU-seconds → energy and money: an estimate from two settings, not a measurement, and labelled so wherever it is shown.

It knows the cores' work only: not the rest of the machine, idle time, a graphics card, a remote server, or what people and hardware cost.
"""

from __future__ import annotations

from config import Settings

JOULES_PER_KWH = 3_600_000.0


def energy(cpu_seconds: float, settings: Settings) -> float:
    """Estimated kWh of so much work of one core."""
    return cpu_seconds * settings.watts / JOULES_PER_KWH


def cost(cpu_seconds: float, settings: Settings) -> float:
    """Estimated money for so much work of one core, in `settings.currency`."""
    return energy(cpu_seconds, settings) * settings.price_per_kwh
