"""Windows between satellites against dense sampling."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from emsfl.orbit.config import WalkerConfig
from emsfl.orbit.ephemeris import earth_fixed
from emsfl.orbit.intersatellite import find_inter_satellite_windows, range_between
from emsfl.orbit.walker import walker_satellites
from tests.orbit.test_contacts import satellites

EPOCH = datetime(2026, 6, 21, tzinfo=UTC)
LIMB_KM = 6378.137 + 80


def sample(pair, times_s, max_range_km):
    """Return how far the distance is below both limits, and the lowest radius, in km."""
    place = earth_fixed([s.satrec for s in pair], EPOCH, times_s)
    assume(np.isfinite(place).all())
    distance = np.linalg.norm(place[0] - place[1], axis=1)
    assume(distance.min() > 1)
    # The closest point of the segment to the Earth's centre, by calculus on the segment itself.
    along = place[1] - place[0]
    share = np.clip(-np.sum(place[0] * along, axis=1) / np.sum(along**2, axis=1), 0, 1)
    lowest = np.linalg.norm(place[0] + share[:, None] * along, axis=1)
    return np.minimum(max_range_km - distance, lowest - LIMB_KM), np.linalg.norm(
        place, axis=2
    ).min()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(satellites(), satellites(), st.floats(500, 60_000), st.floats(600, 10_000))
def test_windows_hold_every_sample_in_sight_and_no_other(first, second, max_range_km, duration_s):
    times_s = np.append(np.arange(0, duration_s, 0.5), duration_s)
    free_km, radius_km = sample((first, second), times_s, max_range_km)
    assume(radius_km > LIMB_KM)
    windows = find_inter_satellite_windows(
        [first, second], [(0, 1)], EPOCH, duration_s, max_range_km
    )
    inside = np.zeros(len(times_s), dtype=bool)
    near = abs(free_km) < 2e-3
    for start, end in zip(windows.start_s, windows.end_s, strict=True):
        inside |= (times_s >= start) & (times_s <= end)
        near |= (abs(times_s - start) < 2e-3) | (abs(times_s - end) < 2e-3)
    assert np.array_equal(inside | near, (free_km > 0) | near)


def test_neighbours_in_a_plane_see_each_other_always_and_opposites_never():
    shell = WalkerConfig(num_satellites=8, num_planes=1, altitude_km=1400, inclination_deg=52)
    ring = walker_satellites([shell], EPOCH)
    windows = find_inter_satellite_windows(ring, [(0, 1), (0, 4)], EPOCH, 86_400, 10_000)
    assert windows.start_s.tolist() == [0.0]
    assert windows.end_s.tolist() == [86_400.0]
    assert (windows.first[0], windows.second[0]) == (0, 1)
    expected_km = 2 * (6378.135 + 1400) * np.sin(np.pi / 8)
    found_km = range_between(ring[0], ring[1], EPOCH, np.arange(0, 86_400, 600.0))
    assert found_km == pytest.approx(expected_km, rel=0.005)
