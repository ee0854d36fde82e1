"""The convergence bounds of docs/theory.md as pure functions: constants and a schedule in.

Theorem 1 (frozen shared parameters) is the case of one cluster; Theorem 2 is the general one;
synchronous FedAvg is Theorem 2 over `schedule.synchronous`. All hold for plain SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from emsfl.errors import DataError
from emsfl.planning.deviation import (
    Constants,
    Deviation,
    Rates,
    deviation,
    rates,
    set_gap,
    windows,
)
from emsfl.planning.schedule import Schedule

FloatArray = NDArray[np.float64]

_YOUNG = np.geomspace(1e-4, 1.0, 60)
"""The values of Young's parameter b that Theorem 2(a) is minimised over; each is valid."""


class Scenario:
    """Constants and a schedule, with all that the bounds need before a step size is chosen."""

    def __init__(self, constants: Constants, schedule: Schedule) -> None:
        """Compute the coefficients of Lemma 4; O(T C^2 U) for windows of U ticks.

        Raises:
            DataError: shapes that do not agree, or a cluster that never steps.
        """
        self.constants = constants
        self.schedule = schedule
        self.objective: Rates = rates(constants.weights, schedule.active)
        self.deviation: Deviation = deviation(constants, schedule)
        w, rate = constants.weights, self.objective.rate
        active = schedule.active
        self.curvature = constants.smoothness * float(rate.max())
        """L_F, the smoothness of the reweighted objective."""
        imbalance = np.abs(self.objective.imbalance)
        self.imbalance: FloatArray = imbalance.max(axis=0)
        """[T + 1] max_c |B_c(t)|."""
        self.shift: FloatArray = np.maximum(
            np.abs(w @ self.objective.imbalance) / self.objective.total,
            (imbalance / rate[:, None]).max(axis=0),
        )
        """[T + 1] beta_t."""
        self.shift_gap: FloatArray = (w * constants.cluster_gap) @ imbalance
        """[T + 1] Z_t."""
        self.scale: FloatArray = np.maximum(
            w @ active / self.objective.total, np.where(active, 1 / rate[:, None], 0.0).max(axis=0)
        )
        """[T] how much larger than the mean direction the direction of one tick can be."""
        self.chosen_gap: FloatArray = set_gap(active, constants, rate)
        """[T] gamma of the set of clusters that step."""
        self.variance: FloatArray = self.step_noise() @ active
        """[T] V_t."""

    def step_noise(self) -> FloatArray:
        """Return [C], the variance that one step of each cluster adds to the virtual average."""
        c = self.constants
        return c.weights * c.concentration * (c.weights * c.shared_noise + c.expert_noise)

    def check_step_size(self, step_size: float) -> None:
        """Raise DataError unless the step size is within (0, 1 / L_F]."""
        if not 0 < step_size <= (1 + 1e-12) / self.curvature:
            raise DataError(
                f"step size {step_size:g} is outside (0, {1 / self.curvature:g}], the range of "
                "Lemma 3 (step size x smoothness at most 1); take a smaller one"
            )


