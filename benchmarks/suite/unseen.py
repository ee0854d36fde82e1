"""Rotated MNIST on the test samples that its search never looked at."""

from __future__ import annotations

import json
from typing import Any

from emsfl.results.labels import method_label
from emsfl.results.metric import METRICS
from emsfl.results.summary import spread
from emsfl.results.wording import MISSING, listing
from suite.scenarios import ROOT, ROTATED
from suite.wording import brief_lead

Row = dict[str, Any]
RESULT = ROOT / "benchmarks/results/unseen.json"
HEAD = """Seeds share one pool, so most of these test samples took part in the search. On those that
were test samples of the search's seed as well ({samples} with the {seeds} seeds; made by
`python benchmarks/unseen.py`):

| method | all test samples | never seen by the search | EMS-FL's lead there |
| --- | ---: | ---: | --- |"""


def unseen_table(rows: list[Row]) -> str | None:
    """Return both values for every method; None: not measured."""
    if not RESULT.is_file():
        return None
    found: dict[str, list[Row]] = {}
    for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]:
        found.setdefault(row["method"], []).append(row)
    metric = METRICS["accuracy"]
    own = spread([row["final"] for row in found["ems_fl"]])
    lines = [
        HEAD.format(
            samples=listing([str(row["num_samples"]) for row in found["ems_fl"]]),
            seeds=len(found["ems_fl"]),
        )
    ]
    for method, mine in found.items():
        every = [r for r in rows if (r["scenario"], r["method"]) == (ROTATED.name, method)]
        if not every:
            continue
        unseen = spread([row["final"] for row in mine])
        lead = MISSING if method == "ems_fl" else brief_lead(metric, metric.lead(own, unseen))
        cells = [method_label(method), metric.spread(spread([r["final"] for r in every]))]
        lines.append(f"| {' | '.join([*cells, metric.spread(unseen), lead])} |")
    return "\n".join(lines)
