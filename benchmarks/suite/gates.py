"""What the merged language model reaches with one kind of gate, and what that kind costs."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.summary import spread
from emsfl.results.wording import listing
from suite.scenarios import LANGUAGE_MODEL, ONE_GATE, ROOT

Row = dict[str, Any]
ARMS = (
    ("plain", "1", LANGUAGE_MODEL.name, "ems_fl_no_gate"),
    ("prefix_gaussian", "1, and a first layer", ONE_GATE["prefix_gaussian"].name, "ems_fl"),
    ("own_likelihood", "1, and C of sub-models", ONE_GATE["own_likelihood"].name, "ems_fl"),
    ("best of these and `mixture`", "2, and C of sub-models", LANGUAGE_MODEL.name, "ems_fl"),
)
HEAD = """EMS-FL's merged model by the kinds of gate that it may use, and the forward passes that a
text takes at most with C clusters. Where it may use several, the one that is best on the validation
split at that time is used:

| gate | passes | seeds | final |
| --- | --- | ---: | ---: |"""

OVER_TIME = ROOT / "benchmarks/results/language_gates.json"
OVER_TIME_TEXT = """More kinds, made by `python benchmarks/language_gates.py`: the merged model of
one training by kind of gate and time, on validation data, mean over seeds {seeds}. "Plain 0.5"
gives half of the weight to the plain router, "first 8" listens to 8 tokens only, "every 4" at every
fourth, "Bayes" takes evidence whole and not to the power of 1/4."""
STAND_INS_HEAD = """What stands in for the experts that a sub-model lacks: each cluster's sub-model
on its own domain, before any tuning and after a short one alone. The default is to renormalise.

| stand-in | before | after |
| --- | ---: | ---: |"""

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


def over_time_table() -> str | None:
    """Return what each kind of gate reaches over time, and the stand-ins; None: not measured."""
    if not OVER_TIME.is_file():
        return None
    found = json.loads(OVER_TIME.read_text(encoding="utf-8"))
    tables = list(found["seeds"].values())
    hours = [f"{hour:g} h" for hour in tables[0]["hours"]]
    lines = [
        OVER_TIME_TEXT.format(seeds=listing(list(found["seeds"]))),
        "",
        f"| gate | {' | '.join(hours)} |",
        "| --- " + "| ---: " * len(hours) + "|",
    ]
    for gate in tables[0]["gates"]:
        curves = zip(*(table["gates"][gate] for table in tables), strict=True)
        lines.append(f"| {gate} | {' | '.join(f'{mean(values):.3f}' for values in curves)} |")
    lines += ["", STAND_INS_HEAD]
    for kind in tables[0]["stand_ins"]:
        ends = zip(*(table["stand_ins"][kind] for table in tables), strict=True)
        lines.append(f"| {kind} | {' | '.join(f'{mean(values):.3f}' for values in ends)} |")
    return "\n".join(lines)
