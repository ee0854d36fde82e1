"""A causal language model of a stock mixture-of-experts class of transformers, with tied weights.

The parameters carry the names that the stock `...ForCausalLM` checkpoint of the class has.

Shapes: N sequences, T tokens in each, V vocabulary, D hidden size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.moe.adapter import MoELayout, State, find_moe_layers
from emsfl.moe.byte_pairs import END, PAD, Integers, train_tokenizer
from emsfl.moe.config import CausalLmConfig
from emsfl.moe.gate import DomainGate, DomainStatistics
from emsfl.moe.gate_counts import count_tokens
from emsfl.moe.gate_text import TextGate, TextGateConfig, TextGateKind, TextStatistics
from emsfl.moe.model_spec import Metric, ModelSpec
from emsfl.moe.pretrained import import_transformers
from emsfl.moe.skeleton import stamp
from emsfl.moe.splitting import split_state
from emsfl.moe.text_gating import TextGating, token_features, token_nats


class TiedCausalLm(nn.Module):
    """The stock decoder, whose embedding also gives the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [N, T, V] of the token after each of `tokens` [N, T].

        Rows end with padding, which causal attention keeps from the tokens before it.
        """
        decoder: Any = self.model
        hidden = decoder(input_ids=tokens, use_cache=False).last_hidden_state
        return functional.linear(hidden, decoder.embed_tokens.weight)


@dataclass(frozen=True)
class CausalLm(ModelSpec):
    """Token ids [N, T], padded, to the next ones; labels are bytes per row (`byte_pairs.py`)."""

    config: CausalLmConfig
    metric: ClassVar[Metric] = "bits_per_byte"
    batch: ClassVar[int] = 128

    def build(self, state: Mapping[str, Tensor], num_experts: int | None = None) -> nn.Module:
        """See `ModelSpec.build`."""
        return stamp(_template(self._untuned(), num_experts or self.config.num_experts), state)

    def initial_state(self, generator: torch.Generator) -> State:
        """Return a freshly drawn state of the full model."""
        state: State = {}
        deep = 1 / math.sqrt(2 * self.config.num_layers)
        for name, tensor in (
            _template(self._untuned(), self.config.num_experts).state_dict().items()
        ):
            if tensor.dim() == 1:
                state[name] = torch.ones(tensor.shape)
                continue
            into_stream = name.endswith(("down_proj", "o_proj.weight"))
            std = 0.02 if "embed" in name else tensor.shape[-1] ** -0.5
            state[name] = torch.empty(tensor.shape).normal_(
                std=std * (deep if into_stream else 1.0), generator=generator
            )
        return state

    def layout(self) -> MoELayout:
        """See `ModelSpec.layout`; nothing is frozen."""
        return _layout(self._untuned())

    def forward_flops(self) -> dict[str, float]:
        """See `ModelSpec.forward_flops`; a sample counts as `max_tokens` tokens."""
        c = self.config
        attention = 4 * c.hidden_size**2 + 2 * c.max_tokens * c.hidden_size
        shared = c.num_layers * attention + c.vocabulary_size * c.hidden_size
        router = c.num_layers * c.hidden_size * c.num_experts
        experts = c.num_layers * c.top_k * 3 * c.hidden_size * c.expert_size
        parts = {"frozen": 0, "shared": shared, "router": router, "experts": experts}
        return {name: 2.0 * c.max_tokens * count for name, count in parts.items()}

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss in nats per predicted token."""
        del labels
        tokens = trim(inputs)
        return token_nats(model, tokens).sum() / (tokens[:, 1:] != PAD).sum()

    def judge(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
        """Return bits and bytes."""
        nats = token_nats(model, trim(inputs))
        return float(nats.double().sum()) / math.log(2), float(labels.sum())

    def fingerprint(self) -> list[Any]:
        """See `ModelSpec.fingerprint`; the gate changes nothing at the start."""
        return [self._untuned().config.model_dump(mode="json")]

    def measure(self, pretrained: nn.Module, inputs: Tensor) -> TextStatistics:
        """See `ModelSpec.measure`: of tokens, as far as the kinds of gates in question need it."""
        kinds, privacy = self.config.gate.kinds, self.config.gate.privacy
        tokens = trim(inputs)
        total, outer = torch.zeros(0), torch.zeros(0, 0)
        count, counts = float((tokens != PAD).sum()), torch.zeros(0)
        if TextGateKind.GAUSSIAN in kinds:
            hidden = token_features(pretrained, self.layout(), tokens)
            gaussian = DomainStatistics.of(hidden[tokens != PAD].cpu())
            total, outer = gaussian.total, gaussian.outer
        if TextGateKind.COUNTS in kinds:
            ids = tokens.cpu()
            predicted = ids != PAD
            predicted[:, 0] = False
            generator = torch.Generator().manual_seed(int(ids.sum()))
            size = self.config.vocabulary_size
            counts = count_tokens(ids, predicted, size, privacy, generator)
        return TextStatistics(count, total, outer, counts)

    def gates(self, gate: DomainGate) -> list[DomainGate | None]:
        """See `ModelSpec.gates`."""
        if not isinstance(gate, TextGate):
            raise TypeError("a language model needs a gate made from statistics of texts")
        return [
            None if kind is TextGateKind.PLAIN else replace(gate, kind=kind)
            for kind in self.config.gate.kinds
        ]

    def gated(
        self, model: nn.Module, gate: DomainGate, pretrained: nn.Module, inputs: Any
    ) -> AbstractContextManager[None]:
        """See `ModelSpec.gated`."""
        del inputs
        if not isinstance(gate, TextGate) or gate.kind is None:
            raise TypeError("a language model needs a gate whose kind has been chosen")
        return TextGating(
            gate,
            self.config.gate,
            model,
            self.layout(),
            pretrained,
            lambda: self._submodels(model, gate.owner),
        ).active()

    def _submodels(self, model: nn.Module, owner: Tensor) -> list[nn.Module]:
        """Return the clusters' own models, sliced out of the merged one."""
        layout = self.layout()
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        found = []
        for cluster in range(int(owner.max()) + 1):
            owned = tuple(tuple((layer == cluster).nonzero().flatten().tolist()) for layer in owner)
            found.append(self.build(split_state(state, layout, owned), len(owned[0])).eval())
        return found

    def _untuned(self) -> CausalLm:
        """Return the same model with the default gate: it has the same modules."""
        return CausalLm(self.config.model_copy(update={"gate": TextGateConfig()}))


def trim(tokens: Tensor) -> Tensor:
    """Return `tokens` [N, T] without the columns at the end that are all padding."""
    return tokens[:, : int((tokens != PAD).sum(1).max())]


def byte_pairs_for(config: CausalLmConfig, public: Sequence[str]) -> Any:
    """Return what turns (texts, classes) into (token ids, bytes per text); see `byte_pairs.py`."""
    tokenizer = train_tokenizer(public, config.vocabulary_size)

    def encode(texts: Sequence[str], labels: Integers) -> tuple[Integers, Integers]:
        del labels
        return tokenizer.encode(texts, config.max_tokens)

    return encode


@functools.lru_cache(maxsize=16)
def _layout(spec: CausalLm) -> MoELayout:
    return find_moe_layers(_template(spec, spec.config.num_experts))


@functools.lru_cache(maxsize=16)
def _template(spec: CausalLm, num_experts: int) -> nn.Module:
    """Return a module whose parameters take no memory; its buffers (rotary angles) are real."""
    transformers = import_transformers()
    c = spec.config
    common: dict[str, Any] = {
        "vocab_size": c.vocabulary_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.expert_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_heads,
        "max_position_embeddings": c.max_tokens,
        "num_experts_per_tok": c.top_k,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": END,
        "eos_token_id": END,
        "attn_implementation": "sdpa",
        "experts_implementation": "eager",
    }
    with torch.random.fork_rng(devices=[]):
        if c.family == "mixtral":
            config = transformers.MixtralConfig(num_local_experts=num_experts, **common)
            model = TiedCausalLm(transformers.MixtralModel(config))
        else:
            config = transformers.OlmoeConfig(num_experts=num_experts, **common)
            model = TiedCausalLm(transformers.OlmoeModel(config))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(parameter.to("meta")))
    return model
