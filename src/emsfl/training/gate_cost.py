"""What the domain gate costs on one cluster's samples: the quantities of Theorem 3(d).

Shapes: N samples, T tokens, E own experts, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from emsfl.data import Samples
from emsfl.moe import (
    DomainGate,
    ModelSpec,
    State,
    gated,
    scoring_probabilities,
)
from emsfl.training.device import one_thread

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GateTask:
    """A merged model, one of its sub-models, and samples of that sub-model's cluster."""

    model: ModelSpec
    merged: State
    gate: DomainGate
    pretrained: State
    """The state whose features the gate reads."""
    submodel: State
    num_experts: int
    """Of the sub-model, per layer."""
    cluster: int
    """Its index in the gate."""
    top_k: int
    shard: Samples


@dataclass(frozen=True, kw_only=True, eq=False)
class GateCost:
    """Per sample of one device."""

    own_loss: FloatArray
    """[N], of the sub-model."""
    merged_loss: FloatArray
    """[N], of the merged model behind its gate."""
    foreign_mass: FloatArray
    """[N], 1 - posterior of the own cluster."""
    misrouted: NDArray[np.bool_]
    """[N], whether another cluster's posterior is the largest."""
    certain: NDArray[np.bool_]
    """[N], whether the gate is so sure that Theorem 3(d) makes both losses equal."""


@torch.no_grad()
def gate_cost(task: GateTask) -> GateCost:
    """Compare the merged classifier with the sub-model on every sample."""
    with one_thread():
        layout = task.model.layout()
        merged = task.model.build(task.merged).eval()
        own = task.model.build(task.submodel, task.num_experts).eval()
        reader = task.model.build(task.pretrained).eval()
        parts = []
        for start in range(0, len(task.shard), task.model.batch):
            inputs = task.model.prepare(
                torch.from_numpy(task.shard.inputs[start : start + task.model.batch])
            )
            labels = torch.from_numpy(task.shard.labels[start : start + task.model.batch])
            posterior = task.model.log_posterior(task.gate, reader, inputs)
            with gated(merged, layout, task.gate, posterior):
                merged_loss = _losses(merged, inputs, labels)
            with scoring_probabilities(own, layout) as probabilities:
                own_loss = _losses(own, inputs, labels)
            kept = torch.stack(
                [
                    layer.topk(task.top_k, -1).values[:, -1].reshape(len(inputs), -1).amin(-1)
                    for layer in probabilities
                ]
            ).amin(0)
            mass = posterior[:, task.cluster].exp()
            certain = mass > 1 / (1 + kept.double())
            wrong = posterior.argmax(-1) != task.cluster
            parts.append([own_loss, merged_loss, 1 - mass, wrong, certain])
        columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        return GateCost(
            own_loss=columns[0].astype(np.float64),
            merged_loss=columns[1].astype(np.float64),
            foreign_mass=columns[2].astype(np.float64),
            misrouted=columns[3],
            certain=columns[4],
        )


def _losses(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), labels, reduction="none")
