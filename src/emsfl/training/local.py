"""Local training as a pure function of tensors, samples, seed and settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emsfl.data import Samples
from emsfl.moe import ModelSpec, MoELayout, Owned, State
from emsfl.training.config import LocalSettings
from emsfl.training.device import computing_on
from emsfl.training.optimizers import Optimizers


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """One device's training between two synchronisations."""

    model: ModelSpec
    num_experts: int
    """Experts per layer of the model that is trained."""
    state: State
    momentum: State
    """What the optimiser remembers, as from `TrainResult`; empty at the start."""
    shard: Samples
    seed: tuple[int, ...]
    """Seeds the order of batches; the same for all tasks of one device."""
    first_step: int
    """How many steps this device has trained before: where to go on in the order of batches."""
    num_steps: int
    settings: LocalSettings


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a device holds after a task."""

    state: State
    momentum: State
    """What the optimiser remembers: per trained parameter, by name."""
    mean_loss: float
    """Mean training loss over the steps (NaN without steps)."""


def train_locally(task: TrainTask) -> TrainResult:
    """Train for `task.num_steps` steps; the same task gives the same bits, in any process.

    The tensors of `task` are not modified.
    """
    settings = task.settings
    layout = task.model.layout()
    with computing_on(settings.device) as device:
        state = {
            name: tensor.to(device, copy=is_trained(name, layout, settings))
            for name, tensor in task.state.items()
        }
        model = task.model.build(state, task.num_experts)
        trained = choose_parameters(model, layout, settings)
        if settings.trained_experts is not None:
            mask_experts(trained, layout, settings.trained_experts)
        optimizers = Optimizers(model, layout, settings, task.momentum)
        inputs = task.model.prepare(torch.from_numpy(task.shard.inputs).to(device))
        labels = torch.from_numpy(task.shard.labels).to(device)
        batches = batch_order(
            len(task.shard), settings.batch_size, task.seed, task.first_step, task.num_steps
        )
        losses = []
        for batch in torch.from_numpy(batches).to(device):
            loss = task.model.loss(model, inputs[batch], labels[batch])
            optimizers.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if settings.proximal > 0:
                pull_back(trained, task.state, settings.proximal)
            optimizers.step()
            losses.append(loss.detach())
        return TrainResult(
            state={name: tensor.cpu() for name, tensor in model.state_dict().items()},
            momentum=optimizers.remember(),
            mean_loss=float(torch.stack(losses).mean()) if losses else float("nan"),
        )


def choose_parameters(
    model: nn.Module, layout: MoELayout, settings: LocalSettings
) -> dict[str, nn.Parameter]:
    """Return the parameters that `settings` train, by name, and freeze the others in `model`."""
    trained = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, layout, settings))
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def mask_experts(trained: Mapping[str, nn.Parameter], layout: MoELayout, experts: Owned) -> None:
    """Let gradients reach the given experts only; those of the others become zero."""
    for layer, ids in zip(layout.layers, experts, strict=True):
        for name, axis in layer.expert_axes.items():
            if name in trained:
                shape = [1] * trained[name].dim()
                shape[axis] = layer.num_experts
                mask = torch.zeros(layer.num_experts).index_fill_(0, torch.tensor(ids), 1.0)
                mask = mask.to(trained[name].device)
                keep = functools.partial(torch.mul, mask.view(shape))
                trained[name].register_hook(keep)  # type: ignore[no-untyped-call]


@torch.no_grad()
def pull_back(
    trained: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor], strength: float
) -> None:
    """Add the gradient of strength / 2 * |w - anchor|^2 (FedProx, arXiv 1812.06127, eq. 2)."""
    for name, parameter in trained.items():
        pull = (parameter - anchor[name].to(parameter.device)) * strength
        parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)


def is_trained(name: str, layout: MoELayout, settings: LocalSettings) -> bool:
    """Tell whether `settings` train the parameter called `name`; never one that is frozen."""
    if name in layout.frozen_names:
        return False
    if name in layout.expert_names:
        return settings.train_experts
    if name in layout.router_names:
        return settings.train_routers
    return settings.train_shared


def batch_order(
    num_samples: int, batch_size: int, seed: tuple[int, ...], first_step: int, num_steps: int
) -> NDArray[np.int64]:
    """Return the sample indices [num_steps, batch_size] of steps first_step, first_step + 1, ...

    Batches run through one endless stream of shuffled epochs, so a device that is interrupted
    sees the same batches as one that is not.
    """
    begin, end = first_step * batch_size, (first_step + num_steps) * batch_size
    first_epoch, last_epoch = begin // num_samples, max(begin, end - 1) // num_samples
    stream = np.concatenate(
        [
            np.random.default_rng([*seed, epoch]).permutation(num_samples)
            for epoch in range(first_epoch, last_epoch + 1)
        ]
    )
    offset = first_epoch * num_samples
    return stream[begin - offset : end - offset].reshape(num_steps, batch_size)
