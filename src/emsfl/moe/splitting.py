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

    Expert and router tensors keep the rows `owned[layer]`, in ascending order of the original ids;
    experts that are modules of their own are renumbered in that order.
    """
    rows, members = _rows(layout, owned), _members(layout, owned)
    part = {}
    for name, tensor in state.items():
        if name in rows:
            axis, index = rows[name]
            part[name] = tensor.index_select(axis, index)
        elif name not in members:
            part[name] = tensor.clone()
        elif (new_name := members[name]) is not None:
            part[new_name] = tensor.clone()
    return part


def write_experts(
    state: State, layout: MoELayout, owned: Owned, experts: Mapping[str, Tensor]
) -> None:
    """Overwrite, in place, the experts `owned` of `state`.

    Args:
        state: the full model; tensors that hold no expert in `owned` stay as they are.
        layout: where the experts are.
        owned: original ids per layer.
        experts: expert tensors of the sub-model, by the sub-model's names.
    """
    rows = _rows(layout, owned)
    origin = {new: old for old, new in _members(layout, owned).items() if new is not None}
    for name, tensor in experts.items():
        if name in rows:
            axis, index = rows[name]
            state[name].index_copy_(axis, index, tensor)
        else:
            state[origin[name]].copy_(tensor)


def split_sizes(state: Mapping[str, Tensor], layout: MoELayout, owned: Owned) -> dict[str, int]:
    """Return the number of elements of every tensor of the sub-model, without cutting it."""
    counts = {}
    rows, members = _rows(layout, owned), _members(layout, owned)
    for name, tensor in state.items():
        count = tensor.numel()
        if name in rows:
            axis, index = rows[name]
            counts[name] = count // tensor.shape[axis] * len(index)
        elif name not in members:
            counts[name] = count
        elif (new_name := members[name]) is not None:
            counts[new_name] = count
    return counts


def _rows(layout: MoELayout, owned: Owned) -> dict[str, tuple[int, Tensor]]:
    """Return, per tensor that counts experts, its expert axis and the rows to keep."""
    return {
        name: (axis, torch.tensor(ids, dtype=torch.int64))
        for layer, ids in zip(layout.layers, owned, strict=True)
        for axes in (layer.expert_axes, layer.router_axes)
        for name, axis in axes.items()
    }


def _members(layout: MoELayout, owned: Owned) -> dict[str, str | None]:
    """Return, per tensor of one expert, its name in the sub-model; None where it is left out."""
    names: dict[str, str | None] = {}
    for layer, ids in zip(layout.layers, owned, strict=True):
        position = {expert: index for index, expert in enumerate(ids)}
        for name, (expert, inside) in layer.member_names.items():
            kept = expert in position
            names[name] = layer.member(position[expert], inside) if kept else None
    return names
