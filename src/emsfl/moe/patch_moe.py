"""The built-in small mixture of experts: image patches as tokens, grouped expert products.

Shapes: B images, P patches (tokens) per image, T = B * P tokens, D hidden size, E experts,
F expert size, K experts per token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.moe.config import PatchMoEConfig

NUM_HEADS = 4


class Routing(NamedTuple):
    """What a router returns, in the order that Hugging Face routers use."""

    logits: Tensor
    """[T, E]."""
    weights: Tensor
    """[T, K], each row sums to 1."""
    indices: Tensor
    """[T, K]."""


class Router(nn.Module):
    """Scores experts per token, keeps the best K and renormalises their shares."""

    def __init__(self, hidden_size: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, tokens: Tensor) -> Routing:
        """Route tokens [T, D]."""
        return self.select(functional.linear(tokens, self.weight))

    def select(self, logits: Tensor) -> Routing:
        """Apply top-k and renormalisation to logits [T, E]."""
        shares, indices = logits.softmax(-1).topk(self.top_k, -1)
        return Routing(logits, shares / shares.sum(-1, keepdim=True), indices)


class Experts(nn.Module):
    """E feed-forward blocks held as stacked tensors; blocks without tokens cost no product."""

    def __init__(self, hidden_size: int, expert_size: int, num_experts: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(num_experts, hidden_size, expert_size))
        self.down = nn.Parameter(torch.empty(num_experts, expert_size, hidden_size))

    def forward(self, tokens: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Return sum_k weights[:, k] * expert_{indices[:, k]}(tokens), [T, D]."""
        top_k = indices.shape[1]
        chosen = indices.reshape(-1)
        order = chosen.argsort(stable=True)
        ends = torch.bincount(chosen, minlength=self.up.shape[0]).cumsum(0).to(torch.int32)
        source = order // top_k
        hidden = functional.gelu(functional.grouped_mm(tokens[source], self.up, offs=ends))
        outputs = functional.grouped_mm(hidden, self.down, offs=ends)
        outputs = outputs * weights.reshape(-1)[order].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, source, outputs)


class MoELayer(nn.Module):
    """A router and its experts: the structure that the adapter looks for."""

    def __init__(self, config: PatchMoEConfig, num_experts: int) -> None:
        super().__init__()
        self.router = Router(config.hidden_size, num_experts, config.top_k)
        self.experts = Experts(config.hidden_size, config.expert_size, num_experts)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, P, D] to [B, P, D]."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        routing = self.router(tokens)
        mixed: Tensor = self.experts(tokens, routing.weights, routing.indices)
        return mixed.reshape(hidden.shape)


class SelfAttention(nn.Module):
    """Plain multi-head attention over an image's patches."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.project = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, P, D] to [B, P, D]."""
        batch, patches, size = hidden.shape
        heads = self.query_key_value(hidden).reshape(batch, patches, 3, NUM_HEADS, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, patches, size))
        return projected


class Block(nn.Module):
    """Attention (only where there is more than one patch), then experts, both residual."""

    def __init__(self, config: PatchMoEConfig, num_experts: int, num_patches: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = nn.LayerNorm(size) if num_patches > 1 else None
        self.attention = SelfAttention(size) if num_patches > 1 else None
        self.moe_norm = nn.LayerNorm(size)
        self.moe = MoELayer(config, num_experts)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, P, D] to [B, P, D]."""
        if self.attention is not None and self.attention_norm is not None:
            hidden = hidden + self.attention(self.attention_norm(hidden))
        mixed: Tensor = self.moe(self.moe_norm(hidden))
        return hidden + mixed


class PatchMoE(nn.Module):
    """Patches -> embedding -> blocks -> mean over patches -> class logits."""

    def __init__(self, config: PatchMoEConfig, num_classes: int, num_experts: int) -> None:
        super().__init__()
        self.patch_px = config.patch_px
        self.patches_per_side = config.image_px // config.patch_px
        num_patches = self.patches_per_side**2
        self.embed = nn.Linear(config.patch_px**2, config.hidden_size)
        self.position = nn.Parameter(torch.empty(num_patches, config.hidden_size))
        self.blocks = nn.ModuleList(
            [Block(config, num_experts, num_patches) for _ in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, H, W] to class logits [B, num_classes]."""
        batch, side, px = len(images), self.patches_per_side, self.patch_px
        grid = images.reshape(batch, side, px, side, px).transpose(2, 3)
        hidden = self.embed(grid.reshape(batch, side * side, px * px)) + self.position
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden).mean(1))
        return logits

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew from `generator` (fan-in scaling; norms at one, biases at zero)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.constant_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0)
            elif name == "position":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                stacked = parameter.dim() == 3
                fan_in = parameter.shape[-2] if stacked else parameter.shape[-1]
                gain = 0.5 if name.endswith("down") else 1.0
                nn.init.normal_(parameter, std=gain / fan_in**0.5, generator=generator)
