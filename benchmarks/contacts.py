"""Time contact finding against skyfield and brahe: python benchmarks/contacts.py.

One run prints: the three on the same pairs of one Walker shell over 24 h; then a constellation of
6,000 satellites over 100 sites in a process of its own, with its peak memory and what the first
call costs (compiled code is read from numba's cache after the first process on a machine). Both
parts use the settings that the accuracy tests use. Needs skyfield and brahe. --quick: fewer pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from rich.console import Console
from rich.table import Table

from emsfl.orbit.config import WalkerConfig
from emsfl.orbit.contacts import find_windows
from emsfl.orbit.satellite import Satellite
from emsfl.orbit.sites import Site
from emsfl.orbit.walker import walker_satellites

EPOCH = datetime(2026, 6, 21, tzinfo=UTC)
DAY_S = 86_400.0
MASK_DEG = 10.0


def sites(count: int) -> list[Site]:
    """Return places spread evenly at random over the globe."""
    generator = np.random.default_rng(0)
    return [
        Site(
            name=f"site {number}",
            latitude_deg=float(np.degrees(np.arcsin(generator.uniform(-1, 1)))),
            longitude_deg=float(generator.uniform(-180, 180)),
        )
        for number in range(count)
    ]


def shell(planes: int, per_plane: int) -> list[Satellite]:
    """Return a shell at 550 km and 53 degrees."""
    config = WalkerConfig(
        num_satellites=planes * per_plane,
        num_planes=planes,
        phasing=1,
        altitude_km=550,
        inclination_deg=53,
    )
    return walker_satellites([config], EPOCH)


def with_emsfl(satellites: list[Satellite], places: list[Site]) -> int:
    """Return the number of windows found."""
    return len(find_windows(satellites, places, EPOCH, DAY_S, MASK_DEG))


def with_skyfield(satellites: list[Satellite], places: list[Site]) -> int:
    """Return the number of rises that `find_events` reports, and windows open at the start."""
    from skyfield.api import EarthSatellite, load, wgs84

    scale = load.timescale(builtin=True)
    begin = scale.from_datetime(EPOCH)
    end = scale.from_datetime(EPOCH + timedelta(seconds=DAY_S))
    count = 0
    for satellite in satellites:
        moving = EarthSatellite.from_satrec(satellite.satrec, scale)
        for site in places:
            ground = wgs84.latlon(site.latitude_deg, site.longitude_deg, site.altitude_m)
            _, events = moving.find_events(ground, begin, end, altitude_degrees=MASK_DEG)
            count += int((events == 0).sum())
            edges = events[events != 1]
            count += int(len(edges) > 0 and edges[0] == 2)
    return count


def with_brahe(satellites: list[Satellite], places: list[Site]) -> int:
    """Return the number of windows that `location_accesses` reports with its own settings."""
    import brahe
    from sgp4.exporter import export_tle

    brahe.set_global_eop_provider(brahe.StaticEOPProvider.from_zero())
    movers = [brahe.SGPPropagator.from_tle(*export_tle(s.satrec), 60.0) for s in satellites]
    grounds = [brahe.PointLocation(p.longitude_deg, p.latitude_deg, p.altitude_m) for p in places]
    begin = brahe.Epoch(EPOCH.year, EPOCH.month, EPOCH.day, 0, 0, 0.0)
    mask = brahe.ElevationConstraint(MASK_DEG)
    return len(brahe.location_accesses(grounds, movers, begin, begin + DAY_S, mask))


def timed(
    finder: Callable[[list[Satellite], list[Site]], int],
    satellites: list[Satellite],
    places: list[Site],
    repeats: int = 1,
) -> tuple[float, int]:
    """Return the best wall time of some repeats in seconds, and what was found."""
    best, found = np.inf, 0
    for _ in range(repeats):
        begin = time.perf_counter()
        found = finder(satellites, places)
        best = min(best, time.perf_counter() - begin)
    return best, found


def large() -> None:
    """Print, as JSON, what 6,000 satellites over 100 sites cost in this process."""
    satellites, places = shell(60, 100), sites(100)
    first_s, _ = timed(with_emsfl, satellites[:1], places[:1])
    wall_s, found = timed(with_emsfl, satellites, places)
    peak_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"first_s": first_s, "wall_s": wall_s, "found": found, "peak_MB": peak_MB}))


def main() -> None:
    """Run and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        large()
        return
    console = Console()
    cores = os.cpu_count()
    console.print(f"{cores} cores, load average {os.getloadavg()[0]:.1f} at the start")
    satellites, places = shell(5, 4 if options.quick else 20), sites(20)
    pairs = len(satellites) * len(places)
    with_emsfl(satellites[:1], places[:1])  # compiled code is loaded; see the second table
    ours_s, ours = timed(with_emsfl, satellites, places, repeats=5)
    table = Table(title=f"{len(satellites)} satellites x {len(places)} sites x 24 h, 10 degrees")
    for name in ("finder", "wall (s)", "us per pair and day", "windows", "emsfl is faster by"):
        table.add_column(name, justify="right")
    rows = [("emsfl", ours_s, ours)]
    rows.append(("skyfield find_events", *timed(with_skyfield, satellites, places)))
    rows.append(("brahe location_accesses", *timed(with_brahe, satellites, places)))
    for name, wall_s, found in rows:
        ratio = "" if name == "emsfl" else f"{wall_s / ours_s:.0f}"
        each = f"{wall_s / pairs * 1e6:.0f}"
        table.add_row(name, f"{wall_s:.3f}", each, str(found), ratio)
    console.print(table)

    done = subprocess.run(
        [sys.executable, __file__, "--large"], check=True, capture_output=True, text=True
    )
    cost = json.loads(done.stdout)
    table = Table(title="6,000 satellites x 100 sites x 24 h, 10 degrees, own process")
    for name in ("wall (s)", "us per pair and day", "windows", "peak RSS (MB)", "first call (s)"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{cost['wall_s']:.1f}",
        f"{cost['wall_s'] / 600_000 * 1e6:.1f}",
        str(cost["found"]),
        f"{cost['peak_MB']:.0f}",
        f"{cost['first_s']:.2f}",
    )
    console.print(table)


if __name__ == "__main__":
    main()
