"""One site in virtual time: its cluster, what it is doing, and the work that it waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from emsfl.data import FederatedData, Samples
from emsfl.methods import Bootstrap, Cluster, Device, Update, Work
from emsfl.moe import ModelSpec, State
from emsfl.simulate.executor import Executor, Pending
from emsfl.training import (
    MeasureTask,
    TrainingConfig,
    TrainTask,
    first_samples,
    measure_domain,
    score_experts,
    train_locally,
)


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
        self.pending = [
            executor.submit(
                train_locally,
                TrainTask(
                    model=model,
                    num_experts=self.cluster.num_experts,
                    state=device.state,
                    momentum=device.momentum,
                    shard=shard,
                    seed=(seed, 4, self.index, number),
                    first_step=device.num_steps,
                    num_steps=self.segment_steps,
                    settings=work.settings,
                ),
            )
            for number, (device, shard) in enumerate(
                zip(self.cluster.devices, self.shards, strict=True)
            )
        ]

    def collect_training(self) -> None:
        """Wait for the steps that were started and let the devices hold their results."""
        for device, pending in zip(self.cluster.devices, self.pending, strict=False):
            result = pending.result()
            device.state, device.momentum = result.state, result.momentum
            device.num_steps += self.segment_steps
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


def make_cluster(name: str, data: FederatedData) -> Cluster:
    """Return the cluster `name` with devices that hold nothing yet."""
    sizes = [len(shard) for shard in data.shards[name]]
    return Cluster(name, [size / sum(sizes) for size in sizes], [Device() for _ in sizes])


def measure_cluster(
    cluster: Cluster,
    shards: Sequence[Samples],
    executor: Executor,
    model: ModelSpec,
    pretrained: State,
    training: TrainingConfig,
) -> Bootstrap:
    """Score the experts of the pre-trained model and measure the domain on every device.

    Returns:
        The mean of the devices' scores, by their share of samples, and the sum of their
        statistics.
    """
    tasks = [
        MeasureTask(
            model=model,
            num_experts=model.config.num_experts,
            state=pretrained,
            shard=first_samples(shard, training.score_samples),
            score_kind=training.score_kind,
            device=training.device,
        )
        for shard in shards
    ]
    scored = [executor.submit(score_experts, task) for task in tasks]
    measured = [executor.submit(measure_domain, task) for task in tasks]
    scores = [
        weight * score.result()
        for weight, score in zip(cluster.device_weights, scored, strict=True)
    ]
    first, *others = [statistics.result() for statistics in measured]
    return Bootstrap(sum(scores[1:], scores[0]), sum(others, first))
