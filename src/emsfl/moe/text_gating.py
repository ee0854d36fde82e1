"""Put a language model's gate to work: run what the posterior needs, and route or mix by it.

Shapes: N texts, T tokens in each, C clusters, V vocabulary, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.moe.adapter import MoELayout
from emsfl.moe.byte_pairs import PAD
from emsfl.moe.gate import first_layer_input
from emsfl.moe.gate_causal import routed_by
from emsfl.moe.gate_counts import fit_counts
from emsfl.moe.gate_likelihood import likelihood_evidence
from emsfl.moe.gate_running import gaussian_evidence, running_posterior
from emsfl.moe.gate_text import TextGate, TextGateConfig, TextGateKind, with_plain


class TextGating:
    """One gate on one merged model."""

    def __init__(
        self,
        gate: TextGate,
        config: TextGateConfig,
        model: nn.Module,
        layout: MoELayout,
        pretrained: nn.Module,
        submodels: Callable[[], Sequence[nn.Module]],
    ) -> None:
        """Prepare; `submodels` returns the clusters' own models, where the kind needs them."""
        self.gate, self.config = gate, config
        self.model, self.layout, self.pretrained = model, layout, pretrained
        self.submodels: Sequence[nn.Module] = ()
        if gate.kind in (TextGateKind.LIKELIHOOD, TextGateKind.MIXTURE):
            self.submodels = submodels()

    @contextmanager
    def active(self) -> Iterator[None]:
        """While active, `model(tokens)` gives the gated model's logits."""
        if self.gate.kind is TextGateKind.MIXTURE:
            plain: Any = self.model.forward
            self.model.forward = lambda tokens: self.mixed(plain, tokens)
            try:
                yield
            finally:
                del self.model.forward
            return
        with routed_by(self.model, self.layout, self.gate.owner, self.posterior):
            yield

    @torch.no_grad()
    def posterior(self, tokens: Tensor) -> Tensor:
        """Return log p(c | tokens up to t) [N, T, C], with the plain router's share at the end."""
        evidence = self.evidence(tokens)
        prior = torch.zeros(evidence.shape[-1], device=evidence.device)
        running = running_posterior(evidence, self.config.listening, prior)
        return with_plain(running, self.config.plain_share).to(tokens.device)

    def evidence(self, tokens: Tensor) -> Tensor:
        """Return the evidence [N, T, C] of every token, zero at padding."""
        kind, is_text = self.gate.kind, (tokens != PAD).unsqueeze(-1)
        if kind is TextGateKind.GAUSSIAN:
            hidden = token_features(self.pretrained, self.layout, tokens).cpu()
            return gaussian_evidence(self.gate, hidden) * is_text.cpu()
        if kind is TextGateKind.COUNTS:
            size = self.pretrained.get_parameter("model.embed_tokens.weight").shape[0]
            evidence = fit_counts(list(self.gate.counts), size).evidence(tokens.cpu())
            evidence[:, 0] = 0
            return evidence * is_text.cpu()
        return likelihood_evidence(self.submodels, tokens, token_nats, self.config.listening)

    @torch.no_grad()
    def mixed(self, plain: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Return log sum_c p(c | tokens up to t) p_c(next | tokens up to t), [N, T, V].

        The last two of the C + 2 components are the merged model with its plain router and the
        model before tuning; with a plain share of 0 there are C. At temperature 1 a text costs at
        most -log p(c) nats more than the best component would; above it the components also
        average each other's errors.
        """
        predictions = [model(tokens).log_softmax(-1) for model in self.submodels]
        shares = [(1 - self.config.plain_share) / len(predictions)] * len(predictions)
        if self.config.plain_share > 0:
            untuned = plain if self.pretrained is self.model else self.pretrained
            predictions += [m(tokens).log_softmax(-1) for m in (plain, untuned)]
            shares += [self.config.plain_share / 2] * 2
        nexts = tokens[:, 1:, None]
        evidence = torch.zeros(*tokens.shape, len(predictions), device=tokens.device)
        for index, prediction in enumerate(predictions):
            evidence[:, 1:, index] = prediction[:, :-1].gather(-1, nexts)[..., 0]
        evidence = evidence * (tokens != PAD).unsqueeze(-1)
        prior = torch.tensor([math.log(share) for share in shares], device=tokens.device)
        posterior = running_posterior(evidence, self.config.listening, prior)
        mixed: Tensor = predictions[0] + posterior[..., :1].to(predictions[0])
        for index, prediction in enumerate(predictions[1:], 1):
            mixed = torch.logaddexp(mixed, prediction + posterior[..., index, None].to(mixed))
        return mixed


@torch.no_grad()
def token_features(model: nn.Module, layout: MoELayout, tokens: Tensor) -> Tensor:
    """Return the hidden states [N, T, D] at the first MoE layer, where the pass ends."""
    return first_layer_input(model, layout, tokens)


def token_nats(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return -log p(token | those before it) [N, T - 1] of the tokens after the first.

    Zero at padding.
    """
    logits = model(tokens[:, :-1])
    targets = tokens[:, 1:]
    nats = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, reduction="none"
    )
    return nats.view(targets.shape)
