"""Time contact finding against skyfield and brahe: python benchmarks/contacts.py.

One run prints: a constellation of 6,000 satellites over 100 sites, with the peak memory of its
process; the three finders on the same pairs of one Walker shell; and what the first call in a
process costs, with compiling (once on a machine) and with the compiled code on disk. Ratios are of
wall times on all cores; skyfield uses one of them. The finder has no setting for accuracy: it is
the one that the tests against skyfield check. Needs the extra `bench`. --quick: fewer pairs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median

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
) -> tuple[float, float, int]:
    """Return the medians of wall and CPU time in seconds, and what was found."""
    walls, cpus, found = [], [], 0
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        found = finder(satellites, places)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return median(walls), median(cpus), found


def first() -> None:
    """Print, as JSON, what the first call in this process costs."""
    seconds, _, _ = timed(with_emsfl, shell(5, 4)[:1], sites(1))
    print(json.dumps({"seconds": seconds}))


def large() -> None:
    """Print, as JSON, what 6,000 satellites over 100 sites cost in this process."""
    satellites, places = shell(60, 100), sites(100)
    with_emsfl(satellites[:1], places[:1])  # compiled code is loaded, or made, apart
    wall_s, _, found = timed(with_emsfl, satellites, places)
    # Linux counts in kB; the peak is of this process alone, compiled code and imports included.
    peak_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"wall_s": wall_s, "found": found, "peak_MB": peak_MB}))


def in_own_process(part: str, **environment: str) -> dict[str, float]:
    """Return what a part of this program prints when it runs alone."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", part],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    )
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


def verdict(value: float, unit: str, target: float) -> str:
    """Return a cost beside what it should stay below."""
    return f"{value:.1f} {unit}, {'met' if value < target else 'MISSED'} (below {target:g})"


def print_pairs(console: Console, satellites: list[Satellite], places: list[Site]) -> None:
    """Print the three finders on the same pairs."""
    pairs = len(satellites) * len(places)
    with_emsfl(satellites[:1], places[:1])  # loads compiled code, which the last table reports
    rows = [("emsfl", *timed(with_emsfl, satellites, places, repeats=5), None)]
    rows.append(("skyfield find_events", *timed(with_skyfield, satellites, places), 150))
    rows.append(("brahe location_accesses", *timed(with_brahe, satellites, places), 50))
    table = Table(title=f"{len(satellites)} satellites x {len(places)} sites x 24 h, 10 degrees")
    for name in ("finder", "wall (s)", "CPU (s)", "us per pair", "windows", "emsfl is faster by"):
        table.add_column(name, justify="right")
    for name, wall_s, cpu_s, found, target in rows:
        ratio = ""
        if target is not None:
            times = wall_s / rows[0][1]
            ratio = f"{times:.0f}, {'met' if times >= target else 'MISSED'} (at least {target})"
        each = f"{wall_s / pairs * 1e6:.0f}"
        table.add_row(name, f"{wall_s:.3f}", f"{cpu_s:.3f}", each, f"{found:,}", ratio)
    console.print(table)


def print_large(console: Console) -> None:
    """Print the large constellation."""
    cost = in_own_process("large")
    table = Table(title="6,000 satellites x 100 sites x 24 h, 10 degrees, a process of its own")
    for name in ("wall", "us per pair and day", "windows", "peak RSS"):
        table.add_column(name, justify="right")
    table.add_row(
        verdict(cost["wall_s"], "s", 15),
        f"{cost['wall_s'] / 600_000 * 1e6:.1f}",
        f"{cost['found']:,}",
        verdict(cost["peak_MB"], "MB", 2000),
    )
    console.print(table)


def print_first(console: Console) -> None:
    """Print what compiling costs: none of the times above holds it."""
    table = Table(title="First call in a process, one satellite over one site")
    for name in ("compiled code", "wall (s)"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as empty:
        for state in ("compiled now", "read from the cache on disk"):
            cost = in_own_process("first", NUMBA_CACHE_DIR=empty)
            table.add_row(state, f"{cost['seconds']:.2f}")
    console.print(table)


PARTS = {"first": first, "large": large}


def main() -> None:
    """Run and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs in the first table")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part]()
        return
    console = Console(width=100)
    for package in ("skyfield", "brahe"):
        if importlib.util.find_spec(package) is None:
            parser.error(f"{package} is not installed: pip install 'emsfl[bench]'")
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores, load average {load:.1f} at the start")
    print_large(console)
    print_pairs(console, shell(5, 4 if options.quick else 20), sites(20))
    print_first(console)


if __name__ == "__main__":
    main()
