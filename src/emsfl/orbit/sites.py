"""Sites on the ground: WGS84 geodetic coordinates and their Earth-fixed vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WGS84_EQUATORIAL_RADIUS_KM = 6378.137
WGS84_FLATTENING = 1 / 298.257223563


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place on the ground, in WGS84 geodetic coordinates."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0


class SiteVectors(NamedTuple):
    """Earth-fixed vectors of S sites."""

    position_km: NDArray[np.float64]
    """(S, 3)."""
    up: NDArray[np.float64]
    """(S, 3) unit vectors along the ellipsoid's normal; elevation is counted from their plane."""


def site_vectors(sites: Sequence[Site]) -> SiteVectors:
    """Return the Earth-fixed positions and geodetic verticals of `sites`.

    Source: WGS84 (NGA.STND.0036), closed form of geodetic to Cartesian coordinates.
    """
    latitude = np.radians([site.latitude_deg for site in sites])
    longitude = np.radians([site.longitude_deg for site in sites])
    altitude_km = np.array([site.altitude_m for site in sites], dtype=float) / 1000
    up = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=1,
    )
    e2 = WGS84_FLATTENING * (2 - WGS84_FLATTENING)
    normal_km = WGS84_EQUATORIAL_RADIUS_KM / np.sqrt(1 - e2 * np.sin(latitude) ** 2)
    polar = np.array([1.0, 1.0, 1 - e2])
    position_km = (normal_km[:, None] * polar + altitude_km[:, None]) * up
    return SiteVectors(position_km, up)
