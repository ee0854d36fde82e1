"""The bounds against exact expectations on random quadratics and plans, and their equality."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.errors import DataError
from emsfl.planning.bound import Scenario, best_step_size, gap_bound, gradient_bound
from emsfl.planning.deviation import Constants, rates
from emsfl.planning.schedule import (
    Rounds,
    asynchronous,
    exchanges_in_contacts,
    link_time,
    synchronous,
)
from tests.planning.quadratics import (
    Quadratics,
    constants_of,
    exact_trace,
    random_plan,
    random_problem,
)
from tests.planning.replay import replay

ROUNDING = 1 + 1e-9  # second moments are exact up to float64 rounding over 50 ticks


def random_scenario(rng):
    problem = random_problem(rng)
    cap = None if rng.random() < 0.5 else int(rng.integers(2, 8))
    exchanges, schedule = random_plan(rng, len(problem.weights), cap=cap)
    return problem, exchanges, schedule


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_quantity_exceeds_its_bound(seed):
    rng = np.random.default_rng(seed)
    problem, exchanges, schedule = random_scenario(rng)
    step_size = 10 ** rng.uniform(-2.5, 0) / problem.smoothness
    while True:  # into the range of Theorem 2(a), which depends on the constants
        trace = exact_trace(problem, exchanges, schedule, step_size)
        scenario = Scenario(constants_of(problem, schedule, trace), schedule)
        try:
            gaps = gap_bound(scenario, step_size)
            gradient = gradient_bound(scenario, step_size)
            break
        except DataError as error:
            assert "range of Theorem 2" in str(error)
            step_size /= 3
    assert np.all(trace.virtual_gap <= gaps.virtual * ROUNDING)
    assert np.all(trace.server_gap <= gaps.server * ROUNDING)
    assert np.all(gaps.deviation**2 * ROUNDING + 1e-20 >= trace.deviation_sq[:-1].T)
    for num_ticks in (schedule.num_ticks, schedule.num_ticks // 2):
        bound = gradient_bound(scenario, step_size, num_ticks)
        assert trace.gradient_sq[:num_ticks].mean() <= bound.value * ROUNDING
    assert min(gradient.terms.values()) >= -1e-12
    assert sum(gradient.terms.values()) == pytest.approx(gradient.value)


def test_lemma_4_is_nearly_attained():
    """The deviation comes within a fifth of its bound, so each coefficient is needed."""
    largest = 0.0
    for seed in range(40):
        problem, exchanges, schedule = random_scenario(np.random.default_rng(seed))
        step_size = 0.01 / problem.smoothness
        trace = exact_trace(problem, exchanges, schedule, step_size)
        gaps = gap_bound(Scenario(constants_of(problem, schedule, trace), schedule), step_size)
        bound = gaps.deviation**2
        ratio = trace.deviation_sq[:-1].T[bound > 0] / bound[bound > 0]
        largest = max(largest, ratio.max(initial=0.0))
    assert 0.8 < largest <= ROUNDING


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_gap_bound_holds_up_to_the_largest_step_size(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng)
    exchanges, schedule = random_plan(rng, len(problem.weights), num_ticks=30)
    step_size = rng.uniform(0.1, 1) / problem.smoothness
    trace = exact_trace(problem, exchanges, schedule, step_size)
    gaps = gap_bound(Scenario(constants_of(problem, schedule, trace), schedule), step_size)
    assert np.all(trace.virtual_gap <= gaps.virtual * ROUNDING)
    assert np.all(trace.server_gap <= gaps.server * ROUNDING)


def test_bounds_are_within_a_factor_of_ten_where_noise_dominates():
    rng = np.random.default_rng(0)
    ratios = []
    while len(ratios) < 20:
        problem = random_problem(rng, num_clusters=2, noise=30.0, spread=0.05, start=0.1)
        exchanges, schedule = random_plan(rng, 2, num_ticks=60, mean_gap=3.0)
        window = max(Scenario(_unit(problem), schedule).deviation.coupling_norm)
        step_size = rng.uniform(0.05, 0.3) / problem.smoothness / max(window, 1.0)
        trace = exact_trace(problem, exchanges, schedule, step_size)
        scenario = Scenario(constants_of(problem, schedule, trace), schedule)
        try:
            gradient = gradient_bound(scenario, step_size)
        except DataError:
            continue
        if gradient.terms["noise"] + gradient.terms["drift"] < 0.5 * gradient.value:
            continue
        assert step_size * problem.smoothness * window <= 0.5  # the range of Corollary 1
        gaps = gap_bound(scenario, step_size)
        ratios.append(
            (
                gradient.value / trace.gradient_sq[:-1].mean(),
                gaps.virtual[-1] / trace.virtual_gap[-1],
                gaps.server[-1] / trace.server_gap[-1],
            )
        )
    medians = np.median(ratios, axis=0)
    assert np.all(medians < 10)
    assert np.all(np.min(ratios, axis=0) >= 1)


def _unit(problem):
    ones = np.ones(len(problem.weights))
    return Constants(
        smoothness=1.0, weights=problem.weights, concentration=ones, shared_noise=ones,
        expert_noise=ones, device_gap=ones, cluster_gap=ones, initial_gap=1.0,
    )  # fmt: skip


def isotropic(rng, noise=2.0):
    """One cluster, one device, Hessian L times the identity: where the bound is attained."""
    return Quadratics(
        weights=np.ones(1),
        shares=[np.ones(1)],
        hessians=[np.eye(3)[None] * 1.7],
        minima=[rng.normal(size=(1, 3))],
        num_shared=1,
        noise_shared=noise / 3,
        noise_expert=noise * 2 / 3,
        start=[rng.normal(size=1), rng.normal(size=2)],
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_equality_for_one_device_and_an_isotropic_quadratic(seed, share):
    rng = np.random.default_rng(seed)
    problem = isotropic(rng)
    exchanges, schedule = random_plan(rng, 1)
    step_size = share / 1.7
    trace = exact_trace(problem, exchanges, schedule, step_size)
    gaps = gap_bound(Scenario(constants_of(problem, schedule, trace), schedule), step_size)
    np.testing.assert_allclose(gaps.virtual, trace.virtual_gap, rtol=1e-9)
    np.testing.assert_allclose(gaps.server, trace.server_gap, rtol=1e-9)
    # Theorem 1: whatever the delay, the server holds the virtual iterate of the snapshot.
    np.testing.assert_allclose(trace.server_gap, trace.virtual_gap[schedule.delivered[0]])


def test_the_objective_that_is_descended_is_the_reweighted_one():
    """Proposition 1: with small steps the fixed point minimises sum w nu f, not sum w f."""
    rng = np.random.default_rng(3)
    problem = random_problem(rng, num_clusters=2, noise=0.0, spread=1.0)
    problem.weights = np.array([0.5, 0.5])
    num_ticks = 4000
    # Cluster 0 meets the satellite every 8 ticks, cluster 1 every 40; at most 4 steps a contact.
    exchanges = [_regular(8, num_ticks), _regular(40, num_ticks)]
    schedule = asynchronous(exchanges, step_s=1.0, horizon_s=num_ticks, max_steps_per_contact=4)
    objective = rates(problem.weights, schedule.active)
    np.testing.assert_allclose(objective.objective_weights, [5 / 6, 1 / 6], atol=2e-3)
    end = {}

    def observe(tick, z, server, local):
        end["z"] = [x[:, 0] for x in z]

    replay(
        weights=problem.weights,
        shares=problem.shares,
        start_shared=problem.start[0][:, None],
        start_experts=[e[:, None] for e in problem.start[1:]],
        exchanges=exchanges,
        schedule=schedule,
        step_size=0.05,
        gradient=lambda t, c, k, x: problem.gradient(c, k, x),
        observe=observe,
    )
    reweighted, _ = problem.minimum(problem.weights * objective.rate)
    plain, _ = problem.minimum(problem.weights)

    def distance(points):
        return sum(np.linalg.norm(a - b) for a, b in zip(end["z"], points, strict=True))

    assert distance(reweighted) < 0.1 * distance(plain)


def _regular(gap, num_ticks):
    contacts = [(float(t), t + 0.5) for t in range(gap, num_ticks, gap)]
    at_once = link_time(contacts, 0.0)
    return exchanges_in_contacts(contacts, upload=at_once, download=at_once)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_closed_forms_are_no_smaller_than_what_is_computed(seed):
    """Theorem 1(a) and Corollary 1 of docs/theory.md as formulas, against gradient_bound."""
    rng = np.random.default_rng(seed)
    num_clusters = int(rng.integers(1, 4))
    _, schedule = random_plan(rng, num_clusters)
    constants = Constants(
        smoothness=rng.uniform(0.5, 2),
        weights=rng.dirichlet(np.full(num_clusters, 3.0)),
        concentration=rng.uniform(0.2, 1, size=num_clusters),
        shared_noise=rng.uniform(0, 2, size=num_clusters),
        expert_noise=rng.uniform(0, 2, size=num_clusters),
        device_gap=rng.uniform(0, 1, size=num_clusters),
        cluster_gap=rng.uniform(0, 1, size=num_clusters),
        initial_gap=rng.uniform(0, 5),
    )
    scenario = Scenario(constants, schedule)
    parts, num_ticks = scenario.deviation, schedule.num_ticks
    step_size = min(0.5 / parts.coupling_norm[-1], 0.25 / max(parts.net_norm[-1], 1e-9), 1)
    step_size *= rng.uniform(0.1, 1) / constants.smoothness
    smooth, w = constants.smoothness, constants.weights
    local = np.sqrt(parts.noise) + np.hypot(parts.device, parts.cluster)
    mean_square = (w @ local**2).mean()
    variance = float(scenario.step_noise().sum())
    corollary = (
        4 * constants.initial_gap / (step_size * num_ticks)
        + 2 * step_size * smooth * variance
        + 16 * step_size**2 * smooth**2 * mean_square
    )
    assert gradient_bound(scenario, step_size).value <= corollary * ROUNDING

    own = constants.of_cluster(0, initial_gap=1.0, pl=None)
    alone = schedule.only(0)
    age = np.arange(alone.num_ticks) - alone.held[0, 0]
    step_size = rng.uniform(0.05, 0.9) / smooth / max(age.max(), 1)
    sigma, spread = np.sqrt(own.expert_noise[0]), 1 - own.concentration[0]
    square = (np.sqrt(age * spread) * sigma + age * own.device_gap[0]) ** 2
    theorem = 2 / (step_size * alone.num_ticks)
    theorem += step_size * smooth * own.concentration[0] * sigma**2
    theorem += (step_size * smooth / (1 - step_size * smooth * age.max())) ** 2 * square.mean()
    assert gradient_bound(Scenario(own, alone), step_size).value <= theorem * ROUNDING


def constants(**change):
    values = {
        "smoothness": 1.0, "weights": [0.5, 0.5], "concentration": 1.0, "shared_noise": 1.0,
        "expert_noise": 1.0, "device_gap": 0.0, "cluster_gap": 0.1, "initial_gap": 1.0, "pl": 0.1,
    }  # fmt: skip
    return Constants(**{**values, **change})


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("A1", {"smoothness": -1.0}),
        ("A1", {"smoothness": np.inf}),
        ("A2", {"shared_noise": -1.0}),
        ("A2", {"expert_noise": np.nan}),
        ("A3", {"device_gap": -0.1}),
        ("A4", {"cluster_gap": [0.1, -0.1]}),
        ("A5", {"initial_gap": -1.0}),
        ("A6", {"pl": 2.0}),
        ("A6", {"pl": 0.0}),
        ("concentration", {"concentration": 1.5}),
        ("sum to 1", {"weights": [0.5, 0.6]}),
        ("positive", {"weights": [1.0, 0.0]}),
    ],
)
def test_constants_name_the_assumption_they_violate(words, change):
    with pytest.raises(DataError, match=words):
        constants(**change)


def test_step_sizes_outside_the_range_are_refused():
    schedule = synchronous(Rounds(end_s=np.array([10.0, 20.0]), steps=np.full((2, 2), 5)))
    scenario = Scenario(constants(), schedule)
    for bound in (gap_bound, gradient_bound):
        for step_size in (0.0, -0.1, 1.1, np.nan):
            with pytest.raises(DataError, match="Lemma 3"):
                bound(scenario, step_size)
    with pytest.raises(DataError, match=r"Theorem 2\(a\)"):
        gradient_bound(scenario, 0.9)
    with pytest.raises(DataError, match="A6"):
        gap_bound(Scenario(constants(pl=None), schedule), 0.1)
    every_other = np.tile([True, False], (2, 5))
    resting = asynchronous([_regular(2, 10)] * 2, step_s=1.0, horizon_s=10.0)
    resting = dataclasses.replace(resting, active=every_other)  # nu = 1/2, so L_F = L / 2
    with pytest.raises(DataError, match=r"L_F.*A6"):
        gap_bound(Scenario(constants(pl=0.9), resting), 0.1)
    with pytest.raises(DataError, match="3 clusters, the schedule 2"):
        Scenario(constants(weights=[0.2, 0.3, 0.5], cluster_gap=0.1), schedule)
    with pytest.raises(DataError, match="num_ticks"):
        gradient_bound(scenario, 0.01, 0)


def test_best_step_size_beats_its_neighbours():
    rounds = Rounds(end_s=np.arange(1, 21) * 10.0, steps=np.full((20, 2), 5))
    schedule = synchronous(rounds)
    scenario = Scenario(constants(), schedule)
    for value in (
        lambda s, eta: gradient_bound(s, eta).value,
        lambda s, eta: float(gap_bound(s, eta).server[-1]),
    ):
        step_size, best = best_step_size(scenario, value)
        for factor in (0.5, 0.8, 1.1):
            try:
                other = value(scenario, step_size * factor)
            except DataError:
                continue
            assert best <= other * (1 + 1e-3)
