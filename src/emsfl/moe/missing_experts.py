"""What stands in for the experts that a sub-model lacks.

`renormalise`: nothing; the router chooses among the experts that are there (the default).
`drop`: the router chooses among all experts; a missing one adds nothing, the residual passes.
`proxy`: the router chooses among all; one expert, the average of the missing ones weighted by
their scores, answers for each of them (as merging does in M-SMoE, arXiv 2310.01334).
`constant`: the router chooses among all; a missing expert answers with its mean output on local
data (MoNE, arXiv 2507.00390).

All but the first need the router rows of all experts: L x E x D floats. Nothing of a stand-in is
trained. Shapes: T tokens, D hidden size, E experts, K experts per token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayerInfo, MoELayout, Owned, State


class StandIn(StrEnum):
    """What answers for a missing expert."""

    RENORMALISE = "renormalise"
    DROP = "drop"
    PROXY = "proxy"
    CONSTANT = "constant"


@dataclass(frozen=True, kw_only=True)
class MissingExperts:
    """All that a sub-model needs of the experts that it lacks."""

    owned: Owned
    """Experts that it has."""
    routers: State
    """Router tensors of the full model, by name."""
    proxies: tuple[State, ...] = ()
    """Per layer, the tensors of one expert in place of all missing ones; empty: none."""
    constants: Tensor | None = None
    """[L, E, D]: what a missing expert answers; None: nothing."""

    def num_bytes(self) -> int:
        """Return what a device has to hold of it beside its sub-model."""
        tensors = [*self.routers.values(), *(t for p in self.proxies for t in p.values())]
        if self.constants is not None:
            tensors.append(self.constants)
        return sum(tensor.nbytes for tensor in tensors)


def stand_in(
    kind: StandIn,
    state: Mapping[str, Tensor],
    layout: MoELayout,
    owned: Owned,
    *,
    scores: Tensor | None = None,
    mean_outputs: Tensor | None = None,
) -> MissingExperts | None:
    """Make what stands in for the experts that `owned` leaves out; None where nothing does.

    Args:
        kind: what to make.
        state: the full model.
        layout: of the full model; its experts are stacked in common tensors.
        owned: experts of the sub-model.
        scores: [L, E] weights of experts in a proxy; needed for `PROXY`.
        mean_outputs: [L, E, D] from `mean_outputs`; needed for `CONSTANT`.

    Raises:
        ValueError: what the kind needs is not given.
    """
    if kind is StandIn.RENORMALISE:
        return None
    routers = {name: state[name].clone() for layer in layout.layers for name in layer.router_axes}
    if kind is StandIn.DROP:
        return MissingExperts(owned=owned, routers=routers)
    if kind is StandIn.PROXY:
        if scores is None:
            raise ValueError("a proxy needs the scores of the experts that it averages")
        proxies = tuple(
            _proxy(state, layer, ids, scores[index])
            for index, (layer, ids) in enumerate(zip(layout.layers, owned, strict=True))
        )
        return MissingExperts(owned=owned, routers=routers, proxies=proxies)
    if mean_outputs is None:
        raise ValueError("a constant needs the mean outputs of the experts")
    return MissingExperts(owned=owned, routers=routers, constants=mean_outputs)


def _proxy(
    state: Mapping[str, Tensor], layer: MoELayerInfo, ids: tuple[int, ...], scores: Tensor
) -> State:
    """Return the score-weighted average of the experts that are not in `ids`, with axis length 1.

    Where no score is left (nothing missing is ever used), all weigh the same.
    """
    if layer.member_names:
        raise DataError(f"{layer.experts}: a proxy needs experts in common tensors")
    weights = scores.clone()
    weights[list(ids)] = 0
    if not weights.sum() > 0:
        weights = torch.ones_like(scores)
        weights[list(ids)] = 0
    weights = weights / weights.sum().clamp_min(1e-30)
    proxy = {}
    for name, axis in layer.expert_axes.items():
        moved = state[name].movedim(axis, 0)
        mean = torch.tensordot(weights.to(moved.dtype), moved, 1)
        proxy[name] = mean.unsqueeze(axis)
    return proxy


@contextmanager
def recording_outputs(model: nn.Module, layout: MoELayout) -> Iterator[list[list[Tensor]]]:
    """While active, every pass adds, per layer, [sum of outputs [E, D], number of tokens [E]].

    Of each expert the tokens that are routed to it count. `model` is the full model.
    """
    sums: list[list[Tensor]] = [[] for _ in layout.layers]
    handles = []
    for index, layer in enumerate(layout.layers):

        def record(
            experts: nn.Module,
            inputs: tuple[Any, ...],
            index: int = index,
            layer: MoELayerInfo = layer,
        ) -> None:
            tokens, chosen, weights = _call_of(layer, inputs)
            forward: Any = experts.forward
            total = torch.zeros(layer.num_experts, tokens.shape[-1], dtype=torch.float64)
            count = torch.zeros(layer.num_experts, dtype=torch.float64)
            with torch.no_grad():
                for column in range(chosen.shape[1]):
                    picked = chosen[:, column]
                    output = forward(tokens, picked[:, None], torch.ones_like(weights[:, :1]))
                    total.index_add_(0, picked.cpu(), output.double().cpu())
                    count += torch.bincount(picked.cpu(), minlength=layer.num_experts)
            if not sums[index]:
                sums[index] = [total, count]
            else:
                sums[index] = [sums[index][0] + total, sums[index][1] + count]

        handles.append(model.get_submodule(layer.experts).register_forward_pre_hook(record))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def mean_outputs(sums: list[list[Tensor]]) -> Tensor:
    """Return [L, E, D] float32 from what `recording_outputs` gave; zero for unused experts."""
    means = [total / count.clamp_min(1).unsqueeze(1) for total, count in sums]
    return torch.stack(means).float()


@contextmanager
def standing_in(
    model: nn.Module, layout: MoELayout, missing: MissingExperts | None
) -> Iterator[None]:
    """While active, the sub-model `model` routes over all experts, and stand-ins answer.

    Args:
        model: holds the experts `missing.owned`; its routers do not train meanwhile.
        layout: of the full model.
        missing: as from `stand_in`; None leaves the model as it is.
    """
    if missing is None:
        yield
        return
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    handles: list[Any] = []
    try:
        for index, layer in enumerate(layout.layers):
            for name in layer.router_axes:
                path, _, leaf = name.rpartition(".")
                module = model.get_submodule(path)
                before.append((module, leaf, getattr(module, leaf)))
                full = missing.routers[name].to(before[-1][2].device)
                setattr(module, leaf, nn.Parameter(full, requires_grad=False))
            experts = model.get_submodule(layer.experts)
            answers = _Answers(experts, layer, index, missing)
            handles.append(experts.register_forward_pre_hook(answers.before))
            handles.append(experts.register_forward_hook(answers.after))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, leaf, parameter in before:
            setattr(module, leaf, parameter)


class _Answers:
    """Takes the missing experts out of a call of the experts, and adds what stands in for them."""

    def __init__(
        self, experts: nn.Module, layer: MoELayerInfo, index: int, missing: MissingExperts
    ) -> None:
        self.layer = layer
        device = next(experts.parameters()).device
        owned = torch.tensor(missing.owned[index], dtype=torch.int64)
        self.position = torch.full((layer.num_experts,), -1, dtype=torch.int64)
        self.position[owned] = torch.arange(len(owned))
        self.position = self.position.to(device)
        self.proxy: nn.Module | None = None
        if missing.proxies:
            self.proxy = copy.deepcopy(experts)
            for name, tensor in missing.proxies[index].items():
                leaf = name.rpartition(".")[2]
                setattr(self.proxy, leaf, nn.Parameter(tensor.to(device), requires_grad=False))
        self.constants: Tensor | None = None
        if missing.constants is not None:
            self.constants = missing.constants[index].to(device)
        self.lost: tuple[Tensor, Tensor, Tensor] | None = None

    def before(self, _experts: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give the missing experts' tokens weight zero."""
        tokens, chosen, weights = _call_of(self.layer, inputs)
        position = self.position[chosen]
        missing = position < 0
        kept = weights.masked_fill(missing, 0)
        self.lost = tokens, chosen, weights - kept
        replace = {id(chosen): position.clamp_min(0), id(weights): kept}
        return tuple(replace.get(id(value), value) for value in inputs)

    def after(self, _experts: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """Add what stands in for them."""
        if self.lost is None:
            raise RuntimeError("the experts answered without being asked")
        (tokens, chosen, weights), self.lost = self.lost, None
        if self.constants is not None:
            output = output + torch.einsum("tk,tkd->td", weights, self.constants[chosen])
        if self.proxy is not None:
            forward: Any = self.proxy.forward
            first = torch.zeros_like(chosen[:, :1])
            output = output + forward(tokens, first, weights.sum(1, keepdim=True))
        return output


def _call_of(layer: MoELayerInfo, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (tokens [T, D], expert ids [T, K], weights [T, K]) of a call of the experts."""
    ids = [x for x in inputs if isinstance(x, Tensor) and x.dtype is torch.int64 and x.dim() == 2]
    real = [x for x in inputs[1:] if isinstance(x, Tensor) and x.is_floating_point()]
    if len(inputs) != 3 or len(ids) != 1 or len(real) != 1:
        raise DataError(
            f"{layer.experts} was not called with (tokens, expert ids, weights): "
            "this family needs a description of its own"
        )
    return inputs[0], ids[0], real[0]
