"""Several runs side by side: first what makes them different, then their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from emsfl.errors import RunFolderError
from emsfl.results.metric import metric_of
from emsfl.results.paired import Difference, paired_difference
from emsfl.results.run_folder import RunFolder
from emsfl.results.schema import RunResult
from emsfl.results.tables import TextTable, best_fedavg_of, print_tables, time_ratio
from emsfl.results.wording import (
    BYTES_PER_MB,
    MISSING,
    amount,
    compute_unit,
    hours_to_target,
    listing,
)

_MAX_NAMED_KEYS = 6
_ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class MethodDifference:
    """One method's final accuracy in a run, less that in the first run, over common seeds."""

    method: str
    label: str
    run: str
    seeds: tuple[int, ...]
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `emsfl compare` prints; the first run is what the others are held against."""

    runs: tuple[str, ...]
    results: tuple[RunResult, ...]
    warnings: tuple[str, ...]
    """What differs between the runs, and so may explain a difference; empty if nothing does."""
    differences: tuple[MethodDifference, ...]

    def tables(self) -> list[TextTable]:
        """Return the table of all rows, and that of the differences where there are any."""
        return [_rows(self), *([_differences(self)] if self.differences else [])]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON-able values: accuracies as shares, SI units."""
        return {
            "runs": [
                {"run": run, "name": result.name, "seeds": result.seeds, "methods": _plain(result)}
                for run, result in zip(self.runs, self.results, strict=True)
            ],
            "warnings": list(self.warnings),
            "differences": [
                {
                    "method": item.method,
                    "run": item.run,
                    "against": self.runs[0],
                    "seeds": list(item.seeds),
                    "per_seed": list(item.difference.per_seed),
                    "mean": item.difference.mean,
                    "interval_95": item.difference.interval,
                }
                for item in self.differences
            ],
        }


def read_runs(paths: Sequence[Path]) -> dict[str, RunResult]:
    """Read the results of several run folders, called by folder name, or by path where names clash.

    Raises:
        RunFolderError: a folder is named twice, is no run, or holds no readable result.
    """
    places = [path.resolve() for path in paths]
    for position, place in enumerate(places):
        if place in places[:position]:
            raise RunFolderError(f"run folder {paths[position]} is named twice; name it once")
    clash = len({place.name for place in places}) < len(places)
    return {
        str(path) if clash else place.name: RunFolder.open(path).read_result()
        for path, place in zip(paths, places, strict=True)
    }


def compare_runs(runs: Mapping[str, RunResult]) -> Comparison:
    """Compare finished runs.

    Args:
        runs: how each run is called -> its result; at least one. The first is the reference.
    """
    names, results = tuple(runs), tuple(runs.values())
    others = list(islice(runs.items(), 1, None))
    return Comparison(
        runs=names,
        results=results,
        warnings=tuple(
            warning
            for name, result in others
            for warning in _warnings(names[0], results[0], name, result)
        ),
        differences=tuple(
            difference
            for name, result in others
            for difference in _paired(results[0], name, result)
        ),
    )


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the tables, and below them what differs between the runs."""
    print_tables(comparison.tables(), console)
    for warning in comparison.warnings:
        console.print(f"note: {warning}", markup=False, highlight=False, soft_wrap=True)


def _warnings(first: str, reference: RunResult, name: str, result: RunResult) -> list[str]:
    warnings = []
    pair = f"{first} and {name}"
    if reference.seeds != result.seeds:
        common = _common_seeds(reference, result)
        paired = f"only {_numbers(common)} can be paired" if common else "none can be paired"
        warnings.append(
            f"{pair} have different seeds ({_numbers(reference.seeds)} against "
            f"{_numbers(result.seeds)}); {paired}"
        )
    if reference.metric != result.metric:
        warnings.append(
            f"{pair} are judged by {metric_of(reference).title} and {metric_of(result).title}; "
            "no differences are shown"
        )
    ours, theirs = reference.provenance, result.provenance
    if ours.plan_hash != theirs.plan_hash:
        warnings.append(f"{pair} follow different contact plans; times and bytes are not alike")
    if ours.data_hash != theirs.data_hash:
        warnings.append(f"{pair} use different data; their final values measure different things")
    seeds = [str(seed) for seed in _common_seeds(reference, result)]
    if any(ours.model_hash.get(seed) != theirs.model_hash.get(seed) for seed in seeds):
        warnings.append(f"{pair} start from different pre-trained models")
    if ours.config_hash != theirs.config_hash:
        warnings.append(f"{pair} have different configs: {_config_differences(reference, result)}")
    if ours.emsfl_version != theirs.emsfl_version or ours.git_hash != theirs.git_hash:
        warnings.append(f"{pair} were made by different versions of emsfl")
    return warnings


def _config_differences(reference: RunResult, result: RunResult) -> str:
    ours, theirs = _flat(reference.config), _flat(result.config)
    keys = [key for key in {**ours, **theirs} if ours.get(key, _ABSENT) != theirs.get(key, _ABSENT)]
    if not keys:
        return "the recorded values are equal, so a default changed its meaning"
    shown = [
        f"{key} ({ours.get(key, _ABSENT)} against {theirs.get(key, _ABSENT)})"
        for key in keys[:_MAX_NAMED_KEYS]
    ]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of a config as dotted key -> text."""
    if isinstance(tree, Mapping) and tree:
        items: Sequence[tuple[Any, Any]] = list(tree.items())
    elif isinstance(tree, list) and tree:
        items = list(enumerate(tree))
    else:
        return {prefix: repr(tree)}
    leaves: dict[str, str] = {}
    for key, value in items:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _paired(reference: RunResult, name: str, result: RunResult) -> list[MethodDifference]:
    common = _common_seeds(reference, result)
    shared = [method for method in reference.methods if method in result.methods]
    if not common or reference.metric != result.metric:
        return []
    return [
        MethodDifference(
            method=method,
            label=result.methods[method].label,
            run=name,
            seeds=tuple(common),
            difference=paired_difference(
                _finals(result, method, common), _finals(reference, method, common)
            ),
        )
        for method in shared
    ]


