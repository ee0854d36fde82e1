"""Divide samples over holders by seeded Dirichlet label shares (Hsu et al., arXiv 1909.06335)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def partition_by_label(
    labels: IntArray, num_parts: int, alpha: float, generator: np.random.Generator
) -> list[IntArray]:
    """Divide sample indices over `num_parts` holders, label by label, by Dirichlet(alpha) shares.

    Args:
        labels: [num_samples] integers.
        num_parts: number of holders, at least 1 and at most num_samples.
        alpha: concentration, > 0; towards 0 each label sits with one holder, towards infinity
            every holder has the same mix.
        generator: source of randomness.

    Returns:
        Sorted indices per holder: disjoint, together all samples, none empty (the largest holder
        gives one sample to an empty one).
    """
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(num_parts, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.extend(chunk.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]
