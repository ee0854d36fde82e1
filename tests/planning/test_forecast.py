"""When a bound comes down to a level, against the bound itself; and the bound's terms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.errors import DataError, InfeasibleError
from emsfl.planning.bound import TERMS, Scenario, gap_bound, gradient_bound
from emsfl.planning.forecast import ticks_to_gradient, ticks_to_loss
from emsfl.planning.schedule import Rounds, synchronous
from emsfl.planning.terms import gap_terms
from tests.planning.quadratics import random_plan
from tests.planning.test_bound import constants


def scenario_of(rng, **change):
    _, schedule = random_plan(rng, 2)
    return Scenario(constants(**change), schedule)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_bound_is_at_the_level_then_and_no_step_size_is_sooner(seed):
    rng = np.random.default_rng(seed)
    scenario = scenario_of(rng, device_gap=rng.uniform(0, 1), shared_noise=rng.uniform(0, 2))
    level = 10 ** rng.uniform(-2, 0)
    found = ticks_to_gradient(scenario, level)
    horizon = scenario.schedule.num_ticks
    assert sum(found.terms.values()) == pytest.approx(level, rel=1e-6)
    assert found.leading == max(found.terms, key=found.terms.get)
    for factor in (0.3, 0.8, 1.2, 3.0):
        try:
            other = gradient_bound(
                scenario, found.step_size * factor, repeats=found.num_ticks / horizon
            )
        except DataError:
            continue
        assert other.value >= level * (1 - 1e-3)
    assert ticks_to_gradient(scenario, level / 2).num_ticks > found.num_ticks
    # Corollary 3: a loss is a gradient over 2 mu.
    assert ticks_to_loss(scenario, level / 0.2).num_ticks == pytest.approx(found.num_ticks)


def test_noise_alone_costs_the_square_of_the_inverse_level():
    """Corollary 1: the bound falls as 1 / sqrt(T) where noise leads."""
    rng = np.random.default_rng(0)
    scenario = scenario_of(rng, cluster_gap=0.0, shared_noise=50.0, expert_noise=50.0)
    first, second = (ticks_to_gradient(scenario, level).num_ticks for level in (1e-3, 1e-4))
    assert np.log10(second / first) == pytest.approx(2, abs=0.1)


def test_forecasts_refuse_what_cannot_be():
    scenario = scenario_of(np.random.default_rng(1))
    for level in (0.0, -1.0, np.nan):
        with pytest.raises(DataError, match="above 0"):
            ticks_to_gradient(scenario, level)
    with pytest.raises(InfeasibleError, match="no step size"):
        ticks_to_gradient(scenario, 1e-16)
    with pytest.raises(DataError, match="A6"):
        ticks_to_loss(scenario_of(np.random.default_rng(1), pl=None), 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_terms_of_the_gap_add_up(seed):
    rng = np.random.default_rng(seed)
    scenario = scenario_of(rng, device_gap=0.3)
    step_size = 0.02
    bound, terms = gap_terms(scenario, step_size)
    np.testing.assert_allclose(sum(terms.values()), bound.server)
    np.testing.assert_allclose(bound.server, gap_bound(scenario, step_size).server)
    assert list(terms) == list(TERMS)
    assert all(np.all(term >= -1e-12) for term in terms.values())
    assert all(term[-1] > 0 for term in terms.values())


def test_a_gap_that_grows_without_end_is_infinite():
    schedule = synchronous(Rounds(end_s=np.arange(1.0, 3.0), steps=np.full((2, 2), 900)))
    found = gap_bound(Scenario(constants(pl=1e-3), schedule), 0.9)
    assert np.isinf(found.virtual[-1])
    assert np.isinf(found.server[-1])
    assert not np.isnan(found.deviation).any()
