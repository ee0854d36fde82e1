"""Adam for experts: one that the batch did not use does not move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


class ExpertAdam(torch.optim.Optimizer):
    """Adam (arXiv 1412.6980) over tensors of which one dimension counts experts; no weight decay.

    torch.optim.Adam would go on moving an unused expert by its old momentum. Here an expert whose
    gradient is all zero keeps its weights, its moments and its own count of steps, so that the
    bias correction is right for experts that are seldom used. A group has `shape`, under which its
    tensors are viewed, and `axis`, the dimension of that view which counts experts.
    """

    def __init__(
        self,
        params: Iterable[Mapping[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__([dict(group) for group in params], {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every used expert once."""
        for group in self.param_groups:
            shape, axis = group["shape"], group["axis"]
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.view(shape)
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(shape[axis], dtype=torch.int64)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                others = tuple(d for d in range(len(shape)) if d != axis)
                for expert in gradient.abs().amax(others).nonzero().flatten().tolist():
                    state["step"][expert] += 1
                    count = int(state["step"][expert])
                    slope = gradient.select(axis, expert)
                    mean = state["exp_avg"].view(shape).select(axis, expert)
                    square = state["exp_avg_sq"].view(shape).select(axis, expert)
                    mean.lerp_(slope, 1 - first)
                    square.mul_(second).addcmul_(slope, slope, value=1 - second)
                    scale = (square.sqrt() / (1 - second**count) ** 0.5).add_(group["eps"])
                    target = parameter.view(shape).select(axis, expert)
                    target.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))
