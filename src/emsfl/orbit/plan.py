"""The contact plan: every contact with its rates, as columns, with exact integrals.

A contact is directed: what a site sends to a satellite and what it receives are two contacts. Its
rate profile is a step function: segment i runs from `segment_start_s[i]` to the next segment's
start, or to the contact's end. Bits add up linearly inside a segment, so `bits` and `finish_time`
are exact to rounding. Times are seconds from the plan's epoch.
"""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError, UserError
from emsfl.files import atomic_path, canonical_json, sha256_of
from emsfl.orbit.capacity import Capacity

Floats = NDArray[np.float64]
Integers = NDArray[np.int32]
Direction = Literal["up", "down"]

PLAN_SCHEMA_VERSION = 1
"""Raised when a column or header field changes its meaning; readers refuse newer numbers."""

COLUMNS = (
    "source",
    "destination",
    "start_s",
    "end_s",
    "offset",
    "segment_start_s",
    "rate_bps",
    "delay_s",
)


@dataclass(frozen=True, slots=True)
class Contact:
    """One interval in which a site and a satellite can exchange bits."""

    site: str
    satellite: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class DirectedContact:
    """One interval in which `source` can send to `destination`."""

    source: str
    destination: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ContactStatistics:
    """How often one site is in contact."""

    site: str
    contacts_per_day: float
    mean_duration_s: float
    mean_gap_s: float | None
    """Mean time between the end of a contact and the next start; None below two contacts."""
    longest_gap_s: float
    """The ends of the plan count."""
    uplink_bits_per_day: float
    downlink_bits_per_day: float


