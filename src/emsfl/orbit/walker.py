"""Walker constellations: shells of circular orbits, as SGP4 satellites, and well-known presets.

A delta shell i: T/P/F spreads P ascending nodes evenly over 360 degrees, a star shell over 180;
each plane holds T/P satellites evenly spaced, and neighbouring planes are shifted along track by
F * 360 / T degrees. Real constellations keep to this only roughly: Iridium's planes, for one, are
31.6 degrees apart with a seam of 22 (W. Nissen, SeeSat-L, November 1998), not 30.

Source: J. G. Walker, "Satellite constellations", J. British Interplanetary Society 37 (1984).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import pi, sqrt

from emsfl.orbit.config import Pattern, Preset, WalkerConfig
from emsfl.orbit.satellite import Satellite, new_satellite

WGS72_MU_KM3_S2 = 398600.8
WGS72_RADIUS_KM = 6378.135


def _shell(
    pattern: str, planes: int, per_plane: int, phasing: int, altitude_km: float, tilt_deg: float
) -> WalkerConfig:
    return WalkerConfig(
        pattern=Pattern(pattern),
        num_satellites=planes * per_plane,
        num_planes=planes,
        phasing=phasing,
        altitude_km=altitude_km,
        inclination_deg=tilt_deg,
    )


# Planes, satellites per plane, altitude and inclination are the sources'. Only Iridium's and
# Galileo's give a whole F: elsewhere F = 1 is this project's choice; it moves satellites along
# their planes and hardly changes how often a site is in contact.
PRESETS: dict[Preset, tuple[WalkerConfig, ...]] = {
    # FCC SAT-MOD-20131227-00148, engineering statement (not read itself; public quotations agree):
    # 6 planes of 11, 780 km, 86.4 deg. As 66/6/2 in the documentation of the package brahe.
    Preset.IRIDIUM: (_shell("star", 6, 11, 2, 780, 86.4),),
    # The first generation, 48 satellites; the second has 24. Altitude: globalstar.com, "Second-
    # generation satellite constellation". 8 planes of 6 in a delta: "Globalstar: a low-Earth orbit
    # communication satellite", NASA NTRS, 1992 (abstract). 52 deg: launch reports.
    Preset.GLOBALSTAR: (_shell("delta", 8, 6, 1, 1414, 52.0),),
    # The 588 satellites of the first phase: 12 planes of 49 at about 1,200 km (kusat.com/OneWeb,
    # "Resources": planes 15.2 deg apart), 87.9 deg (FCC SAT-MPL-20200526-00062, attachment B).
    # The filing of 2016 had 18 planes of 40 (FCC DA 22-970, paragraph 2).
    Preset.ONEWEB: (_shell("star", 12, 49, 1, 1200, 87.9),),
    # SpaceX's filing SAT-MOD-20200417-00037, authorised by FCC 21-48 (2021): J. McDowell,
    # planet4589.org/astro/starsim/con.html, model II, and Astronomy & Astrophysics 657, A75 (2022),
    # table 1. Its polar planes are spread less evenly than here.
    Preset.STARLINK_GEN1: (
        _shell("delta", 72, 22, 1, 550, 53.0),
        _shell("delta", 72, 22, 1, 540, 53.2),
        _shell("delta", 36, 20, 1, 570, 70.0),
        _shell("delta", 6, 58, 1, 560, 97.6),
        _shell("delta", 4, 43, 1, 560, 97.6),
    ),
    # Kuiper Systems, SAT-LOA-20190704-00057, authorised by FCC 20-102 (2020): table 1 of the same
    # article; inclinations as in the constellation files of Hypatia and LEOCraft.
    Preset.KUIPER: (
        _shell("delta", 34, 34, 1, 630, 51.9),
        _shell("delta", 36, 36, 1, 610, 42.0),
        _shell("delta", 28, 28, 1, 590, 33.0),
    ),
    # Galileo OS Service Definition Document, issue 1.1, table 1: 24/3/1, semi-major axis
    # 29,599.801 km, 56 deg; as transcribed in github.com/ashfordeOU/kshana.
    Preset.GALILEO: (_shell("delta", 3, 8, 1, 29_599.801 - WGS72_RADIUS_KM, 56.0),),
}


def walker_satellites(shells: Sequence[WalkerConfig], epoch: datetime) -> list[Satellite]:
    """Return the satellites of the shells, named "P<plane>S<slot>", counted from 1.

    With several shells the names begin with "A-", "B-" and so on, one letter per shell. The orbits
    are circular and free of drag (B* = 0), with the two-body mean motion of their altitude; SGP4
    adds the effects of the Earth's oblateness.

    Args:
        shells: at most 26.
        epoch: UTC time at which the elements hold.
    """
    satellites: list[Satellite] = []
    for letter, shell in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", shells, strict=False):
        semi_major_km = WGS72_RADIUS_KM + shell.altitude_km
        rev_day = sqrt(WGS72_MU_KM3_S2 / semi_major_km**3) * 86400 / (2 * pi)
        spread_deg = 360 if shell.pattern is Pattern.DELTA else 180
        per_plane = shell.num_satellites // shell.num_planes
        for plane in range(shell.num_planes):
            for slot in range(per_plane):
                turns = slot / per_plane + shell.phasing * plane / shell.num_satellites
                name = f"P{plane + 1}S{slot + 1}"
                satellites.append(
                    new_satellite(
                        name=name if len(shells) == 1 else f"{letter}-{name}",
                        number=len(satellites) + 1,
                        epoch=epoch,
                        mean_motion_rev_day=rev_day,
                        eccentricity=0.0,
                        inclination_deg=shell.inclination_deg,
                        raan_deg=shell.raan_deg + spread_deg * plane / shell.num_planes,
                        argument_of_perigee_deg=0.0,
                        mean_anomaly_deg=360 * (turns % 1),
                    )
                )
    return satellites
