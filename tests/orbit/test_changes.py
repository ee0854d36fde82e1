"""Slices, merges and outages keep every remaining bit where it was."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.errors import UserError
from emsfl.orbit.changes import merge_plans, slice_plan, with_outages
from tests.orbit.test_plan import contacts, make, rate_at

TIMES_S = np.arange(0.05, 60, 0.1)
lists = st.lists(contacts, min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(0, 30), st.integers(1, 30))
def test_a_slice_carries_what_the_plan_carries(rows, start_s, length_s):
    plan = make(rows, duration_s=60.0)
    part = slice_plan(plan, start_s, start_s + length_s)
    assert part.duration_s == length_s
    assert part.epoch_utc == plan.epoch_utc + timedelta(seconds=start_s)
    inside = TIMES_S[length_s > TIMES_S]
    for site in plan.sites:
        expected = rate_at(plan, site, "up", inside + start_s)
        assert rate_at(part, site, "up", inside) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(lists, lists, st.integers(0, 20))
def test_a_merge_carries_what_both_carry(rows, others, shift_s):
    first = make(rows, duration_s=60.0)
    second = make(others, sites=("B", "A"), duration_s=60.0)
    later = type(second)(
        **{**vars(second), "epoch_utc": first.epoch_utc + timedelta(seconds=shift_s)}
    )
    both = merge_plans(first, later)
    assert both.duration_s == 60 + shift_s
    for site in both.sites:
        expected = rate_at(first, site, "up", TIMES_S)
        expected += rate_at(later, site, "up", TIMES_S - shift_s)
        assert rate_at(both, site, "up", TIMES_S) == pytest.approx(expected)
    assert np.all(np.diff(both.start_s) >= 0)


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(0, 2**32 - 1))
def test_outages_only_take_away_and_obey_their_seed(rows, seed):
    plan = make(rows, duration_s=60.0)
    worse = with_outages(plan, np.random.default_rng(seed), 15, 5)
    again = with_outages(plan, np.random.default_rng(seed), 15, 5)
    assert worse.hash == again.hash
    for site in plan.sites:
        before, after = (rate_at(p, site, "up", TIMES_S) for p in (plan, worse))
        assert np.all(after <= before + 1e-9)
        both = worse.bits(site, "up", 0, 60)
        assert both == pytest.approx(after.sum() * 0.1, abs=plan.rate_bps.max() * 8 * 8)


def test_outages_of_one_node_leave_the_others_alone():
    plan = make([(0, 2, 0, 500, [1.0]), (1, 3, 0, 500, [1.0])])
    worse = with_outages(plan, np.random.default_rng(1), 20, 20, nodes=["A"])
    assert worse.bits("B", "up", 0, 1000) == 500
    # Up and down for 20 s on average: about half of the time is left.
    assert 100 < worse.bits("A", "up", 0, 1000) < 400


def test_impossible_changes_say_why():
    plan = make([(0, 2, 0, 10, [1.0])])
    with pytest.raises(UserError, match="does not fit a plan of 1000 s"):
        slice_plan(plan, 0, 2000)
    with pytest.raises(UserError, match="'A' is a site in one plan"):
        merge_plans(plan, make([(0, 1, 0, 10, [1.0])], sites=("S",), satellites=("A",)))
    with pytest.raises(UserError, match="must be above 0"):
        with_outages(plan, np.random.default_rng(0), 0, 5)
    with pytest.raises(UserError, match="no node 'X'"):
        with_outages(plan, np.random.default_rng(0), 5, 5, nodes=["X"])
