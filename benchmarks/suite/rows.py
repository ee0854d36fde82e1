"""Run what was tuned on the reported seeds, and reduce every run to one row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emsfl.experiment import load
from emsfl.methods import METHODS
from emsfl.methods.config import MethodSettings
from emsfl.results import RunResult
from emsfl.results.metric import METRICS
from emsfl.results.schema import CurvePoint
from emsfl.results.summary import best_fedavg, first_reached_s
from emsfl.sweep import Point, run_points
from suite.scenarios import NO_SETTINGS, SCENARIOS, Scenario

Row = dict[str, Any]


def collect(
    scenarios: Sequence[Scenario],
    tuning: dict[str, Any],
    out: Path,
    seeds: Sequence[int],
    workers: int,
    extra: Sequence[str] = (),
) -> list[Row]:
    """Run every method of every scenario on every seed, resumably; return a row for each."""
    points, labels = [], {}
    for scenario in scenarios:
        for names in _arms([*scenario.trained, *scenario.ablations]):
            for seed in seeds:
                name = f"{scenario.name}-{names[0]}-{seed}"
                texts = _texts(chosen(tuning, scenario), names)
                overrides = [NO_SETTINGS, *scenario.overrides, *extra, *texts]
                config = load(scenario.config, overrides, names, [seed])
                points.append(Point(name, {}, config))
                labels[name] = (scenario.name, seed)
    done = 0

    def tell(point: Point) -> None:
        nonlocal done
        done += 1
        print(f"ran {done} of {len(points)}: {point.name}", flush=True)

    results = run_points(points, out, workers, tell)
    _tell_of_older_code(results, out)
    rows = []
    for scenario in scenarios:
        mine = {name: r for name, r in results.items() if labels[name][0] == scenario.name}
        rows += _rows(scenario, mine, labels, chosen(tuning, scenario))
    return merge([], rows)


def _tell_of_older_code(results: dict[str, RunResult], out: Path) -> None:
    """Say which finished runs were found that another state of the code had made."""
    hashes = {name: result.provenance.git_hash for name, result in results.items()}
    latest = max(results.values(), key=lambda result: result.provenance.created_utc)
    older = [name for name, found in hashes.items() if found != latest.provenance.git_hash]
    if older:
        print(
            f"note: {len(older)} of {len(hashes)} runs are of other code than the latest one "
            f"({', '.join(older)}); to make them anew, remove their folders in {out}"
        )


def chosen(tuning: dict[str, Any], scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Return the tuned settings of every method of a scenario; ablations have EMS-FL's."""
    found = tuning[scenario.tuned_name]["methods"]
    names = [*scenario.trained, *scenario.ablations]
    return {name: found[settings_name(name)]["chosen"] for name in names}


def is_tuned(tuning: dict[str, Any], scenario: Scenario) -> bool:
    """Tell whether there has been a search for every method of a scenario."""
    found = tuning.get(scenario.tuned_name, {}).get("methods", {})
    return all(settings_name(m) in found for m in (*scenario.trained, *scenario.ablations))


def settings_name(method: str) -> str:
    """Return the key of a method's settings: its own name, for ablations `ems_fl`."""
    return method if method in MethodSettings.model_fields else "ems_fl"


def _texts(settings: dict[str, dict[str, Any]], methods: Sequence[str]) -> list[str]:
    """Return the settings of some methods as overrides of a config."""
    own = {settings_name(name): settings[name] for name in methods}
    return [
        f"method_settings.{name}.{key}={value!r}"
        for name, values in own.items()
        for key, value in values.items()
    ]


def _arms(methods: Sequence[str]) -> list[list[str]]:
    """Return the methods, those together that share one training."""
    arms: dict[str, list[str]] = {}
    for name in methods:
        arms.setdefault(METHODS[name].training_of or name, []).append(name)
    return list(arms.values())


def _rows(
    scenario: Scenario,
    results: dict[str, RunResult],
    labels: dict[str, tuple[str, int]],
    settings: dict[str, dict[str, Any]],
) -> list[Row]:
    rows: list[Row] = []
    for name, result in results.items():
        for method, found in result.methods.items():
            rows.append(
                {
                    "scenario": scenario.name,
                    "method": method,
                    "label": found.label,
                    "seed": labels[name][1],
                    "metric": result.metric,
                    "settings": settings[method],
                    "device": result.config["training"]["device"],
                    "initial": result.initial_accuracy[0],
                    "final": found.final_accuracy.mean,
                    "by_domain": {d: s.mean for d, s in found.accuracy_by_domain.items()},
                    "submodels": {c: s.mean for c, s in found.submodel_accuracy.items()},
                    "uploaded_bytes": found.uploaded_bytes.mean,
                    "downloaded_bytes": found.downloaded_bytes.mean,
                    "upload_bytes_per_contact": found.upload_bytes_per_contact.mean,
                    "num_updates": found.num_updates.mean,
                    "device_flops": found.device_flops.mean,
                    "energy_J": found.energy_J.mean,
                    "peak_trainable_parameters": found.peak_trainable_parameters,
                    "optimizer_bytes": found.peak_optimizer_bytes,
                    "peak_bytes": found.peak_memory_bytes,
                    "mass_kept": _mass_kept(result, method),
                    "curve": [[p.time_s, p.accuracy, p.uploaded_bytes] for p in found.curve[0]],
                    "plan_hash": result.provenance.plan_hash,
                    "data_hash": result.provenance.data_hash,
                    "model_hash": next(iter(result.provenance.model_hash.values())),
                    "git_hash": result.provenance.git_hash,
                    "versions": {
                        "emsfl": result.provenance.emsfl_version,
                        **result.provenance.packages,
                    },
                }
            )
    return rows


def merge(known: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return the rows in the suite's order; new ones take the places of older ones."""
    rows = {(row["scenario"], row["method"], row["seed"]): row for row in (*known, *new)}
    order = {
        (name, method): place
        for place, (name, method) in enumerate(
            (name, method)
            for name, scenario in SCENARIOS.items()
            for method in (*scenario.trained, *scenario.ablations)
        )
    }
    places = {key: (order.get(key[:2], len(order)), key[2]) for key in rows}
    merged = [rows[key] for key in sorted(rows, key=places.__getitem__)]
    for name in dict.fromkeys(row["scenario"] for row in merged):
        _add_times([row for row in merged if row["scenario"] == name])
    return merged


def _add_times(rows: list[Row]) -> None:
    """Add to every row its first time at the final value of the best FedAvg form of its seed."""
    metric = METRICS[rows[0]["metric"]]
    finals: dict[str, list[float]] = {}
    for row in rows:
        finals.setdefault(row["method"], []).append(row["final"])
    form = best_fedavg(finals, metric)
    targets = {row["seed"]: row["final"] for row in rows if row["method"] == form}
    for row in rows:
        target = targets.get(row["seed"])
        points = [
            CurvePoint(time_s=time_s, accuracy=value, uploaded_bytes=sent)
            for time_s, value, sent in row["curve"]
        ]
        row["target_of"] = form
        row["target"] = target
        row["time_to_target_s"] = (
            None if target is None else first_reached_s(points, target, metric)
        )


def _mass_kept(result: RunResult, method: str) -> float | None:
    assignment = result.assignment.get(METHODS[method].training_of or method)
    if assignment is None:
        return None
    return float(np.mean(list(assignment.mass_kept.values())))