@dataclass(frozen=True, eq=False)
class GapBound:
    """Theorem 2(b): bounds on the expected gap to the infimum of the reweighted objective."""

    virtual: FloatArray
    """[T + 1] for z_t, the weighted average of everybody's work so far."""
    server: FloatArray
    """[T + 1] for the model that the server holds at tick t."""
    deviation: FloatArray
    """[C, T] delta_c(t): root mean square distance of local models from z_t (Lemma 4)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientBound:
    """Theorem 2(a): a bound on the mean over ticks of the expected squared gradient norm."""

    value: float
    terms: dict[str, float]
    """What each group of constants adds to the bound, in the order of `TERMS`; sums to `value`."""


TERMS = ("optimisation", "noise", "drift", "device heterogeneity", "cluster heterogeneity")
"""Optimisation: the initial gap. Noise: of the averaged step. Drift: local steps and staleness
under noise. Heterogeneity: what local steps and staleness cost because clients differ."""


def gradient_bound(
    scenario: Scenario, step_size: float, num_ticks: int | None = None, repeats: float = 1.0
) -> GradientBound:
    """Bound the mean of E |grad F(z_t)|^2 over the first `num_ticks` ticks (all by default).

    Args:
        scenario: constants and schedule.
        step_size: eta, above 0.
        num_ticks: how many ticks of the schedule.
        repeats: how often these ticks follow each other, at least 1.

    Raises:
        DataError: a step size outside the theorem's range.
    """
    horizon = scenario.schedule.num_ticks if num_ticks is None else num_ticks
    if not 1 <= horizon <= scenario.schedule.num_ticks:
        raise DataError(f"num_ticks = {horizon} must lie in 1..{scenario.schedule.num_ticks}")
    gap = scenario.constants.initial_gap / (step_size * horizon * repeats) if step_size else 0.0
    values = [
        inequality(scenario, step_size, horizon, num_groups=count).bound(gap)
        for count in range(1, len(TERMS) + 1)
    ]
    terms = dict(zip(TERMS, np.diff([0.0, *values]).tolist(), strict=True))
    return GradientBound(value=values[-1], terms=terms)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inequality:
    """(13) at one step size: with x = Delta / (eta T), square G^2 <= linear G + free + x."""

    square: FloatArray
    """[N], one per value of b that leaves it positive; at least one."""
    linear: FloatArray
    free: FloatArray
    offset: float
    """|grad F(z)| <= offset + slope G."""
    slope: float

    def bound(self, gap: float) -> float:
        """Return the best bound on the mean squared gradient at z, given x."""
        discriminant = self.linear**2 + 4 * self.square * (self.free + gap)
        root = (self.linear + np.sqrt(discriminant)) / (2 * self.square)
        return float((self.offset + self.slope * root.min()) ** 2)

    def room(self, level: float) -> float:
        """Return the largest x for which the bound is at most `level`; at most 0 if there is none.

        The parabola has one positive zero, so what is asked of G asks the sign at G alone.
        """
        root = max((np.sqrt(level) - self.offset) / self.slope, 0.0)
        return float((self.square * root**2 - self.linear * root - self.free).max())


def inequality(
    scenario: Scenario, eta: float, horizon: int, num_groups: int = len(TERMS)
) -> Inequality:
    """Return Theorem 2(a)'s inequality with the first `num_groups` groups of `TERMS` switched on.

    Raises:
        DataError: a step size outside the theorem's range.
    """
    scenario.check_step_size(eta)
    constants, parts = scenario.constants, scenario.deviation
    noise, drift, device, cluster = (float(num_groups > index) for index in range(1, 5))
    head = slice(0, horizon)
    active = scenario.schedule.active[:, head]
    local = np.hypot(device * parts.device[:, head], cluster * parts.cluster[:, head])
    local = local + drift * np.sqrt(parts.noise[:, head])
    constant = np.sqrt((constants.weights @ (active * local**2)).mean())  # c-hat
    variance = noise * float(scenario.variance[head].mean())
    smooth, curvature = constants.smoothness, scenario.curvature
    shift = float(scenario.shift[: horizon + 1].max())
    coupling = eta * smooth * float(parts.coupling_norm[horizon - 1])
    if coupling >= 1 or eta * curvature * shift >= 1:
        raise DataError(
            f"step size {eta:g} is outside the range of Theorem 2(a): step size x smoothness x "
            f"window is {max(coupling, eta * curvature * shift):.3g} and must be below 1; take a "
            "smaller step size, or a plan with shorter gaps"
        )
    # Everything is bounded by (value at G = 0) + (slope) G, with G the root mean square gradient.
    offset = _Line(cluster * eta * _rms(scenario.shift_gap[head]), eta * shift).over(
        1 - eta * curvature * shift
    )
    at_z = _Line(0.0, 1.0).plus(offset, curvature)
    spread = _Line(eta * float(constant), 0.0).plus(
        at_z, eta * float(parts.net_norm[horizon - 1]) / scenario.objective.total
    )
    spread = spread.over(1 - coupling)
    move = _Line(cluster * _rms(scenario.chosen_gap[head]) + np.sqrt(variance), 0.0)
    move = move.plus(at_z, float(scenario.scale[head].max())).plus(spread, smooth)
    jump = _Line(0.0, 0.0).plus(move, eta * smooth * float(scenario.imbalance[: horizon + 1].max()))
    error = jump.plus(spread, smooth).plus(offset, curvature)
    crossed = eta * curvature * float(np.sqrt(variance))
    rest = 1 - eta * curvature
    # Without any error no Young is needed: Lemma 3 with b = 0.
    exact = error.constant + error.slope == 0
    young = np.zeros(1) if exact else _YOUNG
    kappa = 1 - eta * curvature / 2 - rest * young / 2
    lam = np.zeros(1) if exact else rest / young + eta * curvature
    square = kappa - lam / 2 * error.slope**2
    usable = square > 0
    if not usable.any():
        raise DataError(
            f"step size {eta:g} is outside the range of Theorem 2(a): staleness returns "
            f"{error.slope:.3g} of the gradient and must stay below about 0.7; take a smaller one"
        )
    fixed = eta * curvature * variance / 2 + crossed * jump.constant
    return Inequality(
        square=square[usable],
        linear=(lam * error.constant * error.slope + crossed * jump.slope)[usable],
        free=(fixed + lam / 2 * error.constant**2)[usable],
        offset=at_z.constant,
        slope=at_z.slope,
    )


@np.errstate(over="ignore", invalid="ignore")  # a bound that grows without end is infinite
def gap_bound(scenario: Scenario, step_size: float) -> GapBound:
    """Bound the expected optimality gap tick by tick, under the Polyak-Lojasiewicz condition.

    Where the step size is too large for its windows the bound grows until it is infinite.

    Raises:
        DataError: no `pl` (A6), or a step size out of range.
    """
    constants, schedule, parts = scenario.constants, scenario.schedule, scenario.deviation
    if constants.pl is None:
        raise DataError("gap_bound needs pl, the constant of A6; without it use gradient_bound")
    if constants.pl > scenario.curvature * (1 + 1e-9):
        raise DataError(
            f"pl = {constants.pl:g} must be at most L_F = {scenario.curvature:g}, the smoothness "
            "of the reweighted objective (A6)"
        )
    scenario.check_step_size(step_size)
    eta, smooth, curvature = step_size, constants.smoothness, scenario.curvature
    w, num_ticks = constants.weights, schedule.num_ticks
    if eta * curvature * float(scenario.shift.max()) >= 1:
        raise DataError(
            f"step size {eta:g} is outside the range of Theorem 2(b): clusters rest for up to "
            f"{scenario.imbalance.max():.3g} steps out of balance; take a smaller one"
        )
    virtual, gradient = np.zeros(num_ticks + 1), np.zeros(num_ticks + 1)
    spread = np.zeros((schedule.num_clusters, num_ticks))
    gap = np.float64(constants.initial_gap)

    def observe(tick: int) -> float:
        """Fill in what holds at z_t, given the gap at y_t, and return the distance |y - z|."""
        at_y = np.sqrt(2 * curvature * gap)
        offset = eta * (scenario.shift[tick] * at_y + scenario.shift_gap[tick])
        offset /= 1 - eta * curvature * scenario.shift[tick]
        virtual[tick] = (np.sqrt(gap) + np.sqrt(curvature / 2) * offset) ** 2
        gradient[tick] = at_y + curvature * offset
        return float(offset)

    for window in windows(w, schedule):
        t, span = window.tick, slice(window.start, window.tick)
        offset = observe(t)
        lacking = window.net @ gradient[span] / scenario.objective.total
        coupled = np.einsum("cju,ju->c", window.coupling, spread[:, span])
        spread[:, t] = eta * (
            np.sqrt(parts.noise[:, t])
            + np.hypot(parts.device[:, t], parts.cluster[:, t] + lacking)
            + smooth * coupled
        )
        drift = smooth * np.sqrt((w * schedule.active[:, t]) @ spread[:, t] ** 2)
        move = np.hypot(
            scenario.scale[t] * gradient[t] + scenario.chosen_gap[t] + drift,
            np.sqrt(scenario.variance[t]),
        )
        jump = eta * smooth * scenario.imbalance[t + 1] * move
        error = np.float64(drift + curvature * offset + jump)
        noise = scenario.variance[t] + 2 * jump * np.sqrt(scenario.variance[t])
        gap = _descended(gap, error, eta, curvature, constants.pl)
        gap += eta**2 * curvature / 2 * noise
    observe(num_ticks)
    now = np.arange(num_ticks + 1)
    server = np.minimum(
        *(
            (
                np.sqrt(virtual[reference])
                + np.sqrt(curvature / 2)
                * _server_distance(scenario, eta, gradient, spread, reference)
            )
            ** 2
            for reference in (now, schedule.delivered.min(axis=0))
        )
    )
    values = (np.where(np.isnan(array), np.inf, array) for array in (virtual, server, spread))
    return GapBound(*values)


def _descended(
    gap: np.float64, error: np.float64, eta: float, curvature: float, pl: float
) -> np.float64:
    """Return Lemma 3's bound without its noise, at the best b in (0, 1]."""
    rest = 1 - eta * curvature
    if error == 0:
        return np.float64((1 - eta * pl * (2 - eta * curvature)) * gap)
    at_least = np.sqrt(2 * pl * gap)
    young = min(1.0, error / at_least) if at_least > 0 else 1.0
    kappa = 1 - eta * curvature / 2 - rest * young / 2
    lam = rest / young + eta * curvature
    return np.float64((1 - 2 * eta * pl * kappa) * gap + eta / 2 * lam * error**2)


