"""Find, score, slice, gate and merge the experts of a model; the small built-in models."""

from emsfl.moe.adapter import MoELayout, Owned, State, check_owned, find_moe_layers
from emsfl.moe.config import ModelConfig, PretrainConfig
from emsfl.moe.factory import ModelSpec, experts_per_layer
from emsfl.moe.gate import DomainGate, DomainStatistics, fit_gate, gate_features, gated
from emsfl.moe.gate_wrapper import load_gated
from emsfl.moe.scoring import ScoreKind, scoring, scoring_probabilities
from emsfl.moe.splitting import split_sizes, split_state, write_experts

__all__ = [
    "DomainGate",
    "DomainStatistics",
    "MoELayout",
    "ModelConfig",
    "ModelSpec",
    "Owned",
    "PretrainConfig",
    "ScoreKind",
    "State",
    "check_owned",
    "experts_per_layer",
    "find_moe_layers",
    "fit_gate",
    "gate_features",
    "gated",
    "load_gated",
    "scoring",
    "scoring_probabilities",
    "split_sizes",
    "split_state",
    "write_experts",
]
