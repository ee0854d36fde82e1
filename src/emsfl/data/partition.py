"""Divide samples over holders: pure, mixed, or by shares of each group; all of it seeded.

A group is a class or a domain, by its number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
LEAST_SHARE = 1e-9
"""Of a group in a holder's mix: keeps the fitting from running into zeros."""
FITTING_ROUNDS = 1000


def partition_pure(
    groups: IntArray, num_groups: int, num_parts: int, generator: np.random.Generator
) -> list[IntArray]:
    """Divide sample indices over `num_parts` holders so that each holds groups of its own.

    With at least as many groups as holders, holder i gets the i-th run of neighbouring groups, the
    first runs being the longer ones (10 on 4: 3, 3, 2, 2). With fewer groups, holder i gets an
    even share of group i modulo `num_groups`.

    Args:
        groups: [num_samples], in 0..num_groups - 1.
        num_groups: how many there are.
        num_parts: number of holders, at least 1.
        generator: source of randomness, for shares of a group.

    Returns:
        Sorted indices per holder: disjoint, together all samples.
    """
    parts: list[IntArray] = [np.empty(0, dtype=np.int64)] * num_parts
    if num_groups >= num_parts:
        for part, run in enumerate(np.array_split(np.arange(num_groups), num_parts)):
            parts[part] = np.flatnonzero(np.isin(groups, run))
        return parts
    for group in range(num_groups):
        holders = range(group, num_parts, num_groups)
        members = generator.permutation(np.flatnonzero(groups == group))
        for part, share in zip(holders, np.array_split(members, len(holders)), strict=True):
            parts[part] = np.sort(share)
    return parts


def partition_mixed(
    groups: IntArray, num_parts: int, alpha: float, generator: np.random.Generator
) -> list[IntArray]:
    """Divide sample indices over equally large holders whose mixes of groups are drawn.

    Each holder's mix comes from Dirichlet(alpha), as in Hsu et al., arXiv 1909.06335. Since all
    samples are handed out, the table of holders and groups is then scaled until holders are equal
    in size and groups are used up (iterative proportional fitting, which keeps odds ratios).

    Args:
        groups: [num_samples] integers.
        num_parts: number of holders, at least 1 and at most num_samples.
        alpha: concentration, > 0; small is close to pure, large is close to even.
        generator: source of randomness.

    Returns:
        Sorted indices per holder: disjoint, together all samples, none empty; sizes differ by
        what rounding makes of as many groups as there are.
    """
    kinds, counts = np.unique(groups, return_counts=True)
    table = generator.dirichlet(np.full(len(kinds), alpha), num_parts) + LEAST_SHARE
    for _ in range(FITTING_ROUNDS):
        table *= len(groups) / num_parts / table.sum(1, keepdims=True)
        table *= counts / table.sum(0)
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for column, kind in enumerate(kinds):
        members = generator.permutation(np.flatnonzero(groups == kind))
        cuts = np.round(np.cumsum(table[:-1, column])).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.extend(chunk.tolist())
    return _none_empty(parts)


def partition_dirichlet(
    groups: IntArray, num_parts: int, alpha: float, generator: np.random.Generator
) -> list[IntArray]:
    """Divide sample indices over `num_parts` holders, group by group, by Dirichlet(alpha) shares.

    Holders differ in size, too (Yurochkin et al., arXiv 1905.12022).

    Args:
        groups: [num_samples] integers.
        num_parts: number of holders, at least 1 and at most num_samples.
        alpha: concentration, > 0; towards 0 each group sits with one holder, towards infinity
            every holder has the same mix.
        generator: source of randomness.

    Returns:
        Sorted indices per holder: disjoint, together all samples, none empty (the largest holder
        gives one sample to an empty one).
    """
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for group in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == group))
        shares = generator.dirichlet(np.full(num_parts, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.extend(chunk.tolist())
    return _none_empty(parts)


def _none_empty(parts: list[list[int]]) -> list[IntArray]:
    """Return the parts sorted; the largest gives one sample to an empty one."""
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]
