"""Rain, cloud and gas attenuation by the ITU-R models of the package `itur` (extra `rain`)."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import UserError
from emsfl.orbit.sites import Site

Floats = NDArray[np.float64]

# The models hold from 5 degrees up; attenuation is nearly linear in 1 / sin(elevation).
_GRID_DEG = np.array([5, 6, 8, 10, 15, 20, 30, 45, 60, 90], dtype=float)
_DISH_M = 0.6  # asked for by the package; enters its scintillation only, which is left out


def attenuation(
    site: Site, frequency_Hz: float, exceeded_percent: float, elevation_deg: Floats
) -> Floats:
    """Return what rain, clouds and gases take from the signal, in dB, at each elevation.

    Below 5 degrees the value at 5 degrees is returned.

    Raises:
        UserError: the package is not installed.

    Source: ITU-R P.618-13 (rain, combination), P.840 (clouds), P.676 (gases).
    """
    table = _table(site, frequency_Hz, exceeded_percent)
    path = 1 / np.sin(np.radians(np.clip(elevation_deg, _GRID_DEG[0], 90.0)))
    grid = 1 / np.sin(np.radians(_GRID_DEG))
    return np.interp(path, grid[::-1], table[::-1])


@lru_cache(maxsize=256)
def _table(site: Site, frequency_Hz: float, exceeded_percent: float) -> Floats:
    try:
        import itur
    except ImportError:
        raise UserError("link.rain needs the package itur: pip install 'emsfl[rain]'") from None
    with warnings.catch_warnings():
        # The package warns of elevations that the models do not cover, also where all are covered.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.array(
            [
                itur.atmospheric_attenuation_slant_path(
                    site.latitude_deg,
                    site.longitude_deg,
                    frequency_Hz / 1e9,
                    elevation,
                    exceeded_percent,
                    _DISH_M,
                    hs=site.altitude_m / 1000,
                    include_scintillation=False,
                ).value
                for elevation in _GRID_DEG
            ],
            dtype=float,
        )
