"""A satellite: its name, its catalogue number and its SGP4 element set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import radians

from sgp4.api import SGP4_ERRORS, WGS72, Satrec
from sgp4.conveniences import sat_epoch_datetime

from emsfl.files import sha256_of

_LAST_ALPHA5_NUMBER = 339_999
_RAD_MIN_PER_REV_DAY = 2 * 3.141592653589793 / 1440
_ELEMENTS = (
    *("jdsatepoch", "jdsatepochF", "bstar", "ndot", "nddot"),
    *("ecco", "argpo", "inclo", "mo", "no_kozai", "nodeo"),
)


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite and its SGP4 element set."""

    name: str
    """Stripped name, or the catalogue number where there is none."""
    number: int
    """Catalogue number; above 99,999 in OMM and Alpha-5 only."""
    satrec: Satrec

    @property
    def epoch(self) -> datetime:
        """UTC time at which the elements hold."""
        epoch: datetime = sat_epoch_datetime(self.satrec)
        return epoch.astimezone(UTC)


def new_satellite(
    *,
    name: str,
    number: int,
    epoch: datetime,
    mean_motion_rev_day: float,
    eccentricity: float,
    inclination_deg: float,
    raan_deg: float,
    argument_of_perigee_deg: float,
    mean_anomaly_deg: float,
    bstar: float = 0.0,
) -> Satellite:
    """Return a satellite from SGP4 mean elements (TEME, UTC, constants of WGS72).

    Args:
        name: stripped name; where empty, the number is the name.
        number: catalogue number of any size.
        epoch: time with zone at which the elements hold.
        mean_motion_rev_day: Kozai mean motion.
        eccentricity: 0 to below 1.
        inclination_deg: 0 to 180.
        raan_deg: right ascension of the ascending node.
        argument_of_perigee_deg: from the node.
        mean_anomaly_deg: from perigee.
        bstar: drag term per Earth radius.

    Raises:
        ValueError: a value out of range, or elements that SGP4 refuses.
    """
    if not 0 <= inclination_deg <= 180:
        raise ValueError(f"inclination {inclination_deg} deg must lie between 0 and 180")
    if not 0 <= eccentricity < 1:
        raise ValueError(f"eccentricity {eccentricity} must lie between 0 and 1")
    if not 0 < mean_motion_rev_day < 20:
        raise ValueError(f"mean motion {mean_motion_rev_day} rev/day must lie between 0 and 20")
    satrec = Satrec()
    satrec.sgp4init(
        WGS72,
        "i",
        number if number <= _LAST_ALPHA5_NUMBER else 0,  # SGP4 holds no larger one, nor uses it
        (epoch - datetime(1949, 12, 31, tzinfo=UTC)) / timedelta(days=1),
        bstar,
        0.0,  # derivatives of mean motion: not used by SGP4
        0.0,
        eccentricity,
        radians(argument_of_perigee_deg),
        radians(inclination_deg),
        radians(mean_anomaly_deg % 360),
        mean_motion_rev_day * _RAD_MIN_PER_REV_DAY,
        radians(raan_deg % 360),
    )
    if satrec.error:
        raise ValueError(f"SGP4 refuses the elements: {SGP4_ERRORS[satrec.error]}")
    return Satellite(name=name or str(number), number=number, satrec=satrec)


def elements_hash(satellites: Sequence[Satellite]) -> str:
    """Return the SHA-256 (hex) of all names, numbers and elements."""
    return sha256_of(
        [[s.name, s.number, *(getattr(s.satrec, key) for key in _ELEMENTS)] for s in satellites]
    )
