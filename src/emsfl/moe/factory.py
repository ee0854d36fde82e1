"""From the `model` section of a configuration to the model family that it names."""

from __future__ import annotations

from emsfl.moe.adapter import Owned
from emsfl.moe.config import ModelConfig
from emsfl.moe.image_classifier import ImageClassifier
from emsfl.moe.model_spec import ModelSpec


def make_spec(config: ModelConfig, num_classes: int) -> ModelSpec:
    """Return how to build the model of `config` for data with `num_classes` classes."""
    return ImageClassifier(config, num_classes)


def experts_per_layer(owned: Owned) -> int:
    """Return the number of experts per layer of a sub-model (the same in every layer)."""
    sizes = {len(ids) for ids in owned}
    if len(sizes) != 1:
        raise ValueError(f"a built-in model needs one expert count for all layers, not {sizes}")
    return sizes.pop()
