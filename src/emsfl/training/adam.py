"""Adam for experts: one that the batch did not use does not move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


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
                used = gradient.abs().amax(others).nonzero().flatten().tolist()
                state["step"][used] += 1
                for chosen in _alike(state["step"], used):
                    count = int(state["step"][chosen[0]])
                    slope = _part(gradient, axis, chosen)
                    mean = _part(state["exp_avg"].view(shape), axis, chosen)
                    square = _part(state["exp_avg_sq"].view(shape), axis, chosen)
                    mean.lerp_(slope, 1 - first)
                    square.mul_(second).addcmul_(slope, slope, value=1 - second)
                    scale = (square.sqrt() / (1 - second**count) ** 0.5).add_(group["eps"])
                    target = _part(parameter.view(shape), axis, chosen)
                    target.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))


def _alike(counts: Tensor, used: list[int]) -> list[list[int]]:
    """Return which experts to move at once: all, where all moved as often, else one by one."""
    if len(used) == len(counts) and len(set(counts.tolist())) == 1:
        return [used]
    return [[expert] for expert in used]


def _part(tensor: Tensor, axis: int, experts: list[int]) -> Tensor:
    """Return a view of one expert, or of all."""
    return tensor.select(axis, experts[0]) if len(experts) == 1 else tensor
