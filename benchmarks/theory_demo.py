"""Predicted against measured: how much sooner is EMS-FL at a loss? python -m benchmarks.theory_demo

The ratio of EMS-FL's to FedAvg's virtual time to a training loss on the demo (configs/demo.yaml,
seed 0): as the bounds predict it before any training, and as it is measured with the theorems'
algorithm at the step sizes that the theorems allow, with the theorems' algorithm at the demo's own
step sizes (learning rate over 1 - momentum), and with the demo as it is (momentum, epochs).
Loss: mean training loss over the clusters' own data, sub-models (EMS-FL) or full model (FedAvg), as
the server holds them. Writes benchmarks/results/theory_demo.json. Takes minutes on one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emsfl.experiment import load, scenario_of
from emsfl.files import cache_dir, write_json
from emsfl.methods import METHODS
from emsfl.moe import Owned, State, experts_per_layer
from emsfl.orbit import make_plan
from emsfl.planning import Scenario as BoundScenario
from emsfl.planning import ticks_to_loss
from emsfl.simulate import (
    Scenario,
    Simulation,
    Subject,
    open_executor,
    starting_point,
    subject_of,
    untrained_events,
)
from emsfl.simulate.judge import Judge
from emsfl.training import Executor

RESULT = Path(__file__).parent / "results" / "theory_demo.json"
NUM_POINTS = 48
NUM_WORKERS = 3
TARGETS = (2.0, 1.6, 1.08)
"""1.08 is half of FedAvg's initial loss."""
Curve = list[tuple[float, float]]


@torch.no_grad()
def loss_of(scenario: Scenario, models: dict[str, tuple[State, Owned]]) -> float:
    """Return the mean training loss over the clusters' own data."""
    total = 0.0
    for name, (state, owned) in models.items():
        model = scenario.model.build(state, experts_per_layer(owned)).eval()
        shards = scenario.data.shards[name]
        size = sum(len(shard) for shard in shards)
        for shard in shards:
            inputs = scenario.model.prepare(torch.from_numpy(shard.inputs))
            loss = float(scenario.model.loss(model, inputs, torch.from_numpy(shard.labels)))
            total += scenario.federation.weights[name] * len(shard) / size * loss
    return total


def as_it_is(subject: Subject, executor: Executor) -> Curve:
    """Run the method as the demo does and return its loss over virtual time."""
    scenario = subject.scenario
    method = METHODS[subject.name].build(
        scenario.federation, scenario.training, subject.method_settings
    )
    judge = Judge({}, scenario.model, {}, [], domain_of=scenario.data.domain_of)
    simulation = Simulation(scenario, method, judge, executor, lambda _event: None)
    curve = []
    for time_s in np.linspace(0, scenario.plan.duration_s, NUM_POINTS + 1):
        while not simulation.finished and simulation.queue[0][0] <= time_s:
            simulation.step()
        models = {name: method.submodel(name) for name in scenario.federation.clusters}
        curve.append((float(time_s), loss_of(scenario, models)))
    return curve


def plainly(subject: Subject, step_size: float, executor: Executor) -> Curve:
    """Run the theorems' algorithm and return its loss over virtual time."""
    run = subject.run(step_size, executor)

    def points() -> Iterator[tuple[float, float]]:
        for visit in subject.visits(run, subject.ticks_near(NUM_POINTS)):
            models = {name: (state, visit.owned[name]) for name, state in visit.server.items()}
            yield visit.time_s, loss_of(subject.scenario, models)

    curve = list(points())
    return staircase(curve) if subject.is_fedavg else curve


def staircase(rounds: Curve) -> Curve:
    """Return the curve of a server that holds a version until the next round ends."""
    held = [(after_s, before) for (_, before), (after_s, _) in itertools.pairwise(rounds)]
    return [rounds[0], *itertools.chain.from_iterable(zip(held, rounds[1:], strict=True))]


