"""Gates made from texts: which there are, what they need, and their posteriors.

Shapes: N texts, T tokens in each, C clusters, D features, V vocabulary, L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from emsfl.config import ConfigModel
from emsfl.moe.gate import MIN_LOG_POSTERIOR, DomainGate, DomainStatistics, GateKind, fit_gate
from emsfl.moe.gate_counts import CountPrivacy
from emsfl.moe.gate_running import Listening


class TextGateKind(StrEnum):
    """What a running posterior is computed from, and what it does."""

    PLAIN = "plain"
    """Nothing: the router as it was pre-trained."""
    GAUSSIAN = "prefix_gaussian"
    """Hidden states of the pre-trained model at its first MoE layer; clusters send their means
    and covariances."""
    COUNTS = "prefix_counts"
    """Tokens; clusters send how often they use each."""
    LIKELIHOOD = "own_likelihood"
    """What the clusters' own models make of the tokens; clusters send nothing for it."""
    MIXTURE = "mixture"
    """As `own_likelihood`, but the models' predictions are mixed, not their experts. The merged
    model with its plain router takes part, and the model as it was before tuning."""


class TextGateConfig(ConfigModel):
    """How a merged language model knows whose text it sees."""

    kinds: tuple[TextGateKind, ...] = Field(
        default=(
            TextGateKind.PLAIN,
            TextGateKind.GAUSSIAN,
            TextGateKind.LIKELIHOOD,
            TextGateKind.MIXTURE,
        ),
        min_length=1,
    )
    """One is used. Of several, the one that does best on validation data at that time.
    `prefix_counts` is not among the default ones, since counts expose vocabulary."""
    listening: Listening = Listening()
    plain_share: float = Field(default=0.5, ge=0, lt=1)
    """Weight of the plain router beside the clusters' experts; 0: none. In a mixture, what it and
    the model before tuning have before the first token, half of it each."""
    privacy: CountPrivacy = CountPrivacy()


@dataclass(frozen=True)
class TextStatistics(DomainStatistics):
    """What a cluster says about its texts; tensors are empty where no gate needs them."""

    counts: Tensor
    """[V or buckets] float64: how often each token is used."""

    def __add__(self, other: DomainStatistics) -> Self:
        """Return the statistics of both sets of texts."""
        if not isinstance(other, TextStatistics):
            raise TypeError("statistics of texts add up with those of texts alone")
        both = DomainStatistics.__add__(self, other)
        return type(self)(both.count, both.total, both.outer, self.counts + other.counts)

    def tensors(self) -> dict[str, Tensor]:
        """See `DomainStatistics.tensors`."""
        return {**super().tensors(), "counts": self.counts}

    @classmethod
    def fit(cls, statistics: Sequence[Self], owner: Tensor) -> DomainGate:
        """See `DomainStatistics.fit`."""
        gaussian = fit_gate(statistics, owner)
        return TextGate(
            gaussian.means,
            gaussian.whiteners,
            gaussian.log_scale,
            owner,
            torch.stack([s.counts for s in statistics]),
            None,
        )


@dataclass(frozen=True)
class TextGate(DomainGate):
    """Everything that a gate of any kind is computed from; the Gaussians are those of tokens."""

    counts: Tensor
    """[C, V or buckets] float64."""
    kind: TextGateKind | GateKind | None
    """The kind in use; None: not chosen yet. A classifier's is a `GateKind`."""

    def variants(self, kinds: Sequence[GateKind]) -> list[DomainGate | None]:
        """See `DomainGate.variants`."""
        return [
            replace(self, kind=kind)
            if kind is GateKind.NAIVE_BAYES
            else DomainGate.variants(self, [kind])[0]
            for kind in kinds
        ]


def with_plain(log_posterior: Tensor, plain_share: float) -> Tensor:
    """Return [N, T, C + 1] from [N, T, C]: the plain router takes a fixed share."""
    if plain_share == 0:
        return log_posterior
    rest = log_posterior + math.log1p(-plain_share)
    plain = torch.full_like(rest[..., :1], math.log(plain_share))
    return torch.cat([rest, plain], -1).clamp_min(MIN_LOG_POSTERIOR)