def _server_distance(
    scenario: Scenario,
    eta: float,
    gradient: FloatArray,
    spread: FloatArray,
    reference: NDArray[np.int64],
) -> FloatArray:
    """Return [T + 1], the root mean square distance of the server's model from z at `reference`.

    Lemma 5: the two differ by the steps that only one of them has.
    """
    constants, schedule, objective = scenario.constants, scenario.schedule, scenario.objective
    step_noise = scenario.step_noise()
    distance = np.zeros(schedule.num_ticks + 1)
    for t, until in enumerate(reference):
        delivered = schedule.delivered[:, t]
        ends = np.append(delivered, until)
        span = slice(int(ends.min()), int(ends.max()))
        ticks = np.arange(span.start, span.stop)
        differ = (ticks < until) != (ticks < delivered[:, None])
        differ &= schedule.active[:, span]
        scale = np.maximum(
            constants.weights @ differ / objective.total,
            np.where(differ, 1 / objective.rate[:, None], 0.0).max(axis=0, initial=0.0),
        )
        local = np.sqrt(constants.weights @ (differ * spread[:, span] ** 2))
        mean = scale * gradient[span] + set_gap(differ, constants, objective.rate)
        mean += constants.smoothness * local
        distance[t] = eta * (np.sqrt(step_noise @ differ.sum(axis=1)) + mean.sum())
    return distance


