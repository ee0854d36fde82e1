"""The optimisers of local training, and what a device remembers of them between two tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from emsfl.moe import MoELayout, State
from emsfl.training.adam import ExpertAdam
from emsfl.training.config import LocalSettings
from emsfl.training.sgd import ExpertSGD

VELOCITY = "momentum_buffer"
COUNT = "step"


class Optimizers:
    """One optimiser for experts, which leaves unused ones alone, and one for everything else."""

    def __init__(
        self,
        model: nn.Module,
        layout: MoELayout,
        settings: LocalSettings,
        remembered: Mapping[str, Tensor],
    ) -> None:
        """Optimise what in `model` requires gradients; go on from what `remember` returned."""
        self._names: dict[Tensor, str] = {
            p: name for name, p in model.named_parameters() if p.requires_grad
        }
        experts = [p for p, name in self._names.items() if name in layout.expert_names]
        others = [p for p, name in self._names.items() if name not in layout.expert_names]
        rate, other_rate = (
            settings.learning_rate,
            settings.learning_rate * settings.shared_lr_factor,
        )
        self._all: list[torch.optim.Optimizer] = []
        adam = settings.optimizer == "adam"
        if experts and adam:
            self._all.append(
                ExpertAdam([_stacked(self._names[p], p, layout) for p in experts], rate)
            )
        elif experts:
            self._all.append(ExpertSGD(experts, rate, settings.momentum))
        if others and adam:
            self._all.append(torch.optim.Adam(others, other_rate))
        elif others:
            self._all.append(torch.optim.SGD(others, other_rate, settings.momentum))
        self._recall(remembered)

    def step(self) -> None:
        """Move every parameter once, by its gradient."""
        for optimizer in self._all:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._all:
            optimizer.zero_grad()

    def remember(self) -> State:
        """Return the state per parameter, on the CPU.

        Velocities of SGD go by the parameter's name, Adam's tensors by `NAME/KIND`.
        """
        found = {}
        for optimizer in self._all:
            for parameter, state in optimizer.state.items():
                name = self._names[parameter]
                for kind, tensor in state.items():
                    found[name if kind == VELOCITY else f"{name}/{kind}"] = tensor.cpu()
        return {
            key: found[key]
            for name in self._names.values()
            for key in sorted(k for k in found if k.partition("/")[0] == name)
        }

    def _recall(self, remembered: Mapping[str, Tensor]) -> None:
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, tensor in remembered.items():
            name, _, kind = key.partition("/")
            by_name.setdefault(name, {})[kind or VELOCITY] = tensor
        for optimizer in self._all:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    for kind, tensor in by_name.get(self._names[p], {}).items():
                        device = tensor.device if kind == COUNT else p.device
                        optimizer.state[p][kind] = tensor.to(device, copy=True)


def _stacked(name: str, parameter: Tensor, layout: MoELayout) -> dict[str, Any]:
    """Describe a parameter of experts for `ExpertAdam`."""
    for layer in layout.layers:
        if name in layer.expert_axes:
            axis = layer.expert_axes[name]
            return {"params": [parameter], "shape": tuple(parameter.shape), "axis": axis}
    return {"params": [parameter], "shape": (1, *parameter.shape), "axis": 0}
