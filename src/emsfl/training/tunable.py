"""A sub-model made ready for tuning: what is frozen, what trains, in which precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.errors import ConfigError, DataError
from emsfl.moe.adapter import find_moe_layers
from emsfl.moe.checkpoint import Checkpoint
from emsfl.moe.pretrained import import_transformers, load_model, stored_state
from emsfl.moe.tensor_files import DTYPES, StoredTensor
from emsfl.training.config import LocalSettings
from emsfl.training.local import is_trained


class Tunable:
    """A model of which experts, and perhaps shared parameters, train; routers never do."""

    def __init__(
        self,
        folder: Path,
        *,
        train_shared: bool,
        frozen: Sequence[str] = (),
        low_precision: bool,
        lora: tuple[int, float] | None,
    ) -> None:
        """Load the sub-model in `folder`.

        Args:
            folder: a checkpoint.
            train_shared: whether shared parameters train.
            frozen: regular expressions; parameters in whose names one is found do not train.
            low_precision: hold in bfloat16 what is frozen.
            lora: rank and alpha of low-rank terms that train in place of the experts' weights.
        """
        self.model = load_model(folder, None if low_precision else torch.float32)
        self.layout = find_moe_layers(self.model)
        self.peft: Any = None
        self._named = dict(self.model.named_parameters())
        self.experts = {n: p for n, p in self._named.items() if n in self.layout.expert_names}
        choice = LocalSettings(
            batch_size=1,
            momentum=0.0,
            learning_rate=1.0,
            train_experts=lora is None,
            train_shared=train_shared,
            train_routers=False,
        )
        self.trained = {
            name: p
            for name, p in self._named.items()
            if is_trained(name, self.layout, choice)
            and not any(re.search(pattern, name) for pattern in frozen)
        }
        self.groups = self._stacked_groups() if lora is None else self._add_lora(*lora)
        chosen = {id(p) for p in self.trained.values()}
        for parameter in self.model.parameters():
            train = id(parameter) in chosen
            parameter.requires_grad_(train)
            if train:
                parameter.data = parameter.data.float()
            elif low_precision and not (
                lora and any(parameter is p for p in self.experts.values())
            ):
                parameter.data = parameter.data.bfloat16()

    def _stacked_groups(self) -> list[dict[str, Any]]:
        groups = []
        for layer in self.layout.layers:
            for name, axis in layer.expert_axes.items():
                if name in self.trained:
                    groups.append(_group(self.trained[name], self.trained[name].shape, axis))
            groups.extend(
                _group(self.trained[name], (1, *self.trained[name].shape), 0)
                for name in layer.member_names
                if name in self.trained
            )
        return groups

    def _add_lora(self, rank: int, alpha: float) -> list[dict[str, Any]]:
        """Add low-rank terms to all expert matrices; return their optimiser groups."""
        peft = import_transformers("peft")
        stacked = [
            name
            for layer in self.layout.layers
            for name in layer.expert_axes
            if self._named[name].dim() == 3
        ]
        modules = [
            name.rpartition(".")[0]
            for layer in self.layout.layers
            for name in layer.member_names
            if self._named[name].dim() == 2
        ]
        if not stacked and not modules:
            raise ConfigError("mode = 'lora': the experts of this model have no matrices to adapt")
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_parameters=stacked or None, target_modules=modules
        )
        self.peft = peft.get_peft_model(self.model, config)
        groups = []
        for name, parameter in self.peft.named_parameters():
            if ".lora_" not in name:
                continue
            self.trained[name] = parameter
            if not stacked:
                groups.append(_group(parameter, (1, *parameter.shape), 0))
            elif ".lora_A." in name:
                groups.append(_group(parameter, (-1, rank, parameter.shape[1]), 0))
            else:
                groups.append(_group(parameter, (parameter.shape[0], rank, -1), 2))
        return groups

    def train_mode(self) -> None:
        """Switch dropout and the like on; routers stay deterministic, for they do not train."""
        self.model.train()
        for layer in self.layout.layers:
            self.model.get_submodule(layer.router).eval()

    def finish(self) -> None:
        """Switch to evaluation, low-rank terms added to the weights they belong to."""
        if self.peft is not None:
            for parameter in self.experts.values():
                parameter.data = parameter.data.float()
            self.model = self.peft.merge_and_unload()
            self.peft = None
        self.model.eval()

    def update_tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Return, under their stored names and dtypes, the experts and whatever else trained.

        An element that did not move keeps its very bits (a negative zero its sign).

        Raises:
            DataError: a tensor that the checkpoint does not store.
        """
        state = self.model.state_dict()
        moved = self.layout.expert_names | {n for n in self.trained if n in state}
        moved_data = {state[name].data_ptr() for name in moved}
        chosen = {name: t for name, t in state.items() if t.data_ptr() in moved_data}
        stored = stored_state(self.model, chosen)
        kept = {name: t for name, t in stored.items() if name in checkpoint.tensors}
        kept_data = {t.data_ptr() for t in kept.values()}
        for name, tensor in stored.items():
            if name not in kept and tensor.data_ptr() not in kept_data:  # else it is a tied weight
                raise DataError(f"{checkpoint.folder} stores no tensor {name}, which has trained")
        return {
            name: _in_place_of(checkpoint.tensors[name], tensor) for name, tensor in kept.items()
        }


def _in_place_of(stored: StoredTensor, tensor: Tensor) -> Tensor:
    before = torch.frombuffer(
        bytearray(b"".join(bytes(c) for c in stored.bytes_range.read())), dtype=DTYPES[stored.dtype]
    ).reshape(stored.shape)
    after = tensor.detach().to(before.dtype)
    return torch.where(after == before, before, after).contiguous()


def _group(parameter: nn.Parameter, shape: tuple[int, ...], axis: int) -> dict[str, Any]:
    """Describe a parameter for `ExpertAdam`; one length in `shape` may be -1."""
    return {"params": [parameter], "shape": tuple(parameter.view(shape).shape), "axis": axis}
