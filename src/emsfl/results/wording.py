"""Numbers as people read them: percent, hours, megabytes."""

from __future__ import annotations

from collections.abc import Sequence

from emsfl.results.schema import TimeToTarget

MISSING = "–"
BYTES_PER_MB = 1e6
SECONDS_PER_HOUR = 3600.0
_ENERGY_UNITS = ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"))
_COMPUTE_UNITS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def percent(share: float) -> str:
    """Return 0.8124 as '81.2'."""
    return f"{100 * share:.1f}"


def amount(value: float) -> str:
    """Return about three significant digits, without an exponent where people would not want one.

    '1,234', '45.6', '3.21', '0.0123'.
    """
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def hours(time_s: float) -> str:
    """Return seconds as hours with one digit."""
    return f"{time_s / SECONDS_PER_HOUR:.1f}"


def duration(time_s: float | None) -> str:
    """Return seconds in the unit that suits them: '9.5 min', '6.2 h'; a dash for None."""
    if time_s is None:
        return MISSING
    if time_s < SECONDS_PER_HOUR:
        return f"{time_s / 60:.1f} min"
    return f"{hours(time_s)} h"


def count(value: float) -> str:
    """Return a mean number of things: '44' where it is whole, else '44.3'."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def energy_unit(energies_J: Sequence[float]) -> tuple[float, str]:
    """Return (joules per unit, name) of the unit that suits the largest of the values."""
    return _unit(energies_J, _ENERGY_UNITS)


def compute_unit(operations: Sequence[float]) -> tuple[float, str]:
    """Return (floating-point operations per unit, name) for the largest of the values."""
    return _unit(operations, _COMPUTE_UNITS)


def _unit(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    largest = max(values, default=0.0)
    return next((unit for unit in units if largest >= unit[0]), units[-1])


def hours_to_target(time: TimeToTarget) -> str:
    """Return '17.0', or how many seeds got there: '2 of 3', 'never'."""
    if time.mean is not None:
        return hours(time.mean)
    num_reached = sum(value is not None for value in time.per_seed)
    return f"{num_reached} of {len(time.per_seed)}" if num_reached else "never"


def listing(items: Sequence[str]) -> str:
    """Return 'a', 'a and b', or 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
