"""From an `OrbitConfig` to its contact plan: satellites, windows, allocation, rates."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emsfl.errors import ConfigError, InfeasibleError
from emsfl.files import sha256_of
from emsfl.orbit.allocation import Elevation, Slot, allocate
from emsfl.orbit.config import InterSatelliteConfig, LinkConfig, OrbitConfig, Placement
from emsfl.orbit.contacts import Windows, find_windows
from emsfl.orbit.earth_rotation import ut1_minus_utc_s
from emsfl.orbit.elements import read_elements
from emsfl.orbit.ephemeris import Floats, julian_date
from emsfl.orbit.intersatellite import find_inter_satellite_windows, range_between
from emsfl.orbit.links import SPEED_OF_LIGHT_KM_S, look, profile, segment_edges
from emsfl.orbit.plan import PLAN_SCHEMA_VERSION, ContactPlan
from emsfl.orbit.satellite import Satellite, elements_hash
from emsfl.orbit.search import EDGE_TOLERANCE_S
from emsfl.orbit.sites import Site
from emsfl.orbit.walker import PRESETS, walker_satellites

BUILD_VERSION = 1
"""Raised when the same config would give another plan, so that cached plans are made anew."""


class Row(NamedTuple):
    """One directed contact, before all are laid out as columns."""

    source: int
    destination: int
    start_s: float
    end_s: float
    segment_start_s: Floats
    rate_bps: Floats
    delay_s: Floats


def load_satellites(config: OrbitConfig) -> list[Satellite]:
    """Return the satellites of the scenario's constellation."""
    constellation = config.constellation
    if constellation.elements is not None:
        return read_elements(constellation.elements)
    shells = PRESETS[constellation.preset] if constellation.preset else constellation.walker
    assert shells is not None
    return walker_satellites(shells if isinstance(shells, tuple) else (shells,), config.start)


def make_plan(config: OrbitConfig, cache_dir: Path | str | None = None) -> ContactPlan:
    """Return the contact plan of a scenario.

    A plan made before from the same settings and the same elements is read from `cache_dir`
    instead of being computed again.

    Args:
        config: the scenario.
        cache_dir: folder of cached plans, made where missing; None computes anew.

    Raises:
        DataError: elements that are missing, malformed, or decayed by the plan's end.
        ConfigError: the server's satellite is not in the constellation.
        InfeasibleError: a site without a single usable contact.
    """
    satellites = load_satellites(config)
    elements = elements_hash(satellites)
    if cache_dir is None:
        return _build(config, satellites, elements)
    settings = config.model_dump(mode="json", exclude={"constellation"})
    turned_s = float(ut1_minus_utc_s(*map(np.array, julian_date(config.start))))
    key = sha256_of([BUILD_VERSION, PLAN_SCHEMA_VERSION, elements, settings, turned_s])
    path = Path(cache_dir) / f"plan-{key[:24]}.npz"
    if path.exists():
        return ContactPlan.load(path)
    plan = _build(config, satellites, elements)
    plan.save(path)
    return plan


def _build(config: OrbitConfig, satellites: list[Satellite], elements: str) -> ContactPlan:
    satellites = _with_server(config, satellites)
    sites = [Site(**site.model_dump()) for site in config.sites]
    require_own_names(satellites, sites)
    duration_s = config.hours * 3600
    windows = find_windows(satellites, sites, config.start, duration_s, config.min_elevation_deg)

    elevation = elevation_of(windows, satellites, sites, config.start)
    slots = allocate(windows, config.allocation, elevation)
    _require_contacts(config, windows, slots)
    links = config.inter_satellite
    return assemble(
        slots,
        windows,
        satellites,
        sites,
        config.start,
        duration_s,
        config.link,
        {
            "elements_hash": elements,
            **config.model_dump(mode="json", exclude={"start", "hours", "constellation", "sites"}),
        },
        between_satellites(links, satellites, len(sites), config.start, duration_s)
        if links
        else (),
    )


def require_own_names(satellites: Sequence[Satellite], sites: Sequence[Site]) -> None:
    """Raise a ConfigError where a site and a satellite share a name: plans know nodes by name."""
    shared = {site.name for site in sites} & {satellite.name for satellite in satellites}
    if shared:
        raise ConfigError(f"{min(shared)!r} names a site and a satellite; rename the site")


def elevation_of(
    windows: Windows, satellites: Sequence[Satellite], sites: Sequence[Site], epoch: datetime
) -> Elevation:
    """Return the function that tells a window's elevation (deg) at a time (s)."""

    def elevation(window: int, time_s: float) -> float:
        satellite, site = satellites[windows.satellite[window]], sites[windows.site[window]]
        return float(look(satellite, site, epoch, np.array([time_s])).elevation_deg[0])

    return elevation


