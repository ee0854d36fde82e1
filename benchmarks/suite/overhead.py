"""What a device pays for taking part, method by method, against FedAvg."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from emsfl.experiment import load
from emsfl.methods import METHODS, Venue
from emsfl.results.wording import amount
from suite.scenarios import ABLATIONS, Scenario

Row = dict[str, Any]
HEAD = """Overhead per device; in brackets, the share of what FedAvg with fixed local steps needs.
Parameters, optimiser and memory: the most that one device needs. Traffic and energy: a virtual
day's, all clusters' over all devices, since devices share their site's terminal."""


def overhead_table(scenario: Scenario, rows: list[Row]) -> str:
    """Return the table, of the methods that train at the sites; ablations apart.

    Args:
        scenario: tells the number of devices.
        rows: of this scenario.
    """
    config = load(scenario.config, scenario.overrides)
    device_days = len(config.orbit.sites) * config.data.devices_per_cluster
    device_days *= rows[0]["curve"][-1][0] / 86400
    quantities: dict[str, Callable[[Row], float]] = {
        "parameters trained": lambda row: row["peak_trainable_parameters"],
        "optimiser, MB": lambda row: row["optimizer_bytes"] / 1e6,
        "memory, MB": lambda row: row["peak_bytes"] / 1e6,
        "up, MB a day": lambda row: row["uploaded_bytes"] / 1e6 / device_days,
        "down, MB a day": lambda row: row["downloaded_bytes"] / 1e6 / device_days,
        "energy, kJ a day": lambda row: row["energy_J"] / 1e3 / device_days,
    }
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row["method"] not in ABLATIONS and _at_the_sites(row["method"]):
            grouped.setdefault(row["method"], []).append(row)
    needs = {
        method: [statistics.fmean(map(quantity, mine)) for quantity in quantities.values()]
        for method, mine in grouped.items()
    }
    reference = needs.get("fedavg", [0.0] * len(quantities))
    lines = [
        f"| method | {' | '.join(quantities)} |",
        "| --- " + "| ---: " * len(quantities) + "|",
    ]
    for method, values in needs.items():
        cells = map(_cell, values, reference)
        lines.append(f"| {grouped[method][0]['label']} | {' | '.join(cells)} |")
    return HEAD + "\n\n" + "\n".join(lines)


def _at_the_sites(method: str) -> bool:
    return METHODS[method].venue in (Venue.CONTACTS, Venue.SITES)


def _cell(value: float, reference: float) -> str:
    return f"{amount(value)} ({value / reference:.2f})" if reference else amount(value)
