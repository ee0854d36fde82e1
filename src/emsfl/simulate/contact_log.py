"""From the events of a run to the arrays of the theory: who trained when, who held what.

Events are those of `events.jsonl`, one method and one seed. Their times do not depend on what is
learned, so an untrained simulation gives the events of a run that has not been made yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emsfl.errors import DataError
from emsfl.methods import METHODS, CostModel, EmsFl, FedAvg, Method, MethodSettings
from emsfl.planning import Exchange, Rounds, Schedule, asynchronous, synchronous
from emsfl.simulate.judge import Judge
from emsfl.simulate.simulate import Scenario, Simulation
from emsfl.training import InlineExecutor, Pending, TrainResult, TrainTask, train_locally

Event = Mapping[str, Any]

COVERED = ("ems_fl", "ems_fl_frozen_shared", "ems_fl_random", "fedavg", "fedavg_fill")
"""Methods that the theorems speak of."""


def untrained_events(scenario: Scenario, name: str, settings: MethodSettings) -> list[Event]:
    """Return the events that training `name` over the scenario's plan will have, without it."""
    events: list[Event] = []
    method = METHODS[name].build(scenario.federation, scenario.training, settings)
    judge = Judge({}, scenario.model, {}, [], domain_of=scenario.data.domain_of)
    simulation = Simulation(scenario, method, judge, _Untrained(), events.append)
    while not simulation.finished:
        simulation.step()
    return events


def schedule_of(
    scenario: Scenario, method: Method, events: Sequence[Event], step_s: float
) -> Schedule:
    """Return who trained when and who held whose steps.

    Raises:
        DataError: the run is outside of what the theorems speak of; names the assumption.
    """
    clusters = scenario.federation.clusters
    refused = next((event for event in events if event["event"] == "refused"), None)
    if refused is not None:
        raise DataError(
            f"an update of {refused['cluster']} was refused: Lemma 1 (every step counts once) does "
            "not hold for this run"
        )
    cap = scenario.config.max_local_steps_per_contact
    if isinstance(method, EmsFl):
        exchanges = exchanges_of(events, clusters, step_s)
        silent = next((n for n, own in zip(clusters, exchanges, strict=True) if not own), None)
        if silent is not None:
            raise DataError(
                f"{silent} never delivers an update within the plan: A0 needs every cluster to; "
                "lengthen the plan, speed the link up or drop the site"
            )
        schedule = asynchronous(
            exchanges,
            step_s=step_s,
            horizon_s=scenario.plan.duration_s,
            max_steps_per_contact=cap,
        )
    elif isinstance(method, FedAvg):
        schedule = synchronous(rounds_of(events, clusters, step_s, method.local_steps, cap))
    else:
        raise DataError(
            f"{type(method).__name__} is not covered by the theorems; choose from "
            f"{', '.join(COVERED)}"
        )
    return schedule


def step_s_of(scenario: Scenario, method: Method) -> float:
    """Return the time of one local step, the same at every site.

    Raises:
        DataError: devices of different sites are not equally fast, or hold nothing at the epoch.
    """
    if scenario.config.bootstrap != "preinstalled":
        raise DataError(
            "the theorems let all devices start from z_0 at the epoch (section 2): they need "
            "simulate.bootstrap: preinstalled"
        )
    cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
    steps_s = []
    for name in scenario.federation.clusters:
        work = method.next_work(name)
        if work is None:
            raise DataError("this method trains nothing: there is nothing to bound")
        steps_s.append(cost.seconds(name, cost.step_flops(work)))
    if max(steps_s) > min(steps_s) * (1 + 1e-9):
        raise DataError(
            "emsfl bound counts time in local steps, which take "
            f"{min(steps_s):.4g} to {max(steps_s):.4g} s at these sites: it needs equally fast "
            "sites (simulate.device_flops_per_s)"
        )
    return steps_s[0]


def exchanges_of(
    events: Iterable[Event], clusters: Sequence[str], step_s: float
) -> list[list[Exchange]]:
    """Return the exchanges of every cluster of EMS-FL.

    What is received takes effect in the step that is under way, as in the simulation: so the
    reception is set to the beginning of that step.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in clusters}
    place = {"upload_started": 0, "upload_arrived": 1, "download_started": 2, "download_arrived": 3}
    for event in events:
        index = place.get(event["event"])
        if index is None:
            continue
        own = found[event["cluster"]]
        if index == 0:
            own.append([math.inf] * 4)
        time_s = float(event["time_s"])
        own[-1][index] = time_s if index < 3 else math.floor(time_s / step_s + 1e-9) * step_s
    return [
        [
            Exchange(snapshot_s=a, arrival_s=b, read_s=c, reception_s=d)
            for a, b, c, d in found[name]
            if b < math.inf
        ]
        for name in clusters
    ]


def rounds_of(
    events: Iterable[Event],
    clusters: Sequence[str],
    step_s: float,
    steps_per_round: int | None,
    cap: int,
) -> Rounds:
    """Return the rounds of FedAvg that ended, and the steps of every cluster in each."""
    begin_s = dict.fromkeys(clusters, 0.0)
    taken: dict[str, int] = {}
    ends_s: list[float] = []
    steps: list[list[int]] = []
    for event in events:
        name, time_s = event["cluster"], float(event["time_s"])
        if event["event"] == "download_arrived":
            begin_s[name] = time_s
        elif event["event"] == "upload_started":
            fill = int((time_s - begin_s[name]) / step_s)
            taken[name] = min(fill if steps_per_round is None else steps_per_round, cap)
        elif event["event"] == "merged":
            ends_s.append(time_s)
            steps.append([taken[cluster] for cluster in clusters])
    return Rounds(
        end_s=np.array(ends_s),
        steps=np.array(steps, dtype=np.int64).reshape(-1, len(clusters)),
    )


class _Untrained(InlineExecutor):
    """Does everything but train: states stay what they are."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Do the work unless it is training."""
        if function is not train_locally:
            return super().submit(function, argument)
        return super().submit(_unchanged, argument)


def _unchanged(task: TrainTask) -> TrainResult:
    return TrainResult(state=task.state, momentum=task.momentum, mean_loss=math.nan)
