"""What it does to let shared parameters begin with small steps."""

from __future__ import annotations

import statistics
from typing import Any

from emsfl.results.metric import METRICS, Metric
from emsfl.results.summary import best_fedavg, spread
from emsfl.results.wording import MISSING
from suite.scenarios import SCENARIOS, WARM_UP, WARMED_UP
from suite.targets import time_share

Row = dict[str, Any]
HEAD = """## Small first steps of shared parameters

A step of the shared parameters changes what the experts of all clusters get to see, and these
follow only with their clusters' next uploads: the merged model is worse at first. With
`method_settings.ems_fl.shared_warmup_uploads: {uploads}` a cluster's step size of shared parameters
grows to its full value over its first {uploads} uploads, of the 28 or so that it makes here. The
number was chosen on validation data of rotated MNIST, after the rows above had been seen; the other
settings are the search's without it. The rest of this page is without it.

| data | warm-up | better than untuned after, h | time to the best FedAvg form's end | final |
| --- | --- | ---: | ---: | ---: |"""


def warm_up_table(rows: list[Row]) -> str | None:
    """Return the comparison, or None where none of it has been measured."""
    lines = []
    for base, warm in WARMED_UP.items():
        known = [row for row in rows if row["scenario"] == base]
        grown = [row for row in rows if row["scenario"] == warm.name]
        if not grown:
            continue
        full = [row for row in known if row["method"] == "ems_fl"]
        full = [row for row in full if row["seed"] in {r["seed"] for r in grown}]
        for what, mine in (("none", full), (f"{WARM_UP} uploads", grown)):
            cells = [SCENARIOS[base].title, what, *_cells(mine, known)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([HEAD.format(uploads=WARM_UP), *lines]) if lines else None


def _cells(mine: list[Row], known: list[Row]) -> list[str]:
    metric = METRICS[mine[0]["metric"]]
    rivals: dict[str, list[Row]] = {}
    for row in known:
        if row["seed"] in {r["seed"] for r in mine}:
            rivals.setdefault(row["method"], []).append(row)
    finals = {method: [row["final"] for row in of] for method, of in rivals.items()}
    form = best_fedavg(finals, metric)
    share = None if form is None else time_share(mine, rivals[form], mine[0]["metric"])
    return [
        _better_after(mine, metric),
        MISSING if share is None else f"{share:.2f}",
        metric.spread(spread([row["final"] for row in mine])),
    ]


def _better_after(rows: list[Row], metric: Metric) -> str:
    """Return from when on the mean curve stays better than the untuned model with its router."""
    initial = statistics.fmean(row["initial"] for row in rows)
    curve = [
        (points[0][0], statistics.fmean(point[1] for point in points))
        for points in zip(*(row["curve"] for row in rows), strict=True)
    ]
    worse = [i for i, (_, value) in enumerate(curve) if not metric.is_better(value, than=initial)]
    first = max(worse, default=-1) + 1
    return MISSING if first == len(curve) else f"{curve[first][0] / 3600:.0f}"
