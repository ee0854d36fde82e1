"""Contacts as rows for people and scripts: CSV and JSON with rise, set and highest elevation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

import numpy as np

from emsfl.orbit.allocation import Slot
from emsfl.orbit.contacts import Windows
from emsfl.orbit.formats import iso_utc
from emsfl.orbit.links import look
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.sites import Site


@dataclass(frozen=True, slots=True)
class ContactRow:
    """One contact between a site and a satellite, in both directions."""

    site: str
    satellite: str
    rise_utc: str
    """ISO 8601, milliseconds, `Z`."""
    set_utc: str
    duration_s: float
    max_elevation_deg: float
    clipped: bool
    """Cut by the start or end of the search."""


def contact_rows(
    slots: Sequence[Slot],
    windows: Windows,
    satellites: Sequence[Satellite],
    sites: Sequence[Site],
    epoch: datetime,
    duration_s: float,
) -> list[ContactRow]:
    """Return one row per slot, in order of rise, site, satellite."""
    rows = []
    for slot in sorted(slots, key=lambda s: (s.start_s, int(windows.site[s.window]), s.window)):
        window = slot.window
        satellite, site = satellites[windows.satellite[window]], sites[windows.site[window]]
        at_ends = slot.start_s <= 0 or slot.end_s >= duration_s
        highest_deg = float(windows.max_elevation_deg[window])
        if not slot.start_s <= windows.peak_s[window] <= slot.end_s:
            ends = np.array([slot.start_s, slot.end_s])
            highest_deg = float(look(satellite, site, epoch, ends).elevation_deg.max())
        rows.append(
            ContactRow(
                site=site.name,
                satellite=satellite.name,
                rise_utc=iso_utc(epoch + timedelta(seconds=slot.start_s)),
                set_utc=iso_utc(epoch + timedelta(seconds=slot.end_s)),
                duration_s=round(slot.end_s - slot.start_s, 3),
                max_elevation_deg=round(highest_deg, 3),
                clipped=bool(windows.clipped[window]) and at_ends,
            )
        )
    return rows


def rows_to_csv(rows: Iterable[ContactRow]) -> str:
    """Return a CSV text with a header; `clipped` is true or false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(ContactRow))
    for row in rows:
        cells = asdict(row)
        writer.writerow([*list(cells.values())[:-1], str(row.clipped).lower()])
    return text.getvalue()


def rows_to_json(rows: Iterable[ContactRow]) -> str:
    """Return a JSON array of objects."""
    return json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
