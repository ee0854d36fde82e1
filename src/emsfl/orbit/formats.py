"""Contact plans for other programs: ION, dtn-tvg-util, CSV; ION is read back.

ION counts whole seconds and bytes per second, dtn-tvg-util bits per second; both list each
direction for itself.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from math import ceil, floor
from pathlib import Path

import numpy as np

from emsfl.errors import DataError
from emsfl.orbit.elements import read_text
from emsfl.orbit.plan import ContactPlan

_ION_NODE = re.compile(r"#\s*node (\d+) (site|satellite) (.+)")
_ION_DURATION = re.compile(r"#\s*duration_s ([\d.]+)")


def to_ion(plan: ContactPlan) -> str:
    """Return the plan as commands for ION's `ionadmin`.

    Nodes are numbered from 1, sites first; comments name them. Starts are rounded up and ends
    down, so that no contact is longer than it is; each carries its mean rate, rounded down, in
    bytes per second. Contacts shorter than a second after rounding are left out. Ranges are given
    once a pair, lower number first as ION expects, in light seconds rounded up.

    Source: ION-DTN, ionrc(5).
    """
    lines = [f"# duration_s {plan.duration_s:.6f}"]
    for number, name in enumerate(plan.nodes, start=1):
        kind = "site" if number <= len(plan.sites) else "satellite"
        lines.append(f"# node {number} {kind} {name}")
    lines.append(f"@ {plan.epoch_utc:%Y/%m/%d-%H:%M:%S}")
    bits = _bits(plan)
    ranges = []
    for row in range(len(plan)):
        start, end = ceil(plan.start_s[row]), floor(plan.end_s[row])
        if end <= start:
            continue
        source, destination = int(plan.source[row]) + 1, int(plan.destination[row]) + 1
        rate = floor(bits[row] / 8 / (plan.end_s[row] - plan.start_s[row]))
        lines.append(f"a contact +{start} +{end} {source} {destination} {rate}")
        if source < destination:
            far = plan.delay_s[plan.offset[row] : plan.offset[row + 1]].max()
            ranges.append(f"a range +{start} +{end} {source} {destination} {ceil(far)}")
    return "\n".join(lines + ranges) + "\n"


def _bits(plan: ContactPlan) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the (C,) bits that each contact carries."""
    carried = plan.rate_bps * (plan.segment_end_s() - plan.segment_start_s)
    return np.add.reduceat(np.append(carried, 0.0), plan.offset[:-1])[: len(plan)]


def read_ion(
    path: Path | str, epoch_utc: datetime | None = None, sites: Collection[str] = ()
) -> ContactPlan:
    """Read the contacts and ranges of an ION file, one constant rate each.

    Nodes are named as the comments of `to_ion` say, otherwise by their numbers; those in `sites`
    are sites, all others satellites.

    Args:
        path: a file with `a contact` and `a range` commands; other commands are passed over.
        epoch_utc: second 0 of relative times, where the file does not set it with `@`.
        sites: node numbers (as text) of sites, for files without names.

    Raises:
        DataError: no such file, no contacts, times without an epoch, or a malformed command
            (named by file and line).
    """
    path = Path(path)
    names: dict[str, str] = {}
    grounded = set(sites)
    contacts: list[tuple[float, float, str, str, float]] = []
    ranges: list[tuple[float, float, str, str, float]] = []
    duration_s = 0.0
    for number, line in enumerate(read_text(path, "ION file").splitlines(), start=1):
        words = line.split()
        if node := _ION_NODE.fullmatch(line.strip()):
            names[node[1]] = node[3]
            if node[2] == "site":
                grounded.add(node[1])
        elif duration := _ION_DURATION.fullmatch(line.strip()):
            duration_s = float(duration[1])
        elif words[:1] == ["@"] and len(words) == 2:
            epoch_utc = _ion_date(f"{path}:{number}", words[1])
        elif words[:2] in (["a", "contact"], ["a", "range"]):
            row = _ion_row(f"{path}:{number}", words, epoch_utc)
            (contacts if words[1] == "contact" else ranges).append(row)
    if not contacts:
        raise DataError(f"ION file {path} holds no 'a contact' command")
    if epoch_utc is None:
        raise DataError(f"ION file {path} sets no reference time with '@'; give epoch_utc")
    numbers = sorted({node for row in contacts for node in row[2:4]} | set(names), key=_natural)
    ground = [node for node in numbers if node in grounded]
    space = [node for node in numbers if node not in grounded]
    index = {node: place for place, node in enumerate(ground + space)}
    contacts.sort(key=lambda row: (row[0], index[row[2]], index[row[3]]))
    starts = np.array([row[0] for row in contacts])
    ends = np.array([row[1] for row in contacts])
    return ContactPlan(
        epoch_utc=epoch_utc,
        duration_s=duration_s or float(ends.max()),
        sites=tuple(names.get(node, node) for node in ground),
        satellites=tuple(names.get(node, node) for node in space),
        source=np.array([index[row[2]] for row in contacts], dtype=np.int32),
        destination=np.array([index[row[3]] for row in contacts], dtype=np.int32),
        start_s=starts,
        end_s=ends,
        offset=np.arange(len(contacts) + 1, dtype=np.int32),
        segment_start_s=starts,
        rate_bps=np.array([8 * row[4] for row in contacts]),
        delay_s=np.array([_delay(row, ranges) for row in contacts]),
        settings={"read_from": "ION"},
    )


