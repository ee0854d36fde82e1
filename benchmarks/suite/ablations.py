"""What each part of EMS-FL is worth: its lead over itself without the part."""

from __future__ import annotations

from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.paired import Difference
from emsfl.results.wording import MISSING
from suite.choice import lead_of, pair_of
from suite.scenarios import MAIN, Scenario
from suite.wording import brief_lead

Row = dict[str, Any]
PARTS = {
    "ems_fl_no_gate": "the domain gate, not the plain router",
    "ems_fl_gate_only": "tuning, not the gate alone",
    "ems_fl_frozen_shared": "tuning the shared parameters too",
    "ems_fl_random": "experts chosen by scores, not at random",
    "ems_fl_frequency": "scores of routing weight, not of frequency",
    "ems_fl_gate_norm": "scores of routing weight, not times the output's norm",
}
HEAD = """## What each part is worth

EMS-FL's lead over itself without a part, with the same settings; a lead in brackets has an interval
that holds 0. Not corrected for the number of comparisons."""


def ablations_table(rows: list[Row]) -> str | None:
    """Return the table and what it says, or None where nothing of it has been measured."""
    shown = [s for s in MAIN if any(_lead(rows, s, part) for part in PARTS)]
    if not shown:
        return None
    lines = [HEAD, "", "| part | " + " | ".join(_title(s, rows) for s in shown) + " |"]
    lines.append("| --- " * (len(shown) + 1) + "|")
    verdicts = []
    for part, what in PARTS.items():
        leads = {s.name: _lead(rows, s, part) for s in shown}
        cells = [
            MISSING if lead is None else brief_lead(METRICS[_metric(rows, s)], lead)
            for s in shown
            for lead in [leads[s.name]]
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
        measured = [lead for lead in leads.values() if lead is not None]
        worth = sum(lead.settled and lead.mean > 0 for lead in measured)
        verdicts.append(f"{what} in {worth} of {len(measured)} scenarios")
    return "\n".join([*lines, "", f"Settled above 0: {'; '.join(verdicts)}."])


def _lead(rows: list[Row], scenario: Scenario, part: str) -> Difference | None:
    pair = pair_of(rows, scenario, "ems_fl", part)
    return None if pair is None else lead_of(*pair)


def _metric(rows: list[Row], scenario: Scenario) -> str:
    return next(str(row["metric"]) for row in rows if row["scenario"] == scenario.name)


def _title(scenario: Scenario, rows: list[Row]) -> str:
    return f"{scenario.title}, {METRICS[_metric(rows, scenario)].difference_unit}"
