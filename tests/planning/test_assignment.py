"""The assignment of experts against brute force, its constraints, and its refusals."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.errors import ConfigError, DataError, InfeasibleError
from emsfl.planning import NOBODY, Objective, assign_experts, mass_kept, random_assignment


def random_mass(rng, num_clusters, num_layers, num_experts):
    return rng.dirichlet(np.full(num_experts, 0.5), size=(num_clusters, num_layers))


def owners(num_clusters, num_experts, low, high, num_groups=1):
    """Every feasible row of owners of one layer."""
    width = num_experts // num_groups
    for row in itertools.product(range(-1, num_clusters), repeat=num_experts):
        counts = [
            row[start : start + width].count(c)
            for c in range(num_clusters)
            for start in range(0, num_experts, width)
        ]
        if low <= min(counts) and max(counts) <= high:
            yield np.array(row)


def brute_force(mass, weights, low, high, num_groups=1, sizes=None, budget=None, fair=False):
    num_clusters, num_layers, num_experts = mass.shape
    rows = list(owners(num_clusters, num_experts, low, high, num_groups))
    best = -np.inf
    for choice in itertools.product(rows, repeat=num_layers):
        owner = np.stack(choice)
        if budget is not None and any(
            sizes[owner == c].sum() > budget[c] for c in range(num_clusters)
        ):
            continue
        kept = mass_kept(mass, owner)
        best = max(best, kept.mean(axis=1).min() if fair else float(weights @ kept.sum(axis=1)))
    return best


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_clusters=st.integers(1, 3), k=st.integers(1, 2))
def test_uniform_is_optimal(seed, num_clusters, k):
    rng = np.random.default_rng(seed)
    mass = random_mass(rng, num_clusters, 1, 6)
    weights = rng.dirichlet(np.ones(num_clusters)) + 1e-3
    found = assign_experts(
        mass, cluster_weights=weights, min_experts_per_layer=1, max_experts_per_layer=k
    )
    assert all(len(found.experts_of(c, 0)) == k for c in range(num_clusters))
    # 1e-9: rounding of sums of at most six masses
    assert found.value == pytest.approx(brute_force(mass, weights, k, k), abs=1e-9)
    assert found.value_bound == pytest.approx(found.value, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), unequal=st.booleans(), fair=st.booleans())
def test_budgets_that_couple_layers_are_optimal(seed, unequal, fair):
    rng = np.random.default_rng(seed)
    num_clusters, num_layers, num_experts = 2, 2, 4
    mass = random_mass(rng, num_clusters, num_layers, num_experts)
    weights = rng.dirichlet(np.ones(num_clusters)) + 1e-3
    sizes = rng.uniform(0.5, 2, size=(num_layers, num_experts)) if unequal else np.full((2, 4), 3.0)
    budget = sizes.mean() * rng.uniform(1.5, 5, size=num_clusters)
    expected = brute_force(mass, weights, 1, 3, sizes=sizes, budget=budget, fair=fair)
    arguments = {
        "cluster_weights": weights,
        "min_experts_per_layer": 1,
        "max_experts_per_layer": 3,
        "uniform": False,
        "bytes_per_expert": sizes,
        "budget_bytes": budget,
        "objective": Objective.MAX_MIN if fair else Objective.TOTAL,
    }
    if expected == -np.inf:
        with pytest.raises(InfeasibleError):
            assign_experts(mass, **arguments)
        return
    found = assign_experts(mass, **arguments)
    assert np.all(found.owned_bytes <= budget * (1 + 1e-9))
    counts = np.array([[len(found.experts_of(c, m)) for m in range(2)] for c in range(2)])
    assert counts.min() >= 1
    assert counts.max() <= 3
    # 1e-6: HiGHS's feasibility and integrality tolerances
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert found.value_bound == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), fair=st.booleans())
def test_uniform_with_budgets_and_unequal_sizes_is_optimal(seed, fair):
    rng = np.random.default_rng(seed)
    mass = random_mass(rng, 2, 2, 4)
    weights = np.array([0.3, 0.7])
    sizes = rng.uniform(0.5, 2, size=(2, 4))
    budget = rng.uniform(1.5, 5, size=2)
    by_count = [
        brute_force(mass, weights, k, k, sizes=sizes, budget=budget, fair=fair) for k in (2, 1)
    ]
    expected = next((value for value in by_count if value > -np.inf), None)
    arguments = {
        "cluster_weights": weights,
        "min_experts_per_layer": 1,
        "bytes_per_expert": sizes,
        "budget_bytes": budget,
        "objective": Objective.MAX_MIN if fair else Objective.TOTAL,
    }
    if expected is None:
        with pytest.raises(InfeasibleError, match="budget_bytes"):
            assign_experts(mass, **arguments)
        return
    found = assign_experts(mass, **arguments)
    assert np.all(found.owned_bytes <= budget * (1 + 1e-9))
    assert found.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_router_groups_are_kept_and_optimal(seed):
    rng = np.random.default_rng(seed)
    mass = random_mass(rng, 2, 1, 8)
    weights = np.array([0.4, 0.6])
    found = assign_experts(mass, cluster_weights=weights, min_experts_per_layer=2, num_groups=2)
    for cluster in range(2):
        own = found.experts_of(cluster, 0)
        assert (own < 4).sum() == (own >= 4).sum() == 2
    assert found.value == pytest.approx(brute_force(mass, weights, 2, 2, num_groups=2), abs=1e-9)


def test_uniform_owns_all_experts_that_fit():
    mass = random_mass(np.random.default_rng(0), 3, 4, 8)
    found = assign_experts(mass, cluster_weights=np.ones(3), min_experts_per_layer=1)
    for layer in found.owner:
        assert [int((layer == c).sum()) for c in (NOBODY, 0, 1, 2)] == [2, 2, 2, 2]
    np.testing.assert_allclose(found.mass_kept, mass_kept(mass, found.owner))


def test_uniform_takes_the_largest_count_the_poorest_budget_allows():
    mass = random_mass(np.random.default_rng(0), 2, 4, 8)
    found = assign_experts(
        mass,
        cluster_weights=np.ones(2),
        min_experts_per_layer=1,
        bytes_per_expert=10.0,
        budget_bytes=[1000.0, 139.0],
    )
    np.testing.assert_array_equal(found.owned_bytes, [120.0, 120.0])


def test_same_input_same_output_even_with_ties():
    mass = np.full((4, 3, 8), 1 / 8)
    arguments = {"cluster_weights": np.ones(4), "min_experts_per_layer": 1}
    first = assign_experts(mass, **arguments)
    np.testing.assert_array_equal(first.owner, assign_experts(mass, **arguments).owner)
    coupled = {**arguments, "uniform": False, "budget_bytes": np.full(4, 5.0)}
    first = assign_experts(mass, **coupled)
    np.testing.assert_array_equal(first.owner, assign_experts(mass, **coupled).owner)


def test_random_assignment_is_uniform_over_assignments():
    mass = random_mass(np.random.default_rng(0), 2, 1, 4)
    generator = np.random.default_rng(1)
    seen = {}
    for _ in range(1200):
        blind = random_assignment(
            generator, mass=mass, cluster_weights=np.ones(2), min_experts_per_layer=2
        )
        key = tuple(blind.owner[0])
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6  # 4 choose 2
    statistic = sum((count - 200) ** 2 / 200 for count in seen.values())
    assert statistic < 20.5  # chi-square with 5 degrees of freedom, p = 0.001; the seed is fixed
    np.testing.assert_allclose(blind.mass_kept, mass_kept(mass, blind.owner))
    assert blind.value_bound == np.inf


MASS = np.full((3, 2, 4), 0.25)


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (InfeasibleError, "3 clusters x 2 experts", {"min_experts_per_layer": 2}),
        (InfeasibleError, "budget_bytes of cluster 1", {"budget_bytes": [9.0, 1.0, 9.0]}),
        (ConfigError, "max_experts_per_layer = 0", {"max_experts_per_layer": 0}),
        (ConfigError, "min_experts_per_layer = 0", {"min_experts_per_layer": 0}),
        (ConfigError, "num_groups = 3 must divide", {"num_groups": 3}),
        (ConfigError, "needs uniform", {"num_groups": 2, "uniform": False}),
        (InfeasibleError, "at least 2 in each of 2", {"num_groups": 2}),
        (DataError, "cluster_weights", {"cluster_weights": [1.0, 0.0, 1.0]}),
        (DataError, "cluster_weights", {"cluster_weights": [1.0, 1.0]}),
        (DataError, "bytes_per_expert", {"bytes_per_expert": np.ones(3)}),
        (DataError, "bytes_per_expert", {"bytes_per_expert": -1.0}),
        (DataError, "sum to 1", {"mass": MASS * 2}),
        (DataError, "finite", {"mass": MASS * np.nan}),
        (DataError, "shape", {"mass": MASS[0]}),
    ],
)
def test_bad_input_names_the_value(error, words, change):
    arguments = {"mass": MASS, "cluster_weights": np.ones(3), "min_experts_per_layer": 1, **change}
    with pytest.raises(error, match=words):
        assign_experts(arguments.pop("mass"), **arguments)


@pytest.mark.parametrize("owner", [np.zeros((2, 3), int), np.zeros((2, 4)), np.full((2, 4), 3)])
def test_mass_kept_refuses_other_shapes_and_owners(owner):
    with pytest.raises(DataError, match="owner"):
        mass_kept(MASS, owner)


def test_joint_budgets_that_cannot_be_met_are_infeasible():
    # Each cluster alone could pay for its two cheap experts, but they are the same ones.
    sizes = np.array([[1.0, 1.0, 5.0, 5.0]])
    with pytest.raises(InfeasibleError, match="within budget_bytes"):
        assign_experts(
            np.full((2, 1, 4), 0.25),
            cluster_weights=np.ones(2),
            min_experts_per_layer=2,
            bytes_per_expert=sizes,
            budget_bytes=[3.0, 3.0],
        )


def test_uniform_at_full_size_is_fast():
    mass = random_mass(np.random.default_rng(0), 64, 32, 128)
    start_s = time.perf_counter()
    found = assign_experts(mass, cluster_weights=np.ones(64), min_experts_per_layer=2)
    assert time.perf_counter() - start_s < 2.0  # takes 0.03 s; the room is for busy machines
    assert (found.owner != NOBODY).all()
