"""Cut a sub-model out of a state, and put its experts back.

A sub-model holds the shared parameters, its own experts, and the router rows of its own experts;
running it equals running the full model with all other experts' logits masked out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from emsfl.moe.adapter import MoELayout, Owned, State


def split_state(state: Mapping[str, Tensor], layout: MoELayout, owned: Owned) -> State:
    """Return copies of the tensors of the sub-model that holds the experts `owned`.

    Expert and router tensors keep the rows `owned[layer]`, in ascending order of the original ids.
    """
    rows = _rows(layout, owned)
    return {
        name: (
            tensor.index_select(rows[name][0], rows[name][1]) if name in rows else tensor.clone()
        )
        for name, tensor in state.items()
    }


def write_experts(
    state: State, layout: MoELayout, owned: Owned, experts: Mapping[str, Tensor]
) -> None:
    """Overwrite, in place, the rows `owned` of the expert tensors of `state`.

    Args:
        state: the full model; tensors not named in `experts` stay as they are.
        layout: where the experts are.
        owned: original ids per layer.
        experts: expert tensors of the sub-model, by the same names.
    """
    rows = _rows(layout, owned)
    for name, tensor in experts.items():
        axis, index = rows[name]
        state[name].index_copy_(axis, index, tensor)


def split_sizes(state: Mapping[str, Tensor], layout: MoELayout, owned: Owned) -> dict[str, int]:
    """Return the number of elements of every tensor of the sub-model, without cutting it."""
    counts = {}
    rows = _rows(layout, owned)
    for name, tensor in state.items():
        count = tensor.numel()
        if name in rows:
            axis, index = rows[name]
            count = count // tensor.shape[axis] * len(index)
        counts[name] = count
    return counts


def _rows(layout: MoELayout, owned: Owned) -> dict[str, tuple[int, Tensor]]:
    """Return, per expert or router tensor, its expert axis and the rows to keep."""
    return {
        name: (axis, torch.tensor(ids, dtype=torch.int64))
        for layer, ids in zip(layout.layers, owned, strict=True)
        for axes in (layer.expert_axes, layer.router_axes)
        for name, axis in axes.items()
    }
