"""Forward passes: accuracy, expert scores and domain statistics, all without gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from emsfl.data import Samples
from emsfl.moe import (
    DomainGate,
    DomainStatistics,
    ModelSpec,
    ScoreKind,
    State,
    gate_features,
    gated,
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
    gate: DomainGate | None = None
    """Routes the full model; None for the plain router."""
    pretrained: State | None = None
    """The state whose features the gate reads; needed with a gate."""
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
        correct = {}
        for domain, samples in task.samples.items():
            hits = 0
            for start in range(0, len(samples), BATCH):
                inputs = torch.from_numpy(samples.inputs[start : start + BATCH])
                labels = torch.from_numpy(samples.labels[start : start + BATCH])
                with _routing(task, model, inputs):
                    hits += int((model(inputs).argmax(-1) == labels).sum())
            correct[domain] = hits
        return correct


def _routing(
    task: EvaluateTask, model: nn.Module, inputs: torch.Tensor
) -> AbstractContextManager[None]:
    """Return what routes `inputs`: the gate, by their features, or the model's own router."""
    if task.gate is None:
        return nullcontext()
    if task.pretrained is None:
        raise ValueError("a gate needs the pre-trained state, whose features it reads")
    layout = task.model.layout()
    features = gate_features(task.model.build(task.pretrained).eval(), layout, inputs)
    return gated(model, layout, task.gate, task.gate.log_posterior(features))


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
        features = [
            gate_features(
                model,
                task.model.layout(),
                torch.from_numpy(task.shard.inputs[start : start + BATCH]),
            )
            for start in range(0, len(task.shard), BATCH)
        ]
        return DomainStatistics.of(torch.cat(features))


def first_samples(shard: Samples, limit: int) -> Samples:
    """Return at most `limit` samples, spread evenly over the shard."""
    if len(shard) <= limit:
        return shard
    return shard.take(np.linspace(0, len(shard) - 1, limit).astype(np.int64))
