"""Forward passes: the metric, expert scores and domain statistics, all without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

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
    scoring,
)
from emsfl.training.device import Processor, computing_on


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
    choose_on: dict[str, Samples] = field(default_factory=dict)
    """What to choose among several ways to gate on; validation data."""
    device: Processor = "cpu"


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """A model and the local samples that its experts or its features are measured on."""

    model: ModelSpec
    num_experts: int
    state: State
    shard: Samples
    score_kind: ScoreKind = ScoreKind.MEAN_GATE
    device: Processor = "cpu"


@torch.no_grad()
def evaluate(task: EvaluateTask) -> dict[str, tuple[float, float]]:
    """Return, per domain, numerator and denominator of the model's metric.

    Where the model's family knows several ways to use the gate, the one that does best on
    `task.choose_on` is taken.
    """
    with computing_on(task.device) as device:
        model = _build(task.model, task.state, task.num_experts, device)
        if task.gate is None:
            return _judge(task, model, None, None, task.samples, device)
        if task.pretrained is None:
            raise ValueError("a gate needs the pre-trained state, whose features it reads")
        pretrained = _build(task.model, task.pretrained, None, device)
        gates = task.model.gates(task.gate)
        best = gates[0]
        if len(gates) > 1:
            if not task.choose_on:
                raise ValueError("choosing among gates needs data to choose on")
            sign = 1 if task.model.metric == "accuracy" else -1
            values = [
                sign * ratio(_judge(task, model, gate, pretrained, task.choose_on, device))
                for gate in gates
            ]
            best = gates[int(np.argmax(values))]
        return _judge(task, model, best, pretrained, task.samples, device)


def ratio(found: Mapping[str, tuple[float, float]]) -> float:
    """Return the metric over all domains in `found`, as from `evaluate`."""
    return sum(part for part, _ in found.values()) / sum(count for _, count in found.values())


def _judge(
    task: EvaluateTask,
    model: nn.Module,
    gate: DomainGate | None,
    pretrained: nn.Module | None,
    parts: Mapping[str, Samples],
    device: torch.device,
) -> dict[str, tuple[float, float]]:
    """Judge the model under one gate; None for the plain router."""
    spec, found = task.model, {}
    for domain, samples in parts.items():
        numerator, denominator = 0.0, 0.0
        for inputs, labels in _batches(spec, samples, device):
            routing: AbstractContextManager[None] = nullcontext()
            if gate is not None and pretrained is not None:
                routing = spec.gated(model, gate, pretrained, inputs)
            with routing:
                part, count = spec.judge(model, inputs, labels)
            numerator, denominator = numerator + part, denominator + count
        found[domain] = (numerator, denominator)
    return found


@torch.no_grad()
def score_experts(task: MeasureTask) -> torch.Tensor:
    """Return how well each expert fits the shard: [L, E] float64, rows sum to 1."""
    with computing_on(task.device) as device:
        model = _build(task.model, task.state, task.num_experts, device)
        with scoring(model, task.model.layout(), task.score_kind) as scores:
            for inputs, labels in _batches(task.model, task.shard, device):
                task.model.judge(model, inputs, labels)
        return scores.normalised()


@torch.no_grad()
def measure_domain(task: MeasureTask) -> DomainStatistics:
    """Return the statistics of the shard's features, for the domain gate."""
    with computing_on(task.device) as device:
        model = _build(task.model, task.state, task.num_experts, device)
        parts = [
            task.model.measure(model, inputs)
            for inputs, _ in _batches(task.model, task.shard, device)
        ]
        return sum(parts[1:], parts[0])


def _build(
    spec: ModelSpec, state: State, num_experts: int | None, device: torch.device
) -> nn.Module:
    return spec.build({n: t.to(device) for n, t in state.items()}, num_experts).eval()


def _batches(
    spec: ModelSpec, samples: Samples, device: torch.device
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield prepared inputs and labels, a batch at a time."""
    inputs = spec.prepare(torch.from_numpy(samples.inputs).to(device))
    labels = torch.from_numpy(samples.labels).to(device)
    for start in range(0, len(samples), spec.batch):
        part = slice(start, start + spec.batch)
        yield inputs[part], labels[part]


def first_samples(shard: Samples, limit: int) -> Samples:
    """Return at most `limit` samples, spread evenly over the shard."""
    if len(shard) <= limit:
        return shard
    return shard.take(np.linspace(0, len(shard) - 1, limit).astype(np.int64))
