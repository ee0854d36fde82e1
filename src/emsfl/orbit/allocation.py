"""From visibility to contacts: which satellite each antenna follows, under limited resources.

A contact lasts from the moment an antenna and a beam are free until the satellite sets. Where
`dwell_s` is given it ends earlier, when that time has passed, and is put up again with all others;
a pair that is chosen again simply goes on. Decisions are made whenever a satellite rises or a
resource becomes free, one pair at a time, in the order of the policy:

- longest_waiting: the site whose last contact ended longest ago; for it, the satellite that stays
  longest.
- highest_elevation: the pair with the highest elevation at that moment.
- round_robin: each satellite goes through the sites in order, beginning behind the last it served.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from emsfl.orbit.config import AllocationConfig, Policy
from emsfl.orbit.contacts import Windows

Elevation = Callable[[int, float], float]
"""(window, time in s) -> elevation in degrees."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One antenna of a site following one satellite."""

    window: int
    """Index of the visibility window."""
    start_s: float
    """First usable moment, after handover and acquisition."""
    end_s: float


def allocate(windows: Windows, settings: AllocationConfig, elevation: Elevation) -> list[Slot]:
    """Return the usable contacts, in order of their start.

    Args:
        windows: visibility.
        settings: antennas, beams, policy and guard times.
        elevation: called by policy `highest_elevation` only.
    """
    return _Sweep(windows, settings, elevation).run()


def every_window(windows: Windows) -> list[Slot]:
    """Return all windows as contacts, in order of their start: nothing is short."""
    order = sorted(range(len(windows)), key=lambda w: (windows.start_s[w], w))
    return [Slot(w, float(windows.start_s[w]), float(windows.end_s[w])) for w in order]


class _Sweep:
    """The state while time moves on; events of one moment are handled together."""

    def __init__(self, windows: Windows, settings: AllocationConfig, elevation: Elevation) -> None:
        self.settings = settings
        self.elevation = elevation
        self.site: list[int] = windows.site.tolist()
        self.satellite: list[int] = windows.satellite.tolist()
        self.start: list[float] = windows.start_s.tolist()
        self.end: list[float] = windows.end_s.tolist()
        self.num_sites = max(self.site, default=-1) + 1
        num_satellites = max(self.satellite, default=-1) + 1
        beams = settings.beams_per_satellite or len(self.site) + 1
        self.beams = [beams] * num_satellites
        self.antennas = [[-inf] * settings.antennas_per_site for _ in range(self.num_sites)]
        """Per site, when each idle antenna was released."""
        self.last_served = [-inf] * self.num_sites
        self.next_site = [0] * num_satellites
        self.over_site: list[set[int]] = [set() for _ in range(self.num_sites)]
        self.under_satellite: list[set[int]] = [set() for _ in range(num_satellites)]
        self.usable_from: dict[int, float] = {}
        """Of every window that is served now."""
        self.agenda: list[tuple[float, int]] = []
        """(time, window): when the contact of a served window is to end or be put up again."""
        self.slots: list[Slot] = []

    def run(self) -> list[Slot]:
        """Go through all events in time order."""
        rises = sorted(range(len(self.start)), key=lambda w: (self.start[w], w), reverse=True)
        while rises or self.agenda:
            now = min(
                self.start[rises[-1]] if rises else inf,
                self.agenda[0][0] if self.agenda else inf,
            )
            candidates: set[int] = set()
            paused: dict[int, float] = {}
            while self.agenda and self.agenda[0][0] == now:
                window = heapq.heappop(self.agenda)[1]
                paused[window] = self.usable_from.pop(window)
                self._release(window, now)
                candidates |= self.over_site[self.site[window]]
                candidates |= self.under_satellite[self.satellite[window]]
            while rises and self.start[rises[-1]] == now:
                window = rises.pop()
                self.over_site[self.site[window]].add(window)
                self.under_satellite[self.satellite[window]].add(window)
                candidates.add(window)
            self._assign(candidates, paused, now)
            for window, usable_s in paused.items():
                self._emit(window, usable_s, now)
        self.slots.sort(key=lambda slot: (slot.start_s, slot.window))
        return self.slots

    def _release(self, window: int, now: float) -> None:
        site = self.site[window]
        self.antennas[site].append(now)
        self.beams[self.satellite[window]] += 1
        self.last_served[site] = now

    def _emit(self, window: int, usable_s: float, now: float) -> None:
        if now > usable_s:
            self.slots.append(Slot(window, usable_s, now))

    def _assign(self, candidates: set[int], paused: dict[int, float], now: float) -> None:
        """Give free antennas and beams to `candidates`, the best pair first."""
        over = {w for w in candidates if self.end[w] <= now}
        for window in over:
            self.over_site[self.site[window]].discard(window)
            self.under_satellite[self.satellite[window]].discard(window)
        waiting = {w for w in candidates - over if w not in self.usable_from}
        while True:
            possible = [w for w in waiting if self._usable(w, paused, now) < self.end[w]]
            if not possible:
                return
            window = min(possible, key=lambda w: self._rank(w, paused, now))
            waiting.remove(window)
            usable_s = self._usable(window, paused, now)
            paused.pop(window, None)
            site, satellite = self.site[window], self.satellite[window]
            self.antennas[site].remove(min(self.antennas[site]))
            self.beams[satellite] -= 1
            self.next_site[satellite] = (site + 1) % self.num_sites
            self.usable_from[window] = usable_s
            until = self.end[window]
            if self.settings.dwell_s is not None:
                until = min(until, now + self.settings.dwell_s)
            heapq.heappush(self.agenda, (until, window))

    def _usable(self, window: int, paused: dict[int, float], now: float) -> float:
        """Return the first usable moment of a contact that is begun now; infinity if impossible."""
        idle = self.antennas[self.site[window]]
        if not idle or not self.beams[self.satellite[window]]:
            return inf
        if window in paused:
            return paused[window]
        ready = max(now, min(idle) + self.settings.handover_s)
        return ready + self.settings.acquisition_s

    def _rank(self, window: int, paused: dict[int, float], now: float) -> tuple[float, ...]:
        site = self.site[window]
        if self.settings.policy is Policy.HIGHEST_ELEVATION:
            return (-self.elevation(window, now), window)
        if self.settings.policy is Policy.ROUND_ROBIN:
            return ((site - self.next_site[self.satellite[window]]) % self.num_sites, window)
        return (self.last_served[site], window not in paused, -self.end[window], window)
