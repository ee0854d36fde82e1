"""Sums over models, always in the order given, so that results do not depend on timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
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


def coordinate_median(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Return the median of every coordinate (the mean of the two middle ones for an even number).

    One state among three or more can move no coordinate beyond the others' (arXiv 1803.01498).
    """
    return trimmed_mean(states, (len(states) - 1) // 2)


def trimmed_mean(states: Sequence[Mapping[str, Tensor]], num_trimmed: int) -> State:
    """Return every coordinate's mean without its `num_trimmed` smallest and largest values.

    Raises:
        ValueError: nothing would be left.
    """
    kept = len(states) - 2 * num_trimmed
    if kept < 1 or num_trimmed < 0:
        raise ValueError(f"{num_trimmed} trimmed at each end of {len(states)} states leave nothing")
    mean = {}
    for name in states[0]:
        ordered = torch.stack([state[name] for state in states]).sort(0).values
        mean[name] = ordered[num_trimmed : num_trimmed + kept].mean(0)
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
