"""What a contact carries: bit rates and one-way delays along a pass.

The budget of one direction is C/N0 = EIRP + G/T - losses - k, with free-space loss at the slant
range and gas attenuation that grows as 1 / sin(elevation). Limits: clear sky unless `rain` is
given; interference, pointing and polarisation are the user's to put into `margin_dB`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from emsfl.orbit.config import CarrierConfig, LinkConfig, RainConfig
from emsfl.orbit.ephemeris import Floats, earth_fixed
from emsfl.orbit.link_presets import resolve
from emsfl.orbit.modcods import bit_rate
from emsfl.orbit.rain import attenuation
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.sites import Site, site_vectors

SPEED_OF_LIGHT_KM_S = 299_792.458
BOLTZMANN_dBW_K_HZ = -228.599167
PROFILE_STEP_S = 30.0
"""Longest segment of a rate profile."""


@dataclass(frozen=True, slots=True)
class Look:
    """The satellite as a site sees it, at T times."""

    elevation_deg: Floats
    range_km: Floats


@dataclass(frozen=True, slots=True)
class Profile:
    """Rates and delay of one pass: N segments; each holds the rate that it sustains throughout."""

    start_s: Floats
    """(N,)."""
    up_bps: Floats
    """(N,) the lower of the rates at the segment's ends."""
    down_bps: Floats
    """(N,)."""
    delay_s: Floats
    """(N,) one way, in the middle of the segment."""


def look(satellite: Satellite, site: Site, epoch: datetime, times_s: Floats) -> Look:
    """Return elevation and range from SGP4 itself at `times_s`, (T,), seconds from `epoch`."""
    vectors = site_vectors([site])
    position = earth_fixed([satellite.satrec], epoch, times_s)
    ray = position[0] - vectors.position_km[0]
    range_km = np.linalg.norm(ray, axis=1)
    return Look(np.degrees(np.arcsin(ray @ vectors.up[0] / range_km)), range_km)


def segment_edges(start_s: float, end_s: float) -> Floats:
    """Return the edges that cut a contact into equal segments of at most `PROFILE_STEP_S`."""
    count = max(1, int(np.ceil((end_s - start_s) / PROFILE_STEP_S)))
    return np.linspace(start_s, end_s, count + 1)


def carrier_to_density(
    carrier: CarrierConfig, seen: Look, site: Site, rain: RainConfig | None = None
) -> Floats:
    """Return the ratio of carrier to noise density, C/N0 in dB Hz, at each moment of `seen`.

    Source: free-space loss by ITU-R P.525; 1 / sin(elevation) by 3GPP TR 38.811, eq. 6.6-8.
    """
    wavelength_km = SPEED_OF_LIGHT_KM_S / carrier.frequency_Hz
    free_space_dB = 20 * np.log10(4 * np.pi * seen.range_km / wavelength_km)
    if rain is None:
        sine = np.sin(np.radians(np.maximum(seen.elevation_deg, 1.0)))
        air_dB = carrier.zenith_attenuation_dB / sine
    else:
        air_dB = attenuation(site, carrier.frequency_Hz, rain.exceeded_percent, seen.elevation_deg)
    losses_dB = free_space_dB + air_dB + carrier.scintillation_dB + carrier.margin_dB
    density: Floats = carrier.eirp_dBW + carrier.g_over_t_dB_K - losses_dB - BOLTZMANN_dBW_K_HZ
    return density


def profile(
    link: LinkConfig,
    satellite: Satellite,
    site: Site,
    epoch: datetime,
    start_s: float,
    end_s: float,
) -> Profile:
    """Return rates and delay of one contact; `epoch` is second 0 of its times."""
    link = resolve(link)
    edges = segment_edges(start_s, end_s)
    times_s = np.empty(2 * len(edges) - 1)
    times_s[::2] = edges
    times_s[1::2] = (edges[:-1] + edges[1:]) / 2
    seen = look(satellite, site, epoch, times_s)
    rates = []
    for constant_bps, name in ((link.uplink_bps, "uplink"), (link.downlink_bps, "downlink")):
        if link.budget is None:
            rates.append(np.full(len(edges) - 1, constant_bps, dtype=np.float64))
            continue
        carrier: CarrierConfig = getattr(link.budget, name)
        at_edges = Look(seen.elevation_deg[::2], seen.range_km[::2])
        density = carrier_to_density(carrier, at_edges, site, link.rain)
        at_edges_bps = bit_rate(link.budget.modem, density, carrier.bandwidth_Hz)
        rates.append(np.minimum(at_edges_bps[:-1], at_edges_bps[1:]))
    up_bps, down_bps = rates
    return Profile(edges[:-1], up_bps, down_bps, seen.range_km[1::2] / SPEED_OF_LIGHT_KM_S)
