"""A pre-trained text encoder, upcycled to a mixture of experts, as a `ModelSpec`.

Embeddings and lower layers are frozen: they are no part of a state, every process holds them once,
and what they make of a text is computed once (`encoders.py`). What is left of the stock class is
stamped around a state's tensors; experts compute no padding.

Shapes: B texts, S tokens (the longest text's), T tokens in all, D hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.errors import ConfigError
from emsfl.moe.adapter import MoELayout, State, find_moe_layers
from emsfl.moe.config import TextClassifierConfig
from emsfl.moe.encoders import (
    TokenStates,
    dense_encoder,
    encoder_hash,
    encoder_settings,
    frozen_states,
)
from emsfl.moe.gate import DomainGate, DomainStatistics, GateKind, gated
from emsfl.moe.gate_counts import count_tokens, fit_counts
from emsfl.moe.gate_text import TextGate, TextStatistics
from emsfl.moe.model_spec import ModelSpec
from emsfl.moe.pretrained import import_transformers
from emsfl.moe.skeleton import stamp
from emsfl.moe.upcycling import UpcycleSettings, upcycle_encoder, upcycled_config

ENCODER = "encoder.dense."
"""Where the stock class keeps the dense model's names."""


@dataclass(frozen=True)
class TextClassifier(ModelSpec):
    """Token ids [N, T] to classes."""

    config: TextClassifierConfig
    num_classes: int
    batch: ClassVar[int] = 256

    def build(self, state: Mapping[str, Tensor], num_experts: int | None = None) -> nn.Module:
        """See `ModelSpec.build`; what is frozen is left out of the module."""
        return stamp(_template(self, num_experts or self.config.num_experts), state)

    def initial_state(self, generator: torch.Generator) -> State:
        """Return the pre-trained weights with experts that are copies; routers and head drawn."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        settings = _settings(self, self.config.num_experts, seed)
        model = upcycle_encoder(dense_encoder(self.config.encoder), settings)
        kept = _template(self, self.config.num_experts).state_dict()
        return {name: tensor.clone() for name, tensor in model.state_dict().items() if name in kept}

    def layout(self) -> MoELayout:
        """See `ModelSpec.layout`: embeddings and lower layers are frozen."""
        return _layout(self)

    def forward_flops(self) -> dict[str, float]:
        """See `ModelSpec.forward_flops`; a sample counts as `max_tokens` tokens."""
        c, dense = self.config, encoder_settings(self.config.encoder)
        size, inner = dense["hidden_size"], dense["intermediate_size"]
        above = dense["num_hidden_layers"] - c.frozen_layers
        attention = c.max_tokens * (4 * size**2 + 2 * c.max_tokens * size)
        block = c.max_tokens * 2 * size * inner
        shared = above * attention + (above - c.num_moe_layers) * block + size * self.num_classes
        return {
            "frozen": 2.0 * c.frozen_layers * (attention + block),
            "shared": 2.0 * shared,
            "router": 2.0 * c.num_moe_layers * c.max_tokens * size * c.num_experts,
            "experts": 2.0 * c.num_moe_layers * c.top_k * block,
        }

    def prepare(self, inputs: Tensor) -> TokenStates:
        """Return what the frozen part makes of token ids [N, T]; the process keeps it."""
        return frozen_states(self.config.encoder, self.config.frozen_layers, inputs)

    def loss(self, model: nn.Module, inputs: TokenStates, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(_logits(model, inputs), labels)

    def judge(self, model: nn.Module, inputs: TokenStates, labels: Tensor) -> tuple[float, float]:
        """Return how many texts are classified correctly, and how many there are."""
        return float((_logits(model, inputs).argmax(-1) == labels).sum()), float(len(labels))

    def fingerprint(self) -> list[Any]:
        """See `ModelSpec.fingerprint`; the encoder counts by its weights, the gate not at all."""
        fields = self.config.model_dump(mode="json", exclude={"gate"})
        fields["encoder"] = encoder_hash(self.config.encoder)
        return [fields, self.num_classes, import_transformers().__version__]

    def pretrains(self, name: str) -> bool:
        """Tell whether `name` belongs to the classifier: all else is pre-trained."""
        return name.startswith("classifier.")

    def features(self, pretrained: nn.Module, inputs: TokenStates) -> Tensor:
        """Return the mean of the frozen part's output over tokens, which tuning does not move."""
        del pretrained
        return inputs.means()

    def measure(self, pretrained: nn.Module, inputs: TokenStates) -> DomainStatistics:
        """See `ModelSpec.measure`; tokens are counted if a gate in question needs it."""
        gaussian = super().measure(pretrained, inputs)
        if GateKind.NAIVE_BAYES not in self.config.gate.kinds:
            return gaussian
        tokens, mask = (tensor.cpu() for tensor in inputs.padded_ids())
        generator = torch.Generator().manual_seed(int(tokens.sum()))
        size = self._vocabulary_size
        counts = count_tokens(tokens, mask, size, self.config.gate.privacy, generator)
        return TextStatistics(gaussian.count, gaussian.total, gaussian.outer, counts)

    def log_posterior(self, gate: DomainGate, pretrained: nn.Module, inputs: TokenStates) -> Tensor:
        """See `ModelSpec.log_posterior`."""
        if not (isinstance(gate, TextGate) and gate.kind is GateKind.NAIVE_BAYES):
            return super().log_posterior(gate, pretrained, inputs)
        tokens, mask = (tensor.cpu() for tensor in inputs.padded_ids())
        return fit_counts(list(gate.counts), self._vocabulary_size).log_posterior(tokens, mask)

    @property
    def _vocabulary_size(self) -> int:
        return int(encoder_settings(self.config.encoder)["vocab_size"])

    def gates(self, gate: DomainGate) -> list[DomainGate | None]:
        """See `ModelSpec.gates`."""
        return gate.variants(self.config.gate.kinds)

    def gated(
        self, model: nn.Module, gate: DomainGate, pretrained: nn.Module, inputs: TokenStates
    ) -> AbstractContextManager[None]:
        """See `ModelSpec.gated`: one posterior per text."""
        log_posterior = self.log_posterior(gate, pretrained, inputs).to(inputs.flat.device)
        return gated(model, self.layout(), gate, log_posterior, inputs.lengths)


