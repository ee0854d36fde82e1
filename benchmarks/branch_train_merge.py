"""A control for the language model's mixture: as many complete models, tuned alone and mixed.

Run: python benchmarks/branch_train_merge.py [--seeds 0 1 2] [--points 8] [--times 4] [--workers 2]

EMS-FL's merged language model mixes the predictions of its sub-models. How much of that is the
mixing? Here every cluster of configs/evidence/language_model.yaml tunes the complete model by
itself, without a network, and the models are mixed in the same way (Branch-Train-Merge, arXiv
2208.03306); their average takes the place of the merged model under its plain router. Nothing is
sent before it counts, so over contacts it could only be later. The learning rate is searched as
every method's: the same number of points, seed 10, validation data. Writes
benchmarks/results/branch_train_merge.json, which benchmarks/evidence_page.py shows.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import torch

from emsfl.experiment import load, scenario_of
from emsfl.files import cache_dir, write_json
from emsfl.methods import METHODS, Method, Venue
from emsfl.moe import CausalLm, State
from emsfl.moe.gate_text import TextGate, TextGateConfig, TextGateKind
from emsfl.moe.text_gating import TextGating
from emsfl.orbit import make_plan
from emsfl.simulate import open_executor
from emsfl.simulate.alone import AloneSimulation
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.training import weighted_mean
from suite.scenarios import LANGUAGE_MODEL, ROOT, TUNING_SEEDS
from suite.tuning import candidates

RESULT = ROOT / "benchmarks/results/branch_train_merge.json"


class MixtureJudge(Judge):
    """Judges the mixture of all clusters' models in bits per byte."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See `Judge`."""
        super().__init__(*args, **kwargs)
        self.mixed: list[float] = []

    def evaluate(self, time_s: float, method: Method, *_: Any) -> None:
        """Add a point to the curve."""
        members = method.merged().by_cluster
        if members is None or not isinstance(self.model, CausalLm):
            raise TypeError("a language model for every cluster is needed")
        pretrained = method.federation.pretrained
        self.mixed.append(judge_mixture(self, self.model, members, pretrained))


@torch.no_grad()
def judge_mixture(
    judge: Judge, spec: CausalLm, members: dict[str, State], pretrained: State
) -> float:
    """Return bits per byte of the members, their average and the model before tuning, mixed."""
    states = list(members.values())
    average = spec.build(weighted_mean(states, [1 / len(states)] * len(states))).eval()
    nothing = torch.zeros(0)
    gate = TextGate(*[nothing] * 5, kind=TextGateKind.MIXTURE)
    gating = TextGating(
        gate,
        TextGateConfig(),
        average,
        spec.layout(),
        spec.build(pretrained).eval(),
        lambda: [spec.build(state).eval() for state in states],
    )
    bits, num_bytes = 0.0, 0.0
    with gating.active():
        for samples in judge.samples.values():
            inputs, labels = torch.from_numpy(samples.inputs), torch.from_numpy(samples.labels)
            for part in range(0, len(inputs), spec.batch):
                rows = slice(part, part + spec.batch)
                found = spec.judge(average, inputs[rows], labels[rows])
                bits, num_bytes = bits + found[0], num_bytes + found[1]
    return bits / num_bytes


def measure(seed: int, learning_rate: float, judged_on: str, num_times: int) -> dict[str, Any]:
    """Tune a model for every cluster alone; return the curve of the mixture."""
    config = load(LANGUAGE_MODEL.config, [f"method_settings.local.learning_rate={learning_rate}"])
    with open_executor(1) as executor:
        scenario = scenario_of(config, make_plan(config.orbit, cache_dir()), seed, executor)
        judge = MixtureJudge(
            {"local": False},
            scenario.model,
            scenario.data.test if judged_on == "test" else scenario.data.validation,
            evaluation_times(scenario.plan.duration_s, num_times),
            domain_of=scenario.data.domain_of,
        )
        build = METHODS["local"].build
        method = build(scenario.federation, scenario.training, config.method_settings)
        simulation = AloneSimulation(scenario, Venue.SITES, method, judge, executor)
        while not simulation.finished:
            simulation.step()
    curve = [[t, value] for t, value in zip(judge.times_s, judge.mixed, strict=True)]
    found = {"seed": seed, "learning_rate": learning_rate, "final": curve[-1][1], "curve": curve}
    print(f"{judged_on} {found}", flush=True)
    return found


def main() -> None:
    """Search, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--points", type=int, default=LANGUAGE_MODEL.num_points)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    tried = candidates("local", replace(LANGUAGE_MODEL, num_points=arguments.points))
    rates = [settings["learning_rate"] for settings in tried]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        search = list(
            pool.map(measure, repeat(TUNING_SEEDS[0]), rates, repeat("validation"), repeat(1))
        )
        best = min(search, key=lambda found: found["final"])["learning_rate"]
        seeds = arguments.seeds
        rows = list(pool.map(measure, seeds, repeat(best), repeat("test"), repeat(arguments.times)))
    write_json(RESULT, {"search": search, "rows": rows})
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
