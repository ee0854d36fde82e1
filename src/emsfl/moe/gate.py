"""The domain gate: route a merged model by the posterior of the input's cluster.

p(e | x) = sum_c p(c | input) p(e | own experts of c, x), as logits
log p(c(e) | input) + log softmax over the own experts of c(e); experts that nobody owns get no
mass. The posterior is Gaussian discriminant analysis on one feature vector per input: the hidden
state at the first MoE layer of the pre-trained model, averaged over tokens. Features of the tuned
model would move under the statistics (`docs/decisions/0006-gate-features.md`).

Shapes: N inputs, T tokens, D features, C clusters, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout

SHRINKAGE = 0.2
"""Weight of the pooled covariance in each cluster's own."""
RIDGE = 1e-3
"""Share of the mean variance added to the diagonal."""
MIN_LOG_POSTERIOR = -30.0


class GateKind(StrEnum):
    """How the merged model of a classifier is routed."""

    PLAIN = "plain"
    """By its own router."""
    QDA = "qda"
    """By the posterior with a covariance for each cluster."""
    LDA = "lda"
    """By the posterior with one covariance for all: linear in the features."""
    NAIVE_BAYES = "naive_bayes"
    """Of texts: by the tokens in them, whatever their order; clusters send how often they use
    each."""


