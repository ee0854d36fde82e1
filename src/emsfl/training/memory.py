"""The memory that one training step needs beside parameters: what autograd keeps, counted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from emsfl.data import Samples
from emsfl.moe import ModelSpec
from emsfl.training.config import LocalSettings
from emsfl.training.device import computing_on
from emsfl.training.local import batch_order, choose_parameters


def activation_bytes(
    model: ModelSpec,
    num_experts: int,
    state: Mapping[str, Tensor],
    shard: Samples,
    settings: LocalSettings,
) -> int:
    """Return the bytes that autograd saves for the backward pass of one batch.

    One forward pass with the loss is done on the shard's first batch; every block of memory that
    is saved counts once, those of parameters and of the batch itself do not. What a kernel needs
    for a moment only is left out.

    Args:
        model: what is trained.
        num_experts: experts per layer that are held.
        state: of that model.
        shard: a device's samples.
        settings: batch size, and what trains.
    """
    with computing_on(settings.device) as device:
        module = model.build({n: t.to(device) for n, t in state.items()}, num_experts)
        choose_parameters(module, model.layout(), settings)
        (batch,) = torch.from_numpy(batch_order(len(shard), settings.batch_size, (0,), 0, 1))
        inputs = model.prepare(torch.from_numpy(shard.inputs)).to(device)[batch.to(device)]
        labels = torch.from_numpy(shard.labels).to(device)[batch.to(device)]
        known = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
        known |= {t.untyped_storage().data_ptr() for t in (inputs, labels) if isinstance(t, Tensor)}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            # Held until all has been counted: memory that is freed could be counted twice.
            loss = model.loss(module, inputs, labels)
        del loss
        return sum(saved.values())
