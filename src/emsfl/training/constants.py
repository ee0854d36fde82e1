"""The constants of the theory on one device, at one point: gradient, its noise, and curvature.

All in the coordinates of docs/theory.md, section 1: shared parameters are divided by
sqrt(`shared_lr_factor`), so that one step size serves both blocks. Estimates, not
proofs: they hold at the points that were looked at.

Shapes: d trained shared parameters, e trained parameters of experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emsfl.data import Samples
from emsfl.moe import ModelSpec, State
from emsfl.training.config import LocalSettings
from emsfl.training.device import one_thread
from emsfl.training.local import choose_parameters
from emsfl.training.plain_sgd import draw_batch

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ConstantsTask:
    """A model, one device's samples, and what is trained on them."""

    model: ModelSpec
    num_experts: int
    state: State
    shard: Samples
    settings: LocalSettings
    seed: tuple[int, ...]
    experts_are_shared: bool = False
    """Whether all clusters train the same experts (FedAvg), which makes them shared parameters."""
    num_batches: int = 8
    """Batches that the noise is estimated from; 0: no noise."""
    num_iterations: int = 16
    """Hessian-vector products of the power iteration; 0: no curvature."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalConstants:
    """What one device contributes to the constants of the theorems, at one point."""

    loss: float
    """f_ck: mean loss over the device's samples."""
    shared_gradient: FloatArray
    """[d], of the shared block (and of routers, where they are trained)."""
    expert_gradient: FloatArray
    """[e]."""
    shared_noise: float
    """sigma_s^2: mean squared distance of one batch's gradient from the mean (A2)."""
    expert_noise: float
    smoothness: float
    """Largest absolute eigenvalue of the Hessian, from below (A1)."""


def local_constants(task: ConstantsTask) -> LocalConstants:
    """Measure one device's gradient, gradient noise and curvature on all its samples."""
    with one_thread():
        point = _Point(task)
        shared, experts = point.split(point.gradient)
        noise = np.zeros(2)
        for number in range(task.num_batches):
            batch = draw_batch(len(task.shard), task.settings.batch_size, (*task.seed, number))
            difference = point.split(_flat(point.gradient_of(torch.from_numpy(batch))))
            noise += [
                float(np.sum((drawn - mean) ** 2))
                for drawn, mean in zip(difference, (shared, experts), strict=True)
            ]
        noise /= max(task.num_batches, 1)
        return LocalConstants(
            loss=point.loss,
            shared_gradient=shared,
            expert_gradient=experts,
            shared_noise=float(noise[0]),
            expert_noise=float(noise[1]),
            smoothness=point.curvature(task.num_iterations, task.seed),
        )


class _Point:
    """The device's loss at one point, differentiable twice."""

    def __init__(self, task: ConstantsTask) -> None:
        state = {name: tensor.clone() for name, tensor in task.state.items()}
        self.model = task.model.build(state, task.num_experts)
        layout = task.model.layout()
        trained = choose_parameters(self.model, layout, task.settings)
        own = frozenset() if task.experts_are_shared else layout.expert_names
        in_experts = [name in own for name in trained]
        self.parameters = list(trained.values())
        root = task.settings.shared_lr_factor**0.5
        self.scales = [1.0 if own else root for own in in_experts]
        self.is_expert = np.concatenate(
            [np.full(p.numel(), own) for p, own in zip(self.parameters, in_experts, strict=True)]
        )
        self.spec = task.model
        self.inputs = task.model.prepare(torch.from_numpy(task.shard.inputs))
        self.labels = torch.from_numpy(task.shard.labels)
        loss = self.spec.loss(self.model, self.inputs, self.labels)
        self.loss = float(loss.detach())
        self._graph = torch.autograd.grad(loss, self.parameters, create_graph=True)
        self.gradient = _flat(self._scaled(self._graph))

    def split(self, vector: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the shared block [d] and the experts' [e] of a flat vector."""
        return vector[~self.is_expert], vector[self.is_expert]

    def gradient_of(self, batch: Tensor) -> list[Tensor]:
        """Return the gradient on some of the samples."""
        loss = self.spec.loss(self.model, self.inputs[batch], self.labels[batch])
        return self._scaled(torch.autograd.grad(loss, self.parameters))

    def curvature(self, num_iterations: int, seed: tuple[int, ...]) -> float:
        """Return |H v| / |v| after power iteration: at most the largest |eigenvalue|."""
        drawn = np.random.default_rng([*seed, num_iterations]).normal(size=self.gradient.size)
        # The gradient is close to the top of the spectrum; the rest keeps it from missing any.
        start = self.gradient / max(float(np.linalg.norm(self.gradient)), 1e-30)
        vector = torch.from_numpy(start + drawn / np.linalg.norm(drawn)).float()
        largest = 0.0
        for _ in range(num_iterations):
            vector = vector / vector.norm()
            parts = vector.split([p.numel() for p in self.parameters])
            shaped = [v.view_as(p) for v, p in zip(parts, self.parameters, strict=True)]
            product = torch.autograd.grad(
                self._graph, self.parameters, grad_outputs=self._scaled(shaped), retain_graph=True
            )
            vector = torch.cat([p.reshape(-1) for p in self._scaled(product)])
            largest = float(vector.norm())
            if largest == 0:
                break
        return largest

    def _scaled(self, tensors: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
        return [t * scale for t, scale in zip(tensors, self.scales, strict=True)]


def _flat(tensors: list[Tensor]) -> FloatArray:
    return np.concatenate([t.detach().double().reshape(-1).numpy() for t in tensors])
