"""Score how well each expert fits local data, from what the router itself hands to the experts.

Kinds (Sec. 1 of `docs/concepts.md`): the mean routing weight of an expert over tokens, how often
it is chosen, or its weight times the norm of its output (REAP, arXiv 2510.13999).

Shapes: T tokens, D hidden size, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayerInfo, MoELayout


class ScoreKind(StrEnum):
    """What is accumulated per expert."""

    MEAN_GATE = "mean_gate"
    ACTIVATION_FREQUENCY = "activation_frequency"
    GATE_TIMES_OUTPUT_NORM = "gate_times_output_norm"


class ExpertScores:
    """Routing weight per layer and expert, summed over tokens."""

    def __init__(self, layout: MoELayout, kind: ScoreKind) -> None:
        self.kind = kind
        self.token_mask: Tensor | None = None
        """Booleans in the order of the tokens, flattened: False leaves a token (padding) out. Set
        it before a forward pass."""
        self.decoder_mask: Tensor | None = None
        """The same for the layers of a decoder that has an encoder beside it."""
        self._in_decoder = ["decoder" in layer.name.split(".") for layer in layout.layers]
        self.totals = [
            torch.zeros(layer.num_experts, dtype=torch.float64) for layer in layout.layers
        ]

    def add(self, layer: int, weights: Tensor, indices: Tensor) -> None:
        """Count routing weights [T, K] of experts [T, K] in one layer."""
        weights = weights.detach().double().cpu()
        in_decoder = self.decoder_mask is not None and self._in_decoder[layer]
        mask = self.decoder_mask if in_decoder else self.token_mask
        if mask is not None:
            weights = weights * mask.reshape(-1, 1).cpu()
        self.totals[layer].index_add_(0, indices.reshape(-1).cpu(), weights.reshape(-1))

    def normalised(self) -> Tensor:
        """Return scores [L, E] in float64; each row sums to 1.

        Raises:
            DataError: a layer saw no token, or layers hold different numbers of experts.
        """
        if any(not total.sum() > 0 for total in self.totals):
            raise DataError("an MoE layer routed no token: score on more data")
        if len({len(total) for total in self.totals}) > 1:
            raise DataError("layers hold different numbers of experts: score them layer by layer")
        return torch.stack([total / total.sum() for total in self.totals])


@contextmanager
def scoring(model: nn.Module, layout: MoELayout, kind: ScoreKind) -> Iterator[ExpertScores]:
    """While active, every forward pass of `model` adds to the scores that are yielded."""
    scores = ExpertScores(layout, kind)
    handles = []
    for index, layer in enumerate(layout.layers):

        def record(
            experts: nn.Module,
            inputs: tuple[Any, ...],
            index: int = index,
            layer: MoELayerInfo = layer,
        ) -> None:
            call = _ExpertCall(experts, inputs, layer)
            if kind is ScoreKind.GATE_TIMES_OUTPUT_NORM:
                weights = call.weights * call.output_norms()
            elif kind is ScoreKind.ACTIVATION_FREQUENCY:
                weights = call.chosen.to(call.weights.dtype)
            else:
                weights = call.weights * call.chosen
            scores.add(index, weights, call.indices)

        handles.append(model.get_submodule(layer.experts).register_forward_pre_hook(record))
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


class _ExpertCall:
    """What a router asks of the experts: tokens, who computes each, and with which weight."""

    def __init__(self, experts: nn.Module, inputs: tuple[Any, ...], layer: MoELayerInfo) -> None:
        whole = [i for i, value in enumerate(inputs) if _is_routing(value, torch.int64)]
        real = [i for i, value in enumerate(inputs) if i and _is_routing(value, None)]
        if len(inputs) != 3 or len(whole) != 1 or len(real) != 1:
            raise DataError(
                f"{layer.experts} was not called with (tokens, expert indices, weights): "
                "this family needs a description of its own"
            )
        self._forward: Callable[..., Tensor] = experts.forward
        self._inputs, self._whole, self._real = inputs, whole[0], real[0]
        self.weights: Tensor = inputs[self._real].detach()
        choice: Tensor = inputs[self._whole]
        self._one_hot = choice.dim() == 3
        self.indices = choice.argmax(-1) if self._one_hot else choice
        """[T, K]."""
        self.chosen = choice.any(-1) if self._one_hot else torch.ones_like(choice, dtype=torch.bool)
        """[T, K]: False where a full expert turned the token away (Switch)."""

    def output_norms(self) -> Tensor:
        """Return the Euclidean norm of every routed expert's own output, [T, K].

        Each of the K columns is run alone and with weight one, so that only routed pairs of token
        and expert are computed: as much work as the forward pass itself.
        """
        columns = []
        with torch.no_grad():
            for column in range(self.indices.shape[1]):
                inputs = list(self._inputs)
                choice = inputs[self._whole]
                inputs[self._whole] = choice[:, column : column + 1]
                inputs[self._real] = torch.ones_like(self.weights[:, column : column + 1])
                columns.append(self._forward(*inputs).float().norm(dim=-1))
        return torch.stack(columns, 1)


def _is_routing(value: Any, dtype: torch.dtype | None) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.dtype is dtype if dtype is not None else value.is_floating_point()
