"""What the merged language model reaches with one kind of gate, and what that kind costs."""

from __future__ import annotations

from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.summary import spread
from suite.scenarios import LANGUAGE_MODEL, ONE_GATE

Row = dict[str, Any]
ARMS = (
    ("plain", "1", LANGUAGE_MODEL.name, "ems_fl_no_gate"),
    ("prefix_gaussian", "1, and a first layer", ONE_GATE["prefix_gaussian"].name, "ems_fl"),
    ("own_likelihood", "1, and C of sub-models", ONE_GATE["own_likelihood"].name, "ems_fl"),
    ("best of these and `mixture`", "2, and C of sub-models", LANGUAGE_MODEL.name, "ems_fl"),
)
HEAD = """EMS-FL's merged model by the kinds of gate that it may use, and the forward passes that a
text takes at most with C clusters:

| gate | passes | seeds | final |
| --- | --- | ---: | ---: |"""


def gates_table(rows: list[Row]) -> str:
    """Return the comparison, as far as it has been measured."""
    lines = [HEAD]
    for gate, passes, scenario, method in ARMS:
        mine = [r for r in rows if (r["scenario"], r["method"]) == (scenario, method)]
        if mine:
            metric = METRICS[mine[0]["metric"]]
            final = metric.spread(spread([row["final"] for row in mine]))
            lines.append(f"| {gate} | {passes} | {len(mine)} | {final} |")
    return "\n".join(lines)