def _with_server(config: OrbitConfig, satellites: list[Satellite]) -> list[Satellite]:
    """Return the satellites that can reach the parameter server."""
    if config.server.placement is Placement.CONSTELLATION:
        return satellites
    name = config.server.satellite
    chosen = [satellite for satellite in satellites if satellite.name == name]
    if not chosen:
        near = difflib.get_close_matches(str(name), [s.name for s in satellites], n=1, cutoff=0.0)
        raise ConfigError(
            f"server.satellite = {name!r} is not in the constellation; did you mean {near[0]!r}?"
        )
    return chosen


def _require_contacts(config: OrbitConfig, windows: Windows, slots: list[Slot]) -> None:
    seen = {int(site) for site in windows.site}
    served = {int(windows.site[slot.window]) for slot in slots}
    for index, site in enumerate(config.sites):
        if index not in seen:
            raise InfeasibleError(
                f"site {site.name!r} sees no satellite above {config.min_elevation_deg:g} deg in "
                f"{config.hours:g} h; lower min_elevation_deg, move the site or add satellites"
            )
        if index not in served:
            raise InfeasibleError(
                f"site {site.name!r} sees satellites but gets no contact; "
                "give the allocation more beams, a dwell_s or shorter guard times"
            )


def assemble(
    slots: Sequence[Slot],
    windows: Windows,
    satellites: Sequence[Satellite],
    sites: Sequence[Site],
    epoch: datetime,
    duration_s: float,
    link: LinkConfig,
    settings: Mapping[str, Any],
    others: Sequence[Row] = (),
) -> ContactPlan:
    """Put rates and delays on slots and lay them out as a plan.

    Args:
        slots: contacts that can be used, from `allocate` or `every_window`.
        windows: what the slots refer to.
        satellites: what the windows refer to.
        sites: what the windows refer to.
        epoch: second 0.
        duration_s: of the plan.
        link: what a contact carries.
        settings: kept in the plan's header.
        others: further contacts, such as those between satellites.
    """
    rows = list(others)
    for slot in slots:
        site, satellite = int(windows.site[slot.window]), int(windows.satellite[slot.window])
        sent = profile(link, satellites[satellite], sites[site], epoch, slot.start_s, slot.end_s)
        node = len(sites) + satellite
        shared = (slot.start_s, slot.end_s, sent.start_s)
        rows.append(Row(site, node, *shared, sent.up_bps, sent.delay_s))
        rows.append(Row(node, site, *shared, sent.down_bps, sent.delay_s))
    rows.sort(key=lambda row: (row.start_s, row.source, row.destination))
    return ContactPlan(
        epoch_utc=epoch,
        duration_s=duration_s,
        sites=tuple(site.name for site in sites),
        satellites=tuple(satellite.name for satellite in satellites),
        source=np.array([row.source for row in rows], dtype=np.int32),
        destination=np.array([row.destination for row in rows], dtype=np.int32),
        start_s=np.array([row.start_s for row in rows]),
        end_s=np.array([row.end_s for row in rows]),
        offset=np.cumsum([0, *(len(row.rate_bps) for row in rows)], dtype=np.int32),
        segment_start_s=_join([row.segment_start_s for row in rows]),
        rate_bps=_join([row.rate_bps for row in rows]),
        delay_s=_join([row.delay_s for row in rows]),
        settings={"edge_tolerance_s": EDGE_TOLERANCE_S, **settings},
    )


def _join(columns: list[Floats]) -> Floats:
    return np.concatenate(columns) if columns else np.empty(0)


def between_satellites(
    links: InterSatelliteConfig,
    satellites: Sequence[Satellite],
    num_sites: int,
    epoch: datetime,
    duration_s: float,
) -> list[Row]:
    """Return the contacts of all pairs of satellites, both directions, for `assemble`.

    Raises:
        DataError: a satellite that SGP4 cannot propagate over the search.
    """
    windows = find_inter_satellite_windows(
        satellites,
        list(combinations(range(len(satellites)), 2)),
        epoch,
        duration_s,
        links.max_range_km,
        links.limb_altitude_km,
    )
    pairs = np.stack([windows.first, windows.second], axis=1)
    bounds = np.flatnonzero(np.any(np.diff(pairs, axis=0, prepend=-1, append=-1) != 0, axis=1))
    rows = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        one, other = (int(node) for node in pairs[begin])
        starts_s, ends_s = windows.start_s[begin:end].tolist(), windows.end_s[begin:end].tolist()
        spans = list(zip(starts_s, ends_s, strict=True))
        edges = [segment_edges(*span) for span in spans]
        middles = [(cuts[:-1] + cuts[1:]) / 2 for cuts in edges]
        range_km = range_between(satellites[one], satellites[other], epoch, np.concatenate(middles))
        delays_s = np.split(
            range_km / SPEED_OF_LIGHT_KM_S, np.cumsum([len(m) for m in middles])[:-1]
        )
        for span, cuts, delay_s in zip(spans, edges, delays_s, strict=True):
            rates = np.full(len(delay_s), links.rate_bps)
            for source, destination in ((one, other), (other, one)):
                nodes = (num_sites + source, num_sites + destination)
                rows.append(Row(*nodes, *span, cuts[:-1], rates, delay_s))
    return rows
