"""Partitions: pure ones keep groups apart, Dirichlet ones are complete, seeded and never empty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emsfl.data.partition import partition_dirichlet, partition_mixed, partition_pure


def test_ten_digits_on_four_clusters_split_3_3_2_2():
    labels = np.arange(10).repeat(5)
    parts = partition_pure(labels, 10, 4, np.random.default_rng(0))
    assert [sorted(set(labels[part])) for part in parts] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
        [8, 9],
    ]


def test_more_clusters_than_domains_share_one_evenly():
    domain = np.array([0] * 40 + [1] * 20)
    parts = partition_pure(domain, 2, 4, np.random.default_rng(0))
    assert [set(domain[part]) for part in parts] == [{0}, {1}, {0}, {1}]
    assert [len(part) for part in parts] == [20, 10, 20, 10]


@given(
    groups=st.lists(st.integers(0, 4), min_size=8, max_size=60),
    num_parts=st.integers(1, 8),
    alpha=st.sampled_from([0.01, 0.1, 1.0, 100.0]),
    partition=st.sampled_from([partition_dirichlet, partition_mixed]),
)
def test_parts_are_everything_once_and_none_is_empty(groups, num_parts, alpha, partition):
    parts = partition(np.array(groups), num_parts, alpha, np.random.default_rng(1))
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    assert all(len(part) for part in parts)
    again = partition(np.array(groups), num_parts, alpha, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.01, 0.85, 1.0), (1000.0, 0.25, 0.3)])
def test_alpha_goes_from_pure_to_even(alpha, low, high):
    groups = np.arange(4).repeat(500)
    parts = partition_dirichlet(groups, 4, alpha, np.random.default_rng(2))
    counts = np.array([np.bincount(groups[part], minlength=4) for part in parts])
    largest_share = (counts.max(0) / 500).mean()
    assert low <= largest_share <= high


def test_mixed_clusters_are_equally_large_and_more_mixed_with_alpha():
    groups = np.arange(4).repeat(800)
    entropy = []
    for alpha in (0.1, 1.0, 100.0):
        found = []
        for seed in range(8):
            parts = partition_mixed(groups, 4, alpha, np.random.default_rng(seed))
            assert max(abs(len(part) - 800) for part in parts) <= 4
            shares = np.array([np.bincount(groups[part], minlength=4) for part in parts]) / 800
            found.append(-(shares * np.log(np.maximum(shares, 1e-12))).sum(1).mean() / np.log(4))
        entropy.append(np.mean(found))
    assert entropy[0] < 0.55 < entropy[1] < 0.95 < entropy[2]
