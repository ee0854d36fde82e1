"""The evidence in one table, for README.md."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from emsfl.results.metric import METRICS, Metric
from emsfl.results.summary import spread
from emsfl.results.wording import MISSING
from suite.scenarios import MAIN, ROTATED, Scenario

Row = dict[str, Any]
SHOWN = (
    "ems_fl", "fedavg", "fedavg_fill", "fedavg_experts", "fedprox", "fedasync", "fedbuff",
    "central_all_steps", "ems_fl_no_gate", "ems_fl_gate_only", "ems_fl_frozen_shared",
    "ems_fl_random",
)  # fmt: skip
BLOCK = re.compile(r"(<!-- evidence: begin -->\n)(.*?)(<!-- evidence: end -->)", re.DOTALL)


def fill_readme(rows: list[Row], readme: Path) -> None:
    """Replace what stands between the markers."""
    old = readme.read_text(encoding="utf-8")
    table = summary_table(rows) + "\n"
    readme.write_text(BLOCK.sub(lambda match: match[1] + table + match[3], old), encoding="utf-8")


def summary_table(rows: list[Row]) -> str:
    """Return the final values of the main scenarios, and time and bytes on the first."""
    measured = [s for s in MAIN if {"ems_fl", "fedasync"} <= _of(rows, s).keys()]
    titles = [f"{s.title}, {_unit(METRICS[_metric(rows, s)])}" for s in measured]
    lines = [
        f"| | {' | '.join(titles)} | time to the best FedAvg's end* | MB per upload* |",
        "| --- " + "| ---: " * (len(titles) + 2) + "|",
    ]
    rotated = _of(rows, ROTATED)
    for method in SHOWN:
        cells = [
            METRICS[_metric(rows, s)].spread(spread([r["final"] for r in _of(rows, s)[method]]))
            if method in _of(rows, s)
            else MISSING
            for s in measured
        ]
        mine = rotated[method]
        uploaded = statistics.fmean(row["upload_bytes_per_contact"] or 0 for row in mine) / 1e6
        cells += [_share_of_time(rotated, method), f"{uploaded:.2f}" if uploaded else MISSING]
        lines.append(f"| {mine[0]['label']} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n\\* {ROTATED.title}."


def _of(rows: list[Row], scenario: Scenario) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        if row["scenario"] == scenario.name:
            found.setdefault(row["method"], []).append(row)
    return found


def _unit(metric: Metric) -> str:
    return metric.unit or metric.title.lower()


def _metric(rows: list[Row], scenario: Scenario) -> str:
    return str(_of(rows, scenario)["ems_fl"][0]["metric"])


def _share_of_time(methods: dict[str, list[Row]], method: str) -> str:
    form = methods[method][0]["target_of"]
    times, theirs = ([row["time_to_target_s"] for row in methods[name]] for name in (method, form))
    if None in times:
        return "never" if all(t is None for t in times) else "not with every seed"
    return f"{statistics.fmean(times) / statistics.fmean(theirs):.2f}"
