"""Satellite positions in the rotating Earth frame: SGP4 on a grid, polynomials between.

SGP4 is called at equally spaced nodes only. Between two nodes each coordinate is the polynomial of
degree 9 through SGP4's positions at the ten nodes around: for the steps that `step_for` allows its
error stays below a metre on orbits like those of Earth observation and communication satellites.
SGP4's velocities are not used: they differ from the rate of its own positions by 1 m/s and more on
eccentric orbits. Limit: polar motion (10 m) is left out.
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
_RUNAWAY_SHARE = 0.1
_ERROR_TEXTS = {6: "decayed"}


def julian_date(epoch: datetime) -> tuple[float, float]:
    """Return the UTC time `epoch` as a Julian date: midnight before, and fraction of the day."""
    midnight = epoch.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (midnight - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(days=1)
    return _JD_2000 - 0.5 + days, (epoch - midnight) / timedelta(days=1)


def step_for(satrec: Satrec) -> float:
    """Return the grid step in seconds that this orbit's interpolation can bear.

    Two bounds: the angle swept per step at perigee, and the distance to the singularity of
    Kepler's equation in complex time, which limits any polynomial through an eccentric orbit's
    perigee (mean anomaly i * (acosh(1/e) - sqrt(1 - e^2))).
    """
    rate = satrec.no_kozai / 60
    e = min(max(satrec.ecco, 1e-9), 0.999)
    perigee_rate = rate * sqrt(1 + e) / (1 - e) ** 1.5
    limit_s = min(0.34 / perigee_rate, 0.1 * (acosh(1 / e) - sqrt(1 - e * e)) / rate)
    return next((step for step in STEPS_S if step <= limit_s), STEPS_S[-1])


def nodes_s(step_s: float, duration_s: float) -> Floats:
    """Return the grid that covers [0, duration_s], with 4 nodes before and 5 behind."""
    intervals = max(1, int(np.ceil(duration_s / step_s)))
    return step_s * np.arange(-4, intervals + 6, dtype=np.float64)


def earth_fixed(satrecs: Sequence[Satrec], epoch: datetime, times_s: Floats) -> Floats:
    """Return positions in the rotating Earth frame, NaN where SGP4 refuses.

    Args:
        satrecs: N satellites.
        epoch: UTC time from which `times_s` counts.
        times_s: (T,).

    Returns:
        (N, T, 3) km.
    """
    return checked_positions(satrecs, epoch, times_s)[0]


def inertial(satrecs: Sequence[Satrec], epoch: datetime, times_s: Floats) -> Floats:
    """Return (N, T, 3) positions in km in SGP4's own frame (TEME): for distances, which no frame
    changes, at a fraction of the time that `earth_fixed` takes."""
    _, position, _ = SatrecArray(list(satrecs)).sgp4(*_moments(epoch, times_s))
    places: Floats = position
    return places


def checked_positions(
    satrecs: Sequence[Satrec], epoch: datetime, times_s: Floats
) -> tuple[Floats, list[str]]:
    """Return positions as `earth_fixed` does, and for each satellite what is wrong with them.

    SGP4 has error codes, and fails without one where drag terms outrun old elements, or where an
    orbit is singular (deep space at 180 degrees). Positions then do not move as the velocities
    say, by Simpson's rule over the first and last three times, if these are equally spaced.

    Args:
        satrecs: N satellites.
        epoch: UTC time from which `times_s` counts.
        times_s: (T,).

    Returns:
        (N, T, 3) km, and N texts, empty where nothing is wrong.

    Source: TEME to pseudo-Earth-fixed by Greenwich mean sidereal time (IAU 1982), Vallado et al.,
    "Revisiting Spacetrack Report #3", AIAA 2006-6753, appendix C.
    """
    days, fractions = _moments(epoch, times_s)
    errors, position, velocity = SatrecArray(list(satrecs)).sgp4(days, fractions)
    position[errors != 0] = np.nan
    faults = _faults(errors, position, velocity, times_s)
    angle = _sidereal(days, fractions)
    cos, sin = np.cos(angle), np.sin(angle)
    fixed = np.empty_like(position)
    fixed[..., 0] = cos * position[..., 0] + sin * position[..., 1]
    fixed[..., 1] = cos * position[..., 1] - sin * position[..., 0]
    fixed[..., 2] = position[..., 2]
    return fixed, faults


def _moments(epoch: datetime, times_s: Floats) -> tuple[Floats, Floats]:
    """Return Julian dates in two parts: days, and fractions below 1."""
    day, fraction = julian_date(epoch)
    fractions = fraction + times_s / SECONDS_PER_DAY
    whole = np.floor(fractions)
    return day + whole, fractions - whole


def _faults(
    errors: NDArray[np.uint8], position: Floats, velocity: Floats, times_s: Floats
) -> list[str]:
    runaway = np.zeros(len(errors), dtype=np.bool_)
    if len(times_s) >= 3:
        for end in (slice(0, 3), slice(-3, None)):
            place, rate = position[:, end], velocity[:, end]
            span_s = times_s[end][2] - times_s[end][0]
            meant = span_s / 6 * (rate[:, 0] + 4 * rate[:, 1] + rate[:, 2])
            gap_km = np.linalg.norm(place[:, 2] - place[:, 0] - meant, axis=1)
            fastest = np.linalg.norm(rate, axis=2).max(axis=1)
            runaway |= gap_km > _RUNAWAY_SHARE * span_s * fastest
    found = []
    for codes, ran in zip(errors, runaway.tolist(), strict=True):
        first = codes[codes != 0][:1].tolist()
        if first:
            found.append(_ERROR_TEXTS.get(first[0], SGP4_ERRORS[first[0]]))
        else:
            found.append("unphysical motion" if ran else "")
    return found


def _sidereal(days: Floats, fractions: Floats) -> Floats:
    """Return Greenwich mean sidereal time (IAU 1982) in radians."""
    fractions = fractions + ut1_minus_utc_s(days, fractions) / SECONDS_PER_DAY
    centuries = (days - _JD_2000 + fractions) / 36525
    # The term of one turn a day is taken from the fraction, where no digits are lost.
    seconds = (
        67310.54841
        + centuries * (8640184.812866 + centuries * (0.093104 - 6.2e-6 * centuries))
        + SECONDS_PER_DAY * ((days - _JD_2000) % 1 + fractions)
    )
    return 2 * np.pi / SECONDS_PER_DAY * (seconds % SECONDS_PER_DAY)
