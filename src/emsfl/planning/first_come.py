"""Assign experts cluster by cluster, where the scores of all are not known together.

The best assignment for all (`assign_experts`) has to wait for the last cluster's scores; over
links that come and go that can take days, or for ever. Here a cluster takes its best of what is
left and leaves enough for those to come.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from emsfl.errors import InfeasibleError
from emsfl.planning.assignment import NOBODY, IntArray


def assign_next(owner: ArrayLike, mass: ArrayLike, *, cluster: int, count: int) -> IntArray:
    """Give one cluster its best experts of those that nobody owns.

    Args:
        owner: [L, E] int, index of the owning cluster, -1 for nobody.
        mass: [L, E], how well each expert fits the cluster's data; of equal ones the first wins.
        cluster: index of the cluster, at least 0.
        count: experts of every layer to give it, at least 1.

    Returns:
        [L, E]: the owners afterwards.

    Raises:
        InfeasibleError: a layer has fewer experts left than `count`.
    """
    owner_le = np.array(owner, dtype=np.int64)
    free = owner_le == NOBODY
    if free.sum(axis=1).min() < count:
        raise InfeasibleError(
            f"cluster {cluster} cannot have {count} experts in every layer: "
            f"one layer has {free.sum(axis=1).min()} left"
        )
    left = np.where(free, np.asarray(mass, dtype=np.float64), -np.inf)
    best = np.argsort(-left, axis=1, kind="stable")[:, :count]
    np.put_along_axis(owner_le, best, cluster, axis=1)
    return owner_le
