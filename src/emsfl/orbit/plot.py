"""Draw contacts: a timeline by site, and a map of sites and ground tracks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path

import numpy as np

from emsfl.errors import UserError
from emsfl.files import atomic_path
from emsfl.orbit.allocation import Slot
from emsfl.orbit.contacts import Windows
from emsfl.orbit.ephemeris import Floats, earth_fixed
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.sites import Site

_FULL_TRACKS = 6
"""Up to so many satellites are drawn with their whole track, more only while in contact."""
_FORMATS = (".png", ".svg", ".pdf")
_STEP_S = 30.0


def plot_contacts(
    path: Path | str,
    slots: Sequence[Slot],
    windows: Windows,
    satellites: Sequence[Satellite],
    sites: Sequence[Site],
    epoch: datetime,
    duration_s: float,
) -> None:
    """Write the picture to `path`; its ending (.png, .svg, .pdf) decides the format.

    Raises:
        UserError: another ending, or matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"cannot draw to {path.name!r}; give a name in {', '.join(_FORMATS)}")
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'emsfl[plot]'") from None

    used = sorted({int(windows.satellite[slot.window]) for slot in slots})
    colors = {
        satellite: colormaps["turbo"](0.05 + 0.9 * place / max(1, len(used) - 1))
        for place, satellite in enumerate(used)
    }
    figure = Figure(figsize=(11, 6.4 + 0.22 * len(sites)), layout="constrained")
    world, timeline = figure.subplots(
        2, 1, gridspec_kw={"height_ratios": [5.2, 1.2 + 0.22 * len(sites)]}
    )
    for line in _coastlines():
        world.plot(line[:, 0], line[:, 1], color="0.6", linewidth=0.6, zorder=1)
    if len(used) <= _FULL_TRACKS:
        times_s = np.arange(0, duration_s + _STEP_S, _STEP_S)
        for satellite in used:
            track = _track(satellites[satellite], epoch, times_s)
            color = colors[satellite]
            world.plot(*track, color=color, linewidth=0.4, alpha=0.5, zorder=2)
    labelled: set[int] = set()
    for slot in slots:
        satellite = int(windows.satellite[slot.window])
        count = max(3, int((slot.end_s - slot.start_s) / _STEP_S))
        track = _track(satellites[satellite], epoch, np.linspace(slot.start_s, slot.end_s, count))
        name = satellites[satellite].name if satellite not in labelled else None
        labelled.add(satellite)
        world.plot(*track, color=colors[satellite], linewidth=1.5, zorder=3, label=name)
    for slot, (lane, lanes) in zip(slots, _lanes(slots, windows), strict=True):
        bar = (slot.start_s / 3600, (slot.end_s - slot.start_s) / 3600)
        rows = (int(windows.site[slot.window]) - 0.4 + 0.8 * lane / lanes, 0.8 / lanes)
        color = colors[int(windows.satellite[slot.window])]
        timeline.broken_barh([bar], rows, facecolors=color, linewidth=0)
    longitudes = [(site.longitude_deg + 180) % 360 - 180 for site in sites]
    latitudes = [site.latitude_deg for site in sites]
    world.plot(longitudes, latitudes, "o", color="black", markersize=4, zorder=4)
    for place, longitude in zip(sites, longitudes, strict=True):
        world.annotate(
            place.name,
            (longitude, place.latitude_deg),
            (-5 if longitude > 120 else 5, -5 if place.latitude_deg > 0 else 5),
            textcoords="offset points",
            horizontalalignment="right" if longitude > 120 else "left",
            verticalalignment="top" if place.latitude_deg > 0 else "bottom",
            size=7,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
    world.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    world.set(xticks=range(-180, 181, 60), yticks=range(-90, 91, 30))
    world.set(xlabel="longitude (deg)", ylabel="latitude (deg)")
    world.set_title("Ground tracks while in contact")
    if 0 < len(used) <= 12:
        world.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    timeline.set(xlim=(0, duration_s / 3600), ylim=(-0.6, len(sites) - 0.4))
    timeline.set_yticks(range(len(sites)), [site.name for site in sites], size=7)
    timeline.invert_yaxis()
    timeline.grid(axis="x", linewidth=0.3)
    timeline.set_xlabel(f"hours since {epoch:%Y-%m-%d %H:%M} UTC")
    timeline.set_title("Contacts")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)


def _lanes(slots: Sequence[Slot], windows: Windows) -> list[tuple[int, int]]:
    """Return (lane, lanes of its site) per slot: contacts at the same time lie beside each other.

    A lane is free again when its contact has ended; lanes are shared over the whole timeline.
    """
    free_s: dict[int, list[float]] = {}
    taken = [0] * len(slots)
    for row in sorted(range(len(slots)), key=lambda row: slots[row].start_s):
        ends_s = free_s.setdefault(int(windows.site[slots[row].window]), [])
        lane = next((i for i, end in enumerate(ends_s) if end <= slots[row].start_s), len(ends_s))
        ends_s[lane : lane + 1] = [slots[row].end_s]
        taken[row] = lane
    counts = (len(free_s[int(windows.site[slot.window])]) for slot in slots)
    return list(zip(taken, counts, strict=True))


def _coastlines() -> list[Floats]:
    """Return outlines of land as (N, 2) longitudes and latitudes in degrees."""
    text = resources.files("emsfl.orbit").joinpath("data/coastline_110m.json").read_text("utf-8")
    return [np.array(line).reshape(-1, 2) for line in json.loads(text)["lines"]]


def _track(satellite: Satellite, epoch: datetime, times_s: Floats) -> tuple[Floats, Floats]:
    """Return longitude and geocentric latitude below the satellite, broken at the date line."""
    position = earth_fixed([satellite.satrec], epoch, times_s)
    x, y, z = position[0].T
    longitude = np.degrees(np.arctan2(y, x))
    latitude = np.degrees(np.arctan2(z, np.hypot(x, y)))
    jumps = np.flatnonzero(np.abs(np.diff(longitude)) > 180) + 1
    return np.insert(longitude, jumps, np.nan), np.insert(latitude, jumps, np.nan)