@dataclass(frozen=True)
class DomainStatistics:
    """What a cluster says about its inputs: sums over samples, float64, so that they add up."""

    count: float
    total: Tensor
    """[D] sum of features."""
    outer: Tensor
    """[D, D] sum of outer products."""

    @classmethod
    def of(cls, features: Tensor) -> DomainStatistics:
        """Return the statistics of features [N, D]."""
        features = features.double()
        return cls(float(len(features)), features.sum(0), features.T @ features)

    def __add__(self, other: DomainStatistics) -> DomainStatistics:
        """Return the statistics of both sets of inputs."""
        return DomainStatistics(
            self.count + other.count, self.total + other.total, self.outer + other.outer
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what goes over a link."""
        return {"mean": self.total, "spread": self.outer}

    @classmethod
    def fit(cls, statistics: Sequence[Self], owner: Tensor) -> DomainGate:
        """Fit the gate that statistics of this kind make, one of them per cluster.

        `owner` [L, E] int64 is the index of an expert's cluster, -1 for nobody.
        """
        return fit_gate(statistics, owner)

    @property
    def mean(self) -> Tensor:
        """[D]."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """[D, D]."""
        return self.outer / self.count - torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class DomainGate:
    """Posterior over clusters (quadratic discriminant) and who owns which expert."""

    means: Tensor
    """[C, D] float64."""
    whiteners: Tensor
    """[C, D, D] float64: inverse Cholesky factors of the covariances."""
    log_scale: Tensor
    """[C] float64: log prior minus half the log determinant."""
    owner: Tensor
    """[L, E] int64: index of the owning cluster, -1 for nobody."""

    def log_posterior(self, features: Tensor) -> Tensor:
        """Return log p(c | input) [N, C] for features [N, D]."""
        centred = features.double().unsqueeze(1) - self.means
        distances = torch.einsum("ncd,ced->nce", centred, self.whiteners).square().sum(-1)
        log_joint = self.log_scale - 0.5 * distances
        return log_joint.log_softmax(-1).clamp_min(MIN_LOG_POSTERIOR)

    def variants(self, kinds: Sequence[GateKind]) -> list[DomainGate | None]:
        """Return the gate in each of the kinds; None for the plain router."""
        made = {GateKind.PLAIN: lambda: None, GateKind.QDA: lambda: self, GateKind.LDA: self.linear}
        return [made[kind]() for kind in kinds]

    def linear(self) -> DomainGate:
        """Return the gate whose only covariance is the mean of those of all clusters."""
        factors = torch.linalg.inv(self.whiteners)
        covariance = (factors @ factors.mT).mean(0)
        whitener = torch.linalg.inv(torch.linalg.cholesky(covariance))
        return replace(
            self,
            whiteners=whitener.expand_as(self.whiteners),
            log_scale=torch.zeros_like(self.log_scale),
        )

    def gated_logits(self, layer: int, logits: Tensor, log_posterior: Tensor) -> Tensor:
        """Return gated router logits [T, E] from the router's own and log p(c | input) [T, C]."""
        owner = self.owner[layer]
        gated = torch.full_like(logits, -math.inf)
        for cluster in range(len(self.means)):
            own = owner == cluster
            if own.any():
                inside = logits[:, own].log_softmax(-1)
                gated[:, own] = log_posterior[:, cluster, None].to(logits.dtype) + inside
        return gated


def fit_gate(
    statistics: Sequence[DomainStatistics], owner: Tensor, shrinkage: float = SHRINKAGE
) -> DomainGate:
    """Fit the posterior from one set of statistics per cluster; priors are equal.

    Each covariance is shrunk towards the pooled one by `shrinkage` (regularised discriminant
    analysis, Friedman 1989) and its diagonal is raised by `RIDGE` of its mean. With a shrinkage of
    1 all clusters have the pooled covariance: linear discriminant analysis.
    """
    num_samples = sum(s.count for s in statistics)
    pooled = torch.stack([s.covariance * (s.count / num_samples) for s in statistics]).sum(0)
    eye = torch.eye(len(pooled), dtype=torch.float64)
    whiteners, log_scale = [], []
    for s in statistics:
        covariance = (1 - shrinkage) * s.covariance + shrinkage * pooled
        covariance = covariance + RIDGE * covariance.diagonal().mean() * eye
        factor = torch.linalg.cholesky(covariance)
        whiteners.append(torch.linalg.solve_triangular(factor, eye, upper=False))
        log_scale.append(-factor.diagonal().log().sum())
    return DomainGate(
        torch.stack([s.mean for s in statistics]),
        torch.stack(whiteners),
        torch.stack(log_scale),
        owner,
    )


class FirstLayerReached(Exception):  # noqa: N818 - no error: it ends a forward pass early
    """Carries the first MoE layer's input out of a forward pass that need not go on."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


@contextmanager
def leaving_at(layer: nn.Module) -> Iterator[None]:
    """While active, a pass that reaches `layer` ends there: `FirstLayerReached` is raised."""

    def leave(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise FirstLayerReached(inputs[0])

    handle = layer.register_forward_pre_hook(leave)
    try:
        yield
    finally:
        handle.remove()


def first_layer_input(model: nn.Module, layout: MoELayout, inputs: Tensor) -> Tensor:
    """Return the hidden states [N, T, D] at the first MoE layer, where the pass ends."""
    with leaving_at(model.get_submodule(layout.layers[0].name)):
        try:
            model(inputs)
        except FirstLayerReached as reached:
            return reached.hidden
    raise RuntimeError("the forward pass did not reach the first MoE layer")


@torch.no_grad()
def gate_features(model: nn.Module, layout: MoELayout, inputs: Tensor) -> Tensor:
    """Return the features [N, D] of `inputs`: the pass ends at the first MoE layer.

    `model` holds the pre-trained parameters, before and after tuning alike: statistics that were
    once taken stay true while the shared parameters are tuned.
    """
    return first_layer_input(model, layout, inputs).mean(1)


@contextmanager
def gated(
    model: nn.Module,
    layout: MoELayout,
    gate: DomainGate,
    log_posterior: Tensor,
    lengths: Tensor | None = None,
) -> Iterator[None]:
    """While active, `model` routes N inputs by their `log_posterior` [N, C] in every MoE layer.

    `lengths` [N] says how many tokens each input has, if that differs.
    """
    handles: list[Any] = []
    for index, layer in enumerate(layout.layers):

        def reroute(module: Any, _inputs: Any, routing: Any, index: int = index) -> Any:
            repeats = len(routing[0]) // len(log_posterior) if lengths is None else lengths
            per_token = log_posterior.repeat_interleave(repeats, 0)
            return module.select(gate.gated_logits(index, routing[0], per_token))

        handles.append(model.get_submodule(layer.router).register_forward_hook(reroute))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
