"""Naive Bayes over tokens: what clusters count in their texts, and the evidence that it gives.

Counts tell how often a cluster's texts use each token: they expose vocabulary. `CountPrivacy`
limits what leaves a device. None of its switches is a proof of privacy but noise with a chosen
scale: a device that adds Laplace noise of scale s to counts of texts of at most m tokens each is
(m / s)-differentially private for the presence of one text (Dwork and Roth 2014, theorem 3.6).
That holds for noise that nobody can draw again. The models here seed it from the tokens themselves,
so that runs repeat: that measures what noise costs, and protects nobody.

Shapes: N texts, T tokens in each, V vocabulary, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from emsfl.config import ConfigModel
from emsfl.moe.gate import MIN_LOG_POSTERIOR

SMOOTHING = 0.5
"""Added to every count; of an unseen token, the pooled frequency decides the rest."""
POOLED_COUNTS = 100.0
"""Weight, in tokens, of the frequencies pooled over clusters in each cluster's own."""
HASH_FACTOR = 2_654_435_761
"""Knuth's multiplicative hash (The Art of Computer Programming 3, 6.4)."""


class CountPrivacy(ConfigModel):
    """What of its token counts a device sends."""

    most_frequent: int | None = Field(default=None, ge=1)
    """Send only this many of the counts, the largest (with noise: after it); null: all."""
    buckets: int | None = Field(default=None, ge=2)
    """Send counts of hashed tokens, in this many buckets; null: of the tokens themselves."""
    laplace_scale: float = Field(default=0.0, ge=0)
    """Scale of the noise, in tokens, that is added to every count that is sent."""


def bucket_of(num_tokens: int, buckets: int | None) -> Tensor:
    """Return the bucket [V] of every token id; without buckets, the id itself."""
    ids = torch.arange(num_tokens)
    if buckets is None:
        return ids
    return (ids * HASH_FACTOR % 2**32) * buckets // 2**32


def count_tokens(
    tokens: Tensor,
    predicted: Tensor,
    num_tokens: int,
    privacy: CountPrivacy,
    generator: torch.Generator,
) -> Tensor:
    """Return the counts, float64 [V or buckets], that a device sends.

    Args:
        tokens: ids [N, T].
        predicted: booleans [N, T]: which of them count.
        num_tokens: V.
        privacy: what is hidden.
        generator: draws the noise.
    """
    bucket = bucket_of(num_tokens, privacy.buckets)
    size = privacy.buckets or num_tokens
    counts = torch.bincount(bucket[tokens[predicted]], minlength=size).double()
    if privacy.laplace_scale:
        uniform = torch.rand(size, generator=generator, dtype=torch.float64) - 0.5
        noise = -uniform.sign() * torch.log1p(-2 * uniform.abs())
        counts = counts + privacy.laplace_scale * noise
    if privacy.most_frequent is not None and privacy.most_frequent < size:
        kept = counts.argsort(descending=True, stable=True)[: privacy.most_frequent]
        counts = torch.zeros_like(counts).index_copy_(0, kept, counts[kept])
    return counts.clamp_min(0)


@dataclass(frozen=True)
class CountGate:
    """Log frequency of every token in every cluster."""

    log_frequencies: Tensor
    """[C, V or buckets] float64."""
    bucket: Tensor
    """[V] int64: the row entry of every token id."""

    def log_posterior(self, tokens: Tensor, is_text: Tensor) -> Tensor:
        """Return log p(c | text) [N, C] for ids [N, T]; clusters are equally likely before.

        Naive Bayes with a multinomial model (McCallum and Nigam 1998): tokens count as
        independent, so the posterior of a long text is surer than it ought to be.

        Args:
            tokens: ids.
            is_text: booleans [N, T]: which of them count.
        """
        evidence = self.evidence(tokens) * is_text.unsqueeze(-1)
        return evidence.sum(1).log_softmax(-1).clamp_min(MIN_LOG_POSTERIOR)

    def evidence(self, tokens: Tensor) -> Tensor:
        """Return log p(token | c) [N, T, C] for ids [N, T]."""
        return self.log_frequencies.T[self.bucket.to(tokens.device)[tokens]]


def fit_counts(counts: Sequence[Tensor], num_tokens: int) -> CountGate:
    """Fit frequencies from one vector of counts [V or buckets] per cluster.

    Each cluster's are smoothed towards those of all clusters together.
    """
    stacked = torch.stack(list(counts)).double() + SMOOTHING
    frequencies = stacked / stacked.sum(1, keepdim=True)
    pooled = frequencies.mean(0)
    mixed = stacked + POOLED_COUNTS * pooled
    size = stacked.shape[1]
    return CountGate(
        log_frequencies=(mixed / mixed.sum(1, keepdim=True)).log(),
        bucket=bucket_of(num_tokens, size if size < num_tokens else None),
    )