def _finals(result: RunResult, method: str, seeds: Sequence[int]) -> list[float]:
    values = result.methods[method].final_accuracy.per_seed
    return [values[result.seeds.index(seed)] for seed in seeds]


def _common_seeds(first: RunResult, second: RunResult) -> list[int]:
    return [seed for seed in first.seeds if seed in second.seeds]


def _numbers(seeds: Sequence[int]) -> str:
    return listing([str(seed) for seed in seeds])


def _rows(comparison: Comparison) -> TextTable:
    flops, compute = compute_unit(
        [method.device_flops.mean for r in comparison.results for method in r.methods.values()]
    )
    rows = []
    for run, result in zip(comparison.runs, comparison.results, strict=True):
        for name, method in result.methods.items():
            ratio = time_ratio(result, name)
            rows.append(
                (
                    run,
                    method.label,
                    str(len(result.seeds)),
                    metric_of(result).spread(method.final_accuracy),
                    hours_to_target(method.time_to_target_s) if result.target_accuracy else MISSING,
                    MISSING if ratio is None else f"{ratio:.2f}",
                    amount(method.uploaded_bytes.mean / BYTES_PER_MB),
                    amount(method.upload_bytes_per_contact.mean / BYTES_PER_MB),
                    amount(method.device_flops.mean / flops),
                )
            )
    targets = [
        f"{run} {'none' if result.target_accuracy is None else _target(result)}"
        for run, result in zip(comparison.runs, comparison.results, strict=True)
    ]
    return TextTable(
        title="Runs",
        columns=(
            "run",
            "method",
            "seeds",
            "merged model",
            "hours to target",
            "of FedAvg's time",
            "upload MB",
            "MB per contact",
            f"compute {compute}",
        ),
        rows=tuple(rows),
        text_columns=(0, 1),
        note=f"each run's target is its own best FedAvg form: {'; '.join(targets)}",
    )


def _target(result: RunResult) -> str:
    form = best_fedavg_of(result)
    assert form is not None
    final = result.methods[form].final_accuracy
    metric = metric_of(result)
    return f"{result.methods[form].label} {metric.with_unit(metric.value(final.mean))}"


def _differences(comparison: Comparison) -> TextTable:
    metric = metric_of(comparison.results[0])
    return TextTable(
        title=f"Final {metric.title} against {comparison.runs[0]}, {metric.difference_unit}, "
        "paired by seed",
        columns=("run", "method", "seeds", "difference", "evidence"),
        rows=tuple(
            (
                item.run,
                item.label,
                ", ".join(str(seed) for seed in item.seeds),
                metric.gain(item.difference.mean),
                metric.evidence(item.difference),
            )
            for item in comparison.differences
        ),
        text_columns=(0, 1, 2, 4),
    )


def _plain(result: RunResult) -> dict[str, Any]:
    """Return what a script wants to know of each method."""
    form = best_fedavg_of(result)
    return {
        name: {
            "label": method.label,
            "metric": result.metric,
            "final_accuracy": method.final_accuracy.model_dump(),
            "time_to_target_s": method.time_to_target_s.model_dump(),
            "time_ratio": time_ratio(result, name),
            "is_target": name == form,
            "uploaded_bytes": method.uploaded_bytes.model_dump(),
            "upload_bytes_per_contact": method.upload_bytes_per_contact.model_dump(),
            "device_flops": method.device_flops.model_dump(),
            "energy_J": method.energy_J.model_dump(),
        }
        for name, method in result.methods.items()
    }
