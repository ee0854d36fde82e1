"""Tune every method on points drawn from its own space by one fixed rule.

The rule: the points of a method are the first ones of a scrambled Sobol sequence (seed 0) over its
space below, as many as the scenario says for every method; the winner has the best final value on
the validation split, meant over the tuning seeds; of equal ones the smallest learning rate wins.
Nothing else counts. It was laid down before any curve of these searches was seen, but for three
things that came after the first results. FedAsync and FedBuff were given a second space, and so
twice as many points: uploads at the next contact, and after a number of local steps (FedAvg has a
method for either). On rotated MNIST some methods were given a grid on top (`Scenario.grids`), since
the demo's had found better settings for FedAvg and FedAsync than the sequence. Before there was a
rule for ties the first point won.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from emsfl.experiment import load
from emsfl.results import RunResult
from emsfl.results.metric import METRICS, Metric
from emsfl.sweep import Point, run_points
from suite.scenarios import NO_SETTINGS, TUNING_SEEDS, Scenario


@dataclass(frozen=True)
class Log:
    """A positive number, spread evenly in its logarithm."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the value at a share from 0 to 1."""
        return float(f"{math.exp(math.log(self.low) + share * math.log(self.high / self.low)):.3g}")


@dataclass(frozen=True)
class Whole(Log):
    """A whole number, spread evenly in its logarithm."""

    def at(self, share: float) -> int:
        """Return the value at a share from 0 to 1."""
        return round(super().at(share))


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the value at a share from 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Space = dict[str, Log | Whole | Choice]
RATES = {"sgd": Log(5e-4, 0.4), "fine_tuning": Log(1e-5, 1e-3), "adam": Log(2e-4, 2e-2)}
"""Learning rate: the same range for every method."""
STEPS = {"sgd": Whole(8, 120), "fine_tuning": Whole(2, 32), "adam": Whole(2, 192)}
"""Local steps before an upload, where they are fixed."""
STALENESS = Choice((0.0, 0.5, 1.0))


def spaces_of(method: str, regime: str) -> list[Space]:
    """Return what is searched for a method; each space gets the points of a search."""
    steps = STEPS[regime]
    own: dict[str, Space] = {
        "ems_fl": {"shared_lr_factor": Log(0.03, 1.0)},
        "fedavg": {"local_steps": steps},
        "fedavg_quorum": {"quorum": Choice((0.5, 0.75))},
        "fedavg_experts": {"local_steps": steps},
        "fedprox": {"local_steps": steps, "mu": Log(1e-3, 1.0)},
        "fedasync": {"mixing": Log(0.1, 1.0), "staleness_exponent": STALENESS},
        "fedbuff": {"buffer_size": Choice((1, 2, 3, 4)), "server_learning_rate": Log(0.3, 1.0)},
        "fedmoe": {"local_steps": steps},
    }
    space = {"learning_rate": RATES[regime], **own.get(method, {})}
    if method not in ("fedasync", "fedbuff"):
        return [space]
    return [space, {**space, "local_steps": steps}]


def candidates(method: str, scenario: Scenario) -> list[dict[str, Any]]:
    """Return the settings to try, space after space, then the grid; the same on every call."""
    drawn = [
        {key: axis.at(share) for (key, axis), share in zip(space.items(), row, strict=True)}
        for space in spaces_of(method, scenario.regime)
        for row in qmc.Sobol(len(space), seed=0).random(scenario.num_points)
    ]
    grid = scenario.grids.get(method)
    combinations = itertools.product(*grid.values()) if grid else ()
    return [*drawn, *(dict(zip(grid or (), values, strict=True)) for values in combinations)]


def tune(
    scenarios: Sequence[Scenario],
    out: Path,
    workers: int,
    extra: Sequence[str] = (),
    seeds: Sequence[int] = TUNING_SEEDS,
) -> dict[str, Any]:
    """Search for every scenario and method, resumably.

    Returns:
        Per scenario: the metric, and per method the chosen settings and every point's values.
    """
    jobs: dict[str, tuple[str, str, int, int]] = {}
    points = []
    for scenario in scenarios:
        for method in scenario.trained:
            tried = candidates(method, scenario)
            for index, settings in enumerate(tried):
                for seed in seeds:
                    name = f"{scenario.name}-{method}-{index}-{seed}"
                    jobs[name] = (scenario.name, method, index, seed)
                    points.append(_point(name, scenario, method, settings, seed, extra))
    done = 0

    def tell(point: Point) -> None:
        nonlocal done
        done += 1
        print(f"tuned {done} of {len(points)}: {point.name}", flush=True)

    results = run_points(points, out, workers, tell)
    return {scenario.name: _choose(scenario, results, jobs, seeds) for scenario in scenarios}


def _point(
    name: str,
    scenario: Scenario,
    method: str,
    settings: dict[str, Any],
    seed: int,
    extra: Sequence[str],
) -> Point:
    texts = {f"method_settings.{method}.{key}": repr(value) for key, value in settings.items()}
    overrides = [NO_SETTINGS, *scenario.overrides, *extra, "simulate.judged_on=validation"]
    overrides += [f"{key}={value}" for key, value in texts.items()]
    return Point(name, texts, load(scenario.config, overrides, [method], [seed]))


def _choose(
    scenario: Scenario,
    results: dict[str, RunResult],
    jobs: dict[str, tuple[str, str, int, int]],
    seeds: Sequence[int],
) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    metric = "accuracy"
    for method in scenario.trained:
        rows = []
        tried = candidates(method, scenario)
        for index, settings in enumerate(tried):
            finals = [
                results[name].methods[method].final_accuracy.mean
                for name, job in jobs.items()
                if job[:3] == (scenario.name, method, index)
            ]
            metric = results[f"{scenario.name}-{method}-{index}-{seeds[0]}"].metric
            rows.append({"settings": settings, "final_per_seed": finals, "final": _mean(finals)})
        best = _best(rows, METRICS[metric])
        methods[method] = {"chosen": best["settings"], "final": best["final"], "points": rows}
    return {
        "metric": metric,
        "seeds": list(seeds),
        "num_points": scenario.num_points,
        "methods": methods,
    }


def _best(rows: Sequence[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    """Return the point with the best final value; of equal ones the one with the smallest rate."""
    careful = sorted(rows, key=lambda row: row["settings"]["learning_rate"])
    return careful[metric.best([row["final"] for row in careful])]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
