"""`emsfl bound`: a run against its bound over virtual time, and what the bounds predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emsfl.errors import DataError, InfeasibleError
from emsfl.moe import experts_per_layer
from emsfl.planning import (
    Constants,
    Forecast,
    Scenario,
    best_step_size,
    gap_terms,
    gradient_bound,
    ticks_to_loss,
)
from emsfl.simulate.plain_run import PlainRun, Visit
from emsfl.simulate.theory_constants import (
    Point,
    constants_of,
    gradient_square,
    measure_point,
)
from emsfl.simulate.theory_subject import FloatArray, Subject
from emsfl.training import Executor, GateCost, GateTask, gate_cost

MAX_TRIES = 3
CURVATURE_POINTS = 5
"""Of the visited points, how many are measured for noise and smoothness."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity at one time, against its bound."""

    time_s: float
    method: str
    cluster: str
    """Name of a cluster, or `all`."""
    quantity: str
    measured: float
    bound: float | None
    """None where the bound is infinite or does not apply."""
    terms: dict[str, float] = field(default_factory=dict)
    """What adds up to the bound."""


@dataclass(frozen=True, kw_only=True)
class MethodBound:
    """One method against its bound."""

    method: str
    step_size: float
    own_step_size: float
    """Of the run, as far as the theorems can express it."""
    largest_step_size: float
    """1 / L_F, the end of the range of Lemma 3; windows restrict it further."""
    constants: Constants
    differences: list[str]
    """How the run's algorithm differs from the theorems'."""
    gate: dict[str, Any]
    rows: list[Row]


def bound_of(
    subject: Subject, executor: Executor, num_points: int, step_size: float | None = None
) -> MethodBound:
    """Run the theorems' algorithm over the events of a run and compare it with its bound.

    Args:
        subject: the method and its events.
        executor: where the training is done.
        num_points: how many equal parts the plan is looked at in.
        step_size: eta; default: the run's own, or the one with the lowest bound where the run's
            is out of range.

    Raises:
        DataError: a step size that was asked for is outside the theorem's range.
    """
    ticks = subject.ticks_near(num_points)
    run = subject.run(step_size or subject.own_step_size, executor)
    start = [measure_point(run, next(subject.visits(run, ticks[:1])), curvature=True)]
    differences = subject.differences()
    chosen = step_size
    constants = constants_of(start, run, subject.weights, subject.objective)
    points: list[Point] = []
    visits: list[Visit] = []
    for _ in range(MAX_TRIES):
        chosen = step_size if step_size is not None else _choose(subject, constants)
        gradient_bound(Scenario(constants, subject.schedule), chosen)
        run = subject.run(chosen, executor)
        costly = set(np.linspace(0, len(ticks) - 1, CURVATURE_POINTS).round().astype(int).tolist())
        points, visits = [], []
        for number, visit in enumerate(subject.visits(run, ticks)):
            points.append(measure_point(run, visit, curvature=number in costly))
            visits.append(visit)
        constants = constants_of([*start, *points], run, subject.weights, subject.objective)
        try:
            gradient_bound(Scenario(constants, subject.schedule), chosen)
            break
        except DataError:
            if step_size is not None:
                raise
    else:
        raise DataError("the curvature grows faster along the run than the step size can follow")
    if chosen != subject.own_step_size:
        differences.append(
            f"step size {subject.own_step_size:.3g}: {_times(subject.own_step_size / chosen)} the "
            f"{chosen:.3g} that is bounded here (Lemma 3 ends at 1 / L_F = "
            f"{1 / Scenario(constants, subject.schedule).curvature:.3g}, Theorem 2(a) earlier)"
        )
    rows = list(_rows(subject, constants, points, chosen))
    gate, gate_rows = _gate(run, subject, visits)
    return MethodBound(
        method=subject.name,
        step_size=chosen,
        own_step_size=subject.own_step_size,
        largest_step_size=1 / Scenario(constants, subject.schedule).curvature,
        constants=constants,
        differences=differences,
        gate=gate,
        rows=[*rows, *gate_rows],
    )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the bounds say of one method before any training."""

    method: str
    target_loss: float
    initial_loss: float
    smoothness: float
    step_s: float
    ticks_per_day: float
    """Local steps of the clock of the theorems: for FedAvg those of its rounds alone."""
    step_size: float | None
    """With the earliest time; None, as the next ones, where no step size reaches the target."""
    hours: float | None
    """Until the mean training loss is at most the target by the bound; the plan is repeated."""
    leading: str | None
    """The term that is largest then."""
    terms: dict[str, float]
    constants: Constants
    differences: list[str]


def predict(subject: Subject, point: Point, constants: Constants, target: float) -> Prediction:
    """Return when the bound comes down to a loss, from the untrained model's constants alone.

    Args:
        subject: the method and the events that its training will have.
        point: what `starting_point` found, and with it
        constants: those of the theorems.
        target: mean training loss over the clusters' own data.

    Raises:
        DataError: a target that is not above 0.
    """
    schedule = subject.schedule
    ticks_per_s = schedule.num_ticks / subject.scenario.plan.duration_s
    # F weighs cluster c by w_c nu_c, whose sum is Omega.
    level = target * subject.objective.total
    try:
        forecast: Forecast | None = ticks_to_loss(Scenario(constants, schedule), level)
    except InfeasibleError:
        forecast = None
    return Prediction(
        method=subject.name,
        target_loss=target,
        initial_loss=float(subject.weights @ point.loss),
        smoothness=constants.smoothness,
        step_s=subject.step_s,
        ticks_per_day=ticks_per_s * 86400,
        step_size=forecast.step_size if forecast else None,
        hours=forecast.num_ticks / ticks_per_s / 3600 if forecast else None,
        leading=forecast.leading if forecast else None,
        terms=forecast.terms if forecast else {},
        constants=constants,
        differences=subject.differences(),
    )


def starting_point(subject: Subject, executor: Executor) -> tuple[Point, Constants]:
    """Return what is measured on the untrained model, and the constants that follow."""
    run = subject.run(subject.own_step_size, executor)
    point = measure_point(run, next(subject.visits(run, [0])), curvature=True)
    return point, constants_of([point], run, subject.weights, subject.objective)


def _choose(subject: Subject, constants: Constants) -> float:
    """Return the run's own step size if it is in range, else the one with the lowest bound."""
    scenario = Scenario(constants, subject.schedule)
    try:
        gradient_bound(scenario, subject.own_step_size)
        return subject.own_step_size
    except DataError:
        return best_step_size(scenario, lambda s, eta: gradient_bound(s, eta).value)[0]


