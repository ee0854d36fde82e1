"""A dense encoder whose feed-forward blocks are mixtures of experts (sparse upcycling).

Every chosen block becomes a router and E copies of itself (arXiv 2212.05055), so that, before
any training, the model computes what the dense one does. This file needs torch and transformers
only: a copy of it travels with every upcycled checkpoint, which therefore loads with
`AutoModel.from_pretrained(folder, trust_remote_code=True)` where emsfl is not installed.

Shapes: B sequences, S tokens in each, T = B * S, D hidden size, F feed-forward size, E experts,
K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput


class Blocks(NamedTuple):
    """Where a family of encoders keeps its feed-forward blocks; paths within a layer."""

    layers: str
    replaced: str
    """The module that the mixture takes the place of."""
    up: str
    down: str
    activation: str
    bypassed: str
    """A projection that the mixture does itself, replaced by nothing; empty if there is none."""


BERT = Blocks(
    "encoder.layer",
    "intermediate",
    "intermediate.dense",
    "output.dense",
    "intermediate.intermediate_act_fn",
    "output.dense",
)
ENCODERS = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "vit": Blocks("layers", "mlp", "mlp.fc1", "mlp.fc2", "mlp.activation_fn", ""),
}
"""Model type -> its blocks."""


class UpcycledConfig(PretrainedConfig):
    """Configuration of an upcycled encoder."""

    model_type = "emsfl_upcycled"

    def __init__(
        self,
        dense: dict[str, Any] | None = None,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        moe_layers: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the mixture.

        Args:
            dense: the dense encoder's configuration.
            num_experts: per chosen layer.
            num_experts_per_tok: experts that each token uses.
            moe_layers: numbers of the layers with experts; None for all.
            kwargs: passed on, such as `num_labels`.
        """
        self.dense = dense or {}
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_layers = moe_layers
        super().__init__(**kwargs)


class Router(nn.Module):
    """Scores experts per token, keeps the best K and renormalises their shares."""

    def __init__(self, hidden_size: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [T, E], weights [T, K] and indices [T, K] for tokens [T, D]."""
        return self.select(functional.linear(tokens, self.weight))

    def select(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply top-k and renormalisation to logits [T, E]."""
        shares, indices = logits.float().softmax(-1).topk(self.top_k, -1)
        weights = (shares / shares.sum(-1, keepdim=True)).to(logits.dtype)
        return logits, weights, indices


class Experts(nn.Module):
    """E two-layer perceptrons held as stacked tensors."""

    def __init__(
        self, up: nn.Linear, num_experts: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        inner, size = up.weight.shape
        self.up = nn.Parameter(torch.empty(num_experts, inner, size))
        self.up_bias = nn.Parameter(torch.empty(num_experts, inner))
        self.down = nn.Parameter(torch.empty(num_experts, size, inner))
        self.down_bias = nn.Parameter(torch.empty(num_experts, size))
        self.activation = activation

    def forward(self, tokens: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Return sum_k weights[:, k] * expert_{indices[:, k]}(tokens), [T, D]."""
        # Unbound once: indexing a stacked tensor gives each expert a gradient of the stack's size.
        up, up_bias = self.up.unbind(), self.up_bias.unbind()
        down, down_bias = self.down.unbind(), self.down_bias.unbind()
        mixed = torch.zeros_like(tokens)
        for expert in indices.unique().tolist():
            rows, column = (indices == expert).nonzero(as_tuple=True)
            inner = functional.linear(tokens[rows], up[expert], up_bias[expert])
            outer = functional.linear(self.activation(inner), down[expert], down_bias[expert])
            mixed.index_add_(0, rows, (outer * weights[rows, column, None]).to(mixed.dtype))
        return mixed


class MixtureOfExperts(nn.Module):
    """A router and its experts in the place of a feed-forward block."""

    def __init__(self, layer: nn.Module, blocks: Blocks, num_experts: int, top_k: int) -> None:
        super().__init__()
        up: Any = layer.get_submodule(blocks.up)
        activation: Any = layer.get_submodule(blocks.activation)
        self.router = Router(up.in_features, num_experts, top_k)
        self.experts = Experts(up, num_experts, activation)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        _, weights, indices = self.router(tokens)
        mixed: Tensor = self.experts(tokens, weights, indices)
        return mixed.reshape(hidden.shape)


class UpcycledPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = UpcycledConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


class UpcycledModel(UpcycledPreTrainedModel):
    """The encoder: tokens or pixels to hidden states."""

    def __init__(self, config: UpcycledConfig) -> None:
        super().__init__(config)
        fields = dict(config.dense)
        kind = fields.pop("model_type", "bert")
        dense_config = AutoConfig.for_model(kind, **fields)
        self.main_input_name = "pixel_values" if kind == "vit" else "input_ids"
        self.dense = AutoModel.from_config(dense_config, **encoder_settings(kind))
        for _, layer in moe_layers(self.dense, config):
            put_mixture(layer, ENCODERS[kind], config.num_experts, config.num_experts_per_tok)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Return hidden states [B, S, D]."""
        if pixel_values is not None:
            output = self.dense(pixel_values=pixel_values)
        else:
            kwargs.pop("return_dict", None)
            output = self.dense(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=output.last_hidden_state)


class UpcycledForSequenceClassification(UpcycledPreTrainedModel):
    """The encoder, the mean over its tokens, and one linear layer to class logits."""

    def __init__(self, config: UpcycledConfig) -> None:
        super().__init__(config)
        self.encoder = UpcycledModel(config)
        size: int = self.encoder.dense.config.hidden_size
        self.classifier = nn.Linear(size, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return class logits [B, num_labels], and the loss if `labels` [B] are given."""
        hidden = self.encoder(input_ids, attention_mask, **kwargs).last_hidden_state
        if attention_mask is None:
            pooled = hidden.mean(1)
        else:
            kept = attention_mask.to(hidden).unsqueeze(-1)
            pooled = (hidden * kept).sum(1) / kept.sum(1).clamp_min(1)
        logits = self.classifier(pooled)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class UpcycledForImageClassification(UpcycledForSequenceClassification):
    """The same for images."""

    main_input_name = "pixel_values"


def encoder_settings(kind: str) -> dict[str, bool]:
    """Return what to build an encoder of a model type without the pooler that nothing uses."""
    return {} if kind == "electra" else {"add_pooling_layer": False}


def moe_layers(dense: nn.Module, config: UpcycledConfig) -> list[tuple[int, nn.Module]]:
    """Return number and module of the layers of an encoder that get experts."""
    blocks = ENCODERS[str(config.dense.get("model_type"))]
    layers: Any = dense.get_submodule(blocks.layers)
    chosen = range(len(layers)) if config.moe_layers is None else config.moe_layers
    return [(number, layers[number]) for number in chosen]


def put_mixture(layer: nn.Module, blocks: Blocks, num_experts: int, top_k: int) -> MixtureOfExperts:
    """Replace the feed-forward block of a layer by a mixture, its weights not yet set."""
    mixture = MixtureOfExperts(layer, blocks, num_experts, top_k)
    if blocks.bypassed:
        parent, _, name = blocks.bypassed.rpartition(".")
        setattr(layer.get_submodule(parent), name, nn.Identity())
    setattr(layer, blocks.replaced, mixture)
    return mixture


CLASSES = {
    "UpcycledModel": UpcycledModel,
    "UpcycledForSequenceClassification": UpcycledForSequenceClassification,
    "UpcycledForImageClassification": UpcycledForImageClassification,
}
"""Name in `architectures` -> class."""
