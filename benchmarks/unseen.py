"""Rotated MNIST judged on those test samples that the search had set aside as its own test data.

    python benchmarks/unseen.py [--seeds 0 1 2] [--workers 2]

Every seed divides one pool of data anew, so most test samples of the seeds that are reported took
part in the search (seed 10), as training or validation samples. Here the same runs, with the
settings of configs/evidence/mnist_rotated.yaml, are judged at their end on the rest alone: samples
that were test samples of the search's seed too, which it never looked at. Writes
benchmarks/results/unseen.json, which benchmarks/evidence_page.py shows.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from emsfl.experiment import load, scenario_of
from emsfl.files import cache_dir, write_json
from emsfl.methods import METHODS
from emsfl.orbit import make_plan
from emsfl.simulate import open_executor
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.simulate.simulate import Simulation
from suite.scenarios import ROOT, ROTATED, TUNING_SEEDS

RESULT = ROOT / "benchmarks/results/unseen.json"
METHODS_SHOWN = (
    "ems_fl", "fedavg", "fedavg_fill", "fedavg_experts", "fedprox", "fedasync", "fedbuff",
)  # fmt: skip


def measure(job: tuple[str, int]) -> dict[str, Any]:
    """Run one method on one seed; return its accuracy on the samples that the search never saw."""
    method, seed = job
    config = load(ROTATED.config, methods=[method], seeds=[seed])
    plan = make_plan(config.orbit, cache_dir())
    with open_executor(1) as executor:
        searched = scenario_of(config, plan, TUNING_SEEDS[0], executor)
        scenario = scenario_of(config, plan, seed, executor)
        unseen = np.isin(
            scenario.data.holdings.rows["test"], searched.data.holdings.rows["test"]
        ).nonzero()[0]
        judge = Judge(
            {method: METHODS[method].gated},
            scenario.model,
            {domain: samples.take(unseen) for domain, samples in scenario.data.test.items()},
            evaluation_times(scenario.plan.duration_s, 1),
            domain_of=scenario.data.domain_of,
            choose_on=scenario.data.validation,
        )
        server = METHODS[method].build(
            scenario.federation, scenario.training, config.method_settings
        )
        events: list[dict[str, Any]] = []
        simulation = Simulation(scenario, server, judge, executor, events.append)
        while not simulation.finished:
            simulation.step()
        final = judge.accuracy(method)
    print(f"{method} seed {seed}: {final:.4f} on {len(unseen)} samples", flush=True)
    return {"method": method, "seed": seed, "num_samples": len(unseen), "final": final}


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    jobs = [(method, seed) for method in METHODS_SHOWN for seed in arguments.seeds]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        rows = list(pool.map(measure, jobs))
    write_json(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
