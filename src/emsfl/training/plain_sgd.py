"""The algorithm of the theorems: plain SGD on batches that are drawn independently at every step.

docs/theory.md, section 2. What `train_locally` does beside that (momentum, shuffled epochs) is
left out here on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from emsfl.data import Samples
from emsfl.moe import ModelSpec, State
from emsfl.training.config import LocalSettings
from emsfl.training.device import one_thread
from emsfl.training.local import choose_parameters


@dataclass(frozen=True, kw_only=True)
class PlainTask:
    """One device's steps between two synchronisations."""

    model: ModelSpec
    num_experts: int
    """Experts per layer of the model that is trained."""
    state: State
    shard: Samples
    seed: tuple[int, ...]
    """Together with the number of a step it seeds that step's batch."""
    first_step: int
    num_steps: int
    settings: LocalSettings
    """Optimiser, momentum and processor are not used."""


def train_plainly(task: PlainTask) -> State:
    """Return the state after `task.num_steps` steps; the tensors of `task` are not modified."""
    with one_thread():
        state = {name: tensor.clone() for name, tensor in task.state.items()}
        if task.num_steps == 0:
            return state
        model = task.model.build(state, task.num_experts)
        layout, settings = task.model.layout(), task.settings
        trained = choose_parameters(model, layout, settings)
        rates = [
            settings.learning_rate
            * (1.0 if name in layout.expert_names else settings.shared_lr_factor)
            for name in trained
        ]
        parameters = list(trained.values())
        inputs = task.model.prepare(torch.from_numpy(task.shard.inputs))
        labels = torch.from_numpy(task.shard.labels)
        for number in range(task.first_step, task.first_step + task.num_steps):
            batch = torch.from_numpy(
                draw_batch(len(task.shard), settings.batch_size, (*task.seed, number))
            )
            loss = task.model.loss(model, inputs[batch], labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
                    parameter.add_(gradient, alpha=-rate)
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def draw_batch(num_samples: int, batch_size: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the indices [min(batch_size, num_samples)] of one batch, none twice."""
    generator = np.random.default_rng(seed)
    return generator.choice(num_samples, min(batch_size, num_samples), replace=False)
