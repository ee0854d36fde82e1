"""What a simulation costs beside the training that it does: per event, and against a bare loop.

    python benchmarks/bench_overhead.py [--hours 72]

For each method it runs the demo scenario (one seed, one process) and notes what training and
evaluation gave. Then it runs the scenario again with those results at hand: what is left is the
scheduler (queue, cost model, transfers, event log, checkpoints) and the merging of tensors. Then it
does as many optimiser steps on a model of the same size, with torch.optim.SGD and batches of the
same size, in a bare PyTorch loop. All of it happens in this process, on one thread, in turn.

The last row repeats the replay with the smallest model there is: the scheduler without merging,
whose cost grows with the parameters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from emsfl.experiment import ExperimentConfig, load, scenario_of
from emsfl.files import cache_dir
from emsfl.methods import METHODS
from emsfl.moe import split_state
from emsfl.orbit import make_plan
from emsfl.results import RunFolder
from emsfl.simulate import Arm, Scenario
from emsfl.simulate.executor import Executor, InlineExecutor, Pending
from emsfl.training import TrainTask, is_trained, one_thread, train_locally

DEMO = Path(__file__).parents[1] / "configs/demo.yaml"


class Recorder(InlineExecutor):
    """Does the work and keeps what it gave."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.results: list[Pending] = []
        self.tasks: list[TrainTask] = []

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Do the work."""
        self.results.append(super().submit(function, argument))
        if function is train_locally:
            self.tasks.append(argument)
        return self.results[-1]


class Replay:
    """Gives again what a recorder kept, in the same order."""

    def __init__(self, recorder: Recorder) -> None:
        """Start at the first result."""
        self.results = iter(recorder.results)

    def submit(self, _function: Callable[[Any], Any], _argument: Any, /) -> Pending:
        """Return the next result."""
        return next(self.results)


def simulate(arm: Arm, executor: Executor) -> tuple[float, int]:
    """Return the wall time of a whole arm and its number of events."""
    num_events = 0

    def count(_title: str, _simulation: object) -> None:
        nonlocal num_events
        num_events += 1

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder, "run"), "")
        with run.open_events() as log:
            begun = time.perf_counter()
            arm.run(run, log, executor, count)
            return time.perf_counter() - begun, num_events


def bare_loop(scenario: Scenario, tasks: list[TrainTask]) -> float:
    """Return the wall time of the same steps in a plain loop over one model."""
    spec, layout = scenario.model, scenario.federation.layout
    settings, num_experts = tasks[0].settings, tasks[0].num_experts
    owned = tuple(tuple(range(num_experts)) for _ in layout.layers)
    model = spec.build(split_state(scenario.federation.pretrained, layout, owned), num_experts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, layout, settings))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, settings.learning_rate, settings.momentum)
    generator = torch.Generator().manual_seed(0)
    shards = {id(t.shard): (torch.from_numpy(t.shard.inputs), torch.from_numpy(t.shard.labels))
              for t in tasks}  # fmt: skip
    begun = time.perf_counter()
    for task in tasks:
        inputs, labels = shards[id(task.shard)]
        for _ in range(task.num_steps):
            batch = torch.randint(len(labels), (settings.batch_size,), generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return time.perf_counter() - begun


def measure(name: str, config: ExperimentConfig) -> tuple[int, int, float, float]:
    """Return events, steps, overhead per event in seconds, and run time over bare loop."""
    plan = make_plan(config.orbit, cache_dir())
    scenario = scenario_of(config, plan, config.seeds[0], InlineExecutor())
    arm = Arm(name, {name: METHODS[name].gated}, scenario, config.method_settings)
    recorder = Recorder()
    simulate(arm, recorder)  # Warms up, and keeps the results.
    wall_s, num_events = simulate(arm, InlineExecutor())
    overhead_s = min(simulate(arm, Replay(recorder))[0] for _ in range(3))
    ratio = wall_s / bare_loop(scenario, recorder.tasks)
    num_steps = sum(task.num_steps for task in recorder.tasks)
    return num_events, num_steps, overhead_s / num_events, ratio


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=72)
    hours = parser.parse_args().hours
    config = load(DEMO, [f"orbit.hours={hours}"])
    smallest = load(
        DEMO,
        [f"orbit.hours={hours}", "model.hidden_size=8", "model.expert_size=8",
         "model.num_layers=1", "model.num_experts=8", "model.pretrain.num_steps=1",
         "simulate.device_flops_per_s=2.6e+3"],
    )  # fmt: skip
    table = Table("method", "events", "steps", "us per event", "run / bare loop")
    with one_thread():
        for name in config.methods:
            num_events, num_steps, overhead_s, ratio = measure(name, config)
            table.add_row(
                name, str(num_events), str(num_steps), f"{overhead_s * 1e6:.0f}", f"{ratio:.2f}"
            )
        num_events, num_steps, overhead_s, _ = measure("fedasync", smallest)
        table.add_row(
            "scheduler alone", str(num_events), str(num_steps), f"{overhead_s * 1e6:.0f}", ""
        )
    Console().print(table)
    print("us per event: everything but training and evaluation, checkpoints and files included")


if __name__ == "__main__":
    main()