def _rows(
    subject: Subject, constants: Constants, points: Sequence[Point], step_size: float
) -> Iterator[Row]:
    """Yield the rows on training: of the objective, and per cluster."""
    clusters = subject.scenario.federation.clusters
    if not subject.settings.train_shared:
        for c, name in enumerate(clusters):
            yield from _cluster_rows(subject, constants, points, step_size, c, name)
        return
    scenario = Scenario(constants, subject.schedule)
    squares = [gradient_square(p, subject.weights, subject.objective) for p in points]
    q = subject.weights * subject.objective.rate
    gaps, terms = gap_terms(scenario, step_size)
    for number, point in enumerate(points):
        common: dict[str, Any] = {"time_s": point.time_s, "method": subject.name}
        if point.tick > 0:
            bound = gradient_bound(scenario, step_size, point.tick)
            yield Row(
                **common,
                cluster=ALL,
                quantity="squared_gradient_norm",
                measured=_running_mean(points, squares, number),
                bound=bound.value,
                terms=bound.terms,
            )
        yield Row(
            **common,
            cluster=ALL,
            quantity="loss_gap",
            measured=float(q @ point.server_loss),
            **_at(gaps.server, terms, point.tick),
        )
        if point.tick < subject.schedule.num_ticks and not subject.is_fedavg:
            for c, name in enumerate(clusters):
                bound_here = float(gaps.deviation[c, point.tick])
                yield Row(
                    **common,
                    cluster=name,
                    quantity="model_deviation",
                    measured=float(point.deviation[c]),
                    bound=bound_here if np.isfinite(bound_here) else None,
                )


