"""Forward passes: accuracy, expert scores and domain statistics, all without gradients."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from emsfl.data import Samples
from emsfl.moe import (
    DomainGate,
    DomainStatistics,
    ModelSpec,
    ScoreKind,
    State,
    gated,
    recording_features,
    scoring,
)
from emsfl.training.local import one_thread

BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class EvaluateTask:
    """A model and the test sets, by domain, that it is judged on."""

    model: ModelSpec
    num_experts: int
    state: State
    gate: DomainGate | None
    """Routes the full model; None for the plain router."""
    samples: dict[str, Samples]


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """A model and the local samples that its experts or its features are measured on."""

    model: ModelSpec
    num_experts: int
    state: State
    shard: Samples
    score_kind: ScoreKind = ScoreKind.MEAN_GATE


@torch.no_grad()
def evaluate(task: EvaluateTask) -> dict[str, int]:
    """Return, per domain, how many samples are classified correctly."""
    with one_thread():
        model = task.model.build(task.state, task.num_experts).eval()
        routing = (
            gated(model, task.model.layout(), task.gate) if task.gate is not None else nullcontext()
        )
        correct = {}
        with routing:
            for domain, samples in task.samples.items():
                hits = 0
                for start in range(0, len(samples), BATCH):
                    inputs = torch.from_numpy(samples.inputs[start : start + BATCH])
                    labels = torch.from_numpy(samples.labels[start : start + BATCH])
                    hits += int((model(inputs).argmax(-1) == labels).sum())
                correct[domain] = hits
        return correct


@torch.no_grad()
def score_experts(task: MeasureTask) -> torch.Tensor:
    """Return how well each expert fits the shard: [L, E] float64, rows sum to 1."""
    with one_thread():
        model = task.model.build(task.state, task.num_experts).eval()
        with scoring(model, task.model.layout(), task.score_kind) as scores:
            for start in range(0, len(task.shard), BATCH):
                model(torch.from_numpy(task.shard.inputs[start : start + BATCH]))
        return scores.normalised()


@torch.no_grad()
def measure_domain(task: MeasureTask) -> DomainStatistics:
    """Return the statistics of the shard's features, for the domain gate."""
    with one_thread():
        model = task.model.build(task.state, task.num_experts).eval()
        with recording_features(model, task.model.layout()) as recorded:
            for start in range(0, len(task.shard), BATCH):
                model(torch.from_numpy(task.shard.inputs[start : start + BATCH]))
        return DomainStatistics.of(torch.cat(recorded))


def first_samples(shard: Samples, limit: int) -> Samples:
    """Return at most `limit` samples, spread evenly over the shard."""
    if len(shard) <= limit:
        return shard
    return shard.take(np.linspace(0, len(shard) - 1, limit).astype(np.int64))
