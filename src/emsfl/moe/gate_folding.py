"""Fold a linear domain gate into router weights, so that a plain checkpoint routes by domain.

At every MoE layer a linear discriminant (Fisher; equal priors) over clusters is fitted to the
tokens that the router sees: score_c(x) = a_c . x + b_c. Each expert's row of the router gets
`strength` times its owner's a_c; b_c goes into the router's bias, or, where it has none, onto the
direction m along which m . x is nearest to 1. It is an approximation: a stock router sees one
token at one layer, and has no normaliser per cluster. So fold only where held-out loss improves.

Shapes: C clusters, D hidden size, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout
from emsfl.moe.domain_statistics import Call, watching

RIDGE = 1e-2
"""Share of the mean variance added to the diagonal of covariances."""


@dataclass
class RouterInputs:
    """Sums over the tokens that one layer's router saw."""

    counts: list[float] = field(default_factory=list)
    """Per cluster."""
    totals: list[Tensor] = field(default_factory=list)
    """Per cluster, [D] float64."""
    outer: Tensor | None = None
    """[D, D] float64, over all clusters."""

    def discriminant(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return a [C, D], b [C] and the direction m [D], all float64; a and b sum to 0 over c."""
        assert self.outer is not None
        counts = torch.tensor(self.counts, dtype=torch.float64)
        means = torch.stack(self.totals) / counts.unsqueeze(1)
        second = self.outer / counts.sum()
        shares = (counts / counts.sum()).unsqueeze(1)
        within = second - (means * shares).T @ means
        slopes = torch.linalg.solve(_ridged(within), means.T).T
        offsets = -0.5 * (slopes * means).sum(1)
        constant = torch.linalg.solve(_ridged(second), (means * shares).sum(0))
        return slopes - slopes.mean(0), offsets - offsets.mean(), constant


def _ridged(matrix: Tensor) -> Tensor:
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    return matrix + RIDGE * matrix.diagonal().mean() * eye


@contextmanager
def recording_router_inputs(
    model: nn.Module, layout: MoELayout, inputs: Sequence[RouterInputs]
) -> Iterator[None]:
    """While active, every forward pass adds one cluster's tokens to `inputs`, one per layer.

    Each use counts as a new cluster.
    """
    for one in inputs:
        one.counts.append(0.0)
        one.totals.append(torch.zeros(()))

    def see(index: int, hidden: Tensor, mask: Tensor | None, _call: Call) -> None:
        tokens = hidden.detach()[mask.bool()] if mask is not None else hidden.detach().flatten(0, 1)
        tokens = tokens.double().cpu()
        one = inputs[index]
        one.counts[-1] += len(tokens)
        one.totals[-1] = one.totals[-1] + tokens.sum(0)
        product = tokens.T @ tokens
        one.outer = product if one.outer is None else one.outer + product

    with watching(model, layout, see):
        yield


@torch.no_grad()
def folded_routers(
    model: nn.Module,
    layout: MoELayout,
    inputs: Sequence[RouterInputs],
    owner: Tensor,
    strength: float,
) -> dict[str, Tensor]:
    """Return the router tensors of `model` with the gate folded in.

    Args:
        model: whose routers.
        layout: of that model.
        inputs: per layer, what its router saw.
        owner: [L, E], index of the owning cluster, -1 for nobody (rows that stay as they are).
        strength: factor on the discriminant's scores, > 0; 1 adds them as they are.
    """
    state = model.state_dict()
    folded = {}
    for index, layer in enumerate(layout.layers):
        slopes, offsets, constant = inputs[index].discriminant()
        owned = owner[index] >= 0
        slope = torch.where(owned[:, None], slopes[owner[index].clamp_min(0)], 0.0)
        offset = torch.where(owned, offsets[owner[index].clamp_min(0)], 0.0)
        names = list(layer.router_axes)
        weight = next(name for name in names if state[name].dim() == 2)
        bias = next((name for name in names if name.endswith(".bias")), None)
        if bias is None:
            slope = slope + offset[:, None] * constant
        else:
            folded[bias] = (state[bias].double() + strength * offset).to(state[bias].dtype)
        folded[weight] = (state[weight].double() + strength * slope).to(state[weight].dtype)
    return folded
