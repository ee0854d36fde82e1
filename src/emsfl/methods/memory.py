"""What a device needs in memory to train: held, gradients, optimiser state, activations.

peak = parameters held + gradients of what trains + optimiser state + activations of one batch
- parameters: the sub-model that the device holds, and what is frozen;
- gradients: one value per trained parameter;
- optimiser state: one value per trained parameter for SGD with momentum, none without, two for
  Adam;
- activations: what autograd keeps for the backward pass, counted on a real batch
  (`training/memory.py`).
Left out: what the framework itself takes, and what kernels need for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from emsfl.data import Samples
from emsfl.methods.method import Federation, Work, num_trained_parameters
from emsfl.moe import ModelSpec, experts_per_layer, split_state
from emsfl.training import LocalSettings, activation_bytes, num_bytes

BYTES_PER_PARAMETER = 4
"""Training is in float32."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Of one device while it trains."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Everything at once."""
        return (
            self.parameters_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
        )


def moments(settings: LocalSettings) -> int:
    """Return how many values the optimiser keeps per trained parameter."""
    if settings.optimizer == "adam":
        return 2
    return 1 if settings.momentum > 0 else 0


def device_memory(
    work: Work, federation: Federation, model: ModelSpec, samples: Samples
) -> DeviceMemory:
    """Return what training with `work` needs; activations are counted on a batch of `samples`."""
    held = split_state(federation.pretrained, federation.layout, work.owned)
    trained_bytes = BYTES_PER_PARAMETER * num_trained_parameters(work, federation)
    return DeviceMemory(
        parameters_bytes=num_bytes(held) + federation.layout.frozen_bytes,
        gradients_bytes=trained_bytes,
        optimizer_bytes=moments(work.settings) * trained_bytes,
        activations_bytes=activation_bytes(
            model, experts_per_layer(work.owned), held, samples, work.settings
        ),
    )