def _natural(node: str) -> tuple[int, str]:
    return (int(node) if node.isdigit() else 0, node)


def _ion_date(where: str, text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise DataError(f"{where}: {text!r} is no time such as 2026/06/21-00:00:00") from None


def _ion_row(
    where: str, words: list[str], epoch_utc: datetime | None
) -> tuple[float, float, str, str, float]:
    if len(words) < 7:
        raise DataError(f"{where}: 'a {words[1]}' needs start, end, two nodes and a value")
    times = []
    for word in words[2:4]:
        if word.startswith("+") and word[1:].replace(".", "", 1).isdigit():
            times.append(float(word))
            continue
        if epoch_utc is None:
            raise DataError(f"{where}: the absolute time {word} needs epoch_utc or '@' before it")
        times.append((_ion_date(where, word) - epoch_utc).total_seconds())
    try:
        value = float(words[6])
    except ValueError:
        raise DataError(f"{where}: {words[6]!r} is no number") from None
    if not (times[1] > times[0] and value >= 0):
        raise DataError(f"{where}: the contact must end after it starts, with a value of 0 or more")
    return times[0], times[1], words[4], words[5], value


def _delay(
    contact: tuple[float, float, str, str, float],
    ranges: list[tuple[float, float, str, str, float]],
) -> float:
    """Return the one-way delay of a contact: ION's ranges hold for both directions."""
    for start, end, one, other, light_s in ranges:
        if {one, other} == set(contact[2:4]) and start <= contact[0] < end:
            return light_s
    return 0.0


def to_tvg(plan: ContactPlan) -> str:
    """Return the plan as a factual time-varying graph of dtn-tvg-util (JSON).

    Times are seconds from the plan's epoch, rates bit/s, delays seconds; every segment of a rate
    profile is one characteristic `[start, bit rate, bit error rate, delay]`.

    Source: dtn-tvg-util 0.1.6, `tvgutil.tvg.from_serializable`, type Contact_v2.
    """
    edges: dict[tuple[str, str], list[object]] = {}
    for row in range(len(plan)):
        own = slice(plan.offset[row], plan.offset[row + 1])
        source, destination = plan.nodes[plan.source[row]], plan.nodes[plan.destination[row]]
        characteristics = [
            [start, rate, 0.0, delay]
            for start, rate, delay in zip(
                plan.segment_start_s[own].tolist(),
                plan.rate_bps[own].tolist(),
                plan.delay_s[own].tolist(),
                strict=True,
            )
        ]
        start_s, end_s = float(plan.start_s[row]), float(plan.end_s[row])
        contact = [source, destination, start_s, end_s, characteristics]
        edges.setdefault((source, destination), []).append(contact)
    neighbours: dict[str, list[str]] = {name: [] for name in plan.nodes}
    for source, destination in edges:
        neighbours[source].append(destination)
    return json.dumps(
        {
            "vertices": neighbours,
            "edges": [{"vertices": list(pair), "contacts": rows} for pair, rows in edges.items()],
            "contact_type": "Contact_v2",
        },
        allow_nan=False,
    )


def to_csv(plan: ContactPlan) -> str:
    """Return one row per directed contact: nodes, UTC times, seconds, bits and mean rate."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("source", "destination", "start_utc", "end_utc", "start_s", "end_s", "bits", "mean_bps")
    )
    bits = _bits(plan)
    for row in range(len(plan)):
        start, end = float(plan.start_s[row]), float(plan.end_s[row])
        writer.writerow(
            (
                plan.nodes[plan.source[row]],
                plan.nodes[plan.destination[row]],
                iso_utc(plan.utc(start)),
                iso_utc(plan.utc(end)),
                f"{start:.3f}",
                f"{end:.3f}",
                f"{bits[row]:.0f}",
                f"{bits[row] / (end - start):.1f}",
            )
        )
    return text.getvalue()


def iso_utc(time: datetime) -> str:
    """Return ISO 8601 UTC with milliseconds (rounded) and `Z`."""
    rounded = time.astimezone(UTC) + timedelta(microseconds=500)
    return rounded.isoformat(timespec="milliseconds").replace("+00:00", "Z")
