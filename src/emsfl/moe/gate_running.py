"""Running posteriors: what is known of a text's cluster at each of its tokens.

Bayes' rule with the evidence to the power of 1 / temperature.

The posterior at token t uses the evidence of tokens up to and including t, never of later ones, so
that it can route token t in a causal language model. Evidence is log p(token | cluster, tokens
before it), up to a term that all clusters share; sources are Gaussians over hidden states, token
frequencies (`gate_counts.py`) and the clusters' own models (`gate_likelihood.py`).

Shapes: N texts, T tokens in each, D features, C clusters.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from emsfl.config import ConfigModel
from emsfl.moe.gate import MIN_LOG_POSTERIOR, DomainGate


class Listening(ConfigModel):
    """Which tokens' evidence a running posterior takes in, and when it is renewed."""

    first_tokens: int | None = Field(default=None, ge=1)
    """Listen to the first ones of a text only; null: to all."""
    every_tokens: int = Field(default=1, ge=1)
    """Renew the posterior after this many tokens."""
    temperature: float = Field(default=4.0, gt=0)
    """Evidence is divided by it. 1 is Bayes' rule, which is too sure of itself where tokens repeat
    each other's evidence."""


def running_posterior(evidence: Tensor, listening: Listening, log_prior: Tensor) -> Tensor:
    """Return log p(c | tokens up to t) [N, T, C].

    Args:
        evidence: [N, T, C] log p(token t | c, tokens before it), zero at padding.
        listening: which of it is used.
        log_prior: [C].
    """
    if listening.first_tokens is not None:
        evidence = evidence.clone()
        evidence[:, listening.first_tokens :] = 0
    running = evidence.double().cumsum(1) / listening.temperature
    if listening.every_tokens > 1:
        running = _held(running, listening.every_tokens)
    return (running + log_prior.double()).log_softmax(-1).clamp_min(MIN_LOG_POSTERIOR)


def gaussian_evidence(gate: DomainGate, hidden: Tensor) -> Tensor:
    """Return log p(hidden state | c) [N, T, C], up to a common term, for `hidden` [N, T, D]."""
    return gate.log_posterior(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)


def _held(running: Tensor, every: int) -> Tensor:
    """Return `running` [N, T, C] as it was after the last whole block of `every` tokens."""
    blocks = running[:, every - 1 :: every].repeat_interleave(every, 1)
    return functional.pad(blocks, (0, 0, every - 1, 0))[:, : running.shape[1]]
