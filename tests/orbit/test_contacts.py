"""The window finder against dense sampling of SGP4 itself."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from emsfl.errors import DataError
from emsfl.orbit.contacts import ElementsWarning, find_windows
from emsfl.orbit.ephemeris import earth_fixed
from emsfl.orbit.satellite import Satellite, new_satellite
from emsfl.orbit.sites import Site, site_vectors

EPOCH = datetime(2026, 6, 21, tzinfo=UTC)
STEP_S = 0.5
"""Of the samples: a pass of one second holds at least two of them."""
EDGE_S = 2e-3
"""Samples nearer to an edge than this are left out: SGP4's polynomials may be off by a metre."""

sites = st.builds(
    Site,
    name=st.just("site"),
    latitude_deg=st.one_of(st.sampled_from([-90.0, 0.0, 90.0]), st.floats(-90, 90)),
    longitude_deg=st.one_of(st.sampled_from([-180.0, 180.0]), st.floats(-180, 180)),
    altitude_m=st.floats(0, 4000),
)


@st.composite
def satellites(draw) -> Satellite:
    """Draw low, medium, high and eccentric orbits, none below 180 km."""
    perigee_km = draw(st.floats(180, 2000) | st.floats(2000, 36000))
    eccentricity = draw(st.sampled_from([0.0, 1e-4, 0.01]) | st.floats(0, 0.8))
    semi_major_km = (6378.135 + perigee_km) / (1 - eccentricity)
    assume(semi_major_km < 60_000)
    angle = st.floats(0, 360)
    return new_satellite(
        name="satellite",
        number=1,
        epoch=EPOCH,
        mean_motion_rev_day=np.sqrt(398600.8 / semi_major_km**3) * 86400 / (2 * np.pi),
        eccentricity=eccentricity,
        inclination_deg=draw(st.sampled_from([0.0, 90.0]) | st.floats(0, 179.9)),
        raan_deg=draw(angle),
        argument_of_perigee_deg=draw(angle),
        mean_anomaly_deg=draw(angle),
    )


def clearance(satellite: Satellite, site: Site, times_s: np.ndarray, mask_deg: float) -> np.ndarray:
    """Return sine of elevation less sine of mask, from SGP4 at every time."""
    vectors = site_vectors([site])
    position = earth_fixed([satellite.satrec], EPOCH, times_s)
    assume(np.isfinite(position).all())
    ray = position[0] - vectors.position_km[0]
    return ray @ vectors.up[0] / np.linalg.norm(ray, axis=1) - np.sin(np.radians(mask_deg))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(satellites(), sites, st.floats(0, 60), st.floats(600, 30_000))
def test_windows_hold_every_sample_above_the_mask_and_no_other(
    satellite, site, mask_deg, duration_s
):
    times_s = np.append(np.arange(0, duration_s, STEP_S), duration_s)
    above = clearance(satellite, site, times_s, mask_deg) > 0
    windows = find_windows([satellite], [site], EPOCH, duration_s, mask_deg)
    inside = np.zeros(len(times_s), dtype=bool)
    near = np.zeros(len(times_s), dtype=bool)
    for start, end in zip(windows.start_s, windows.end_s, strict=True):
        assert end > start
        inside |= (times_s >= start) & (times_s <= end)
        near |= (abs(times_s - start) < EDGE_S) | (abs(times_s - end) < EDGE_S)
    # A pass that only touches the mask may fall on either side.
    touching = abs(clearance(satellite, site, times_s, mask_deg)) < 1e-6
    assert np.array_equal((inside | near | touching), (above | near | touching))
    ends = (windows.start_s == 0) | (windows.end_s == duration_s)
    assert np.array_equal(windows.clipped, ends)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(satellites(), sites, st.integers(0, 3))
