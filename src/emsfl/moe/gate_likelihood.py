"""The clusters' own models tell whose text it is: evidence that sends no statistics at all.

By Bayes' rule p(c | tokens up to t) is proportional to p(c) times the probability that the
sub-model of c gives those tokens (here to the power of 1 / temperature, see `gate_running.py`): the
domain posterior of Branch-Train-Merge (arXiv 2208.03306, Sec. 2.3). No vocabulary leaves a device,
and what is uploaded anyway suffices. It costs one forward pass per cluster over the tokens that are
listened to: `num_listened` tokens of every text.

Shapes: N texts, T tokens in each, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emsfl.moe.gate_running import Listening

TokenNats = Callable[[nn.Module, Tensor], Tensor]
"""(model, tokens [N, T]) -> -log p(token | those before it) [N, T - 1], zero at padding."""


@torch.no_grad()
def likelihood_evidence(
    submodels: Sequence[nn.Module], tokens: Tensor, token_nats: TokenNats, listening: Listening
) -> Tensor:
    """Return log p(token t | c, tokens before it) [N, T, C]; zero at the first token of a text.

    Args:
        submodels: one per cluster.
        tokens: ids [N, T].
        token_nats: runs a model.
        listening: tokens that are not listened to are not computed, their evidence is zero.
    """
    heard = tokens[:, : num_listened(tokens.shape[1], listening)]
    evidence = torch.zeros(*tokens.shape, len(submodels), device=tokens.device)
    if heard.shape[1] > 1:
        for cluster, submodel in enumerate(submodels):
            evidence[:, 1 : heard.shape[1], cluster] = -token_nats(submodel, heard)
    return evidence


def num_listened(num_tokens: int, listening: Listening) -> int:
    """Return how many tokens of a text of `num_tokens` the clusters' models have to see."""
    heard = min(num_tokens, listening.first_tokens or num_tokens)
    return heard // listening.every_tokens * listening.every_tokens
