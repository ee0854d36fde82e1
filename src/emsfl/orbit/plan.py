"""The contact plan: every contact with its rates, as columns, with exact integrals.

A contact is directed: what a site sends to a satellite and what it receives are two contacts. Its
rate profile is a step function: segment i runs from `segment_start_s[i]` to the next segment's
start, or to the contact's end. Bits add up linearly inside a segment, so `bits` and `finish_time`
are exact to rounding. Times are seconds from the plan's epoch.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
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
        number = self._site(site)
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

    def bits(self, site: str, direction: Direction, start_s: float, end_s: float) -> float:
        """Return the bits that `site` can send ("up") or receive ("down") between two times."""
        if not start_s <= end_s:
            raise ValueError(f"bits from {start_s} s to {end_s} s: the end lies before the start")
        capacity = self._capacity(site, direction)
        return capacity.bits_until(end_s) - capacity.bits_until(start_s)

    def finish_time(
        self, site: str, direction: Direction, start_s: float, num_bytes: float
    ) -> float:
        """Return when the last of `num_bytes` has been sent; infinity if the plan ends before.

        What does not fit into one contact resumes in the next; contacts that overlap carry bits
        side by side. Propagation delay is not included (see `delay_s`).
        """
        return self._capacity(site, direction).finish_s(start_s, 8 * num_bytes)

    def statistics(self) -> list[ContactStatistics]:
        """Return one row per site, in the order of `sites`."""
        return [self._statistics_of(site) for site in self.sites]

    def _statistics_of(self, site: str) -> ContactStatistics:
        contacts = self.contacts(site)
        days = self.duration_s / 86400
        # Contacts may overlap where a site has several antennas: gaps count between unions.
        gaps = []
        busy_until, ends = 0.0, 0.0
        for contact in contacts:
            if contact.start_s > busy_until:
                gaps.append(contact.start_s - busy_until)
            busy_until = max(busy_until, contact.end_s)
        ends = self.duration_s - busy_until
        inner = gaps[1:] if contacts and contacts[0].start_s > 0 else gaps
        return ContactStatistics(
            site=site,
            contacts_per_day=len(contacts) / days,
            mean_duration_s=float(np.mean([c.end_s - c.start_s for c in contacts]))
            if contacts
            else 0.0,
            mean_gap_s=float(np.mean(inner)) if inner else None,
            longest_gap_s=max([*gaps, ends]),
            uplink_bits_per_day=self.bits(site, "up", 0.0, self.duration_s) / days,
            downlink_bits_per_day=self.bits(site, "down", 0.0, self.duration_s) / days,
        )

    def _site(self, site: str) -> int:
        if site not in self.sites:
            raise UserError(f"the plan has no site {site!r}; it has {', '.join(self.sites)}")
        return self.sites.index(site)

    @cached_property
    def _capacities(self) -> dict[tuple[int, Direction], Capacity]:
        return {}

    def _capacity(self, site: str, direction: Direction) -> Capacity:
        key = (self._site(site), direction)
        if key not in self._capacities:
            column = self.source if direction == "up" else self.destination
            self._capacities[key] = self._sum(np.flatnonzero(column == key[0]))
        return self._capacities[key]

    def _sum(self, chosen: NDArray[np.intp]) -> Capacity:
        """Return the capacity of the chosen contacts together."""
        lengths = (self.offset[1:] - self.offset[:-1])[chosen]
        segments = np.concatenate(
            [np.arange(self.offset[c], self.offset[c + 1]) for c in chosen]
            or [np.empty(0, dtype=np.intp)]
        )
        starts = self.segment_start_s[segments]
        ends = np.append(starts[1:], np.inf)
        last = np.cumsum(lengths) - 1
        ends[last[lengths > 0]] = self.end_s[chosen]
        return Capacity.of(starts, ends[: len(starts)], self.rate_bps[segments])

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
