"""Walker shells: counts, spacing and altitude as the notation says."""

from datetime import UTC, datetime

import numpy as np
import pytest

from emsfl.orbit.config import Pattern, Preset, WalkerConfig
from emsfl.orbit.ephemeris import earth_fixed
from emsfl.orbit.walker import PRESETS, walker_satellites

EPOCH = datetime(2026, 6, 21, tzinfo=UTC)


def shell(**changes) -> WalkerConfig:
    fields = {
        "num_satellites": 12,
        "num_planes": 3,
        "phasing": 1,
        "altitude_km": 780,
        "inclination_deg": 86.4,
    }
    return WalkerConfig(**fields | changes)


@pytest.mark.parametrize(("pattern", "spread"), [(Pattern.DELTA, 120), (Pattern.STAR, 60)])
def test_nodes_and_anomalies_follow_the_notation(pattern: Pattern, spread: int):
    satellites = walker_satellites([shell(pattern=pattern, raan_deg=10)], EPOCH)
    assert [s.name for s in satellites[:5]] == ["P1S1", "P1S2", "P1S3", "P1S4", "P2S1"]
    nodes = np.degrees([s.satrec.nodeo for s in satellites])
    anomalies = np.degrees([s.satrec.mo for s in satellites])
    assert nodes == pytest.approx(np.repeat([10, 10 + spread, 10 + 2 * spread], 4))
    expected = [(90 * slot + 30 * plane) % 360 for plane in range(3) for slot in range(4)]
    assert anomalies == pytest.approx(expected)


def test_altitude_stays_near_the_one_asked_for():
    satellites = walker_satellites([shell(altitude_km=550)], EPOCH)
    times_s = np.arange(0, 86_400, 60.0)
    radius = np.linalg.norm(earth_fixed([s.satrec for s in satellites], EPOCH, times_s), axis=2)
    # The Earth's oblateness moves a circular orbit by about 10 km.
    assert abs(radius - 6378.135 - 550).max() < 16


def test_presets_have_the_published_numbers_of_satellites():
    counts = {name: sum(s.num_satellites for s in shells) for name, shells in PRESETS.items()}
    assert counts == {
        Preset.IRIDIUM: 66,
        Preset.GLOBALSTAR: 48,
        Preset.ONEWEB: 588,
        Preset.STARLINK_GEN1: 4408,
        Preset.KUIPER: 3236,
        Preset.GALILEO: 24,
    }
    for shells in PRESETS.values():
        names = [s.name for s in walker_satellites(shells, EPOCH)]
        assert len(set(names)) == len(names)
