"""What the merged language model reaches with one kind of gate, and what that kind costs."""

from __future__ import annotations

import json
from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.summary import spread
from suite.scenarios import LANGUAGE_MODEL, ONE_GATE, ROOT

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

ALONE = ROOT / "benchmarks/results/branch_train_merge.json"
ALONE_TEXT = """A control, made by `python benchmarks/branch_train_merge.py`: every cluster tunes
the complete model alone, nothing is sent until the end, and the {count} models are mixed in the
same way (Branch-Train-Merge, arXiv 2208.03306), with a search of its own of {points} rates. It ends
at **{final}**, EMS-FL at {own}. {verdict} Every device then trains, holds and sends the complete
model ({parameters:.2f} times EMS-FL's parameters), and whoever serves the mixture holds {held} of
them instead of two."""


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


def alone_text(rows: list[Row]) -> str | None:
    """Compare with complete models that were tuned alone and mixed; None: not measured."""
    if not ALONE.is_file():
        return None
    found = json.loads(ALONE.read_text(encoding="utf-8"))
    mine = [r for r in rows if (r["scenario"], r["method"]) == (LANGUAGE_MODEL.name, "ems_fl")]
    whole = next(r for r in rows if (r["scenario"], r["method"]) == (LANGUAGE_MODEL.name, "fedavg"))
    metric = METRICS[mine[0]["metric"]]
    own, alone = (spread([r["final"] for r in part]) for part in (mine, found["rows"]))
    count = len(mine[0]["submodels"])
    better = metric.is_better(alone.mean, than=own.mean)
    parameters = "peak_trainable_parameters"
    return ALONE_TEXT.format(
        count=count,
        points=len(found["search"]),
        final=metric.spread(alone),
        own=metric.spread(own),
        verdict="Complete models are better." if better else "Complete models are not better.",
        parameters=whole[parameters] / mine[0][parameters],
        held=count + 2,
    )
