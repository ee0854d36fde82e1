"""Score how well each expert fits local data, from what the router itself returns.

Kinds (Sec. 1 of `docs/concepts.md`): the mean routing weight of an expert over tokens, how often
it is chosen, or its weight times the norm of its output (REAP, arXiv 2510.13999).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout


class ScoreKind(StrEnum):
    """What is accumulated per expert."""

    MEAN_GATE = "mean_gate"
    ACTIVATION_FREQUENCY = "activation_frequency"


class ExpertScores:
    """Routing weight per layer and expert, summed over tokens."""

    def __init__(self, layout: MoELayout, kind: ScoreKind) -> None:
        self.kind = kind
        self.totals = [
            torch.zeros(layer.num_experts, dtype=torch.float64) for layer in layout.layers
        ]

    def add(self, layer: int, weights: Tensor, indices: Tensor) -> None:
        """Count the tokens [T, K] that one layer's router has just routed."""
        if self.kind is ScoreKind.ACTIVATION_FREQUENCY:
            weights = torch.ones_like(weights)
        self.totals[layer].index_add_(0, indices.reshape(-1), weights.reshape(-1).double())

    def normalised(self) -> Tensor:
        """Return scores [L, E] in float64; each row sums to 1."""
        return torch.stack([total / total.sum() for total in self.totals])


@contextmanager
def scoring(model: nn.Module, layout: MoELayout, kind: ScoreKind) -> Iterator[ExpertScores]:
    """While active, every forward pass of `model` adds to the scores that are yielded."""
    scores = ExpertScores(layout, kind)
    handles = []
    for index, layer in enumerate(layout.layers):

        def record(_module: nn.Module, _inputs: Any, routing: Any, index: int = index) -> None:
            scores.add(index, routing[1].detach(), routing[2])

        handles.append(model.get_submodule(layer.router).register_forward_hook(record))
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def scoring_probabilities(model: nn.Module, layout: MoELayout) -> Iterator[list[Tensor]]:
    """While active, every router appends its softmax probabilities [T, E], with gradients."""
    probabilities: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, routing: Any) -> None:
        probabilities.append(routing[0].softmax(-1))

    routers = [model.get_submodule(layer.router) for layer in layout.layers]
    handles = [router.register_forward_hook(record) for router in routers]
    try:
        yield probabilities
    finally:
        for handle in handles:
            handle.remove()
