"""Who holds what, as a run has saved it, and its chart: samples per device as stacked bars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emsfl.results.charts import Chart, plain_layout
from emsfl.results.labels import CLUSTER_COLOURS, domain_label

PATTERNS = ("", "/", "x", ".")
"""Over the colours, which repeat."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How many samples of each domain and class every device has."""

    devices: tuple[str, ...]
    """`CLUSTER 1`, `CLUSTER 2`, ..., cluster by cluster."""
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """[devices, domains, classes]."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what a run has saved (`split/seed0.npz`); its rows of the data set are left out."""
        with np.load(path) as file:
            names: dict[str, Any] = {
                name: tuple(file[name].tolist()) for name in ("devices", "domains", "classes")
            }
            return cls(counts=file["counts"], **names)


def split_charts(split: Split) -> dict[str, Chart]:
    """Return a chart for each thing in which samples differ: `domain` and `label`."""
    kinds = {
        "domain": ([domain_label(domain) for domain in split.domains], split.counts.sum(2)),
        "label": (list(split.classes), split.counts.sum(1)),
    }
    return {
        kind: _stacked(split.devices, names, counts)
        for kind, (names, counts) in kinds.items()
        if len(names) > 1
    }


def _stacked(devices: tuple[str, ...], names: list[str], counts: NDArray[np.int64]) -> Chart:
    """Draw one bar per device, the first on top; `counts` is [devices, names]."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": counts[:, number].tolist(),
            "y": list(devices),
            "marker": {
                "color": f"$cluster-{number % len(CLUSTER_COLOURS)}",
                "line": {"color": "$panel", "width": 0.5},
                "pattern": {"shape": PATTERNS[number // len(CLUSTER_COLOURS) % len(PATTERNS)]},
            },
            "hovertemplate": "%{y}: %{x} of %{fullData.name}<extra></extra>",
        }
        for number, name in enumerate(names)
    ]
    layout = plain_layout("samples", "")
    layout |= {"barmode": "stack", "bargap": 0.15, "showlegend": True}
    layout["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    return {"data": traces, "layout": layout}
