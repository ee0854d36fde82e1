"""How long until a level is reached, by the bounds, if the plan goes on as it began.

Corollary 3 of docs/theory.md. Over a repeated plan only the share of the initial gap changes; the
windows that would reach over the joints of two plans are taken for those within.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from emsfl.errors import DataError, InfeasibleError
from emsfl.planning.bound import Scenario, gradient_bound, inequality

SMALLEST_STEP = 1e-9
"""Lower end of the search for a step size, as a multiple of 1 / L_F."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """When a bound comes down to a level, at the step size for which that is soonest."""

    num_ticks: float
    """May exceed the schedule, which is repeated."""
    step_size: float
    terms: dict[str, float]
    """What makes up the bound then, as `GradientBound.terms`."""

    @property
    def leading(self) -> str:
        """Name of the largest term."""
        return max(self.terms, key=lambda name: self.terms[name])


def ticks_to_gradient(scenario: Scenario, level: float) -> Forecast:
    """Return when the mean squared gradient is at most `level`, by Theorem 2(a).

    Raises:
        DataError: a level that is not above 0.
        InfeasibleError: no step size brings the bound down to the level.
    """
    if not (np.isfinite(level) and level > 0):
        raise DataError(f"level = {level:g} must be finite and above 0: it bounds a square")
    horizon = scenario.schedule.num_ticks

    def log_ticks(log_step: float) -> float:
        step = float(np.exp(log_step))
        try:
            room = inequality(scenario, step, horizon).room(level)
        except DataError:
            return 1e6 + log_step
        gap = max(scenario.constants.initial_gap, 1e-300)
        return float(np.log(gap / (step * room))) if room > 0 else 1e5 + log_step

    high = -np.log(scenario.curvature)
    grid = np.linspace(high + np.log(SMALLEST_STEP), high, 60)
    best = int(np.argmin([log_ticks(step) for step in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)])
    found = minimize_scalar(log_ticks, bounds=bracket, method="bounded", options={"xatol": 1e-3})
    step = min((float(found.x), float(grid[best])), key=log_ticks)
    if log_ticks(step) >= 1e4:
        raise InfeasibleError(f"no step size brings the bound to {level:g}; take a larger level")
    ticks, eta = float(np.exp(log_ticks(step))), float(np.exp(step))
    terms = gradient_bound(scenario, eta, repeats=max(ticks / horizon, 1e-12)).terms
    return Forecast(num_ticks=ticks, step_size=eta, terms=terms)


def ticks_to_loss(scenario: Scenario, level: float) -> Forecast:
    """Return when the mean gap to the infimum is at most `level`, by Corollary 3.

    Raises:
        DataError: no `pl` (A6), or a level that is not above 0.
        InfeasibleError: as `ticks_to_gradient`.
    """
    pl = scenario.constants.pl
    if pl is None:
        raise DataError("a forecast of the loss needs pl, the constant of A6")
    return ticks_to_gradient(scenario, 2 * pl * level)
