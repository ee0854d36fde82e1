"""Differences between two rows of per-seed values, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

MIN_SEEDS_FOR_INTERVAL = 3
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First minus second over common seeds."""

    per_seed: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    """95 % confidence interval of the mean; None below three seeds."""

    @property
    def settled(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return `first - second`, paired.

    The interval is Student's t on the differences, which takes them for independent and roughly
    normal: with few seeds it is wide, and rightly so.

    Args:
        first: one value per seed, at least one.
        second: the same seeds in the same order.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean = float(differences.mean())
    interval = None
    num_seeds = differences.size
    if num_seeds >= MIN_SEEDS_FOR_INTERVAL:
        quantile = float(stdtrit(num_seeds - 1, (1 + CONFIDENCE) / 2))
        half = quantile * float(differences.std(ddof=1)) / num_seeds**0.5
        interval = (mean - half, mean + half)
    return Difference(per_seed=tuple(differences.tolist()), mean=mean, interval=interval)
