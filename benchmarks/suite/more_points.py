"""Settings that were tried beyond the search, and did not change what it chose."""

from __future__ import annotations

import json
from typing import Any

from emsfl.results.labels import method_label
from emsfl.results.metric import METRICS
from suite.scenarios import ROOT, Scenario

MORE = ROOT / "benchmarks/results/more_points.json"
HEAD = """Settings tried beyond the search or once more, on its validation data, beside the one that
it chose (`benchmarks/results/more_points.json`; `emsfl run` with one of them as `method_settings`,
seed 10 and `simulate.judged_on=validation` repeats it):

| method | what | device | points | best of them | chosen |
| --- | --- | --- | ---: | ---: | ---: |"""


def more_points_table(scenario: Scenario, tuning: dict[str, Any]) -> str | None:
    """Return what was tried in addition; None: nothing."""
    searches = json.loads(MORE.read_text(encoding="utf-8"))["searches"]
    mine = [search for search in searches if search["scenario"] == scenario.name]
    if not mine:
        return None
    found = tuning[scenario.name]
    metric = METRICS[found["metric"]]
    lines = [HEAD]
    for search in mine:
        finals = [point["final"] for point in search["points"]]
        best = metric.value(finals[metric.best(finals)])
        chosen = metric.value(found["methods"][search["method"]]["final"])
        lines.append(
            f"| {method_label(search['method'])} | {search['what']} | {search['device']} | "
            f"{len(finals)} | {best} | {chosen} |"
        )
    return "\n".join(lines)
