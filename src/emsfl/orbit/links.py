"""What a contact carries: bit rates and one-way delays along a pass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from emsfl.orbit.elements import Satellite
from emsfl.orbit.ephemeris import Floats, earth_fixed
from emsfl.orbit.sites import Site, site_vectors

SPEED_OF_LIGHT_KM_S = 299_792.458
PROFILE_STEP_S = 30.0
"""Longest segment of a rate profile."""


@dataclass(frozen=True, slots=True)
class Look:
    """The satellite as a site sees it, at T times."""

    elevation_deg: Floats
    range_km: Floats


def look(satellite: Satellite, site: Site, epoch: datetime, times_s: Floats) -> Look:
    """Return elevation and range from SGP4 itself at `times_s`, (T,), seconds from `epoch`."""
    vectors = site_vectors([site])
    position, _, _ = earth_fixed([satellite.satrec], epoch, times_s)
    ray = position[0] - vectors.position_km[0]
    range_km = np.linalg.norm(ray, axis=1)
    return Look(np.degrees(np.arcsin(ray @ vectors.up[0] / range_km)), range_km)


def segment_edges(start_s: float, end_s: float, step_s: float = PROFILE_STEP_S) -> Floats:
    """Return the edges that cut a contact into equal segments of at most `step_s`."""
    count = max(1, int(np.ceil((end_s - start_s) / step_s)))
    edges: NDArray[np.float64] = np.linspace(start_s, end_s, count + 1)
    return edges
