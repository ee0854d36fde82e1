"""Hidden states of the pre-trained model at its first MoE layer, from a model that was tuned since.

Parameters that the states do not depend on play no part; those that did not move since are the
model's own. The others are kept beside the merged checkpoint and put in for one more pass that
ends at the first MoE layer.

Shapes: B sequences, S tokens in each, D hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayout
from emsfl.moe.checkpoint import Checkpoint, loaded_names
from emsfl.moe.domain_statistics import Call
from emsfl.moe.gate import FirstLayerReached, leaving_at
from emsfl.moe.pretrained import import_transformers


def feature_tensors(
    model: nn.Module, layout: MoELayout, checkpoint: Checkpoint, inputs: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Return the stored names of the parameters that the first MoE layer's input depends on.

    Found by differentiating that input for one batch.

    Raises:
        DataError: one of them is not stored as one tensor of the same shape.
    """
    parameters = list(model.parameters())
    with torch.enable_grad(), leaving_at(model.get_submodule(layout.layers[0].name)):
        try:
            model(**inputs)
        except FirstLayerReached as reached:
            total = reached.hidden.float().sum()
            found = torch.autograd.grad(total, parameters, allow_unused=True)
        else:
            raise RuntimeError("the forward pass did not reach the first MoE layer")
    used = {p.data_ptr() for p, g in zip(parameters, found, strict=True) if g is not None}
    state = model.state_dict()
    names = {
        stored: name
        for stored, name in loaded_names(model, checkpoint.tensors).items()
        if name is not None and state[name].data_ptr() in used
    }
    missing = used - {state[name].data_ptr() for name in names.values()}
    for stored, name in names.items():
        if checkpoint.tensors[stored].shape != tuple(state[name].shape):
            missing.add(state[name].data_ptr())
    for name, tensor in state.items():
        if tensor.data_ptr() in missing:
            raise DataError(
                f"{checkpoint.folder} does not store {name} as it is in memory, so the domain "
                "gate cannot tell whether it moved; score with --no-statistics"
            )
    return tuple(sorted(names))


def sha256_of_tensors(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    """Return the SHA-256 (hex) of stored tensors, names and dtypes included.

    Raises:
        DataError: the checkpoint lacks one of them.
    """
    digest = hashlib.sha256()
    for name in names:
        if name not in checkpoint.tensors:
            raise DataError(f"{checkpoint.folder} lacks tensor {name}")
        tensor = checkpoint.tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        for chunk in tensor.bytes_range.read():
            digest.update(chunk)
    return digest.hexdigest()


class PretrainedFeatures:
    """Computes the pre-trained model's hidden states at the first MoE layer."""

    def __init__(
        self,
        model: nn.Module,
        layout: MoELayout,
        moved: Mapping[str, Tensor],
        *,
        is_causal: bool,
    ) -> None:
        """Prepare.

        Args:
            model: the tuned one.
            layout: of that model.
            moved: stored name -> pre-trained value, of the tensors that it no longer has.
            is_causal: whether passes may go on from a cache; a cache of its own is kept then.

        Raises:
            DataError: a tensor that is not the model's.
        """
        state = model.state_dict()
        self._moved = {}
        for stored, name in loaded_names(model, moved).items():
            if name is None or state[name].shape != moved[stored].shape:
                raise DataError(f"the pre-trained tensor {stored} of the domain gate has no place")
            self._moved[name] = moved[stored].to(state[name])
        self._model = model
        self._first = model.get_submodule(layout.layers[0].name)
        self._is_causal = is_causal
        self._cache: Any = None

    def of(self, call: Call, hidden: Tensor) -> Tensor:
        """Return the pre-trained states [B, S, D] for the pass that brought `hidden` there."""
        if not self._moved:
            return hidden
        kwargs = dict(call.kwargs)
        if self._is_causal and kwargs.get("use_cache") is not False:
            if self._cache is None or not call.goes_on:
                config: Any = self._model.config
                self._cache = import_transformers().DynamicCache(config=config)
            kwargs["past_key_values"] = self._cache
        inner = {id(p): n for n, p in call.module.state_dict(keep_vars=True).items()}
        outer = self._model.state_dict(keep_vars=True)
        values = {inner[id(outer[n])]: v for n, v in self._moved.items() if id(outer[n]) in inner}
        with torch.no_grad(), leaving_at(self._first):
            try:
                functional_call(call.module, values, call.args, kwargs)
            except FirstLayerReached as reached:
                return reached.hidden
        raise RuntimeError("the forward pass did not reach the first MoE layer")
