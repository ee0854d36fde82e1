"""Which gate routes the merged language model best, when, and what stands in for missing experts.

Run: python benchmarks/language_gates.py [--seeds 10 11] [--workers 1] [--points 8] [--json FILE]
     [--set model.max_tokens=32 ...]

EMS-FL of configs/evidence/language_model.yaml is trained once per seed; on a grid of virtual times
the merged model is judged under every gate on validation data, in bits per byte (lower is better).
Beside it: the sub-models on their own domain with each stand-in for missing experts, before any
tuning and after 48 steps alone. Seeds that results are reported on are not to be used here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emsfl.data import Samples
from emsfl.experiment import load, scenario_of
from emsfl.files import cache_dir, write_json
from emsfl.methods import METHODS, EmsFl, MergedModel
from emsfl.moe import CausalLm, ModelSpec, State, split_state
from emsfl.moe.gate_running import Listening
from emsfl.moe.gate_text import TextGateConfig, TextGateKind
from emsfl.moe.missing_experts import (
    StandIn,
    mean_outputs,
    recording_outputs,
    stand_in,
    standing_in,
)
from emsfl.orbit import make_plan
from emsfl.simulate import Scenario, Simulation, open_executor
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.training import EvaluateTask, LocalSettings
from emsfl.training.local import batch_order, choose_parameters
from emsfl.training.optimizers import Optimizers

CONFIG = Path(__file__).parent.parent / "configs/evidence/language_model.yaml"
CALIBRATION = 256
"""Sentences per cluster on which experts' mean outputs are measured."""
NUM_STEPS = 48
"""Of tuning a sub-model alone with a stand-in, as EMS-FL does."""


def gate(kind: TextGateKind, plain_share: float = 0.0, **listening: Any) -> TextGateConfig:
    """Return a gate of one kind."""
    return TextGateConfig(kinds=(kind,), plain_share=plain_share, listening=Listening(**listening))


GATES = {
    "plain": gate(TextGateKind.PLAIN),
    "prefix_gaussian": gate(TextGateKind.GAUSSIAN),
    "prefix_gaussian, plain 0.5": gate(TextGateKind.GAUSSIAN, 0.5),
    "prefix_counts": gate(TextGateKind.COUNTS),
    "prefix_counts, plain 0.5": gate(TextGateKind.COUNTS, 0.5),
    "own_likelihood": gate(TextGateKind.LIKELIHOOD),
    "own_likelihood, first 8": gate(TextGateKind.LIKELIHOOD, first_tokens=8),
    "own_likelihood, first 16": gate(TextGateKind.LIKELIHOOD, first_tokens=16),
    "own_likelihood, every 4": gate(TextGateKind.LIKELIHOOD, every_tokens=4),
    "own_likelihood, plain 0.5": gate(TextGateKind.LIKELIHOOD, 0.5),
    "mixture": gate(TextGateKind.MIXTURE),
    "mixture, plain 0.5": gate(TextGateKind.MIXTURE, 0.5),
    "mixture, plain 0.5, Bayes": gate(TextGateKind.MIXTURE, 0.5, temperature=1),
}


class GatesJudge(Judge):
    """Judges one merged model under every gate of `GATES`."""

    current = 0

    def _tasks(self, merged: MergedModel, pretrained: State) -> list[EvaluateTask]:
        """Return the usual task, with the gate whose turn it is."""
        names = list(GATES)
        spec = with_gate(self.model, GATES[names[self.current % len(names)]])
        self.current += 1
        return [replace(task, model=spec) for task in super()._tasks(merged, pretrained)]


def with_gate(spec: Any, chosen: TextGateConfig) -> CausalLm:
    """Return the same model with another gate."""
    return CausalLm(spec.config.model_copy(update={"gate": chosen}))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the configuration")
    arguments = parser.parse_args()
    found: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        tables = found[seed] = measure(seed, arguments)
        print(f"seed {seed}, bits per byte of the merged model over virtual time")
        for name, curve in tables["gates"].items():
            print(f"  {name:28}" + " ".join(f"{value:6.3f}" for value in curve))
        print("  sub-models on their own domain before and after tuning, by what stands in")
        for name, values in tables["stand_ins"].items():
            print(f"  {name:28}" + " ".join(f"{value:6.3f}" for value in values))
        if arguments.json:
            write_json(arguments.json, {"seeds": found})
            print(json.dumps({"written": str(arguments.json)}))


