"""Build the models that a configuration names, full or with fewer experts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout, Owned, State, find_moe_layers
from emsfl.moe.config import ModelConfig
from emsfl.moe.patch_moe import PatchMoE


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model: enough to do so again in another process."""

    config: ModelConfig
    num_classes: int

    def build(self, state: Mapping[str, Tensor], num_experts: int | None = None) -> nn.Module:
        """Return the model with `num_experts` experts per layer (default: all) holding `state`.

        The module's tensors are those of `state` themselves, not copies.
        """
        with torch.device("meta"):
            model = PatchMoE(self.config, self.num_classes, num_experts or self.config.num_experts)
        model.load_state_dict(state, strict=True, assign=True)
        return model

    def initial_state(self, generator: torch.Generator) -> State:
        """Return a freshly drawn state of the full model."""
        with torch.device("meta"):
            model = PatchMoE(self.config, self.num_classes, self.config.num_experts)
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            model.initialise(generator)
        return dict(model.state_dict())

    def layout(self) -> MoELayout:
        """Return where the full model keeps its experts."""
        return _layout(self)

    def forward_flops(self) -> dict[str, float]:
        """Return floating-point operations per sample and forward pass, by what does them.

        Keys `shared`, `router`, `experts`; a multiply-add counts two; norms and activations are
        left out. `router` is for the full model; a sub-model's is proportionally smaller.
        """
        c = self.config
        patches = (c.image_px // c.patch_px) ** 2
        shared = patches * c.patch_px**2 * c.hidden_size + c.hidden_size * self.num_classes
        if patches > 1:
            shared += c.num_layers * patches * (4 * c.hidden_size**2 + 2 * patches * c.hidden_size)
        router = c.num_layers * patches * c.hidden_size * c.num_experts
        experts = c.num_layers * patches * c.top_k * 2 * c.hidden_size * c.expert_size
        return {"shared": 2.0 * shared, "router": 2.0 * router, "experts": 2.0 * experts}


@functools.cache
def _layout(spec: ModelSpec) -> MoELayout:
    with torch.device("meta"):
        return find_moe_layers(PatchMoE(spec.config, spec.num_classes, spec.config.num_experts))


def experts_per_layer(owned: Owned) -> int:
    """Return the number of experts per layer of a sub-model (the same in every layer)."""
    sizes = {len(ids) for ids in owned}
    if len(sizes) != 1:
        raise ValueError(f"a built-in model needs one expert count for all layers, not {sizes}")
    return sizes.pop()
