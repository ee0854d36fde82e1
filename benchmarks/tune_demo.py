"""Tune every method of the demo on the validation split, with the same number of points for each.

    python benchmarks/tune_demo.py [--workers 2] [--out runs/tune]

Tuning seeds are not among those that results are reported on. Every point is one run folder, so
the search goes on where it stopped. The table and benchmarks/results/tune_demo.json hold every
point of these grids (LOG.md: what came before). One rule decides what goes into configs/demo.yaml,
for every method: among the points
whose final accuracy (mean over the tuning seeds) is within half a point of the method's best, the
one with the highest mean accuracy over the whole run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from emsfl.experiment import load, resume, run
from emsfl.files import write_json
from emsfl.results import RunFolder

ROOT = Path(__file__).parents[1]
SEEDS = (10, 11)
TIE = 0.005
GRIDS: dict[str, dict[str, list[float]]] = {
    "ems_fl": {"learning_rate": [0.03, 0.05, 0.1, 0.2], "shared_lr_factor": [0.1, 0.3, 1.0]},
    "fedavg": {"learning_rate": [0.005, 0.01, 0.02, 0.03], "local_steps": [15, 30, 60]},
    "fedavg_fill": {
        "learning_rate": [0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3]
    },
    "fedasync": {"learning_rate": [0.01, 0.02, 0.03, 0.05], "mixing": [0.25, 0.5, 0.9]},
}


def points() -> list[tuple[str, dict[str, float]]]:
    """Return every method with every combination of its settings."""
    return [
        (method, dict(zip(grid, values, strict=True)))
        for method, grid in GRIDS.items()
        for values in itertools.product(*grid.values())
    ]


def run_point(job: tuple[str, dict[str, float], Path]) -> dict[str, Any]:
    """Run one point on all tuning seeds; return its accuracies on the validation split."""
    method, settings, out = job
    if (out / "result.json").exists():
        result = RunFolder.open(out).read_result()
    elif (out / "config.yaml").exists():
        result = resume(out, progress=False).result
    else:
        overrides = [f"method_settings.{method}.{key}={value}" for key, value in settings.items()]
        overrides.append("simulate.judged_on=validation")
        config = load(ROOT / "configs/demo.yaml", overrides, methods=[method], seeds=SEEDS)
        result = run(config, out=out, progress=False).result
    final = result.methods[method].final_accuracy
    points = [point.accuracy for curve in result.methods[method].curve for point in curve]
    return {
        "method": method,
        **settings,
        "final_per_seed": final.per_seed,
        "final": final.mean,
        "mean_over_run": sum(points) / len(points),
    }


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best of one method's points, by the rule above."""
    bar = max(row["final"] for row in rows) - TIE
    return max((row for row in rows if row["final"] >= bar), key=lambda row: row["mean_over_run"])


def main() -> None:
    """Run the search and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/tune")
    arguments = parser.parse_args()
    jobs = [
        (method, settings, arguments.out / "-".join([method, *map(str, settings.values())]))
        for method, settings in points()
    ]
    rows = []
    with ProcessPoolExecutor(
        arguments.workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        for row in pool.map(run_point, jobs):
            rows.append(row)
            print(json.dumps(row), flush=True)
    best = {method: choose([row for row in rows if row["method"] == method]) for method in GRIDS}
    write_json(
        ROOT / "benchmarks/results/tune_demo.json", {"seeds": SEEDS, "best": best, "points": rows}
    )
    for method, row in best.items():
        print(f"best {method}: {row}")


if __name__ == "__main__":
    main()
