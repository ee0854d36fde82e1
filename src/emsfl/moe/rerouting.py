"""Change what a router computes its choice from, whatever the family makes of it afterwards.

A router multiplies tokens by its weight and then applies the family's own rule: softmax or
sigmoid, groups, top-k, renormalisation. Here the product alone is replaced; the rule stays the
family's. It works in eager mode, not under `torch.compile`.

Shapes: T tokens, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayerInfo, MoELayout

Transform = Callable[[int, Tensor], Tensor]
"""(index of the MoE layer, router logits [..., E]) -> logits of the same shape."""

CHOICE_BIASES = ("correction_bias", "expert_bias")
"""How the names of terms end that are added to scores for the choice alone."""
PRODUCTS = (functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@contextmanager
def rerouting(model: nn.Module, layout: MoELayout, transform: Transform) -> Iterator[None]:
    """While active, every router of `model` chooses from `transform`ed logits.

    Raises:
        DataError: (in a forward pass) a router computes no product with one value per expert.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layout.layers):
            stack.enter_context(_rerouted(model, layer, index, transform))
        yield


@contextmanager
def excluding(model: nn.Module, layout: MoELayout, kept: Tensor) -> Iterator[None]:
    """While active, routers cannot choose experts outside `kept`.

    Args:
        model: any model.
        layout: of that model.
        kept: booleans [L, E].
    """

    def mask(index: int, logits: Tensor) -> Tensor:
        return logits.masked_fill(~kept[index].to(logits.device), -math.inf)

    with ExitStack() as stack:
        stack.enter_context(rerouting(model, layout, mask))
        stack.enter_context(barring(model, layout, kept))
        yield


@contextmanager
def barring(model: nn.Module, layout: MoELayout, kept: Tensor) -> Iterator[None]:
    """While active, terms that routers add to scores when they choose bar experts outside `kept`.

    DeepSeek-V3's correction bias is such a term: a score of zero plus a large bias could win.
    """
    state = model.state_dict()
    before = []
    for index, layer in enumerate(layout.layers):
        for name in layer.router_axes:
            if name.endswith(CHOICE_BIASES):
                bias = state[name]
                before.append((bias, bias.clone()))
                bias.masked_fill_(~kept[index].to(bias.device), -math.inf)
    try:
        yield
    finally:
        for bias, values in before:
            bias.copy_(values)


@contextmanager
def _rerouted(
    model: nn.Module, layer: MoELayerInfo, index: int, transform: Transform
) -> Iterator[None]:
    router = model.get_submodule(layer.router)
    forward = router.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        product = _FirstProduct(layer.num_experts, lambda logits: transform(index, logits))
        with product:
            routing = forward(*args, **kwargs)
        if not product.done:
            raise DataError(
                f"{layer.router} computes no product of {layer.num_experts} values per token: "
                "this family needs a description of its own"
            )
        return routing

    router.forward = changed
    try:
        yield
    finally:
        del router.forward


class _FirstProduct(TorchFunctionMode):
    """Passes the first matrix product with `num_experts` columns through `change`."""

    def __init__(self, num_experts: int, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_experts, self.change, self.done = num_experts, change, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.done and func in PRODUCTS and result.shape[-1] == self.num_experts:
            self.done = True
            return self.change(result)
        return result
