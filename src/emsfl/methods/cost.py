"""What training costs a device: operations, time and energy.

A step's operations are those of its matrix products: forward once, once more for the gradients of
activations (not in frozen lower layers, where none are needed), and once more for those parameters
whose gradients are needed. Norms, activations, routing bookkeeping and the optimiser are left out.
Where only some of the experts held train, the gradients of experts' parameters are charged by their
share, as if all experts were used alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from emsfl.methods.method import Work
from emsfl.moe import ModelSpec, experts_per_layer


class CostModel:
    """Operations and times for one model on the scenario's devices."""

    def __init__(self, device_flops_per_s: float | Mapping[str, float], model: ModelSpec) -> None:
        """Read sizes from `model`; speeds are those of every device, or of each site's devices."""
        self.device_flops_per_s = device_flops_per_s
        self.num_experts = model.config.num_experts
        self._full_forward = model.forward_flops()

    def step_flops(self, work: Work) -> float:
        """Return floating-point operations of one optimiser step of one device."""
        parts = self._forward(work)
        settings = work.settings
        held = sum(len(ids) for ids in work.owned)
        trained_share = {
            "shared": float(settings.train_shared),
            "router": float(settings.train_routers),
            "experts": settings.train_experts
            * (sum(len(ids) for ids in work.trained_experts) / held),
        }
        weight_gradients = sum(share * parts[name] for name, share in trained_share.items())
        return work.settings.batch_size * (
            2 * sum(parts.values()) - parts["frozen"] + weight_gradients
        )

    def forward_flops(self, work: Work, num_samples: int) -> float:
        """Return floating-point operations of one forward pass over `num_samples` samples."""
        return num_samples * sum(self._forward(work).values())

    def seconds(self, site: str, flops: float) -> float:
        """Return how long a device at `site` computes on `flops` operations."""
        speed = self.device_flops_per_s
        return flops / (speed[site] if isinstance(speed, Mapping) else speed)

    def _forward(self, work: Work) -> dict[str, float]:
        parts = dict(self._full_forward)
        parts["router"] *= experts_per_layer(work.owned) / self.num_experts
        return parts
