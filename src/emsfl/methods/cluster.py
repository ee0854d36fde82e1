"""The cluster's side, the same for every method: devices, snapshot, update, take-over.

It knows no clock: a driver says how many steps were trained and when to take a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from emsfl.methods.method import Activity, Federation, Receive, Update, Upload, Work
from emsfl.moe import (
    DomainStatistics,
    MoELayout,
    State,
    experts_per_layer,
    split_state,
    write_experts,
)
from emsfl.training import add_scaled, difference, is_trained, weighted_mean

Combine = Callable[[Sequence[State], Sequence[float]], State]


@dataclass
class Device:
    """One device between two synchronisations. Tensors are replaced, never changed in place."""

    state: State = field(default_factory=dict)
    momentum: State = field(default_factory=dict)
    num_steps: int = 0
    """Steps trained so far: where it is in its order of batches."""


@dataclass(frozen=True)
class Bootstrap:
    """What a cluster knows of its data from the pre-trained model."""

    scores: Tensor
    """[L, E] float64, rows sum to 1."""
    statistics: DomainStatistics


@dataclass
class Cluster:
    """The devices of one site, and what their gateway remembers."""

    name: str
    device_weights: Sequence[float]
    """Share of the cluster's samples that each device holds; the shares sum to 1."""
    devices: list[Device]
    work: Work | None = None
    received: State = field(default_factory=dict)
    """Shared parameters as last received: what deltas count from."""
    snapshots: list[State] = field(default_factory=list)
    """Each device's state at the last snapshot."""
    snapshot_steps: list[int] = field(default_factory=list)
    """Steps that each device had trained by then."""
    average: State = field(default_factory=dict)
    """Weighted average of the snapshots."""
    combine: Combine = weighted_mean
    """Averages the devices: takes their states and their weights."""

    @property
    def num_experts(self) -> int:
        """Experts per layer that the devices hold."""
        if self.work is None:
            raise ValueError(f"{self.name} has no work yet")
        return experts_per_layer(self.work.owned)

    def take_snapshot(self) -> None:
        """Remember every device's state and form their average."""
        self.snapshots = [device.state for device in self.devices]
        self.snapshot_steps = [device.num_steps for device in self.devices]
        self.average = self.combine(self.snapshots, self.device_weights)

    def build_update(self, federation: Federation, bootstrap: Bootstrap | None = None) -> Update:
        """Return the update that answers the cluster's work: its last snapshot, or `bootstrap`."""
        work = self.work
        if work is None:
            raise ValueError(f"{self.name} has no work to answer")
        values: State = {}
        delta: State = {}
        if work.activity is Activity.TRAIN:
            trained = {
                name: tensor
                for name, tensor in self.average.items()
                if is_trained(name, federation.layout, work.settings)
            }
            if work.settings.trained_experts is not None:
                trained = split_state(trained, federation.layout, work.settings.trained_experts)
            shared = {n: t for n, t in trained.items() if federation.layout.is_shared(n)}
            if work.upload is Upload.SPLIT:
                delta = difference(shared, self.received)
                values = {n: t for n, t in trained.items() if n not in shared}
            else:
                values = trained
        return Update(
            cluster=self.name,
            version=work.version,
            values=values,
            shared_delta=delta,
            statistics=bootstrap.statistics if bootstrap else None,
            scores=bootstrap.scores if bootstrap else None,
        )

    def _rebased(self, work: Work, layout: MoELayout) -> State:
        """Return the average of the snapshots, overwritten by what was received."""
        if work.payload_experts is None:
            return {**self.average, **work.payload}
        rows = {n: t for n, t in work.payload.items() if n in layout.expert_names}
        start = {**self.average, **{n: t for n, t in work.payload.items() if n not in rows}}
        start.update({name: start[name].clone() for name in rows})
        write_experts(start, layout, work.payload_experts, rows)
        return start

    def take_over(self, work: Work, federation: Federation) -> None:
        """Let the devices go on with what was received."""
        layout = federation.layout
        if work.receive is Receive.RESET:
            start = dict(work.payload)
            if start.keys() != federation.pretrained.keys():
                held = federation.pretrained
                if work.owned != layout.all_experts():
                    held = split_state(held, layout, work.owned)
                start = {**held, **start}
            for device in self.devices:
                if not self._keeps_optimizer_state(device, work):
                    device.momentum = {}
                device.state = start
        else:
            start = self._rebased(work, layout)
            for device, snapshot, steps in zip(
                self.devices, self.snapshots, self.snapshot_steps, strict=True
            ):
                if device.num_steps == steps:
                    device.state = start
                else:
                    progress = difference(device.state, snapshot)
                    device.state = add_scaled(start, progress, 1.0)
        self.received = {name: start[name] for name in start if layout.is_shared(name)}
        self.work = work
        self.snapshots, self.snapshot_steps, self.average = [], [], {}

    def _keeps_optimizer_state(self, device: Device, work: Work) -> bool:
        """Tell whether it fits the next task; that of a device that has diverged is never kept."""
        same = self.work is not None and self.work.owned == work.owned
        keeps = work.settings.keeps_optimizer_state and same
        tensors = (*device.state.values(), *device.momentum.values())
        return keeps and all(bool(tensor.isfinite().all()) for tensor in tensors)

    def save(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {
            "devices": self.devices,
            "work": self.work,
            "received": self.received,
            "snapshots": self.snapshots,
            "snapshot_steps": self.snapshot_steps,
            "average": self.average,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `save` returned."""
        self.devices, self.work, self.received = saved["devices"], saved["work"], saved["received"]
        self.snapshots, self.average = saved["snapshots"], saved["average"]
        self.snapshot_steps = saved["snapshot_steps"]
