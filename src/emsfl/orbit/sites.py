"""Sites on the ground: WGS84 geodetic coordinates and their Earth-fixed vectors."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError
from emsfl.orbit.config import ALTITUDE_M, LATITUDE_DEG, LONGITUDE_DEG
from emsfl.orbit.elements import read_text

RANGES = {"latitude_deg": LATITUDE_DEG, "longitude_deg": LONGITUDE_DEG, "altitude_m": ALTITUDE_M}
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


_COLUMNS = ("name", "latitude_deg", "longitude_deg", "altitude_m")
_HYPATIA_COLUMNS = 8


def read_sites(path: Path | str) -> list[Site]:
    """Read a CSV file with the columns name, latitude_deg, longitude_deg and altitude_m.

    The altitude may be left out (0 m). Hypatia's `ground_stations.txt`, which has no header, is
    read too.

    Raises:
        DataError: no such file, no sites in it, a missing column, or a value that is no number or
            out of range (named by file and line).
    """
    path = Path(path)
    rows = list(csv.reader(io.StringIO(read_text(path, "sites file"))))
    numbered = [(line, row) for line, row in enumerate(rows, start=1) if any(map(str.strip, row))]
    if not numbered:
        raise DataError(f"sites file {path} is empty; expected a header {','.join(_COLUMNS)}")
    header = [cell.strip() for cell in numbered[0][1]]
    if header[0].isdigit() and len(header) in (5, _HYPATIA_COLUMNS):
        # Hypatia: id, name, latitude, longitude, elevation, then Cartesian coordinates.
        header = ["id", *_COLUMNS, "x", "y", "z"][: len(header)]
    else:
        numbered = numbered[1:]
    missing = [name for name in _COLUMNS[:3] if name not in header]
    if missing:
        raise DataError(
            f"{path}: the header {','.join(header)} lacks {', '.join(missing)}; "
            f"expected {','.join(_COLUMNS)}"
        )
    sites: dict[str, Site] = {}
    for line, row in numbered:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} columns where the header has {len(header)}")
        site = _site(where, dict(zip(header, map(str.strip, row), strict=True)))
        if site.name in sites:
            raise DataError(f"{where}: site {site.name!r} is given twice; names must differ")
        sites[site.name] = site
    if not sites:
        raise DataError(f"sites file {path} holds no sites below its header")
    return list(sites.values())


def _site(where: str, cells: dict[str, str]) -> Site:
    if not cells["name"]:
        raise DataError(f"{where}: the site has no name")
    values = {"altitude_m": 0.0}
    for key in _COLUMNS[1:]:
        if key not in cells:
            continue
        try:
            values[key] = float(cells[key])
        except ValueError:
            raise DataError(f"{where}: {key} is {cells[key]!r}; expected a number") from None
        low, high = RANGES[key]
        if not low <= values[key] <= high:
            raise DataError(
                f"{where}: {key} {cells[key]} lies outside {low:g} to {high:g}; "
                "are the columns in the right order?"
            )
    return Site(name=cells["name"], **values)
