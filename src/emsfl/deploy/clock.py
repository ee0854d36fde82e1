"""Wall time and virtual time: one runs `speedup` times as fast as the other."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Clock:
    """Virtual seconds since the plan's epoch, from this machine's clock."""

    epoch_wall_s: float
    """Unix time of virtual second 0."""
    speedup: float = 1.0

    def now_s(self) -> float:
        """Return virtual time."""
        return (time.time() - self.epoch_wall_s) * self.speedup

    def set(self, virtual_s: float) -> None:
        """Let it be `virtual_s` now."""
        self.epoch_wall_s = time.time() - virtual_s / self.speedup

    def wall_until(self, virtual_s: float) -> float:
        """Return the wall seconds until `virtual_s`; negative once it is past."""
        return (virtual_s - self.now_s()) / self.speedup


@dataclass(frozen=True)
class Windows:
    """When one site may send: its contacts, cut by a guard time at both ends."""

    contacts: Sequence[tuple[float, float]]
    """(start_s, end_s), in order of time."""
    guard_s: float
    """Virtual seconds that clocks and orbits may be off by."""

    def is_open(self, time_s: float) -> bool:
        """Tell whether the site may send at `time_s`."""
        place = bisect_right(self.contacts, time_s - self.guard_s, key=lambda c: c[0]) - 1
        return place >= 0 and time_s < self.contacts[place][1] - self.guard_s

    def next_open_s(self, time_s: float) -> float | None:
        """Return when the site may next send, `time_s` itself if it may now; None: never."""
        if self.is_open(time_s):
            return time_s
        for start_s, end_s in self.contacts:
            opens_s = start_s + self.guard_s
            if opens_s > time_s and opens_s < end_s - self.guard_s:
                return opens_s
        return None
