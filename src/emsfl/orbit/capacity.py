"""Bits over time for a sum of step functions: exact integrals and their inverse."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Capacity:
    """A rate that is constant between breakpoints and 0 outside: N breakpoints, ascending."""

    time_s: Floats
    """(N,)."""
    rate_bps: Floats
    """(N,) from this breakpoint to the next; the last is 0."""
    total_bits: Floats
    """(N,) carried from the first breakpoint until this one."""

    @classmethod
    def of(cls, start_s: Floats, end_s: Floats, rate_bps: Floats) -> Capacity:
        """Return the sum of M segments, which may overlap: each (M,)."""
        times, where = np.unique(np.concatenate([start_s, end_s]), return_inverse=True)
        change = np.zeros(len(times))
        np.add.at(change, where, np.concatenate([rate_bps, -rate_bps]))
        active = np.zeros(len(times), dtype=np.int64)
        np.add.at(active, where, np.repeat([1, -1], len(start_s)))
        # Rounding must not leave a rate where nothing is active.
        rate = np.where(np.cumsum(active) > 0, np.maximum(np.cumsum(change), 0.0), 0.0)
        total = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(times))])[: len(times)]
        return cls(times, rate, total)

    def bits_until(self, time_s: float) -> float:
        """Return the bits carried before `time_s`."""
        index = int(np.searchsorted(self.time_s, time_s, side="right")) - 1
        if index < 0:
            return 0.0
        since = min(time_s, self.time_s[-1]) - self.time_s[index]
        return float(self.total_bits[index] + self.rate_bps[index] * since)

    def finish_s(self, start_s: float, num_bits: float) -> float:
        """Return when `num_bits` from `start_s` on have been carried; infinity if never."""
        if num_bits <= 0:
            return start_s
        target = self.bits_until(start_s) + num_bits
        index = int(np.searchsorted(self.total_bits, target, side="left"))
        if index == len(self.total_bits):
            return inf
        # The bits are reached inside the segment before `index`, whose rate is not 0.
        before = index - 1
        offset = (target - self.total_bits[before]) / self.rate_bps[before]
        return float(max(start_s, self.time_s[before] + offset))