def test_passes_of_one_second_are_found(satellite, site, which):
    wide = find_windows([satellite], [site], EPOCH, 30_000, 5.0)
    inner = np.flatnonzero(~wide.clipped & (wide.end_s - wide.start_s > 20))
    assume(len(inner) > which)
    peak_s = wide.peak_s[inner[which]]
    at = clearance(satellite, site, peak_s + np.array([-0.5, 0.0, 0.5]), 0.0)
    mask_deg = np.degrees(np.arcsin((at[0] + at[2]) / 2))
    # High orbits climb by less than the interpolation's error within half a second.
    assume(at[1] - (at[0] + at[2]) / 2 > 2e-6)
    narrow = find_windows([satellite], [site], EPOCH, 30_000, mask_deg)
    found = np.flatnonzero((narrow.start_s <= peak_s) & (narrow.end_s >= peak_s))
    assert len(found) == 1
    length_s = narrow.end_s[found[0]] - narrow.start_s[found[0]]
    assert 0.5 < length_s < 2.0


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(satellites(), sites)
def test_the_highest_elevation_is_that_of_the_samples(satellite, site):
    windows = find_windows([satellite], [site], EPOCH, 20_000, 5.0)
    for row in range(len(windows)):
        start, end = windows.start_s[row], windows.end_s[row]
        times_s = np.append(np.arange(start, end, 1.0), end)
        sines = clearance(satellite, site, times_s, 0.0)
        highest = np.degrees(np.arcsin(min(1.0, sines.max())))
        assert windows.max_elevation_deg[row] >= highest - 1e-4
        at_peak = clearance(satellite, site, np.array([windows.peak_s[row]]), 0.0)[0]
        assert np.degrees(np.arcsin(min(1.0, at_peak))) == pytest.approx(
            windows.max_elevation_deg[row], abs=1e-3
        )


def low_orbit(name: str = "low", bstar: float = 0.0, epoch: datetime = EPOCH) -> Satellite:
    return new_satellite(
        name=name,
        number=1,
        epoch=epoch,
        mean_motion_rev_day=15.9,
        eccentricity=0.001,
        inclination_deg=51.6,
        raan_deg=0.0,
        argument_of_perigee_deg=0.0,
        mean_anomaly_deg=0.0,
        bstar=bstar,
    )


QUITO = Site(name="Quito", latitude_deg=-0.2, longitude_deg=-78.5)


def test_old_elements_warn_with_the_error_to_expect():
    old = low_orbit(epoch=datetime(2026, 6, 11, tzinfo=UTC))
    with pytest.warns(ElementsWarning, match=r"low: 10.*errors of about 10 km"):
        find_windows([old], [QUITO], EPOCH, 86_400, 10)


def test_decayed_satellites_are_named_and_left_out_or_refused():
    gone = low_orbit("gone", bstar=0.1, epoch=datetime(2026, 6, 19, tzinfo=UTC))
    with pytest.warns(ElementsWarning, match=r"left out 1 of 2 .*gone \("):
        windows = find_windows([gone, low_orbit()], [QUITO], EPOCH, 86_400, 10)
    assert set(windows.satellite.tolist()) == {1}
    with pytest.raises(DataError, match=r"gone \("):
        find_windows([gone, low_orbit()], [QUITO], EPOCH, 86_400, 10, strict=True)
    with pytest.raises(DataError, match="none of the 1 satellites"):
        find_windows([gone], [QUITO], EPOCH, 86_400, 10)


def test_many_grids_and_batches_give_what_single_satellites_give():
    orbits = [low_orbit(f"s{i}") for i in range(3)]
    geostationary = new_satellite(
        name="geo",
        number=2,
        epoch=EPOCH,
        mean_motion_rev_day=1.0027,
        eccentricity=0.0,
        inclination_deg=0.1,
        raan_deg=0,
        argument_of_perigee_deg=0,
        mean_anomaly_deg=191.0,
    )
    mixed = [orbits[0], geostationary, *orbits[1:]]
    together = find_windows(mixed, [QUITO], EPOCH, 50_000, 10)
    assert together.satellite.tolist() == sorted(together.satellite.tolist())
    for index, satellite in enumerate(mixed):
        alone = find_windows([satellite], [QUITO], EPOCH, 50_000, 10)
        assert np.array_equal(alone.start_s, together.start_s[together.satellite == index])
    assert together.clipped[together.satellite == 1].tolist() == [True]
