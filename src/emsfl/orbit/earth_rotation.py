"""How far the Earth has turned: UT1 - UTC from the tables of the IERS.

Without it sites would be up to 400 m east or west of where they are, which moves the edges of low
passes by 0.3 s and more.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import astropy_iers_data
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MJD_ZERO = 2400000.5


def ut1_minus_utc_s(days: Floats, fractions: Floats) -> Floats:
    """Return UT1 - UTC in seconds at UTC Julian dates `days` + `fractions`.

    Values are linear between the table's days. The table (1973 to about a year after the installed
    package `astropy-iers-data` was made, the last year predicted) is continued with its first or
    last value.

    Source: IERS Bulletin A, finals2000A.
    """
    first, table = _table()
    place = np.clip((days - _MJD_ZERO - first) + fractions, 0, len(table) - 1)
    left = np.minimum(place.astype(np.int64), len(table) - 2)
    rise = table[left + 1] - table[left]
    # A leap second falls between two days of the table: the day before still counts without it.
    interpolated: Floats = table[left] + (place - left) * (rise - np.round(rise))
    return interpolated


@lru_cache(maxsize=1)
def _table() -> tuple[float, Floats]:
    """Return the first day (MJD) and one value a day."""
    text = Path(astropy_iers_data.IERS_A_FILE).read_text(encoding="ascii")
    rows = [(line[7:15], line[58:68]) for line in text.splitlines() if line[58:68].strip()]
    days = np.array([float(day) for day, _ in rows])
    assert np.all(np.diff(days) == 1), "the IERS table misses days"
    return float(days[0]), np.array([float(value) for _, value in rows])
