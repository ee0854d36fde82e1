"""The page of `emsfl bound`: what was measured against its bound, terms stacked, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emsfl.files import write_text

QUANTITIES = {
    "squared_gradient_norm": "mean squared gradient norm",
    "loss_gap": "loss of what the server holds",
    "merged_loss": "loss of the merged model",
}
"""What is drawn, and how it is called; other quantities are in the table alone."""
COLOURS = {
    "optimisation": "#9db7d5",
    "noise": "#f2c98a",
    "drift": "#e39a7b",
    "device heterogeneity": "#a8c99b",
    "cluster heterogeneity": "#b8a3c9",
    "sub-models": "#9db7d5",
    "gate": "#e39a7b",
}
SECONDS_PER_HOUR = 3600.0
_ROW_PX = 380
_HEADROOM = 2.5
"""How far above the last bound a panel reaches, at least: the first ones are often far higher."""


def write_bound_page(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write a self-contained page with one panel per method, cluster and quantity.

    Args:
        rows: as `emsfl bound --json` prints them.
        title: heading of the page.
        path: where to.
    """
    import plotly.io

    page = plotly.io.to_html(
        bound_figure(rows, title), include_plotlyjs=True, full_html=True, validate=False
    )
    write_text(path, page)


def bound_figure(rows: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """Return the figure as plotly's plain JSON: panels in rows of three."""
    panels: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["quantity"] in QUANTITIES:
            key = (row["method"], row["cluster"], row["quantity"])
            panels.setdefault(key, []).append(row)
    num_columns = min(3, max(len(panels), 1))
    num_rows = -(-len(panels) // num_columns)
    layout: dict[str, Any] = {
        "title": {"text": title},
        "grid": {"rows": num_rows, "columns": num_columns, "pattern": "independent"},
        "height": 140 + _ROW_PX * num_rows,
        "template": {"layout": {"plot_bgcolor": "white", "paper_bgcolor": "white"}},
        "legend": {"orientation": "h", "y": -90 / (_ROW_PX * max(num_rows, 1)), "yanchor": "top"},
        "margin": {"t": 100, "l": 60, "r": 20},
        "annotations": [],
    }
    data: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, ((method, cluster, quantity), own) in enumerate(panels.items(), start=1):
        suffix = "" if number == 1 else str(number)
        data += _panel(own, suffix, seen)
        grid = {"gridcolor": "#e5e5e5", "zerolinecolor": "#cccccc", "rangemode": "tozero"}
        layout[f"xaxis{suffix}"] = {"title": {"text": "virtual time, h"}, **grid}
        layout[f"yaxis{suffix}"] = grid | {"range": [0, _top(own)]}
        where = "" if cluster == "all" else f", {cluster}"
        layout["annotations"].append(
            {
                "text": f"<b>{method}{where}</b><br>{QUANTITIES[quantity]}",
                "xref": f"x{suffix} domain",
                "yref": f"y{suffix} domain",
                "x": 0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
                "align": "left",
                "showarrow": False,
            }
        )
    return {"data": data, "layout": layout}


def _panel(rows: Sequence[Mapping[str, Any]], suffix: str, seen: set[str]) -> list[dict[str, Any]]:
    """Return one panel's traces: areas that add up to the bound, and the measured line."""
    bounded = [row for row in rows if row["bound"] is not None]
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"bound: {term}",
            "stackgroup": f"bound{suffix}",
            "line": {"width": 0.5, "color": COLOURS.get(term, "#bbbbbb")},
            "x": [row["time_s"] / SECONDS_PER_HOUR for row in bounded],
            "y": [row["terms"][term] for row in bounded],
            **axes,
        }
        for term in dict.fromkeys(name for row in bounded for name in row["terms"])
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "measured",
            "line": {"width": 2.5, "color": "#1b1b1b"},
            "marker": {"size": 6},
            "x": [row["time_s"] / SECONDS_PER_HOUR for row in rows],
            "y": [row["measured"] for row in rows],
            **axes,
        }
    )
    for trace in traces:
        trace["legendgroup"] = trace["name"]
        trace["showlegend"] = trace["name"] not in seen
        seen.add(trace["name"])
    return traces


def _top(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the upper end of a panel's axis."""
    bounds = [row["bound"] for row in rows if row["bound"] is not None]
    highest = max([*bounds, *(row["measured"] for row in rows)])
    last = max(bounds[-1] if bounds else 0.0, rows[-1]["measured"])
    return 1.05 * float(min(highest, _HEADROOM * last))
