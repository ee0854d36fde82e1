"""One site in virtual time: what it is doing, and the work that it has and waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emsfl.methods import Work
from emsfl.simulate.gateway import Gateway


class Phase(StrEnum):
    """What a site is doing."""

    WAITING = "waiting"
    """It has nothing to do, or nothing to send, until the server has work for it."""
    WORKING = "working"
    UPLOADING = "uploading"
    DOWNLOADING = "downloading"


@dataclass
class Site:
    """A cluster's place in virtual time."""

    index: int
    name: str
    sample_counts: Sequence[int]
    """One per device."""
    gateway: Gateway
    contacts: Sequence[tuple[float, float]]
    """(start_s, end_s), in order of time, not overlapping."""
    phase: Phase = Phase.WAITING
    free_since_s: float = 0.0
    """Device time before this has been used, or lies before the current work."""
    unused_s: float = 0.0
    """Device time left over from the last whole step."""
    steps_left: int = 0
    """Of the cap between two contacts."""
    transfer_started_s: float = 0.0
    upload_bytes: int = 0
    """Of the update that is on its way up."""
    work: Work | None = None
    download: Work | None = None
    """On its way down."""

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

    def save(self) -> dict[str, Any]:
        """Return everything that changes, for a checkpoint."""
        return {
            "phase": self.phase.value,
            "numbers": [self.free_since_s, self.unused_s, self.transfer_started_s],
            "steps_left": self.steps_left,
            "upload_bytes": self.upload_bytes,
            "work": self.work,
            "download": self.download,
            "gateway": self.gateway.save(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `save` returned."""
        self.phase = Phase(saved["phase"])
        self.free_since_s, self.unused_s, self.transfer_started_s = saved["numbers"]
        self.steps_left, self.upload_bytes = saved["steps_left"], saved["upload_bytes"]
        self.work, self.download = saved["work"], saved["download"]
        self.gateway.restore(saved["gateway"])