def _cluster_rows(
    subject: Subject,
    constants: Constants,
    points: Sequence[Point],
    step_size: float,
    c: int,
    name: str,
) -> Iterator[Row]:
    """Yield Theorem 1's rows of one cluster, whose clock is its own steps."""
    squares = [float(p.expert_gradient[c] @ p.expert_gradient[c]) for p in points]
    losses = [float(p.loss[c]) for p in points]
    pl = min(s / (2 * max(f, 1e-30)) for s, f in zip(squares, losses, strict=True))
    own = constants.of_cluster(c, initial_gap=losses[0], pl=min(pl, constants.smoothness))
    scenario = Scenario(own, subject.schedule.only(c))
    gaps, terms = gap_terms(scenario, step_size)
    steps = np.append(0, np.cumsum(subject.schedule.active[c]))
    for number, point in enumerate(points):
        tick = int(steps[point.tick])
        common: dict[str, Any] = {"time_s": point.time_s, "method": subject.name, "cluster": name}
        if tick > 0:
            bound = gradient_bound(scenario, step_size, tick)
            yield Row(
                **common,
                quantity="squared_gradient_norm",
                measured=_running_mean(points, squares, number),
                bound=bound.value,
                terms=bound.terms,
            )
        yield Row(
            **common,
            quantity="loss_gap",
            measured=float(point.server_loss[c]),
            **_at(gaps.server, terms, tick),
        )


def _at(values: FloatArray, terms: dict[str, FloatArray], tick: int) -> dict[str, Any]:
    """Return bound and terms at a tick, or no bound where it is infinite."""
    if not np.isfinite(values[tick]):
        return {"bound": None}
    return {
        "bound": float(values[tick]),
        "terms": {name: float(term[tick]) for name, term in terms.items()},
    }


def _running_mean(points: Sequence[Point], values: Sequence[float], last: int) -> float:
    """Return the mean over ticks up to point `last`, by the trapezoidal rule over the points."""
    ticks = np.array([point.tick for point in points[: last + 1]], dtype=np.float64)
    return float(np.trapezoid(values[: last + 1], ticks) / (ticks[-1] - ticks[0]))


def _gate(
    run: PlainRun, subject: Subject, visits: Sequence[Visit]
) -> tuple[dict[str, Any], list[Row]]:
    """Return the gate's error per cluster, and Theorem 3(d) for the merged model at every visit."""
    spec = run.scenario.model
    if spec.metric != "accuracy" or any(visit.merged.gate is None for visit in visits):
        return {}, []
    costs = [[_cluster_cost(run, visit, c) for c in range(len(run.clusters))] for visit in visits]
    # A7 on the event of (d): what the merged model's loss exceeds the sub-model's by, at most.
    loss_range = max(
        float((cost.merged_loss - cost.own_loss)[~cost.certain].max(initial=0.0))
        for row in costs
        for cost in row
    )
    rows = []
    for visit, row in zip(visits, costs, strict=True):
        own = float(subject.weights @ [cost.own_loss.mean() for cost in row])
        unsure = float(subject.weights @ [1 - cost.certain.mean() for cost in row])
        rows.append(
            Row(
                time_s=visit.time_s,
                method=subject.name,
                cluster=ALL,
                quantity="merged_loss",
                measured=float(subject.weights @ [cost.merged_loss.mean() for cost in row]),
                bound=own + loss_range * unsure,
                terms={"sub-models": own, "gate": loss_range * unsure},
            )
        )
    gate = {
        "loss_range": loss_range,
        "misrouted": {
            cluster.name: float(cost.misrouted.mean())
            for cluster, cost in zip(run.clusters, costs[-1], strict=True)
        },
        "foreign_mass": {
            cluster.name: float(cost.foreign_mass.mean())
            for cluster, cost in zip(run.clusters, costs[-1], strict=True)
        },
    }
    return gate, rows


def _cluster_cost(run: PlainRun, visit: Visit, c: int) -> GateCost:
    """Return the gate's cost on all samples of a cluster, devices by their weight."""
    scenario, cluster = run.scenario, run.clusters[c]
    if visit.merged.gate is None:
        raise ValueError("the merged model has no gate")
    found = [
        run.executor.submit(
            gate_cost,
            GateTask(
                model=scenario.model,
                merged=visit.merged.state,
                gate=visit.merged.gate,
                pretrained=scenario.federation.pretrained,
                submodel=visit.server[cluster.name],
                num_experts=experts_per_layer(visit.owned[cluster.name]),
                cluster=c,
                top_k=scenario.federation.top_k,
                shard=shard,
            ),
        )
        for shard in scenario.data.shards[cluster.name]
    ]
    parts = [pending.result() for pending in found]
    # Weights of devices are their shares of samples, so all samples count alike.
    return GateCost(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    )


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times"