def measure(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train EMS-FL on one seed; return both tables and the hours of the first."""
    needed = [kind.value for kind in TextGateKind]
    overrides = [f"model.gate.kinds=[{', '.join(needed)}]", *arguments.set]
    config = load(CONFIG, overrides)
    with open_executor(arguments.workers) as executor:
        scenario = scenario_of(config, make_plan(config.orbit, cache_dir()), seed, executor)
        build = METHODS["ems_fl"].build
        method = build(scenario.federation, scenario.training, config.method_settings)
        judge = GatesJudge(
            dict.fromkeys(GATES, True),
            scenario.model,
            scenario.data.validation,
            evaluation_times(scenario.plan.duration_s, arguments.points),
            scenario.training.device,
            domain_of=scenario.data.domain_of,
        )
        simulation = Simulation(scenario, method, judge, executor, lambda _event: None)
        while not simulation.finished:
            simulation.step()
        curves = {
            name: [judge.accuracy(name, i) for i in range(len(judge.times_s))] for name in GATES
        }
        if not isinstance(method, EmsFl):
            raise TypeError("ems_fl is no EMS-FL")
        missing = stand_ins(scenario, method)
        hours = [time_s / 3600 for time_s in judge.times_s]
        return {"hours": hours, "gates": curves, "stand_ins": missing}


def stand_ins(scenario: Scenario, method: EmsFl) -> dict[str, list[float]]:
    """Return bits per byte of the sub-models on their domains, by stand-in: untuned and tuned."""
    spec, layout, data = scenario.model, scenario.model.layout(), scenario.data
    pretrained = scenario.federation.pretrained
    totals = {kind: np.zeros((2, 2)) for kind in StandIn}
    for cluster, domain in data.domain_of.items():
        shard, samples = data.shards[cluster][0], data.validation[domain]
        owned = method.owned(cluster)
        averages = mean_outputs(_recorded(spec, pretrained, shard))
        scores = method.scores[cluster]
        for kind, total in totals.items():
            missing = stand_in(
                kind, pretrained, layout, owned, scores=scores, mean_outputs=averages
            )
            part = spec.build(split_state(pretrained, layout, owned), len(owned[0]))
            with standing_in(part, layout, missing):
                total[0] += _judged(spec, part, samples)
                _tune(spec, part, shard, method.settings)
                total[1] += _judged(spec, part, samples)
    return {kind.value: (total[:, 0] / total[:, 1]).tolist() for kind, total in totals.items()}


@torch.no_grad()
def _recorded(spec: ModelSpec, pretrained: State, shard: Samples) -> list[list[torch.Tensor]]:
    full = spec.build(pretrained).eval()
    with recording_outputs(full, spec.layout()) as sums:
        inputs = torch.from_numpy(shard.inputs[:CALIBRATION])
        spec.judge(full, inputs, torch.from_numpy(shard.labels[:CALIBRATION]))
    return sums


@torch.no_grad()
def _judged(spec: ModelSpec, model: nn.Module, samples: Samples) -> tuple[float, float]:
    inputs, labels = torch.from_numpy(samples.inputs), torch.from_numpy(samples.labels)
    return spec.judge(model, inputs, labels)


def _tune(spec: ModelSpec, model: nn.Module, shard: Samples, settings: LocalSettings) -> None:
    layout = spec.layout()
    choose_parameters(model, layout, settings)
    optimizers = Optimizers(model, layout, settings, {})
    inputs, labels = torch.from_numpy(shard.inputs), torch.from_numpy(shard.labels)
    order = batch_order(len(shard), settings.batch_size, (0,), 0, NUM_STEPS)
    for batch in torch.from_numpy(order):
        optimizers.zero_grad()
        spec.loss(model, inputs[batch], labels[batch]).backward()
        optimizers.step()


if __name__ == "__main__":
    main()