def best_step_size(
    scenario: Scenario, value: Callable[[Scenario, float], float], smallest: float = 1e-6
) -> tuple[float, float]:
    """Return the step size that minimises a bound, and the bound there.

    Args:
        scenario: constants and schedule.
        value: the bound as a function of scenario and step size; may raise DataError out of range.
        smallest: lower end of the search, as a multiple of 1 / L_F.
    """

    def objective(log_step: float) -> float:
        try:
            return float(np.log(value(scenario, float(np.exp(log_step)))))
        except DataError:
            return 1e6 + log_step  # out of range: larger than any bound, and falling towards it

    high = -np.log(scenario.curvature)
    grid = np.linspace(high + np.log(smallest), high, 25)
    best = int(np.argmin([objective(step) for step in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)])
    found = minimize_scalar(objective, bounds=bracket, method="bounded", options={"xatol": 1e-3})
    step = min((float(found.x), float(grid[best])), key=objective)
    return float(np.exp(step)), value(scenario, float(np.exp(step)))


@dataclass(frozen=True)
class _Line:
    """The affine bound constant + slope * G."""

    constant: float
    slope: float

    def plus(self, other: _Line, factor: float) -> _Line:
        return _Line(self.constant + factor * other.constant, self.slope + factor * other.slope)

    def over(self, divisor: float) -> _Line:
        return _Line(self.constant / divisor, self.slope / divisor)

    def at(self, value: float) -> float:
        return self.constant + self.slope * value


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
