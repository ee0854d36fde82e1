"""The theorems' constants on a plain run: what its visited points say, largest values kept.

Estimates, not proofs: A1, A3, A4 and A6 are looked at at the visited points only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError
from emsfl.moe import State, experts_per_layer
from emsfl.planning import Constants, Rates
from emsfl.simulate.plain_run import PlainRun, Visit
from emsfl.training import ConstantsTask, LocalConstants, local_constants

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """What was measured at one tick; C clusters."""

    tick: int
    time_s: float
    loss: FloatArray
    """[C] f_c at the virtual iterate."""
    server_loss: FloatArray
    """[C] f_c at what the server holds."""
    shared_gradient: list[FloatArray]
    """[C] of [d], of f_c at the virtual iterate."""
    expert_gradient: list[FloatArray]
    """[C] of [e]."""
    device_gap: FloatArray
    """[C] root mean square distance of device and cluster gradients (A3)."""
    shared_noise: FloatArray
    """[C] largest over devices (A2); 0 where it was not measured, as the next two."""
    expert_noise: FloatArray
    smoothness: float
    """Largest over devices (A1)."""
    deviation: FloatArray
    """[C] root mean square distance of local models from the virtual iterate."""


def measure_point(run: PlainRun, visit: Visit, curvature: bool) -> Point:
    """Measure one visited point on all samples of all devices.

    Args:
        run: where the point comes from.
        visit: the point.
        curvature: whether to measure noise and smoothness as well, the costly part.
    """
    effort = {} if curvature else {"num_batches": 0, "num_iterations": 0}
    devices = [
        [
            run.executor.submit(local_constants, _task(run, visit, c, k, visit.virtual, **effort))
            for k in range(len(cluster.devices))
        ]
        for c, cluster in enumerate(run.clusters)
    ]
    same = visit.server is visit.virtual
    server = None
    if not same:
        none = {"num_batches": 0, "num_iterations": 0}
        server = [
            [
                run.executor.submit(local_constants, _task(run, visit, c, k, visit.server, **none))
                for k in range(len(cluster.devices))
            ]
            for c, cluster in enumerate(run.clusters)
        ]
    found: list[list[LocalConstants]] = [[p.result() for p in row] for row in devices]
    shares = [np.array(cluster.device_weights) for cluster in run.clusters]
    shared = [
        _mean(p, [d.shared_gradient for d in row]) for p, row in zip(shares, found, strict=True)
    ]
    experts = [
        _mean(p, [d.expert_gradient for d in row]) for p, row in zip(shares, found, strict=True)
    ]
    loss = _losses(shares, found)
    return Point(
        tick=visit.tick,
        time_s=visit.time_s,
        loss=loss,
        server_loss=loss
        if server is None
        else _losses(shares, [[p.result() for p in row] for row in server]),
        shared_gradient=shared,
        expert_gradient=experts,
        device_gap=np.array(
            [
                np.sqrt(
                    sum(
                        weight * (_square(d.shared_gradient - s) + _square(d.expert_gradient - e))
                        for weight, d in zip(p, row, strict=True)
                    )
                )
                for p, row, s, e in zip(shares, found, shared, experts, strict=True)
            ]
        ),
        shared_noise=np.array([max(d.shared_noise for d in row) for row in found]),
        expert_noise=np.array([max(d.expert_noise for d in row) for row in found]),
        smoothness=max(d.smoothness for row in found for d in row),
        deviation=np.array([_deviation(run, visit, c) for c in range(len(run.clusters))]),
    )


def gradient_square(point: Point, weights: FloatArray, objective: Rates) -> float:
    """Return |grad F|^2 in the metric of docs/theory.md, section 4."""
    q = weights * objective.rate
    shared = sum(scale * g for scale, g in zip(q, point.shared_gradient, strict=True))
    own = sum(
        w * rate**2 * _square(g)
        for w, rate, g in zip(weights, objective.rate, point.expert_gradient, strict=True)
    )
    return _square(np.asarray(shared)) + float(own)


def cluster_gap(point: Point, weights: FloatArray, objective: Rates) -> FloatArray:
    """Return [C], the norms of h_c of (4b)."""
    mean = sum(
        scale * g
        for scale, g in zip(
            weights * objective.rate / objective.total, point.shared_gradient, strict=True
        )
    )
    return np.array([np.sqrt(_square(g - mean)) for g in point.shared_gradient])


def constants_of(
    points: Sequence[Point], run: PlainRun, weights: FloatArray, objective: Rates
) -> Constants:
    """Return the constants over all points, with 0 in place of the infimum of the loss.

    Raises:
        DataError: something that is not finite, or no curvature.
    """
    losses = np.array([weights * objective.rate @ point.loss for point in points])
    squares = np.array([gradient_square(point, weights, objective) for point in points])
    if not np.all(np.isfinite(squares)):
        raise DataError("a gradient is not finite: the plain run diverged; take a smaller step")
    smoothness = max(point.smoothness for point in points)
    return Constants(
        smoothness=smoothness,
        weights=weights,
        concentration=np.array([np.sum(np.square(c.device_weights)) for c in run.clusters]),
        shared_noise=_largest(point.shared_noise for point in points),
        expert_noise=_largest(point.expert_noise for point in points),
        device_gap=_largest(point.device_gap for point in points),
        cluster_gap=_largest(cluster_gap(point, weights, objective) for point in points),
        initial_gap=float(losses[0]),
        pl=min(
            float((squares / np.maximum(2 * losses, 1e-30)).min()),
            smoothness * float(objective.rate.max()),
        ),
    )


def _task(
    run: PlainRun, visit: Visit, c: int, k: int, states: dict[str, State], **effort: int
) -> ConstantsTask:
    name = run.clusters[c].name
    return ConstantsTask(
        model=run.scenario.model,
        num_experts=experts_per_layer(visit.owned[name]),
        state=states[name],
        shard=run.scenario.data.shards[name][k],
        settings=run.settings,
        experts_are_shared=not visit.local,
        seed=(run.scenario.federation.seed, 7, c, k, visit.tick),
        **effort,
    )


def _deviation(run: PlainRun, visit: Visit, c: int) -> float:
    """Return delta_c, in the coordinates of the theorems."""
    cluster, layout = run.clusters[c], run.scenario.federation.layout
    if cluster.name not in visit.local:
        return 0.0
    total = 0.0
    virtual = visit.virtual[cluster.name]
    for weight, state in zip(cluster.device_weights, visit.local[cluster.name], strict=True):
        for name, tensor in state.items():
            square = float((tensor.double() - virtual[name].double()).square().sum())
            total += (
                weight
                * square
                / (1.0 if name in layout.expert_names else run.settings.shared_lr_factor)
            )
    return float(np.sqrt(total))


def _losses(shares: Sequence[FloatArray], found: Sequence[Sequence[LocalConstants]]) -> FloatArray:
    return np.array(
        [float(p @ [d.loss for d in row]) for p, row in zip(shares, found, strict=True)]
    )


def _mean(weights: FloatArray, vectors: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(sum(w * v for w, v in zip(weights, vectors, strict=True)))


def _largest(arrays: Iterable[FloatArray]) -> FloatArray:
    return np.asarray(np.max(list(arrays), axis=0))


def _square(vector: FloatArray) -> float:
    return float(vector @ vector)
