"""Sums over models, always in the order given, so that results do not depend on timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from emsfl.moe import State


def weighted_mean(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """Return sum_i weights[i] * states[i]; the weights sum to 1. One state is copied exactly."""
    if len(states) == 1:
        return {name: tensor.clone() for name, tensor in states[0].items()}
    mean = {name: tensor * weights[0] for name, tensor in states[0].items()}
    for state, weight in zip(states[1:], weights[1:], strict=True):
        for name, tensor in state.items():
            mean[name].add_(tensor, alpha=weight)
    return mean


def mix(state: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> State:
    """Return (1 - share) * state + share * other; `share` is in 0..1."""
    return {name: tensor.lerp(other[name], share) for name, tensor in state.items()}


def difference(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """Return state - base for the tensors of `state`."""
    return {name: tensor - base[name] for name, tensor in state.items()}


def add_scaled(state: Mapping[str, Tensor], delta: Mapping[str, Tensor], scale: float) -> State:
    """Return state + scale * delta; tensors without a delta are passed on as they are."""
    return {
        name: tensor.add(delta[name], alpha=scale) if name in delta else tensor
        for name, tensor in state.items()
    }


def num_bytes(state: Mapping[str, Tensor]) -> int:
    """Return the bytes that the tensors take, on a link or in memory."""
    return sum(tensor.nbytes for tensor in state.values())
