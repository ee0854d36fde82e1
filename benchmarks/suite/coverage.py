"""What coverage is worth: the sites with a terrestrial network alone, or all sites by satellite."""

from __future__ import annotations

import statistics
from typing import Any

from emsfl.results.metric import METRICS
from emsfl.results.summary import spread
from suite.scenarios import COVERAGE, ROTATED

Row = dict[str, Any]
BY_SATELLITE = ("ems_fl", "fedavg", "fedavg_fill", "fedprox", "fedasync", "fedbuff")
HEAD = """Two of the four sites, on a network without gaps, against all four over the satellites
(the rows of rotated MNIST). The pre-trained model and the test data are the same; what the other
two sites hold stays unused. Judged on the domains of all four."""


def coverage_table(rows: list[Row]) -> str:
    """Return the comparison: the metric on all domains, on those of the two sites, on the others.

    Args:
        rows: of `COVERAGE` and, once they are there, of `ROTATED`.
    """
    lines = [
        "| who takes part | method | all domains | of the two sites | of the other two |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for scenario, who, methods in (
        (COVERAGE, "two, terrestrial", COVERAGE.trained),
        (ROTATED, "four, by satellite", BY_SATELLITE),
    ):
        for method in methods:
            mine = [r for r in rows if r["scenario"] == scenario.name and r["method"] == method]
            if mine:
                lines.append(f"| {who} | {mine[0]['label']} | {' | '.join(_cells(mine))} |")
    return HEAD + "\n\n" + "\n".join(lines)


def _cells(rows: list[Row]) -> list[str]:
    metric = METRICS[rows[0]["metric"]]
    served = ("rotated_0", "rotated_90")
    """Domains of the first two sites."""
    halves = [
        [
            statistics.fmean(v for d, v in row["by_domain"].items() if (d in served) == inside)
            for row in rows
        ]
        for inside in (True, False)
    ]
    return [metric.spread(spread(values)) for values in ([r["final"] for r in rows], *halves)]
