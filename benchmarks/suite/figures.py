"""Figures of the evidence, as SVG: curves of a scenario, and one axis of the map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt

from emsfl.results.labels import method_styles
from emsfl.results.metric import METRICS
from suite.scenarios import ABLATIONS

Row = dict[str, Any]
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (9, 3))}
plt.rcParams.update({"svg.hashsalt": "emsfl", "font.size": 9, "svg.fonttype": "none"})


def draw_curves(rows: list[Row], path: Path) -> None:
    """Draw the metric of every method against virtual time and uploaded bytes, ablations apart."""
    metric = METRICS[rows[0]["metric"]]
    whole = [m for m in dict.fromkeys(r["method"] for r in rows) if m not in ABLATIONS]
    parts = ["ems_fl", *(m for m in dict.fromkeys(r["method"] for r in rows) if m in ABLATIONS)]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    for axis, methods, column, title in (
        (axes[0], whole, 0, "virtual time, h"),
        (axes[1], [m for m in whole if _uploads(rows, m)], 2, "uploaded, MB"),
        (axes[2], parts, 0, "virtual time, h (ablations)"),
    ):
        styles = method_styles(methods)
        for method in methods:
            mine = [row for row in rows if row["method"] == method]
            if not mine:
                continue
            curves = np.asarray([row["curve"] for row in mine])
            xs = curves[:, :, column].mean(0) / (3600 if column == 0 else 1e6)
            ys = metric.scale * curves[:, :, 1]
            style = styles[method]
            axis.plot(xs, ys.mean(0), color=style.light, ls=DASHES[style.dash], lw=1.4,
                      label=mine[0]["label"])  # fmt: skip
            if len(mine) > 1:
                axis.fill_between(xs, ys.min(0), ys.max(0), color=style.light, alpha=0.12, lw=0)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, frameon=False)
    axes[0].set_ylabel(f"merged model: {metric.axis_title}")
    _save(figure, path)


def draw_map(name: str, points: Mapping[str, list[Row]], path: Path) -> None:
    """Draw the final metric of every method over an axis: the rows by what differs, in order."""
    rows = [row for mine in points.values() for row in mine]
    metric = METRICS[rows[0]["metric"]]
    labels = {row["method"]: row["label"] for row in rows}
    styles = method_styles(list(labels))
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    for method, label in labels.items():
        finals = [
            [metric.scale * row["final"] for row in mine if row["method"] == method] or [np.nan]
            for mine in points.values()
        ]
        style = styles[method]
        spreads = [np.std(f, ddof=min(1, len(f) - 1)) for f in finals]
        axis.errorbar(range(len(points)), [np.mean(f) for f in finals], spreads,
                      color=style.light, ls=DASHES[style.dash], capsize=2, lw=1.4,
                      label=label)  # fmt: skip
    axis.set_xticks(range(len(points)), list(points))
    axis.set_xlabel(name)
    axis.set_ylabel(metric.axis_title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    _save(figure, path)


def _uploads(rows: list[Row], method: str) -> bool:
    return any(row["uploaded_bytes"] for row in rows if row["method"] == method)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