def hours_to(curve: Curve, target: float) -> float | None:
    """Return when the loss is at most the target for the first time, in hours, interpolated."""
    for (before_s, before), (after_s, after) in itertools.pairwise(curve):
        if after <= target < before:
            return (before_s + (before - target) / (before - after) * (after_s - before_s)) / 3600
    return None


def compare(curves: dict[str, Curve], targets: Sequence[float]) -> list[dict[str, Any]]:
    """Return hours and ratio per target."""
    rows = []
    for target in targets:
        hours = {name: hours_to(curve, target) for name, curve in curves.items()}
        ours, theirs = hours["ems_fl"], hours["fedavg"]
        ratio = ours / theirs if ours is not None and theirs is not None else None
        rows.append({"target": target, "hours": hours, "ratio": ratio})
    return rows


def fall_per_day(curve: Curve) -> float:
    """Return by how much the loss falls in a day, over the whole curve."""
    return (curve[0][1] - curve[-1][1]) / (curve[-1][0] - curve[0][0]) * 86400


def main() -> None:
    """Predict, measure, print and write."""
    config = load("configs/demo.yaml")
    plan = make_plan(config.orbit, cache_dir())
    found: dict[str, Any] = {"config": "configs/demo.yaml", "seed": 0, "predicted": []}
    with open_executor(NUM_WORKERS) as executor:
        scenario = scenario_of(config, plan, 0, executor)
        subjects = {
            name: subject_of(
                scenario,
                name,
                config.method_settings,
                untrained_events(scenario, name, config.method_settings),
            )
            for name in ("ems_fl", "fedavg")
        }
        starts = {name: starting_point(s, executor) for name, s in subjects.items()}
        for target in TARGETS:
            hours, terms, steps = {}, {}, {}
            for name, subject in subjects.items():
                bounds = BoundScenario(starts[name][1], subject.schedule)
                soonest = ticks_to_loss(bounds, target * subject.objective.total)
                ticks_per_h = subject.schedule.num_ticks / plan.duration_s * 3600
                hours[name] = soonest.num_ticks / ticks_per_h
                terms[name], steps[name] = soonest.terms, soonest.step_size
            ratio = hours["ems_fl"] / hours["fedavg"]
            row = {"target": target, "hours": hours, "ratio": ratio, "step_size": steps}
            found["predicted"].append(row | {"terms": terms})
            print("predicted", target, hours, ratio, flush=True)
        found["constants"] = {
            name: {
                "initial_loss": float(subjects[name].weights @ point.loss),
                "smoothness": constants.smoothness,
                "pl": constants.pl,
                "ticks": subjects[name].schedule.num_ticks,
            }
            for name, (point, constants) in starts.items()
        }
        print(found["constants"], flush=True)
        as_is = {name: as_it_is(subject, executor) for name, subject in subjects.items()}
        found["as_it_is"] = {"curves": as_is, "rows": compare(as_is, TARGETS)}
        print("as it is", found["as_it_is"]["rows"], flush=True)
        allowed = {
            name: plainly(subject, found["predicted"][-1]["step_size"][name], executor)
            for name, subject in subjects.items()
        }
        # FedAvg's last loss and the one halfway, for at these step sizes no target is reached.
        last = allowed["fedavg"][-1][1]
        halfway = (allowed["fedavg"][0][1] + last) / 2
        found["allowed_steps"] = {
            "curves": allowed,
            "rows": compare(allowed, (halfway, last)),
            "fall_per_day": {name: fall_per_day(curve) for name, curve in allowed.items()},
        }
        print("allowed steps", found["allowed_steps"]["rows"], flush=True)
        plain = {
            name: plainly(subject, subject.own_step_size, executor)
            for name, subject in subjects.items()
        }
        found["own_steps"] = {"curves": plain, "rows": compare(plain, TARGETS)}
        print("own steps", found["own_steps"]["rows"], flush=True)
    write_json(RESULT, found)


if __name__ == "__main__":
    main()
