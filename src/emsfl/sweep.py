"""Many experiments in one folder: a grid over a config, several at a time, resumable.

Every point is a run folder of its own with its resolved config frozen in it. A sweep that was
stopped goes on where it was: finished points are read, begun ones are resumed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl import experiment
from emsfl.errors import ConfigError, RunFolderError
from emsfl.experiment_config import ExperimentConfig, load
from emsfl.results import RunFolder, RunResult

Axes = dict[str, list[str]]
"""Dotted key -> values as YAML text, in the order in which they were given."""


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep."""

    name: str
    """Names its run folder."""
    settings: dict[str, str]
    """The swept keys with this point's values, as YAML text."""
    config: ExperimentConfig


def parse_axes(assignments: Sequence[str]) -> Axes:
    """Read "key=a,b,c" texts; a comma inside brackets or braces does not separate values.

    Raises:
        ConfigError: a text without key or value, or a key that is given twice.
    """
    axes: Axes = {}
    for text in assignments:
        key, separator, values = text.partition("=")
        if not separator or not key or not values:
            raise ConfigError(
                f"{text!r} must be KEY=VALUE,VALUE,... such as training.momentum=0,0.9"
            )
        if key in axes:
            raise ConfigError(f"{key} is given twice; list its values once: {key}=a,b,c")
        axes[key] = _split(values, text)
    return axes


def grid(
    source: Path | str | Mapping[str, Any],
    axes: Mapping[str, Sequence[str]],
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Point]:
    """Return every combination of the axes' values over a config, all checked.

    Raises:
        ConfigError: a combination that is no valid config; the message names the field.
    """
    varied = [key for key, values in axes.items() if len(values) > 1] or list(axes)
    points = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        config = load(source, [f"{k}={v}" for k, v in settings.items()], methods, seeds)
        shown = {key: settings[key] for key in varied}
        points.append(Point(_folder_name(shown) or "base", shown, config))
    return points


def run_points(
    points: Iterable[Point],
    out: Path,
    workers: int = 1,
    tell: Callable[[Point], None] | None = None,
) -> dict[str, RunResult]:
    """Run the points that are not finished yet, `workers` at a time, each in one process.

    Args:
        points: with distinct names.
        out: holds one run folder per point.
        workers: processes; the results do not depend on it.
        tell: called with every finished point, in the order in which they finish.

    Returns:
        The results by name, in the order of the points.

    Raises:
        RunFolderError: `out` holds a point of the same name with another config, or one that
            another process runs.
    """
    listed = list(points)
    _check_frozen(listed, out)
    found: dict[str, RunResult] = {}
    for point, result in _finished(listed, out, workers):
        found[point.name] = result
        if tell is not None:
            tell(point)
    return {point.name: found[point.name] for point in listed}


def _finished(
    points: Sequence[Point], out: Path, workers: int
) -> Iterator[tuple[Point, RunResult]]:
    """Yield every point as it finishes: one after the other here, or in several processes."""
    if workers == 1:
        for point in points:
            yield point, _run(point, out / point.name)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(_run, point, out / point.name): point for point in points}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(point: Point, folder: Path) -> RunResult:
    if RunFolder(folder).config_path.is_file():
        return experiment.resume(folder, progress=False, report=False).result
    return experiment.run(point.config, out=folder, progress=False, report=False).result


def _check_frozen(points: Sequence[Point], out: Path) -> None:
    names = [point.name for point in points]
    if len(set(names)) != len(names):
        raise ConfigError(f"two points would share the folder {_first_double(names)}")
    for point in points:
        path = RunFolder(out / point.name).config_path
        if path.is_file() and load(path) != point.config:
            raise RunFolderError(
                f"{path.parent} holds this point with another config; choose another --out"
            )


def _first_double(names: Sequence[str]) -> str:
    return next(name for at, name in enumerate(names) if name in names[:at])


def _folder_name(settings: Mapping[str, str]) -> str:
    """Return 'learning_rate=0.1,local_steps=30', fit for a folder's name."""
    text = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items())
    return re.sub(r"[^\w.,=+-]+", "_", text)


def _split(values: str, text: str) -> list[str]:
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if not all(part.strip() for part in parts):
        raise ConfigError(f"{text!r} has an empty value; write KEY=VALUE,VALUE,...")
    return [part.strip() for part in parts]
