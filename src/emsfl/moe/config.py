"""The `model` section of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from emsfl.config import ConfigModel


class PretrainConfig(ConfigModel):
    """How the model is pre-trained on the public split before the epoch."""

    num_steps: int = Field(default=600, ge=0, le=1_000_000)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    load_balancing: float = Field(default=0.01, ge=0)
    """Weight of the auxiliary loss that spreads tokens over experts (Switch, arXiv 2101.03961,
    eq. 4); large values work against specialised experts."""


class PatchMoEConfig(ConfigModel):
    """The built-in patch-token mixture of experts."""

    kind: Literal["patch_moe"] = "patch_moe"
    image_px: int = Field(default=28, ge=4, le=512)
    patch_px: int = Field(default=28, ge=2, le=512)
    """Side of a square patch; it divides `image_px`. One patch (the whole image) makes one token
    and needs no attention."""
    hidden_size: int = Field(default=64, ge=8, le=4096, multiple_of=8)
    expert_size: int = Field(default=128, ge=8, le=16384, multiple_of=8)
    """Width of an expert's hidden layer."""
    num_layers: int = Field(default=2, ge=1, le=64)
    num_experts: int = Field(default=16, ge=1, le=512)
    """Experts per layer."""
    top_k: int = Field(default=2, ge=1, le=64)
    """Experts that each token uses."""
    pretrain: PretrainConfig = PretrainConfig()

    @model_validator(mode="after")
    def _check(self) -> PatchMoEConfig:
        if self.image_px % self.patch_px:
            raise ValueError(f"patch_px must divide image_px, {self.image_px}")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts, {self.num_experts}")
        return self


ModelConfig = PatchMoEConfig
"""The section of any model family; `kind` tells which."""
