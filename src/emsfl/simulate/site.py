"""One site in virtual time: its cluster, what it is doing, and the work that it waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from emsfl.data import Samples
from emsfl.methods import (
    Activity,
    Cluster,
    Federation,
    Update,
    Work,
    device_memory,
    num_trained_parameters,
    take_results,
    training_tasks,
)
from emsfl.moe import ModelSpec, Owned
from emsfl.simulate.ledger import Ledger
from emsfl.training import Executor, LocalSettings, Pending, train_locally


class Phase(StrEnum):
    """What a site is doing."""

    WAITING = "waiting"
    """It has nothing to do, or nothing to send, until the server has work for it."""
    WORKING = "working"
    UPLOADING = "uploading"
    DOWNLOADING = "downloading"


@dataclass
class Site:
    """A cluster and its place in virtual time."""

    index: int
    cluster: Cluster
    shards: Sequence[Samples]
    """One per device."""
    contacts: Sequence[tuple[float, float]]
    """(start_s, end_s), in order of time, not overlapping."""
    phase: Phase = Phase.WAITING
    free_since_s: float = 0.0
    """Device time before this has been used, or lies before the current work."""
    unused_s: float = 0.0
    """Device time left over from the last whole step."""
    steps_left: int = 0
    """Of the cap between two contacts."""
    segment_steps: int = 0
    """Steps that every device is training now, or has trained and not yet taken over."""
    transfer_started_s: float = 0.0
    update: Update | None = None
    """On its way up."""
    download: Work | None = None
    """On its way down."""
    pending: list[Pending] = field(default_factory=list)
    noted: set[tuple[Owned, LocalSettings]] = field(default_factory=set)
    """Kinds of work whose memory is known."""

    def in_contact(self, time_s: float) -> bool:
        """Tell whether a contact is open at `time_s`."""
        place = bisect_right(self.contacts, time_s, key=lambda contact: contact[0]) - 1
        return place >= 0 and time_s < self.contacts[place][1]

    def next_contact_s(self, time_s: float) -> float | None:
        """Return the start of the first contact that begins after `time_s`."""
        place = bisect_right(self.contacts, time_s, key=lambda contact: contact[0])
        return self.contacts[place][0] if place < len(self.contacts) else None

    def count_steps(self, now_s: float, step_s: float) -> int:
        """Return the whole steps that fit between the last count and now, within the cap."""
        available_s = now_s - self.free_since_s + self.unused_s
        num_steps = int(available_s / step_s)
        self.unused_s = available_s - num_steps * step_s
        if num_steps >= self.steps_left:
            num_steps, self.unused_s = self.steps_left, 0.0
        self.free_since_s = now_s
        self.steps_left -= num_steps
        return num_steps

    def submit_training(self, executor: Executor, model: ModelSpec, seed: int) -> None:
        """Start `segment_steps` steps on every device."""
        work = self.cluster.work
        if work is None or self.segment_steps == 0:
            return
        tasks = training_tasks(
            self.cluster, self.shards, model, (seed, 4, self.index), self.segment_steps
        )
        self.pending = [executor.submit(train_locally, task) for task in tasks]

    def note_memory(self, ledger: Ledger, model: ModelSpec, federation: Federation) -> None:
        """Tell the ledger what the work in hand needs on a device, once per kind of work."""
        work = self.cluster.work
        if work is None or work.activity is not Activity.TRAIN:
            return
        kind = (work.owned, work.settings)
        if kind not in self.noted:
            self.noted.add(kind)
            state = self.cluster.devices[0].state
            memory = device_memory(work, federation, model, state, self.shards[0])
            ledger.note_device(num_trained_parameters(work, federation), memory)

    def collect_training(self) -> None:
        """Wait for the steps that were started and let the devices hold their results."""
        results = [pending.result() for pending in self.pending]
        take_results(self.cluster, results, self.segment_steps)
        self.pending, self.segment_steps = [], 0

    def save(self) -> dict[str, Any]:
        """Return everything that changes, for a checkpoint."""
        c = self.cluster
        return {
            "phase": self.phase.value,
            "numbers": [self.free_since_s, self.unused_s, self.transfer_started_s],
            "steps": [self.steps_left, self.segment_steps],
            "update": self.update,
            "download": self.download,
            "devices": c.devices,
            "work": c.work,
            "received": c.received,
            "snapshots": c.snapshots,
            "snapshot_steps": c.snapshot_steps,
            "average": c.average,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `save` returned; training that was under way is to be submitted anew."""
        self.phase = Phase(saved["phase"])
        self.free_since_s, self.unused_s, self.transfer_started_s = saved["numbers"]
        self.steps_left, self.segment_steps = saved["steps"]
        self.update, self.download = saved["update"], saved["download"]
        c = self.cluster
        c.devices, c.work, c.received = saved["devices"], saved["work"], saved["received"]
        c.snapshots, c.average = saved["snapshots"], saved["average"]
        c.snapshot_steps = saved["snapshot_steps"]
