"""The bound on the gap, term by term: what each group of constants adds (docs/theory.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emsfl.planning.bound import TERMS, GapBound, Scenario, gap_bound

FloatArray = NDArray[np.float64]


def gap_terms(scenario: Scenario, step_size: float) -> tuple[GapBound, dict[str, FloatArray]]:
    """Return Theorem 2(b)'s bound, and per term [T + 1] what it adds to the server's.

    Groups of constants are switched on one after the other, in the order of `TERMS`, so the terms
    sum to the bound.

    Raises:
        DataError: as `gap_bound`.
    """
    bounds = [gap_bound(_with_groups(scenario, count), step_size) for count in range(1, len(TERMS))]
    bounds.append(gap_bound(scenario, step_size))
    before = np.zeros(scenario.schedule.num_ticks + 1)
    terms = {}
    for name, bound in zip(TERMS, bounds, strict=True):
        terms[name] = np.where(np.isfinite(bound.server), bound.server - before, np.inf)
        before = bound.server
    return bounds[-1], terms


def _with_groups(scenario: Scenario, num_groups: int) -> Scenario:
    """Return the scenario with the first groups of `TERMS` alone."""
    nothing = np.zeros(scenario.schedule.num_clusters)
    constants = scenario.constants
    noise, drift, device, cluster = (num_groups > index for index in range(1, 5))
    reduced = Scenario(
        replace(
            constants,
            shared_noise=constants.shared_noise if noise else nothing,
            expert_noise=constants.expert_noise if noise else nothing,
            device_gap=constants.device_gap if device else nothing,
            cluster_gap=constants.cluster_gap if cluster else nothing,
        ),
        scenario.schedule,
    )
    if not drift:
        parts = reduced.deviation
        reduced.deviation = replace(parts, noise=np.zeros_like(parts.noise))
    return reduced
