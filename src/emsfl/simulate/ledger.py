"""What a run has cost so far: bytes, operations, energy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from emsfl.data import Samples
from emsfl.methods import Activity, Federation, Work, device_memory, num_trained_parameters
from emsfl.moe import ModelSpec, Owned
from emsfl.simulate.config import SimulateConfig
from emsfl.training import LocalSettings

UNSAVED = ("config", "noted")


@dataclass
class Ledger:
    """Sums over all clusters and devices."""

    config: SimulateConfig
    uploaded_bytes: int = 0
    """That have arrived."""
    downloaded_bytes: int = 0
    device_flops: float = 0.0
    energy_J: float = 0.0
    num_refused: int = 0
    peak_trainable_parameters: int = 0
    peak_optimizer_bytes: int = 0
    peak_memory_bytes: int = 0
    update_bytes: list[int] = field(default_factory=list)
    """Of each accepted update."""
    noted: set[tuple[Owned, LocalSettings]] = field(default_factory=set)
    """Kinds of work whose memory is known; a resumed run finds them again."""

    def computed(self, flops: float, device_seconds: float) -> None:
        """Charge devices that together computed for `device_seconds`."""
        self.device_flops += flops
        self.energy_J += device_seconds * self.config.compute_power_W

    def uploaded(self, size_bytes: int, seconds: float) -> None:
        """Charge a terminal that took `seconds` from the first bit sent to the last."""
        self.uploaded_bytes += size_bytes
        self.energy_J += seconds * self.config.transmit_power_W

    def downloaded(self, size_bytes: int, seconds: float) -> None:
        """Charge a terminal that took `seconds` from the first bit received to the last."""
        self.downloaded_bytes += size_bytes
        self.energy_J += seconds * self.config.receive_power_W

    def note_work(
        self, work: Work, federation: Federation, model: ModelSpec, samples: Samples
    ) -> None:
        """Keep the most that one device trains at once, and the most memory that one needs.

        Memory is counted on a batch of `samples`, once per kind of work, whatever the step sizes.
        """
        kind = (work.owned, replace(work.settings, learning_rate=1.0, shared_lr_factor=1.0))
        if work.activity is not Activity.TRAIN or kind in self.noted:
            return
        self.noted.add(kind)
        memory = device_memory(work, federation, model, samples)
        self.peak_trainable_parameters = max(
            self.peak_trainable_parameters, num_trained_parameters(work, federation)
        )
        self.peak_optimizer_bytes = max(self.peak_optimizer_bytes, memory.optimizer_bytes)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory.peak_bytes)

    def save(self) -> dict[str, Any]:
        """Return all sums."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in UNSAVED}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `save` returned."""
        for name, value in saved.items():
            setattr(self, name, value)
