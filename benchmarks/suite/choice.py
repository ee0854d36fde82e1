"""What the choice of experts is worth: by correlation against at random, with and without gate."""

from __future__ import annotations

import statistics
from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.paired import Difference
from emsfl.results.schema import Spread
from emsfl.results.summary import spread
from emsfl.results.wording import MISSING
from suite.scenarios import SCENARIOS, SPECIALISED, Scenario
from suite.wording import brief_lead

Row = dict[str, Any]
PAIRS = (
    ("with the gate", "ems_fl", "ems_fl_random"),
    ("without", "ems_fl_no_gate", "ems_fl_random_no_gate"),
)
HEAD = """## What the choice of experts is worth

Experts chosen by the clusters' scores against a random choice of as many, everything else equal.
The specialised models have 64 small experts in every layer, pre-trained ten times as long and
without load balancing; each cluster gets 4 of them, and 48 go to nobody. Mass kept: the share of
the pre-trained router's weight that goes to a cluster's own experts on its own data.

| model | data | | by scores | at random | difference | mass kept |
| --- | --- | --- | ---: | ---: | --- | --- |"""


def choice_table(rows: list[Row]) -> str | None:
    """Return the comparison, or None where none of it has been measured."""
    lines = []
    others = [s for s in SCENARIOS.values() if s.title and s not in SPECIALISED]
    for model, scenarios in (("as above", others), ("specialised", SPECIALISED)):
        for scenario in scenarios:
            lines += [f"| {model} | {line}" for line in _compared(scenario, rows)]
    return "\n".join([HEAD, *lines, "", _verdict(rows)]) if lines else None


def _verdict(rows: list[Row]) -> str:
    """Count the comparisons with the gate whose interval lies above 0."""
    _, chosen, random = PAIRS[0]
    titled = [scenario for scenario in SCENARIOS.values() if scenario.title]
    pairs = [pair for s in titled if (pair := pair_of(rows, s, chosen, random)) is not None]
    leads = [lead_of(own, theirs) for own, theirs in pairs]
    several = [lead for lead in leads if lead.interval is not None]
    paid = [lead for lead in several if lead.settled and lead.mean > 0]
    return (
        f"With the gate the interval lies above 0 in {len(paid)} of {len(several)} comparisons "
        "over several seeds; they are not corrected for their number."
    )


def pair_of(
    rows: list[Row], scenario: Scenario, chosen: str, random: str
) -> tuple[list[Row], list[Row]] | None:
    """Return the rows of both methods, or None where one has none."""
    own, theirs = (_ordered(rows, scenario, method) for method in (chosen, random))
    return (own, theirs) if own and theirs else None


def lead_of(own: list[Row], theirs: list[Row]) -> Difference:
    """Return the lead of some rows' final values over others', both in the order of seeds."""
    return METRICS[own[0]["metric"]].lead(_finals(own), _finals(theirs))


def _finals(rows: list[Row]) -> Spread:
    return spread([row["final"] for row in rows])


def _ordered(rows: list[Row], scenario: Scenario, method: str) -> list[Row]:
    mine = [r for r in rows if (r["scenario"], r["method"]) == (scenario.name, method)]
    return sorted(mine, key=lambda row: int(row["seed"]))


def _compared(scenario: Scenario, rows: list[Row]) -> list[str]:
    lines = []
    for routing, chosen, random in PAIRS:
        pair = pair_of(rows, scenario, chosen, random)
        if pair is None:
            continue
        own, theirs = pair
        metric = METRICS[own[0]["metric"]]
        finals = [metric.spread(_finals(part)) for part in pair]
        lines.append(
            f"{scenario.title} | {routing} | {finals[0]} | {finals[1]} | "
            f"{brief_lead(metric, lead_of(own, theirs))} | {_mass(own)} against {_mass(theirs)} |"
        )
    return lines


def _mass(rows: list[Row]) -> str:
    kept = [row["mass_kept"] for row in rows]
    return MISSING if None in kept else f"{statistics.fmean(kept):.2f}"
