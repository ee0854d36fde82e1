"""From a run, or a config, to the bounds of docs/theory.md: what `emsfl bound` computes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emsfl.errors import DataError
from emsfl.experiment import scenario_of
from emsfl.experiment_config import ExperimentConfig, load
from emsfl.files import cache_dir
from emsfl.methods import METHODS
from emsfl.orbit import ContactPlan, make_plan
from emsfl.results import RunFolder
from emsfl.simulate import (
    COVERED,
    MethodBound,
    Prediction,
    bound_of,
    open_executor,
    predict,
    starting_point,
    subject_of,
    untrained_events,
)


@dataclass(frozen=True)
class Forecasts:
    """What the bounds say before any training, per method, and the ratio of two of them."""

    predictions: list[Prediction]
    reference: str | None
    """FedAvg's name, where it is among the methods."""
    ratio: float | None
    """EMS-FL's hours over FedAvg's; None where one of them is missing or never gets there."""


def bound_run(
    folder: Path | str,
    *,
    methods: Sequence[str] | None = None,
    num_points: int = 12,
    step_size: float | None = None,
    workers: int = 1,
) -> list[MethodBound]:
    """Compare a run's methods with their bounds, on its first seed, plan and events.

    Args:
        folder: a run, finished or not.
        methods: which of its methods; default: all that the theorems speak of.
        num_points: how many equal parts the plan is looked at in, at least 1.
        step_size: of the theorems' algorithm; default: see `bound_of`.
        workers: processes that train.

    Raises:
        UserError: no run, no method that is covered, or an assumption that is violated.
    """
    opened = RunFolder.open(folder)
    config = load(opened.config_path)
    plan = ContactPlan.load(opened.plan_path / "plan.npz")
    seed = config.seeds[0]
    names = _covered(config, methods)
    events = []
    if opened.events_path.is_file():
        lines = opened.events_path.read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if event["seed"] == seed]
    with open_executor(workers) as executor:
        scenario = scenario_of(config, plan, seed, executor)
        found = []
        for name in names:
            own = [event for event in events if event["method"] == name and "cluster" in event]
            if not own:
                raise DataError(
                    f"{folder} holds no events of {name}; finish it with 'emsfl resume {folder}'"
                )
            subject = subject_of(scenario, name, config.method_settings, own)
            found.append(bound_of(subject, executor, num_points, step_size))
        return found


def forecast(
    config: ExperimentConfig, *, methods: Sequence[str] | None = None, target: float | None = None
) -> Forecasts:
    """Return when every method reaches a loss by its bound, training nothing.

    Args:
        config: the experiment; its first seed is used.
        methods: which of its methods; default: all that the theorems speak of.
        target: mean training loss over the clusters' own data; default: half of the smallest
            initial loss.

    Raises:
        UserError: no method that is covered, or an assumption that is violated.
    """
    if target is not None and not 0 < target < float("inf"):
        raise DataError(f"the target loss {target:g} must be finite and above 0 (A5)")
    names = _covered(config, methods)
    plan = make_plan(config.orbit, cache_dir())
    with open_executor(1) as executor:
        scenario = scenario_of(config, plan, config.seeds[0], executor)
        subjects = [
            subject_of(
                scenario,
                name,
                config.method_settings,
                untrained_events(scenario, name, config.method_settings),
            )
            for name in names
        ]
        starts = [starting_point(subject, executor) for subject in subjects]
    initial = [
        float(subject.weights @ point.loss)
        for subject, (point, _) in zip(subjects, starts, strict=True)
    ]
    level = target if target is not None else min(initial) / 2
    predictions = [
        predict(subject, point, constants, level)
        for subject, (point, constants) in zip(subjects, starts, strict=True)
    ]
    hours = {p.method: p.hours for p in predictions}
    reference = next((name for name in ("fedavg", "fedavg_fill") if name in hours), None)
    ours = hours.get("ems_fl")
    theirs = hours.get(reference) if reference else None
    ratio = ours / theirs if ours is not None and theirs is not None else None
    return Forecasts(predictions, reference, ratio)


def _covered(config: ExperimentConfig, methods: Sequence[str] | None) -> list[str]:
    """Return the methods to look at, as they are trained."""
    if methods is not None:
        missing = [name for name in methods if name not in config.methods]
        if missing:
            raise DataError(f"{missing[0]} is none of its methods: {', '.join(config.methods)}")
    trained = [METHODS[name].training_of or name for name in methods or config.methods]
    names = [name for name in dict.fromkeys(trained) if methods or name in COVERED]
    if not names:
        raise DataError(
            f"none of its methods is covered by the theorems; choose from {', '.join(COVERED)}"
        )
    return names
