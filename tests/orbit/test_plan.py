"""Exact integrals of the plan against numerical integration, and its queries."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emsfl.errors import UserError
from emsfl.orbit.plan import ContactPlan

EPOCH = datetime(2026, 6, 21, tzinfo=UTC)
Row = tuple[int, int, float, float, list[float]]


def make(rows: list[Row], sites=("A", "B"), satellites=("S", "T"), duration_s=1000.0):
    """Return a plan from (source, destination, start, end, rates of equal segments)."""
    rows = sorted(rows, key=lambda row: (row[2], row[0], row[1]))
    edges = [np.linspace(start, end, len(rates) + 1) for _, _, start, end, rates in rows]
    return ContactPlan(
        epoch_utc=EPOCH,
        duration_s=duration_s,
        sites=tuple(sites),
        satellites=tuple(satellites),
        source=np.array([row[0] for row in rows], dtype=np.int32),
        destination=np.array([row[1] for row in rows], dtype=np.int32),
        start_s=np.array([row[2] for row in rows], dtype=float),
        end_s=np.array([row[3] for row in rows], dtype=float),
        offset=np.cumsum([0, *(len(row[4]) for row in rows)], dtype=np.int32),
        segment_start_s=np.concatenate([np.empty(0), *(edge[:-1] for edge in edges)]),
        rate_bps=np.concatenate([np.empty(0), *(np.array(row[4], dtype=float) for row in rows)]),
        delay_s=np.full(sum(len(row[4]) for row in rows), 0.003),
    )


def rate_at(plan: ContactPlan, site: str, direction: str, times_s: np.ndarray) -> np.ndarray:
    """Return the sum of all profiles at each time, from the columns alone."""
    total = np.zeros(len(times_s))
    column = plan.source if direction == "up" else plan.destination
    for c in np.flatnonzero(column == plan.sites.index(site)):
        own = slice(plan.offset[c], plan.offset[c + 1])
        inside = (times_s >= plan.start_s[c]) & (times_s < plan.end_s[c])
        index = np.searchsorted(plan.segment_start_s[own], times_s, side="right") - 1
        total[inside] += plan.rate_bps[own][index[inside]]
    return total


# Whole numbers make contacts touch and overlap often.
contacts = st.builds(
    lambda source, satellite, start, length, rates: (
        source,
        satellite,
        start,
        start + length,
        rates,
    ),
    st.integers(0, 1),
    st.integers(2, 3),
    st.integers(0, 40).map(float),
    st.integers(1, 12).map(float),
    st.lists(st.sampled_from([0.0, 500.0, 8000.0]) | st.floats(100, 1e5), min_size=1, max_size=4),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(contacts, min_size=1, max_size=8),
    st.floats(0, 50),
    st.floats(0.0, 3e4),
)
def test_finish_time_agrees_with_numerical_integration(rows, start_s, num_bytes):
    plan = make(rows, duration_s=60.0)
    step_s = 1e-4
    grid = np.arange(0, 60, step_s)
    carried = np.concatenate([[0.0], np.cumsum(rate_at(plan, "A", "up", grid + step_s / 2))])
    carried *= step_s
    begin = np.interp(start_s, np.append(grid, 60.0), carried)
    target = begin + 8 * num_bytes
    found = plan.finish_time("A", "up", start_s, num_bytes)
    slack_bits = plan.rate_bps.max(initial=0.0) * 8 * 2e-4
    if num_bytes == 0:
        assert found == start_s
    elif found == np.inf:
        assert target >= carried[-1] - slack_bits
    else:
        # To the resolution of the integration: before it is too early, after it is enough.
        early = np.interp(found - 1e-3, np.append(grid, 60.0), carried)
        late = np.interp(found + 1e-3, np.append(grid, 60.0), carried)
        assert early <= target + 1e-6
        assert late >= target - 1e-6
        assert rate_at(plan, "A", "up", np.array([found - 1e-6])) > 0 or num_bytes < 1e-3
        bits = plan.bits("A", "up", start_s, found)
        assert bits == pytest.approx(8 * num_bytes, rel=1e-9, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(contacts, max_size=8), st.floats(0, 60), st.floats(0, 60))
def test_bits_agree_with_numerical_integration(rows, a, b):
    start_s, end_s = min(a, b), max(a, b)
    plan = make(rows, duration_s=60.0)
    centres = np.linspace(start_s, end_s, 200_001)
    centres = (centres[:-1] + centres[1:]) / 2
    expected = rate_at(plan, "A", "up", centres).sum() * (end_s - start_s) / 200_000
    tolerance = 20 * 1e5 * (end_s - start_s) / 200_000  # one step at each edge of a segment
    assert plan.bits("A", "up", start_s, end_s) == pytest.approx(expected, abs=tolerance + 1e-6)


def test_a_transfer_over_a_gap_and_over_two_links_at_once():
    plan = make(
        [(0, 2, 0, 10, [800.0]), (0, 3, 20, 30, [800.0]), (0, 2, 25, 40, [1600.0, 800.0, 800.0])]
    )
    assert plan.finish_time("A", "up", 5, 500) == pytest.approx(10.0)
    assert plan.finish_time("A", "up", 5, 600) == pytest.approx(21.0)
    # 500 + 500 bytes until 25 s, then 300 bytes/s until 30 s, then 100 bytes/s.
    assert plan.finish_time("A", "up", 5, 1000 + 600) == pytest.approx(27.0)
    assert plan.finish_time("A", "up", 5, 1000 + 1500 + 50) == pytest.approx(30.5)
    assert plan.finish_time("A", "up", 5, 1000 + 1500 + 1001) == np.inf
    assert plan.finish_time("A", "down", 0, 1) == np.inf
    assert plan.capacity("A", "T").finish_s(0, 800) == pytest.approx(21.0)


def test_queries():
    plan = make([(0, 2, 0, 10, [1.0]), (2, 0, 0, 10, [1.0]), (1, 3, 10, 30, [1.0])])
    nearest = plan.next_contact("A", 9.0)
    assert nearest is not None
    assert (nearest.source, nearest.start_s) == ("A", 0.0)
    assert plan.next_contact("A", 10.0) is None
    assert [c.source for c in plan.active(10.0)] == ["B"]
    assert [c.source for c in plan.active(0.0)] == ["A", "S"]
    events = [(time, kind, contact.source) for time, kind, contact in plan.events()]
    assert events == [
        (0.0, "start", "A"),
        (0.0, "start", "S"),
        (10.0, "end", "A"),
        (10.0, "end", "S"),
        (10.0, "start", "B"),
        (30.0, "end", "B"),
    ]
    with pytest.raises(UserError, match="no node 'C'; did you mean"):
        plan.next_contact("C", 0.0)
    with pytest.raises(ValueError, match="the end lies before the start"):
        plan.bits("A", "up", 2, 1)


def test_statistics_by_hand():
    rows = []
    for start, end in ((100, 200), (400, 500), (900, 1000)):
        rows += [(0, 2, start, end, [80.0]), (2, 0, start, end, [800.0])]
    a, b = make(rows, duration_s=86_400.0).statistics()
    assert (a.contacts_per_day, a.mean_duration_s, a.mean_gap_s) == (3, 100, 300)
    assert a.longest_gap_s == 85_400
    assert (a.uplink_bits_per_day, a.downlink_bits_per_day) == (24_000, 240_000)
    assert (b.contacts_per_day, b.mean_gap_s, b.longest_gap_s) == (0, None, 86_400)


@settings(max_examples=50, deadline=None)
@given(st.lists(contacts, min_size=1, max_size=6))
def test_the_hash_sees_every_value(rows):
    plan = make(rows)
    assert plan.hash == make(rows).hash
    changed = [*rows[:-1], (*rows[-1][:4], [rate + 1 for rate in rows[-1][4]])]
    assume(changed != rows)
    assert plan.hash != make(changed).hash
