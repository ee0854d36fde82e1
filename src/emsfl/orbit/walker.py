"""Walker constellations: shells of circular orbits, as SGP4 satellites.

A delta shell i: T/P/F spreads P ascending nodes evenly over 360 degrees, a star shell over 180;
each plane holds T/P satellites evenly spaced, and neighbouring planes are shifted along track by
F * 360 / T degrees.

Source: J. G. Walker, "Satellite constellations", J. British Interplanetary Society 37 (1984).
"""

from __future__ import annotations

from datetime import datetime
from math import pi, radians, sqrt

from sgp4.api import WGS72, Satrec

from emsfl.orbit.config import Pattern, WalkerConfig
from emsfl.orbit.elements import Satellite, days_since_1950

WGS72_MU_KM3_S2 = 398600.8
WGS72_RADIUS_KM = 6378.135


def walker_satellites(shell: WalkerConfig, epoch: datetime, prefix: str = "") -> list[Satellite]:
    """Return the satellites of one shell, named `prefix` + "P<plane>S<slot>", counted from 1.

    The orbits are circular and free of drag (B* = 0), with the two-body mean motion of their
    altitude; SGP4 adds the secular and periodic effects of the Earth's oblateness.

    Args:
        shell: the shell; nodes are counted from `raan_deg`, anomalies from the ascending node.
        epoch: UTC time at which the elements hold.
        prefix: put before each name.
    """
    semi_major_km = WGS72_RADIUS_KM + shell.altitude_km
    mean_motion_rad_min = sqrt(WGS72_MU_KM3_S2 / semi_major_km**3) * 60
    spread = 2 * pi if shell.pattern is Pattern.DELTA else pi
    per_plane = shell.num_satellites // shell.num_planes
    satellites = []
    for plane in range(shell.num_planes):
        raan = radians(shell.raan_deg) + spread * plane / shell.num_planes
        for slot in range(per_plane):
            anomaly = slot / per_plane + shell.phasing * plane / shell.num_satellites
            number = plane * per_plane + slot + 1
            satrec = Satrec()
            satrec.sgp4init(
                WGS72,
                "i",
                number,
                days_since_1950(epoch),
                0.0,  # B*, per Earth radius
                0.0,
                0.0,
                0.0,  # eccentricity
                0.0,  # argument of perigee
                radians(shell.inclination_deg),
                2 * pi * (anomaly % 1.0),
                mean_motion_rad_min,
                raan % (2 * pi),
            )
            name = f"{prefix}P{plane + 1}S{slot + 1}"
            satellites.append(Satellite(name=name, number=number, satrec=satrec))
    return satellites
