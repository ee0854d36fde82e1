"""From plain records of what each method did with each seed to the result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emsfl.results.labels import FEDAVG_FORMS, method_label
from emsfl.results.metric import METRICS, Metric
from emsfl.results.schema import (
    SCHEMA_VERSION,
    Assignment,
    ClusterTimeline,
    ContactStatistics,
    CurvePoint,
    MethodResult,
    Provenance,
    RunResult,
    Spread,
    TimeToTarget,
)


@dataclass(frozen=True, kw_only=True)
class SeedRecord:
    """What one method did with one seed: all that a driver hands over."""

    curve: Sequence[CurvePoint]
    """The merged model on the grid of virtual times, ascending; the last point is the end."""
    accuracy_by_domain: Mapping[str, float]
    """The merged model at the end, per domain."""
    submodel_accuracy: Mapping[str, float]
    """Per cluster, its own model on its own domain at the end; empty where there is none."""
    uploaded_bytes: int
    """Bytes that reached the satellites by the end, all clusters together."""
    downloaded_bytes: int
    """Bytes that reached the sites by the end, all clusters together."""
    update_bytes: Sequence[int]
    """Size of each update that arrived and was merged."""
    num_refused: int
    """Updates that arrived and were refused."""
    device_flops: float
    """Of training, over all devices."""
    energy_J: float
    """Over all devices, computing and transmitting."""
    peak_trainable_parameters: int
    """Largest number of parameters that one device trains at once."""
    peak_optimizer_bytes: int | None = None
    """Largest optimiser state of one device."""
    peak_memory_bytes: int | None = None
    """Most memory that one device trains in: parameters, gradients, optimiser, activations."""


def build_result(
    *,
    name: str,
    seeds: Sequence[int],
    records: Mapping[str, Sequence[SeedRecord]],
    initial_accuracy: Sequence[float],
    assignment: Mapping[str, Assignment],
    timeline: Mapping[str, ClusterTimeline],
    contact_statistics: Sequence[ContactStatistics],
    config: Mapping[str, Any],
    provenance: Provenance,
    metric: Literal["accuracy", "bits_per_byte"] = "accuracy",
) -> RunResult:
    """Summarise a finished run.

    Args:
        name: of the run.
        seeds: what every per-seed list follows.
        records: per method one record per seed.
        initial_accuracy: per seed, the model before any tuning on the union of the test sets.
        assignment: per EMS-FL arm, for the first seed.
        timeline: per cluster, for the first seed.
        contact_statistics: one per site.
        config: the resolved config, JSON-able.
        provenance: what made the result.
        metric: what the models were judged by.

    Raises:
        ValueError: the records do not have one common grid of times, or not one per seed.
    """
    _check(seeds, records)
    target = target_accuracy(records, METRICS[metric])
    return RunResult(
        schema_version=SCHEMA_VERSION,
        name=name,
        seeds=list(seeds),
        metric=metric,
        target_accuracy=target,
        initial_accuracy=list(initial_accuracy),
        methods={
            method: _method(method, runs, target, METRICS[metric])
            for method, runs in records.items()
        },
        assignment=dict(assignment),
        timeline=dict(timeline),
        contact_statistics=list(contact_statistics),
        config=dict(config),
        provenance=provenance,
    )


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of one value per seed; 0 spread for one seed."""
    array = np.asarray(values, dtype=np.float64)
    std = float(array.std(ddof=1)) if array.size > 1 else 0.0
    return Spread(mean=float(array.mean()), std=std, per_seed=array.tolist())


def best_fedavg(final_accuracy: Mapping[str, Sequence[float]], metric: Metric) -> str | None:
    """Return the best form of FedAvg among the methods, or None where none ran.

    Best is the best mean of the final metric over the seeds, the plain form at a tie. One form
    for all seeds: taking the best of several noisy numbers seed by seed would favour FedAvg.

    Args:
        final_accuracy: per method, one value per seed.
        metric: says which values are better.
    """
    forms = [form for form in FEDAVG_FORMS if form in final_accuracy]
    if not forms:
        return None
    return forms[metric.best([float(np.mean(final_accuracy[form])) for form in forms])]


def target_accuracy(
    records: Mapping[str, Sequence[SeedRecord]], metric: Metric
) -> list[float] | None:
    """Return per seed the final accuracy of the best FedAvg form, or None where none ran."""
    finals = {
        method: [record.curve[-1].accuracy for record in runs] for method, runs in records.items()
    }
    form = best_fedavg(finals, metric)
    return None if form is None else finals[form]


def first_reached_s(curve: Sequence[CurvePoint], target: float, metric: Metric) -> float | None:
    """Return the first time on the grid at which the model is as good as `target`, else None.

    The first touch counts even where the curve falls below the target again.
    """
    reached = (p.time_s for p in curve if not metric.is_better(target, than=p.accuracy))
    return next(reached, None)


def _method(
    method: str, runs: Sequence[SeedRecord], target: Sequence[float] | None, metric: Metric
) -> MethodResult:
    return MethodResult(
        label=method_label(method),
        final_accuracy=spread([run.curve[-1].accuracy for run in runs]),
        accuracy_by_domain=_spreads([run.accuracy_by_domain for run in runs]),
        submodel_accuracy=_spreads([run.submodel_accuracy for run in runs]),
        time_to_target_s=_time_to_target(runs, target, metric),
        uploaded_bytes=spread([run.uploaded_bytes for run in runs]),
        downloaded_bytes=spread([run.downloaded_bytes for run in runs]),
        upload_bytes_per_contact=spread(
            [float(np.mean(run.update_bytes)) if run.update_bytes else 0.0 for run in runs]
        ),
        num_updates=spread([len(run.update_bytes) for run in runs]),
        num_refused=spread([run.num_refused for run in runs]),
        device_flops=spread([run.device_flops for run in runs]),
        energy_J=spread([run.energy_J for run in runs]),
        peak_trainable_parameters=max(run.peak_trainable_parameters for run in runs),
        peak_optimizer_bytes=_largest([run.peak_optimizer_bytes for run in runs]),
        peak_memory_bytes=_largest([run.peak_memory_bytes for run in runs]),
        curve=[list(run.curve) for run in runs],
    )


def _time_to_target(
    runs: Sequence[SeedRecord], target: Sequence[float] | None, metric: Metric
) -> TimeToTarget:
    if target is None:
        return TimeToTarget(mean=None, per_seed=[None] * len(runs))
    times = [
        first_reached_s(run.curve, goal, metric) for run, goal in zip(runs, target, strict=True)
    ]
    reached = [time for time in times if time is not None]
    mean = float(np.mean(reached)) if len(reached) == len(times) else None
    return TimeToTarget(mean=mean, per_seed=times)


def _largest(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _spreads(per_seed: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {key: spread([values[key] for values in per_seed]) for key in per_seed[0]}


def _check(seeds: Sequence[int], records: Mapping[str, Sequence[SeedRecord]]) -> None:
    grid: list[float] | None = None
    for method, runs in records.items():
        if len(runs) != len(seeds):
            raise ValueError(f"{method} has {len(runs)} records for {len(seeds)} seeds")
        for run in runs:
            times = [point.time_s for point in run.curve]
            if grid is None:
                grid = times
            if times != grid or not times or times != sorted(set(times)):
                raise ValueError(f"{method} does not follow the common grid of ascending times")
