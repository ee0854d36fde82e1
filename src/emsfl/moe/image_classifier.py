"""The built-in patch mixture of experts as a `ModelSpec`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.moe.adapter import MoELayout, State, find_moe_layers
from emsfl.moe.config import PatchMoEConfig
from emsfl.moe.gate import DomainGate
from emsfl.moe.model_spec import ModelSpec
from emsfl.moe.patch_moe import PatchMoE
from emsfl.moe.skeleton import stamp


@dataclass(frozen=True)
class ImageClassifier(ModelSpec):
    """Images [N, H, W] in 0..1 to classes."""

    config: PatchMoEConfig
    num_classes: int

    def build(self, state: Mapping[str, Tensor], num_experts: int | None = None) -> nn.Module:
        """See `ModelSpec.build`."""
        return stamp(_template(self, num_experts or self.config.num_experts), state)

    def initial_state(self, generator: torch.Generator) -> State:
        """Return a freshly drawn state of the full model."""
        with torch.device("meta"):
            model = PatchMoE(self.config, self.num_classes, self.config.num_experts)
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            model.initialise(generator)
        return dict(model.state_dict())

    def layout(self) -> MoELayout:
        """See `ModelSpec.layout`; nothing is frozen."""
        return _layout(self)

    def forward_flops(self) -> dict[str, float]:
        """See `ModelSpec.forward_flops`."""
        c = self.config
        patches = (c.image_px // c.patch_px) ** 2
        shared = patches * c.patch_px**2 * c.hidden_size + c.hidden_size * self.num_classes
        if patches > 1:
            shared += c.num_layers * patches * (4 * c.hidden_size**2 + 2 * patches * c.hidden_size)
        router = c.num_layers * patches * c.hidden_size * c.num_experts
        experts = c.num_layers * patches * c.top_k * 2 * c.hidden_size * c.expert_size
        return {
            "frozen": 0.0,
            "shared": 2.0 * shared,
            "router": 2.0 * router,
            "experts": 2.0 * experts,
        }

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(model(inputs), labels)

    def judge(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
        """Return how many images are classified correctly, and how many there are."""
        return float((model(inputs).argmax(-1) == labels).sum()), float(len(labels))

    def fingerprint(self) -> list[Any]:
        """See `ModelSpec.fingerprint`; the gate changes nothing at the start."""
        return [self.config.model_dump(mode="json", exclude={"gate"}), self.num_classes]

    def gates(self, gate: DomainGate) -> list[DomainGate | None]:
        """See `ModelSpec.gates`."""
        return gate.variants(self.config.gate.kinds)


@functools.lru_cache(maxsize=16)
def _template(spec: ImageClassifier, num_experts: int) -> nn.Module:
    with torch.device("meta"):
        return PatchMoE(spec.config, spec.num_classes, num_experts)


@functools.lru_cache(maxsize=16)
def _layout(spec: ImageClassifier) -> MoELayout:
    return find_moe_layers(_template(spec, spec.config.num_experts))
