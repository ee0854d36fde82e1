"""Allocation: hand-computed cases for each policy, and what must hold for any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.orbit.allocation import Slot, allocate, every_window
from emsfl.orbit.config import AllocationConfig, Policy
from emsfl.orbit.contacts import Windows


def windows(*rows: tuple[int, int, float, float]) -> Windows:
    """Return windows from (satellite, site, start, end)."""
    table = np.array(rows, dtype=float).reshape(-1, 4)
    return Windows(
        satellite=table[:, 0].astype(np.int32),
        site=table[:, 1].astype(np.int32),
        start_s=table[:, 2],
        end_s=table[:, 3],
        max_elevation_deg=np.full(len(table), 45.0),
        peak_s=(table[:, 2] + table[:, 3]) / 2,
        clipped=np.zeros(len(table), dtype=bool),
    )


def flat(window: int, time_s: float) -> float:
    return 45.0


def spans(slots: list[Slot]) -> list[tuple[int, float, float]]:
    return [(slot.window, slot.start_s, slot.end_s) for slot in slots]


def test_one_antenna_follows_a_satellite_until_it_sets():
    seen = windows((0, 0, 0, 100), (1, 0, 50, 200))
    assert spans(allocate(seen, AllocationConfig(), flat)) == [(0, 0, 100), (1, 100, 200)]
    assert spans(every_window(seen)) == [(0, 0, 100), (1, 50, 200)]
    two = AllocationConfig(antennas_per_site=2)
    assert spans(allocate(seen, two, flat)) == [(0, 0, 100), (1, 50, 200)]


def test_guard_times_come_off_the_start():
    seen = windows((0, 0, 0, 100), (1, 0, 50, 200), (2, 0, 500, 600))
    guarded = AllocationConfig(acquisition_s=5, handover_s=20)
    expected = [(0, 5, 100), (1, 125, 200), (2, 505, 600)]
    assert spans(allocate(seen, guarded, flat)) == expected


def test_a_contact_shorter_than_its_guard_time_is_not_made():
    seen = windows((0, 0, 0, 4), (1, 0, 2, 50))
    slots = allocate(seen, AllocationConfig(acquisition_s=5), flat)
    assert spans(slots) == [(1, 7, 50)]


def test_one_beam_serves_the_longest_waiting_site_first():
    # Both sites see satellite 0 all the time; site 1 was served by satellite 1 until 10.
    seen = windows((0, 0, 20, 50), (0, 1, 20, 80), (1, 1, 0, 10))
    slots = allocate(seen, AllocationConfig(beams_per_satellite=1), flat)
    assert spans(slots) == [(2, 0, 10), (0, 20, 50), (1, 50, 80)]


def test_dwell_makes_sites_take_turns_and_a_lone_contact_goes_on():
    settings = AllocationConfig(beams_per_satellite=1, dwell_s=10)
    seen = windows((0, 0, 0, 40), (0, 1, 0, 25))
    slots = allocate(seen, settings, flat)
    assert spans(slots) == [(0, 0, 10), (1, 10, 20), (0, 20, 40)]


def test_round_robin_begins_behind_the_site_served_last():
    settings = AllocationConfig(beams_per_satellite=1, policy=Policy.ROUND_ROBIN, dwell_s=10)
    seen = windows(*((0, site, 0, 60) for site in range(3)))
    order = [slot.window for slot in allocate(seen, settings, flat)]
    assert order == [0, 1, 2, 0, 1, 2]


def test_highest_elevation_wins_at_the_moment_of_decision():
    settings = AllocationConfig(policy=Policy.HIGHEST_ELEVATION, dwell_s=10)
    seen = windows((0, 0, 0, 30), (1, 0, 0, 30))

    def crossing(window: int, time_s: float) -> float:
        return 60 - 2 * time_s if window == 0 else 30 + 2 * time_s

    assert spans(allocate(seen, settings, crossing)) == [(0, 0, 10), (1, 10, 30)]


rows = st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(0, 1000), st.floats(1, 300)).map(
    lambda row: (row[0], row[1], row[2], row[2] + row[3])
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=25),
    st.sampled_from(Policy),
    st.integers(1, 3),
    st.none() | st.integers(1, 2),
    st.sampled_from([0.0, 7.5]),
    st.sampled_from([0.0, 3.0]),
    st.none() | st.sampled_from([5.0, 40.0]),
)
def test_no_resource_is_used_twice_and_none_lies_idle(
    table, policy, antennas, beams, acquisition_s, handover_s, dwell_s
):
    # One pair has at most one window at a time.
    kept: list[tuple[int, int, float, float]] = []
    for row in sorted(table, key=lambda r: r[2]):
        if all(row[:2] != k[:2] or row[2] > k[3] for k in kept):
            kept.append(row)
    seen = windows(*kept)
    config = AllocationConfig(
        policy=policy,
        antennas_per_site=antennas,
        beams_per_satellite=beams,
        acquisition_s=acquisition_s,
        handover_s=handover_s,
        dwell_s=dwell_s,
    )
    slots = allocate(seen, config, lambda w, t: (w * 7 + t) % 90)
    for slot in slots:
        assert seen.start_s[slot.window] + acquisition_s <= slot.start_s < slot.end_s
        assert slot.end_s <= seen.end_s[slot.window]
    moments = sorted({slot.start_s for slot in slots})
    for moment in moments:
        active = [s for s in slots if s.start_s <= moment < s.end_s]
        for site in range(4):
            assert sum(seen.site[s.window] == site for s in active) <= antennas
        for satellite in range(5):
            used = sum(seen.satellite[s.window] == satellite for s in active)
            assert beams is None or used <= beams
    if acquisition_s == handover_s == 0:
        # Whoever sees a free beam with a free antenna is served.
        edges = np.unique([*seen.start_s, *seen.end_s, *(s.end_s for s in slots)])
        for moment in (edges[:-1] + edges[1:]) / 2:
            active = [s for s in slots if s.start_s <= moment < s.end_s]
            for w in range(len(seen)):
                if not seen.start_s[w] <= moment < seen.end_s[w]:
                    continue
                busy = sum(seen.site[s.window] == seen.site[w] for s in active) == antennas
                used = sum(seen.satellite[s.window] == seen.satellite[w] for s in active)
                assert busy or used == beams or any(s.window == w for s in active)


def test_nothing_to_allocate():
    assert allocate(windows(), AllocationConfig(), flat) == []


@pytest.mark.parametrize("policy", list(Policy))
def test_equal_input_gives_equal_output(policy: Policy):
    seen = windows((0, 0, 0, 9), (0, 1, 0, 9), (1, 0, 0, 9), (1, 1, 0, 9))
    config = AllocationConfig(policy=policy, beams_per_satellite=1, dwell_s=2)
    assert allocate(seen, config, flat) == allocate(seen, config, flat)
