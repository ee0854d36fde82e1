"""Route every token of a causal language model by a running posterior over clusters.

p(e | token t) = sum_c p(c | tokens up to t) p(e | own experts of c, token t)
              + p(plain | tokens up to t) p(e | all experts, token t),
then the family's own top-k and renormalisation. The last term is the router as it was
pre-trained: where no cluster's experts have adapted yet, or a text fits none of them, it is the
better choice, and it can take part in the posterior like a cluster of its own.

Shapes: N texts, T tokens in each, C clusters, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout
from emsfl.moe.rerouting import rerouting

Posterior = Callable[[Tensor], Tensor]
"""Tokens [N, T] -> log p(c | tokens up to t) [N, T, C], or [N, T, C + 1] with plain last."""


@contextmanager
def routed_by(
    model: nn.Module, layout: MoELayout, owner: Tensor, posterior: Posterior
) -> Iterator[None]:
    """While active, `model(tokens)` routes by `posterior(tokens)` in every MoE layer.

    Args:
        model: takes tokens [N, T] as its first argument.
        layout: of `model`.
        owner: [L, E] int64: index of the owning cluster, -1 for nobody.
        posterior: causal; called once per forward pass.
    """
    current: list[Tensor] = []

    def begin(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        current[:] = [posterior(inputs[0]).flatten(0, 1)]

    def transform(index: int, logits: Tensor) -> Tensor:
        flat = logits.reshape(-1, logits.shape[-1])
        return blended_logits(owner[index], flat, current[0]).reshape(logits.shape)

    with ExitStack() as stack:
        handle = model.register_forward_pre_hook(begin)
        stack.callback(handle.remove)
        stack.enter_context(rerouting(model, layout, transform))
        yield


def blended_logits(owner: Tensor, logits: Tensor, log_posterior: Tensor) -> Tensor:
    """Return router logits [S, E] whose softmax is the mixture above.

    Args:
        owner: [E] int64, -1 for nobody.
        logits: [S, E] the router's own.
        log_posterior: [S, C], or [S, C + 1] where the last is that of the plain router. C is one
            more than the largest owner.
    """
    num_clusters = int(owner.max()) + 1
    weights = log_posterior.to(logits)
    blended = torch.full_like(logits, -math.inf)
    for cluster in range(num_clusters):
        own = (owner == cluster).to(logits.device)
        if own.any():
            blended[:, own] = weights[:, cluster, None] + logits[:, own].log_softmax(-1)
    if weights.shape[1] > num_clusters:
        blended = torch.logaddexp(blended, weights[:, -1:] + logits.log_softmax(-1))
    return blended
