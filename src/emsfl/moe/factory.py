"""From the `model` section of a configuration to the model family that it names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from emsfl.moe.adapter import Owned
from emsfl.moe.causal_lm import CausalLm, byte_pairs_for
from emsfl.moe.config import CausalLmConfig, ModelConfig, TextClassifierConfig
from emsfl.moe.encoders import tokenise_texts
from emsfl.moe.image_classifier import ImageClassifier
from emsfl.moe.model_spec import ModelSpec
from emsfl.moe.text_classifier import make_text_classifier

Integers = NDArray[np.int64]
Encode = Callable[[Sequence[str], Integers], tuple[Integers, Integers]]
Tokenise = Callable[[Sequence[str]], Encode]


def make_spec(config: ModelConfig, num_classes: int) -> ModelSpec:
    """Return how to build the model of `config` for data with `num_classes` classes.

    Raises:
        DataError: the weights that it starts from are not to be had.
        ConfigError: the settings do not fit the pre-trained model.
    """
    if isinstance(config, TextClassifierConfig):
        return make_text_classifier(config, num_classes)
    if isinstance(config, CausalLmConfig):
        return CausalLm(config)
    return ImageClassifier(config, num_classes)


def tokenise_for(config: ModelConfig) -> Tokenise | None:
    """Return how the model of `config` reads texts; None: it reads images.

    It takes the public texts, for families that train a tokenizer on them, and returns what turns
    (texts, classes [N]) into (token ids [N, T] with padding, labels [N]).
    """
    if isinstance(config, TextClassifierConfig):
        return functools.partial(tokenise_texts, config)
    if isinstance(config, CausalLmConfig):
        return functools.partial(byte_pairs_for, config)
    return None


def experts_per_layer(owned: Owned) -> int:
    """Return the number of experts per layer of a sub-model (the same in every layer)."""
    sizes = {len(ids) for ids in owned}
    if len(sizes) != 1:
        raise ValueError(f"a built-in model needs one expert count for all layers, not {sizes}")
    return sizes.pop()
