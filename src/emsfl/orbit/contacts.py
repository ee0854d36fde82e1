"""Find when satellites stand above sites: the visibility windows from which contacts are made.

SGP4 on a coarse grid, polynomials between (`emsfl.orbit.ephemeris`), and a compiled search that
discards what cannot be above the mask and refines every edge as a root (`emsfl.orbit.search`).
Limits: geometric elevation without refraction; the elements' own error (about 1 km after a day,
growing) moves edges by far more than the search does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import radians, sin

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError
from emsfl.orbit.ephemeris import Floats, checked_positions, nodes_s, step_for
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.search import LAGRANGE, search_sites
from emsfl.orbit.sites import Site, SiteVectors, site_vectors

Integers = NDArray[np.int32]

STALE_DAYS = 3.0
"""Elements further than this from the plan draw a warning."""
ERROR_KM_PER_DAY = 1.0
"""Growth of SGP4's position error with the age of the elements, low orbits, as a rule of thumb."""
LOW_ORBIT_SPEED_KM_S = 7.5
_NODES_AT_ONCE = 40_000
_RADIUS_MARGIN_KM = 30.0


class ElementsWarning(UserWarning):
    """Elements that are old, or satellites that were left out."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Visibility windows as columns of equal length W, by satellite, then site, then time."""

    satellite: Integers
    """Index into the satellites."""
    site: Integers
    """Index into the sites."""
    start_s: Floats
    """Seconds from the epoch of the search."""
    end_s: Floats
    max_elevation_deg: Floats
    peak_s: Floats
    """When the highest elevation is reached."""
    clipped: NDArray[np.bool_]
    """Cut by the start or the end of the search."""

    def __len__(self) -> int:
        return len(self.start_s)

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Windows:
        """Return the chosen rows, in the order given."""
        return Windows(*(getattr(self, name)[chosen] for name in self.__slots__))


def find_windows(
    satellites: Sequence[Satellite],
    sites: Sequence[Site],
    epoch: datetime,
    duration_s: float,
    min_elevation_deg: float,
    strict: bool = False,
) -> Windows:
    """Return every interval in which a satellite stands above the mask of a site.

    Args:
        satellites: at least one.
        sites: at least one.
        epoch: UTC time of second 0.
        duration_s: length of the search, above 0.
        min_elevation_deg: geometric elevation mask, 0 to below 90.
        strict: refuse satellites that SGP4 cannot propagate, instead of leaving them out.

    Raises:
        DataError: no satellite can be propagated over the whole search, or `strict` and one
            cannot.

    Warns:
        ElementsWarning: satellites left out (named), or elements far from the search in time.
    """
    warn_if_stale(satellites, epoch, duration_s)
    vectors = site_vectors(sites)
    sin_mask = sin(radians(min_elevation_deg))
    found: list[tuple[int, Floats]] = []
    bad: list[str] = []

    # SGP4 holds the interpreter's lock and the search does not: they run side by side.
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers) as searcher:
        pending: list[tuple[list[int], Future[list[Floats]]]] = []
        for step_s, members in _batches(satellites, duration_s):
            position, wrong = checked_positions(
                [satellites[i].satrec for i in members], epoch, nodes_s(step_s, duration_s)
            )
            bad += [f"{satellites[i].name} ({w})" for i, w in zip(members, wrong, strict=True) if w]
            rows = [row for row in range(len(members)) if not wrong[row]]
            lowest = [_lowest_km(satellites[members[row]], position[row]) for row in rows]
            task = searcher.submit(
                _search, position, step_s, duration_s, rows, lowest, vectors, sin_mask
            )
            pending.append(([members[row] for row in rows], task))
            while len(pending) > 2 * workers or (pending and pending[0][1].done()):
                done, task = pending.pop(0)
                found += zip(done, task.result(), strict=True)
        for done, task in pending:
            found += zip(done, task.result(), strict=True)
    _report(bad, len(satellites), strict)
    return _columns(found)


def _batches(
    satellites: Sequence[Satellite], duration_s: float
) -> Iterator[tuple[float, list[int]]]:
    """Yield (step, indices) of satellites that share a grid, as many as memory should hold."""
    by_step: dict[float, list[int]] = {}
    for index, satellite in enumerate(satellites):
        by_step.setdefault(step_for(satellite.satrec), []).append(index)
    for step_s, members in by_step.items():
        size = max(1, int(_NODES_AT_ONCE / (duration_s / step_s + 3)))
        for first in range(0, len(members), size):
            yield step_s, members[first : first + size]


def _search(
    position: Floats,
    step_s: float,
    duration_s: float,
    rows: Sequence[int],
    lowest_km: Sequence[float],
    vectors: SiteVectors,
    sin_mask: float,
) -> list[Floats]:
    return [
        search_sites(
            position[row],
            step_s,
            duration_s,
            lowest,
            vectors.position_km,
            vectors.up,
            sin_mask,
            LAGRANGE,
        )
        for row, lowest in zip(rows, lowest_km, strict=True)
    ]


def _lowest_km(satellite: Satellite, position: Floats) -> float:
    """Return a lower bound of the distance from the Earth's centre."""
    satrec = satellite.satrec
    perigee = (1 + satrec.altp) * satrec.radiusearthkm
    return float(min(perigee, np.linalg.norm(position, axis=1).min())) - _RADIUS_MARGIN_KM


def _report(bad: Sequence[str], count: int, strict: bool) -> None:
    """Say which satellites were left out, or refuse."""
    if not bad:
        return
    names = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
    if len(bad) == count:
        raise DataError(
            f"SGP4 can propagate none of the {count} satellites over the plan: {names}; "
            "use elements from near the plan's start"
        )
    if strict:
        raise DataError(f"SGP4 cannot propagate {len(bad)} of {count} satellites: {names}")
    warnings.warn(
        f"left out {len(bad)} of {count} satellites that SGP4 cannot propagate: {names}",
        ElementsWarning,
        stacklevel=3,
    )


def warn_if_stale(satellites: Sequence[Satellite], epoch: datetime, duration_s: float) -> None:
    """Warn (ElementsWarning) of elements far from the search in time."""
    middle = epoch + timedelta(seconds=duration_s / 2)
    ages = [abs((satellite.epoch - middle) / timedelta(days=1)) for satellite in satellites]
    oldest = int(np.argmax(ages))
    stale = sum(age > STALE_DAYS for age in ages)
    if stale:
        error_km = ERROR_KM_PER_DAY * ages[oldest]
        warnings.warn(
            f"the elements of {stale} of {len(satellites)} satellites are more than "
            f"{STALE_DAYS:g} days from the plan ({satellites[oldest].name}: {ages[oldest]:.0f}); "
            f"expect errors of about {error_km:.0f} km, {error_km / LOW_ORBIT_SPEED_KM_S:.1f} s",
            ElementsWarning,
            stacklevel=3,
        )


def _columns(found: list[tuple[int, Floats]]) -> Windows:
    found.sort(key=lambda pair: pair[0])
    lengths = [len(rows) for _, rows in found]
    satellite = np.repeat(np.array([index for index, _ in found], dtype=np.int32), lengths)
    rows = np.concatenate([rows for _, rows in found]) if found else np.empty((0, 6))
    return Windows(
        satellite=satellite,
        site=rows[:, 0].astype(np.int32),
        start_s=rows[:, 1].copy(),
        end_s=rows[:, 2].copy(),
        max_elevation_deg=np.degrees(rows[:, 3]),
        peak_s=rows[:, 4].copy(),
        clipped=rows[:, 5] != 0,
    )
