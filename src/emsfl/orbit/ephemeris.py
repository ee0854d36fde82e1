"""Satellite positions in the rotating Earth frame: SGP4 on a grid, polynomials between.

SGP4 is called at equally spaced nodes only. Between two nodes each coordinate is the polynomial
of degree 7 that takes SGP4's position and velocity at the four nodes around (Hermite): its error
stays below 1 m for the steps that `step_for` allows. Limit: polar motion (10 m) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import acosh, sqrt

import numpy as np
from numpy.typing import NDArray
from sgp4.api import SGP4_ERRORS, Satrec, SatrecArray

from emsfl.orbit.earth_rotation import ut1_minus_utc_s

Floats = NDArray[np.float64]

STEPS_S = (600.0, 480.0, 360.0, 300.0, 240.0, 200.0, 150.0, 120.0, 90.0, 60.0, 30.0, 15.0, 7.5)
"""Steps of the SGP4 grid; each satellite gets the longest that `step_for` allows."""

SECONDS_PER_DAY = 86400.0
_JD_2000 = 2451545.0
_EARTH_RATE_RAD_S = 7.292115e-5
_RUNAWAY_SHARE = 0.1
_ERROR_TEXTS = {6: "decayed"}


def julian_date(epoch: datetime) -> tuple[float, float]:
    """Return the UTC time `epoch` as a Julian date: midnight before, and fraction of the day."""
    midnight = epoch.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (midnight - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(days=1)
    return _JD_2000 - 0.5 + days, (epoch - midnight) / timedelta(days=1)


def step_for(satrec: Satrec) -> float:
    """Return the grid step in seconds that keeps the interpolation of this orbit below 1 m.

    Two bounds: the angle swept per step at perigee, and the distance to the singularity of
    Kepler's equation in complex time, which limits any polynomial through an eccentric orbit's
    perigee (mean anomaly i * (acosh(1/e) - sqrt(1 - e^2))).
    """
    rate = satrec.no_kozai / 60
    e = min(max(satrec.ecco, 1e-9), 0.999)
    perigee_rate = rate * sqrt(1 + e) / (1 - e) ** 1.5
    limit_s = min(0.33 / perigee_rate, 0.2 * (acosh(1 / e) - sqrt(1 - e * e)) / rate)
    return next((step for step in STEPS_S if step <= limit_s), STEPS_S[-1])


def nodes_s(step_s: float, duration_s: float) -> Floats:
    """Return the grid that covers [0, duration_s], with one more node before and behind."""
    intervals = max(1, int(np.ceil(duration_s / step_s)))
    return step_s * np.arange(-1, intervals + 2, dtype=np.float64)


def earth_fixed(
    satrecs: Sequence[Satrec], epoch: datetime, times_s: Floats
) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Return positions, velocities and SGP4 error codes in the rotating Earth frame.

    Args:
        satrecs: N satellites.
        epoch: UTC time from which `times_s` counts.
        times_s: (T,).

    Returns:
        (N, T, 3) km; (N, T, 3) km/s, relative to the rotating Earth; (N, T), 0 is good. Where the
        code is not 0 the position is NaN.

    Source: TEME to pseudo-Earth-fixed by Greenwich mean sidereal time (IAU 1982), Vallado et al.,
    "Revisiting Spacetrack Report #3", AIAA 2006-6753, appendix C.
    """
    day, fraction = julian_date(epoch)
    fractions = fraction + times_s / SECONDS_PER_DAY
    whole = np.floor(fractions)
    days, fractions = day + whole, fractions - whole
    errors, position, velocity = SatrecArray(list(satrecs)).sgp4(days, fractions)
    position[errors != 0] = np.nan
    angle, rate = _sidereal(days, fractions)
    cos, sin = np.cos(angle), np.sin(angle)
    fixed = _turn(position, cos, sin)
    moving = _turn(velocity, cos, sin)
    moving[..., 0] += rate * fixed[..., 1]
    moving[..., 1] -= rate * fixed[..., 0]
    return fixed, moving, errors


def faults(
    position: Floats, velocity: Floats, errors: NDArray[np.uint8], step_s: float
) -> list[str]:
    """Return for each of N satellites what is wrong with its states, empty where nothing is.

    Besides SGP4's own codes: far from their epoch, drag terms can outrun the elements without an
    error. The positions then no longer move as the velocities say (Simpson's rule over two steps).

    Args:
        position: (N, T, 3) from `earth_fixed` at nodes `step_s` apart.
        velocity: (N, T, 3).
        errors: (N, T).
        step_s: distance of the nodes.
    """
    moved = position[:, 2:] - position[:, :-2]
    meant = (step_s / 3) * (velocity[:, :-2] + 4 * velocity[:, 1:-1] + velocity[:, 2:])
    gap_km = np.linalg.norm(moved - meant, axis=2).max(axis=1)
    fastest = np.linalg.norm(velocity, axis=2).max(axis=1)
    fastest += _EARTH_RATE_RAD_S * np.linalg.norm(position, axis=2).max(axis=1)
    runaway = gap_km > _RUNAWAY_SHARE * 2 * step_s * fastest
    found = []
    for codes, ran in zip(errors, runaway.tolist(), strict=True):
        first = codes[codes != 0][:1].tolist()
        if first:
            found.append(_ERROR_TEXTS.get(first[0], SGP4_ERRORS[first[0]]))
        else:
            found.append("drag has outrun the elements" if ran else "")
    return found


def _turn(vector: Floats, cos: Floats, sin: Floats) -> Floats:
    turned = np.empty_like(vector)
    turned[..., 0] = cos * vector[..., 0] + sin * vector[..., 1]
    turned[..., 1] = cos * vector[..., 1] - sin * vector[..., 0]
    turned[..., 2] = vector[..., 2]
    return turned


def _sidereal(days: Floats, fractions: Floats) -> tuple[Floats, float]:
    """Return Greenwich mean sidereal time (IAU 1982) in radians, and its rate in rad/s."""
    fractions = fractions + ut1_minus_utc_s(days, fractions) / SECONDS_PER_DAY
    centuries = (days - _JD_2000 + fractions) / 36525
    # The term of one turn a day is taken from the fraction, where no digits are lost.
    seconds = (
        67310.54841
        + centuries * (8640184.812866 + centuries * (0.093104 - 6.2e-6 * centuries))
        + SECONDS_PER_DAY * ((days - _JD_2000) % 1 + fractions)
    )
    turn = 2 * np.pi / SECONDS_PER_DAY
    rate = turn * (1 + 8640184.812866 / (36525 * SECONDS_PER_DAY))
    return turn * (seconds % SECONDS_PER_DAY), rate
