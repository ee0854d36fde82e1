"""Momentum SGD for stacked experts: an expert that the batch did not use does not move."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class ExpertSGD(torch.optim.Optimizer):
    """SGD with momentum over tensors whose dimension 0 counts experts.

    torch.optim.SGD would go on moving an unused expert by its old momentum. Here an expert whose
    gradient is all zero keeps both its weights and its momentum. For used experts the update is
    that of torch.optim.SGD (dampening 0): v <- m v + g, p <- p - lr v.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures here
        """Move every used expert once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"]
                used = gradient.flatten(1).abs().sum(1) > 0
                if bool(used.all()):
                    velocity.mul_(group["momentum"]).add_(gradient)
                    parameter.add_(velocity, alpha=-group["lr"])
                else:
                    used = used.view(-1, *[1] * (gradient.dim() - 1))
                    velocity.mul_(torch.where(used, group["momentum"], 1.0)).add_(gradient)
                    parameter.add_(velocity * used, alpha=-group["lr"])