def make_text_classifier(config: TextClassifierConfig, num_classes: int) -> TextClassifier:
    """Return the spec of `config`, once its encoder is known to be there and to fit.

    Raises:
        DataError: the encoder is not to be had.
        ConfigError: more layers are asked for than it has.
    """
    num_layers = encoder_settings(config.encoder)["num_hidden_layers"]
    if config.frozen_layers + config.num_moe_layers > num_layers:
        raise ConfigError(
            f"model.frozen_layers = {config.frozen_layers} and num_moe_layers = "
            f"{config.num_moe_layers} are more than the {num_layers} layers of {config.encoder!r}"
        )
    return TextClassifier(config, num_classes)


class PackedMixture(nn.Module):
    """A mixture that computes real tokens only, and gives zeros for padding."""

    def __init__(self, mixture: nn.Module) -> None:
        super().__init__()
        self.router = mixture.get_submodule("router")
        self.experts = mixture.get_submodule("experts")
        self.mask: Tensor | None = None
        """[B, S] of the batch under way."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        if self.mask is None:
            raise RuntimeError("the mask of the batch has not been set")
        tokens = hidden[self.mask]
        _, weights, indices = self.router(tokens)
        mixed = torch.zeros_like(hidden)
        mixed[self.mask] = self.experts(tokens, weights, indices)
        return mixed


class _Passage(nn.Module):
    """Stands in for embeddings or a layer whose output is what comes in."""

    def forward(
        self,
        hidden: Tensor | None = None,
        *_args: Any,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the hidden states [B, S, D] that were passed under either name."""
        found = hidden if inputs_embeds is None else inputs_embeds
        if found is None:
            raise RuntimeError("no hidden states were passed")
        return found


def _logits(model: nn.Module, inputs: TokenStates) -> Tensor:
    hidden, mask = inputs.padded()
    with _packing(model, mask):
        logits: Tensor = model(inputs_embeds=hidden, attention_mask=mask.long()).logits
    return logits


@contextmanager
def _packing(model: nn.Module, mask: Tensor) -> Iterator[None]:
    mixtures = [module for module in model.modules() if isinstance(module, PackedMixture)]
    for mixture in mixtures:
        mixture.mask = mask
    try:
        yield
    finally:
        for mixture in mixtures:
            mixture.mask = None


def _settings(spec: TextClassifier, num_experts: int, seed: int) -> UpcycleSettings:
    num_layers = encoder_settings(spec.config.encoder)["num_hidden_layers"]
    return UpcycleSettings(
        num_experts=num_experts,
        top_k=spec.config.top_k,
        layers=tuple(range(num_layers - spec.config.num_moe_layers, num_layers)),
        labels=tuple(str(number) for number in range(spec.num_classes)),
        seed=seed,
    )


@functools.lru_cache(maxsize=16)
def _template(spec: TextClassifier, num_experts: int) -> nn.Module:
    """Return the stock class on the meta device, without what is frozen."""
    from emsfl.moe import modeling_upcycled as modeling

    dense = dense_encoder(spec.config.encoder)
    with torch.device("meta"):
        config = upcycled_config(dense.config, _settings(spec, num_experts, seed=0))
        model: Any = modeling.UpcycledForSequenceClassification(config)
    blocks = modeling.ENCODERS[dense.config.model_type]
    inside = model.encoder.dense
    inside.set_attn_implementation("eager")  # short texts; deterministic on a GPU too
    layers = inside.get_submodule(blocks.layers)
    for number in range(spec.config.frozen_layers):
        layers[number] = _Passage()
    for number, _ in modeling.moe_layers(inside, config):
        layer = layers[number]
        setattr(layer, blocks.replaced, PackedMixture(layer.get_submodule(blocks.replaced)))
    inside.embeddings = _Passage()
    if hasattr(inside, "embeddings_project"):  # ELECTRA: a frozen part's output needs none
        inside.embeddings_project = nn.Identity()
    template: nn.Module = model.eval()
    return template


@functools.lru_cache(maxsize=16)
def _layout(spec: TextClassifier) -> MoELayout:
    template = _template(spec, spec.config.num_experts)
    dense = dense_encoder(spec.config.encoder).state_dict()
    path = _layers_path(spec)
    frozen = {
        ENCODER + name: tensor
        for name, tensor in dense.items()
        if not name.startswith(f"{path}.")
        or int(name.removeprefix(f"{path}.").partition(".")[0]) < spec.config.frozen_layers
    }
    return replace(
        find_moe_layers(template),
        frozen_names=frozenset(frozen),
        frozen_bytes=sum(tensor.nbytes for tensor in frozen.values()),
    )


def _layers_path(spec: TextClassifier) -> str:
    from emsfl.moe.modeling_upcycled import ENCODERS

    return ENCODERS[encoder_settings(spec.config.encoder)["model_type"]].layers
