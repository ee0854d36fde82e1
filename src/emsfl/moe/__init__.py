"""Find, score, slice, gate and merge the experts of a model; the small built-in models."""

from emsfl.moe.adapter import MoELayout, Owned, State, check_owned, find_moe_layers
from emsfl.moe.causal_lm import CausalLm
from emsfl.moe.config import (
    CausalLmConfig,
    ModelConfig,
    PatchMoEConfig,
    PretrainConfig,
    TextClassifierConfig,
)
from emsfl.moe.factory import experts_per_layer, make_spec, tokenise_for
from emsfl.moe.gate import (
    DomainGate,
    DomainStatistics,
    GateKind,
    fit_gate,
    gate_features,
    gated,
)
from emsfl.moe.gate_text import TextGate, TextGateKind, TextStatistics
from emsfl.moe.gate_wrapper import load_gated
from emsfl.moe.image_classifier import ImageClassifier
from emsfl.moe.model_spec import Metric, ModelSpec
from emsfl.moe.scoring import ScoreKind, scoring, scoring_probabilities
from emsfl.moe.splitting import split_sizes, split_state, write_experts
from emsfl.moe.text_classifier import TextClassifier

__all__ = [
    "CausalLm",
    "CausalLmConfig",
    "DomainGate",
    "DomainStatistics",
    "GateKind",
    "ImageClassifier",
    "Metric",
    "MoELayout",
    "ModelConfig",
    "ModelSpec",
    "Owned",
    "PatchMoEConfig",
    "PretrainConfig",
    "ScoreKind",
    "State",
    "TextClassifier",
    "TextClassifierConfig",
    "TextGate",
    "TextGateKind",
    "TextStatistics",
    "check_owned",
    "experts_per_layer",
    "find_moe_layers",
    "fit_gate",
    "gate_features",
    "gated",
    "load_gated",
    "make_spec",
    "scoring",
    "scoring_probabilities",
    "split_sizes",
    "split_state",
    "tokenise_for",
    "write_experts",
]
