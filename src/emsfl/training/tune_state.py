"""What trains in a sub-model, its optimisers, and saving both so that a stopped run can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from emsfl.files import atomic_path
from emsfl.training.adam import ExpertAdam

STATE_NAME = "training_state.safetensors"


class TuneState:
    """Trained parameters, their optimisers, and the losses so far."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        expert_groups: Sequence[Mapping[str, Any]],
        learning_rate: float,
        shared_learning_rate: float,
    ) -> None:
        """Make the optimisers: `ExpertAdam` for the groups, torch's Adam for the rest."""
        self.parameters = dict(parameters)
        in_groups = {id(p) for group in expert_groups for p in group["params"]}
        shared = [p for p in self.parameters.values() if id(p) not in in_groups]
        self.optimizers: list[torch.optim.Optimizer] = []
        if expert_groups:
            self.optimizers.append(ExpertAdam(expert_groups, learning_rate))
        if shared:
            self.optimizers.append(torch.optim.Adam(shared, shared_learning_rate))
        self.losses: list[float] = []

    @property
    def optimizer_bytes(self) -> int:
        """Memory that the optimisers' moments take."""
        return sum(
            value.numel() * value.element_size()
            for optimizer in self.optimizers
            for moments in optimizer.state.values()
            for value in moments.values()
            if isinstance(value, Tensor)
        )

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of `loss`."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on, atomically."""
        tensors = {f"parameter/{name}": p.detach() for name, p in self.parameters.items()}
        for name, moments in self._moments():
            tensors.update({f"moment/{name}/{key}": value for key, value in moments.items()})
        with atomic_path(folder / STATE_NAME) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"losses": json.dumps(self.losses)},
            )

    def load(self, folder: Path) -> int:
        """Read what `save` wrote, if it did; return the number of steps that are done."""
        if not (folder / STATE_NAME).is_file():
            return 0
        moments: dict[str, dict[str, Tensor]] = {}
        with safe_open(folder / STATE_NAME, "pt") as file, torch.no_grad():
            for key in file.keys():  # noqa: SIM118 - not a mapping
                kind, _, name = key.partition("/")
                if kind == "parameter":
                    self.parameters[name].copy_(file.get_tensor(key))
                else:
                    name, _, moment = name.rpartition("/")
                    moments.setdefault(name, {})[moment] = file.get_tensor(key)
            self.losses = json.loads(file.metadata()["losses"])
        for name, values in moments.items():
            parameter = self.parameters[name]
            self._optimizer_of(parameter).state[parameter].update(values)
        return len(self.losses)

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove what `save` wrote."""
        (folder / STATE_NAME).unlink(missing_ok=True)

    def _moments(self) -> list[tuple[str, dict[str, Tensor]]]:
        found = []
        for name, parameter in self.parameters.items():
            state = self._optimizer_of(parameter).state.get(parameter, {})
            found.append((name, {k: v for k, v in state.items() if isinstance(v, Tensor)}))
        return found

    def _optimizer_of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        return next(
            optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            if any(parameter is other for other in group["params"])
        )
