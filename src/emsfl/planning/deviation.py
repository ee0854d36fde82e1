"""How far local models are from the virtual average: the coefficients of Lemma 4 in theory.md.

Shapes: C clusters, T ticks. Everything here follows from the schedule and the constants alone;
the step size enters later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsfl.errors import DataError
from emsfl.planning.schedule import Schedule

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Constants:
    """The constants of the assumptions A1-A5 in docs/theory.md, per cluster where they differ.

    Gradients of shared parameters are those with respect to s / sqrt(shared_lr_factor), which
    makes the one step size of the theorems serve both blocks.
    """

    smoothness: float
    """L (A1): every device's loss is L-smooth; above 0."""
    weights: FloatArray
    """[C] w_c: share of each cluster, summing to 1."""
    concentration: FloatArray
    """[C] P_c = sum_k p_ck^2: 1 for one device, 1/K_c for K_c equal ones."""
    shared_noise: FloatArray
    """[C] sigma_cs^2 (A2): variance of a device's stochastic gradient, shared block."""
    expert_noise: FloatArray
    """[C] sigma_ce^2 (A2): the same for the experts."""
    device_gap: FloatArray
    """[C] zeta_c (A3): root mean square difference of device and cluster gradients."""
    cluster_gap: FloatArray
    """[C] gamma_c (A4): norm of h_c, the cluster's shared gradient less the objective's."""
    initial_gap: float
    """Delta: the objective at the start above its infimum (A5); at least 0."""
    pl: float | None = None
    """mu (A6): Polyak-Lojasiewicz constant of the objective, or None when there is none."""

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.ndim != 1 or weights.size == 0 or weights.min() <= 0:
            raise DataError("weights must be a list of positive numbers, one per cluster")
        if abs(float(weights.sum()) - 1) > 1e-6:
            raise DataError(f"weights must sum to 1, not to {weights.sum():g}")
        object.__setattr__(self, "weights", weights)
        for name, assumption in (
            ("concentration", "p_ck are weights"),
            ("shared_noise", "A2, a variance"),
            ("expert_noise", "A2, a variance"),
            ("device_gap", "A3, a norm"),
            ("cluster_gap", "A4, a norm"),
        ):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            values = np.broadcast_to(values, weights.shape)
            if not np.all(np.isfinite(values)) or values.min() < 0:
                raise DataError(f"{name} must be finite and at least 0 ({assumption})")
            object.__setattr__(self, name, values)
        if np.any(self.concentration <= 0) or np.any(self.concentration > 1 + 1e-9):
            raise DataError("concentration must lie in (0, 1]: p_ck are weights that sum to 1")
        if not (np.isfinite(self.smoothness) and self.smoothness > 0):
            raise DataError(f"smoothness = {self.smoothness:g} must be finite and above 0 (A1)")
        if not (np.isfinite(self.initial_gap) and self.initial_gap >= 0):
            raise DataError(f"initial_gap = {self.initial_gap:g} must be at least 0 (A5)")
        if self.pl is not None and not 0 < self.pl <= self.smoothness * (1 + 1e-9):
            raise DataError(f"pl = {self.pl:g} must lie in (0, smoothness] (A6)")

    def of_cluster(self, cluster: int, *, initial_gap: float, pl: float | None) -> Constants:
        """Return the constants of one cluster alone with frozen shared parameters (Theorem 1)."""
        return Constants(
            smoothness=self.smoothness,
            weights=np.ones(1),
            concentration=self.concentration[[cluster]],
            shared_noise=np.zeros(1),
            expert_noise=self.expert_noise[[cluster]],
            device_gap=self.device_gap[[cluster]],
            cluster_gap=np.zeros(1),
            initial_gap=initial_gap,
            pl=pl,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rates:
    """How often each cluster steps, and what that does to the objective (Proposition 1)."""

    rate: FloatArray
    """[C] nu_c: share of the ticks in which the cluster steps."""
    total: float
    """Omega = sum_c w_c nu_c."""
    objective_weights: FloatArray
    """[C] w_c nu_c / Omega: the weights of the objective that is really descended."""
    imbalance: FloatArray
    """[C, T + 1] B_c(t): steps taken before tick t, less nu_c t."""


def rates(weights: ArrayLike, active: BoolArray) -> Rates:
    """Return the reweighted objective of a schedule (Proposition 1).

    Args:
        weights: [C], w_c.
        active: [C, T].

    Raises:
        DataError: a cluster that never steps, or shapes that do not agree.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != active.shape[:1]:
        raise DataError(f"weights name {w.size} clusters, the schedule {active.shape[0]}")
    num_ticks = active.shape[1]
    rate = active.mean(axis=1)
    if rate.min() <= 0:
        idle = int(np.argmin(rate))
        raise DataError(f"cluster {idle} never steps: its loss has no weight in the objective")
    steps = np.concatenate([np.zeros((w.size, 1)), np.cumsum(active, axis=1)], axis=1)
    imbalance = steps - rate[:, None] * np.arange(num_ticks + 1)
    imbalance[np.abs(imbalance) < 1e-9] = 0.0  # rounding: exactly 0 where all ticks are active
    total = float(w @ rate)
    return Rates(rate=rate, total=total, objective_weights=w * rate / total, imbalance=imbalance)


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """What the local models of tick t lack and have too much of, per tick u of start..t-1."""

    tick: int
    start: int
    own: BoolArray
    """[C, U]: o_c(u), steps that the cluster's devices carry as their own."""
    missing: BoolArray
    """[C, C, U]: whether cluster j belongs to A_c(u): its step is not in what c holds."""
    net: FloatArray
    """[C, U]: |w(A) - o|, how much of the objective's own shared gradient is lacking."""
    coupling: FloatArray
    """[C, C, U]: the coefficient of cluster j's deviation in cluster c's."""


def windows(weights: FloatArray, schedule: Schedule) -> Iterator[Window]:
    """Yield the windows of all ticks, in order."""
    num_clusters = schedule.num_clusters
    diagonal = np.arange(num_clusters)
    for t in range(schedule.num_ticks):
        held = schedule.held[:, :, t]
        start = int(held.min())
        ticks = np.arange(start, t)
        missing = (ticks >= held[:, :, None]) & schedule.active[None, :, start:t]
        own = missing[diagonal, diagonal]
        coupling = missing * weights[None, :, None]
        coupling[diagonal, diagonal] = own
        net = np.abs(np.einsum("cju,j->cu", missing, weights) - own)
        net[net < 1e-12] = 0.0  # rounding of weights that sum to 1
        yield Window(tick=t, start=start, own=own, missing=missing, net=net, coupling=coupling)


@dataclass(frozen=True, kw_only=True, eq=False)
class Deviation:
    """The coefficients of Lemma 4 over the whole schedule."""

    noise: FloatArray
    """[C, T] N_c(t), the variance of accumulated noise per squared step size."""
    device: FloatArray
    """[C, T] number of own steps times zeta_c."""
    cluster: FloatArray
    """[C, T] sum over u of o gamma_c + gamma(A)."""
    coupling_norm: FloatArray
    """[T] bound on the norm of the coupling over the first t + 1 ticks (Schur test)."""
    net_norm: FloatArray
    """[T] the same for the map from the objective's shared gradient."""


def deviation(constants: Constants, schedule: Schedule) -> Deviation:
    """Return the coefficients of Lemma 4.

    Raises:
        DataError: as `rates`.
    """
    w = constants.weights
    num_clusters, num_ticks = schedule.active.shape
    objective = rates(w, schedule.active)
    own_share = constants.concentration * (w**2 - 2 * w) + 1
    own_noise = own_share * constants.shared_noise
    own_noise += (1 - constants.concentration) * constants.expert_noise
    others_noise = w**2 * constants.concentration * constants.shared_noise
    noise, device, cluster = (np.zeros((num_clusters, num_ticks)) for _ in range(3))
    row_coupling, row_net = np.zeros(num_ticks), np.zeros(num_ticks)
    column_coupling, column_net = np.zeros((num_clusters, num_ticks)), np.zeros(num_ticks)
    for window in windows(w, schedule):
        t, span = window.tick, slice(window.start, window.tick)
        num_own = window.own.sum(axis=1)
        num_missing = window.missing.sum(axis=2).astype(np.float64)
        np.fill_diagonal(num_missing, 0.0)
        noise[:, t] = own_noise * num_own + num_missing @ others_noise
        device[:, t] = num_own * constants.device_gap
        spread = set_gap(window.missing, constants, objective.rate)
        cluster[:, t] = num_own * constants.cluster_gap + spread.sum(axis=1)
        stepping = schedule.active[:, t]
        if not stepping.any() or window.start == t:
            continue
        row_coupling[t] = window.coupling.sum(axis=(1, 2))[stepping].max()
        row_net[t] = window.net.sum(axis=1)[stepping].max()
        rows = np.where(stepping, w, 0.0)
        column_coupling[:, span] += np.einsum("c,cju->ju", rows, window.coupling) / w[:, None]
        column_net[span] += rows @ window.net
    return Deviation(
        noise=noise,
        device=device,
        cluster=cluster,
        coupling_norm=np.sqrt(np.maximum.accumulate(row_coupling) * column_coupling.max()),
        net_norm=np.sqrt(np.maximum.accumulate(row_net) * column_net.max()),
    )


def set_gap(members: BoolArray, constants: Constants, rate: FloatArray) -> FloatArray:
    """Return gamma(A), which bounds the norm of sum_{j in A} w_j h_j (docs/theory.md, Lemma 4).

    Args:
        members: [..., C, U], the sets A, one per tick.
        constants: whose `cluster_gap` bounds the norm of h_j.
        rate: [C] nu_j; sum_j w_j nu_j h_j = 0, so the complement can serve as well.
    """
    weighted = constants.weights * constants.cluster_gap
    relative = rate / rate.max()
    inside = np.einsum("...ju,j->...u", members, weighted)
    around = np.einsum("...ju,j->...u", members, weighted * (1 - relative))
    around += np.einsum("...ju,j->...u", ~members, weighted * relative)
    return np.asarray(np.minimum(inside, around))
