"""Find when satellites see each other: above the Earth's limb, and near enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError
from emsfl.orbit.contacts import warn_if_stale
from emsfl.orbit.ephemeris import Floats, checked_positions, inertial, nodes_s, step_for
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.search import LAGRANGE, interpolate
from emsfl.orbit.search_pairs import search_pair
from emsfl.orbit.sites import WGS84_EQUATORIAL_RADIUS_KM

Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class InterSatelliteWindows:
    """Intervals in which two satellites see each other, as columns, by pair, then by time."""

    first: Integers
    """Index into the satellites."""
    second: Integers
    start_s: Floats
    """Seconds from the epoch of the search; 0 where the window began before."""
    end_s: Floats

    def __len__(self) -> int:
        return len(self.start_s)


def find_inter_satellite_windows(
    satellites: Sequence[Satellite],
    pairs: Sequence[tuple[int, int]],
    epoch: datetime,
    duration_s: float,
    max_range_km: float,
    limb_altitude_km: float = 80.0,
) -> InterSatelliteWindows:
    """Return every interval in which the satellites of a pair can talk to each other.

    Args:
        satellites: at least one.
        pairs: indices into `satellites`.
        epoch: UTC time of second 0.
        duration_s: length of the search.
        max_range_km: largest distance.
        limb_altitude_km: the line of sight stays above this height over the Earth, taken as a
            sphere of the equatorial radius (at the poles 21 km lie beneath it).

    Raises:
        DataError: a satellite of a pair that SGP4 cannot propagate over the search.
    """
    warn_if_stale(satellites, epoch, duration_s)
    step_s = min(step_for(satellite.satrec) for satellite in satellites)
    position, wrong = checked_positions(
        [satellite.satrec for satellite in satellites], epoch, nodes_s(step_s, duration_s)
    )
    for index in sorted({index for pair in pairs for index in pair}):
        if wrong[index]:
            raise DataError(
                f"SGP4 cannot propagate {satellites[index].name} ({wrong[index]}) over the plan; "
                "leave it out or use newer elements"
            )
    limits = np.array([max_range_km, WGS84_EQUATORIAL_RADIUS_KM + limb_altitude_km])
    pieces = [interpolate(places, LAGRANGE) for places in position]
    found = [search_pair(pieces[i], pieces[j], step_s, duration_s, limits) for i, j in pairs]
    lengths = [len(rows) for rows in found]
    numbers = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    edges = np.concatenate([np.empty((0, 2)), *found])
    return InterSatelliteWindows(
        first=np.repeat(numbers[:, 0], lengths),
        second=np.repeat(numbers[:, 1], lengths),
        start_s=edges[:, 0].copy(),
        end_s=edges[:, 1].copy(),
    )


def range_between(first: Satellite, second: Satellite, epoch: datetime, times_s: Floats) -> Floats:
    """Return the distance of two satellites in km at `times_s`, (T,), seconds from `epoch`."""
    position = inertial([first.satrec, second.satrec], epoch, times_s)
    distance: Floats = np.linalg.norm(position[0] - position[1], axis=1)
    return distance