@dataclass(frozen=True, eq=False)
class ContactPlan:
    """All contacts of a scenario: C directed contacts with M profile segments in total."""

    epoch_utc: datetime
    """Second 0 of the plan."""
    duration_s: float
    sites: tuple[str, ...]
    satellites: tuple[str, ...]
    source: Integers
    """(C,) node numbers: sites first, then satellites, in the order of their names above."""
    destination: Integers
    """(C,)."""
    start_s: Floats
    """(C,) ascending."""
    end_s: Floats
    """(C,)."""
    offset: Integers
    """(C + 1,) the segments of contact c are offset[c] to offset[c + 1] - 1."""
    segment_start_s: Floats
    """(M,) the first of each contact equals its start."""
    rate_bps: Floats
    """(M,)."""
    delay_s: Floats
    """(M,) one-way propagation delay."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What made the plan: element set hash, mask, link, allocation, tolerance."""

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, by node number."""
        return self.sites + self.satellites

    def __len__(self) -> int:
        return len(self.start_s)

    def contacts(self, site: str) -> list[Contact]:
        """Return the contacts of `site` in time order; both directions of a pass count once."""
        number = self.number_of(site)
        chosen = np.flatnonzero((self.source == number) | (self.destination == number))
        nodes = self.nodes
        found = dict.fromkeys(
            (
                float(self.start_s[c]),
                float(self.end_s[c]),
                nodes[max(self.source[c], self.destination[c])],
            )
            for c in chosen
        )
        return [Contact(site, name, start, end) for start, end, name in sorted(found)]

    def next_contact(self, node: str, time_s: float) -> DirectedContact | None:
        """Return the contact of `node` that starts first among those not over at `time_s`."""
        number = self.number_of(node)
        mine = (self.source == number) | (self.destination == number)
        rows = np.flatnonzero(mine & (self.end_s > time_s))
        return self._directed(int(rows[0])) if len(rows) else None

    def active(self, time_s: float) -> list[DirectedContact]:
        """Return the contacts that have begun and are not over at `time_s`."""
        begun = int(np.searchsorted(self.start_s, time_s, side="right"))
        return [self._directed(int(c)) for c in np.flatnonzero(self.end_s[:begun] > time_s)]

    def events(self) -> Iterator[tuple[float, Literal["start", "end"], DirectedContact]]:
        """Yield starts and ends in time order; at one moment ends come before starts."""
        count = len(self)
        times = np.concatenate([self.end_s, self.start_s])
        for index in np.lexsort((np.arange(2 * count), times)):
            kind: Literal["start", "end"] = "end" if index < count else "start"
            yield float(times[index]), kind, self._directed(int(index % count))

    def bits(self, site: str, direction: Direction, start_s: float, end_s: float) -> float:
        """Return the bits that `site` can send ("up") or receive ("down") between two times."""
        if not start_s <= end_s:
            raise ValueError(f"bits from {start_s} s to {end_s} s: the end lies before the start")
        capacity = self._of_site(site, direction)
        return capacity.bits_until(end_s) - capacity.bits_until(start_s)

    def finish_time(
        self, site: str, direction: Direction, start_s: float, num_bytes: float
    ) -> float:
        """Return when the last of `num_bytes` has been sent; infinity if the plan ends before.

        What does not fit into one contact resumes in the next; contacts that overlap carry bits
        side by side. Propagation delay is not included (see `delay_s`).
        """
        return self._of_site(site, direction).finish_s(start_s, 8 * num_bytes)

    def capacity(self, source: str | None = None, destination: str | None = None) -> Capacity:
        """Return the rate over time of all contacts from `source` to `destination` together.

        Args:
            source: name of a node; None is any.
            destination: name of a node; None is any.
        """
        key = (
            -1 if source is None else self.number_of(source),
            -1 if destination is None else self.number_of(destination),
        )
        if key not in self._capacities:
            chosen = np.ones(len(self), dtype=np.bool_)
            for column, node in zip((self.source, self.destination), key, strict=True):
                if node >= 0:
                    chosen &= column == node
            self._capacities[key] = self._sum(np.flatnonzero(chosen))
        return self._capacities[key]

    def statistics(self) -> list[ContactStatistics]:
        """Return one row per site, in the order of `sites`."""
        return [statistics_of(self, site) for site in self.sites]

    def segment_end_s(self) -> Floats:
        """Return the (M,) ends of the profile segments."""
        ends = np.empty_like(self.segment_start_s)
        ends[:-1] = self.segment_start_s[1:]
        ends[self.offset[1:] - 1] = self.end_s
        return ends

    def _directed(self, row: int) -> DirectedContact:
        return DirectedContact(
            self.nodes[self.source[row]],
            self.nodes[self.destination[row]],
            float(self.start_s[row]),
            float(self.end_s[row]),
        )

    def _of_site(self, site: str, direction: Direction) -> Capacity:
        if direction == "up":
            return self.capacity(source=site)
        return self.capacity(destination=site)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes)}

    def number_of(self, name: str) -> int:
        """Return the number of a node, as in `source` and `destination`."""
        if name not in self._numbers:
            near = difflib.get_close_matches(name, self.nodes, n=1, cutoff=0.0)
            raise UserError(f"the plan has no node {name!r}; did you mean {near[0]!r}?")
        return self._numbers[name]

    @cached_property
    def _capacities(self) -> dict[tuple[int, int], Capacity]:
        return {}

    def _sum(self, chosen: NDArray[np.intp]) -> Capacity:
        """Return the capacity of the chosen contacts together."""
        of_contact = np.repeat(np.arange(len(self)), np.diff(self.offset))
        segments = np.isin(of_contact, chosen)
        return Capacity.of(
            self.segment_start_s[segments],
            self.segment_end_s()[segments],
            self.rate_bps[segments],
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of everything in the plan."""
        return sha256_of(self._header(), *(getattr(self, name) for name in COLUMNS))

    def _header(self) -> dict[str, Any]:
        return {
            "schema_version": PLAN_SCHEMA_VERSION,
            "epoch_utc": self.epoch_utc.isoformat(),
            "duration_s": self.duration_s,
            "sites": list(self.sites),
            "satellites": list(self.satellites),
            "settings": dict(self.settings),
        }

    def save(self, path: Path | str) -> None:
        """Write the plan to `path`, atomically: a NumPy archive with a JSON header."""
        header = canonical_json(self._header() | {"hash": self.hash})
        columns = {name: getattr(self, name) for name in COLUMNS}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, header=np.frombuffer(header.encode(), dtype=np.uint8), **columns
            )

    @classmethod
    def load(cls, path: Path | str) -> ContactPlan:
        """Read a plan that `save` wrote.

        Raises:
            DataError: no such file, not a plan, a newer schema, or a hash that does not match.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                header = json.loads(bytes(archive["header"]))
                columns = {name: archive[name] for name in COLUMNS}
        except FileNotFoundError:
            raise DataError(f"contact plan {path} does not exist; check the path") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a contact plan of emsfl: {error}") from None
        if header["schema_version"] > PLAN_SCHEMA_VERSION:
            raise DataError(
                f"contact plan {path} has schema {header['schema_version']}; this emsfl reads up "
                f"to {PLAN_SCHEMA_VERSION}: upgrade emsfl"
            )
        plan = cls(
            epoch_utc=datetime.fromisoformat(header["epoch_utc"]),
            duration_s=header["duration_s"],
            sites=tuple(header["sites"]),
            satellites=tuple(header["satellites"]),
            settings=header["settings"],
            **columns,
        )
        if plan.hash != header["hash"]:
            raise DataError(f"contact plan {path} is damaged: its content has another hash")
        return plan

    def utc(self, time_s: float) -> datetime:
        """Return the UTC time of second `time_s`."""
        return self.epoch_utc + timedelta(seconds=time_s)


def statistics_of(plan: ContactPlan, site: str) -> ContactStatistics:
    """Return how often `site` is in contact; gaps are those of all its antennas together."""
    contacts = plan.contacts(site)
    days = plan.duration_s / 86400
    gaps: list[float] = []
    busy_until = 0.0
    for contact in contacts:
        if contact.start_s > busy_until:
            gaps.append(contact.start_s - busy_until)
        busy_until = max(busy_until, contact.end_s)
    between = gaps[1:] if contacts and contacts[0].start_s > 0 else gaps
    durations = [contact.end_s - contact.start_s for contact in contacts]
    return ContactStatistics(
        site=site,
        contacts_per_day=len(contacts) / days,
        mean_duration_s=float(np.mean(durations)) if durations else 0.0,
        mean_gap_s=float(np.mean(between)) if between else None,
        longest_gap_s=max([*gaps, plan.duration_s - busy_until]),
        uplink_bits_per_day=plan.bits(site, "up", 0.0, plan.duration_s) / days,
        downlink_bits_per_day=plan.bits(site, "down", 0.0, plan.duration_s) / days,
    )
