"""Experts assigned cluster by cluster."""

import numpy as np
import pytest

from emsfl.errors import InfeasibleError
from emsfl.planning import NOBODY, assign_experts, assign_next, uniform_count

FREE = np.full((2, 4), NOBODY)
MASS = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])


def test_a_cluster_takes_its_best_and_of_equal_ones_the_first():
    owner = assign_next(FREE, MASS, cluster=1, count=2)
    assert owner.tolist() == [[-1, -1, 1, 1], [1, 1, -1, -1]]
    assert (FREE == NOBODY).all(), "the argument is not changed"


def test_what_is_taken_stays_taken():
    first = assign_next(FREE, MASS, cluster=1, count=2)
    assert assign_next(first, MASS, cluster=0, count=2).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_too_few_left_is_said():
    owner = assign_next(FREE, MASS, cluster=1, count=3)
    with pytest.raises(InfeasibleError, match=r"cluster 0 .* 2 experts .* 1 left"):
        assign_next(owner, MASS, cluster=0, count=2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_first_has_its_best_and_enough_is_left_for_the_last(order):
    mass = np.random.default_rng(0).dirichlet(np.full(11, 0.3), size=(3, 5))
    count = uniform_count(3, 11, min_experts_per_layer=2)
    assert count == 3
    owner = np.full((5, 11), NOBODY)
    for cluster in order:
        owner = assign_next(owner, mass[cluster], cluster=cluster, count=count)
    for cluster in order:
        assert ((owner == cluster).sum(axis=1) == count).all()
    kept = sum(np.where(owner == c, mass[c], 0).sum() for c in order)
    best = assign_experts(mass, cluster_weights=np.ones(3), min_experts_per_layer=2)
    assert kept < best.value
    first = order[0]
    own = np.where(owner == first, mass[first], 0).sum()
    assert own == pytest.approx(np.sort(mass[first])[:, -count:].sum())


def test_counts_are_those_of_the_best_assignment():
    assert uniform_count(3, 11, min_experts_per_layer=1, max_experts_per_layer=2) == 2
    with pytest.raises(InfeasibleError, match="use at most 2 clusters"):
        uniform_count(3, 11, min_experts_per_layer=5)
