"""The charts of the page, as plotly figures in plain JSON.

A colour is written as `$name` and stands for the CSS variable `--name`, which the page resolves for
light or dark mode whenever the mode changes. A trace carries its method in `meta`, so that the page
can hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emsfl.results.labels import EMS_FL, MethodStyle, domain_label, is_ablation, method_styles
from emsfl.results.metric import Metric, metric_of
from emsfl.results.schema import CurvePoint, MethodResult, RunResult
from emsfl.results.wording import BYTES_PER_MB, SECONDS_PER_HOUR

Chart = dict[str, Any]

_LINE_WIDTH_PX = 2.6
_ABLATION_WIDTH_PX = 1.4
_NUM_MARKERS = 6
_UPLOAD_OFFSET = 0.28
"""How far above its cluster's contacts an upload is drawn; clusters are 1 apart."""


def quality_over_time(result: RunResult) -> Chart:
    """Draw how good the merged model is against virtual time."""
    chart = _curves(result, lambda point: point.time_s / SECONDS_PER_HOUR, "virtual time, h", "h")
    chart["layout"]["xaxis"]["dtick"] = _hour_step(result)
    return chart


def quality_over_bytes(result: RunResult) -> Chart:
    """Draw how good the merged model is against bytes uploaded, both meant over seeds at a time."""
    return _curves(result, lambda point: point.uploaded_bytes / BYTES_PER_MB, "uploaded, MB", "MB")


def quality_by_domain(result: RunResult) -> Chart:
    """Draw bars of how good the merged model ends per domain, grouped by domain."""
    styles = method_styles(list(result.methods))
    metric = metric_of(result)
    traces = []
    for name, method in result.methods.items():
        values = method.accuracy_by_domain
        pattern = {"shape": "/", "size": 5, "solidity": 0.35} if is_ablation(name) else {}
        trace: Chart = {
            "type": "bar",
            "name": method.label,
            "meta": name,
            "x": [domain_label(domain).replace(" ", "<br>") for domain in values],
            "y": [metric.scale * spread.mean for spread in values.values()],
            "marker": {"color": f"${name}", "line": {"width": 0}, "pattern": pattern},
            "hovertemplate": f"{styles[name].label} {_shown(metric)}<extra></extra>",
        }
        if len(result.seeds) > 1:
            trace["error_y"] = {
                "type": "data",
                "array": [metric.scale * spread.std for spread in values.values()],
                "color": "$muted",
                "thickness": 1.2,
                "width": 0,
            }
        traces.append(trace)
    layout = plain_layout("", metric.axis_title)
    layout |= {"barmode": "group", "bargap": 0.22, "bargroupgap": 0.06}
    layout["yaxis"]["rangemode"] = "tozero"
    layout["margin"]["b"] = 28
    layout["xaxis"]["tickangle"] = 0
    layout["hovermode"] = "closest"
    return {"data": traces, "layout": layout}


def contact_timeline(result: RunResult) -> Chart:
    """Draw every cluster's contacts as bars, with every method's uploads over them.

    The uploads of a method lie from their start to their arrival; the page shows one method's at a
    time. First seed only.
    """
    clusters = list(result.timeline)
    rows = {cluster: len(clusters) - 1 - position for position, cluster in enumerate(clusters)}
    contacts = [
        (start, end, rows[cluster], cluster)
        for cluster, timeline in result.timeline.items()
        for start, end in timeline.contacts
    ]
    traces: list[Chart] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "contact",
            "base": [start / SECONDS_PER_HOUR for start, *_ in contacts],
            "x": [(end - start) / SECONDS_PER_HOUR for start, end, *_ in contacts],
            "y": [row - 0.1 for _, _, row, _ in contacts],
            "width": 0.46,
            "marker": {"color": "$contact", "line": {"color": "$contact", "width": 1}},
            "customdata": [
                [cluster, start / SECONDS_PER_HOUR, (end - start) / 60]
                for start, end, _, cluster in contacts
            ],
            "hovertemplate": "%{customdata[0]}: contact at %{customdata[1]:.2f} h, "
            "%{customdata[2]:.1f} min<extra></extra>",
        }
    ]
    traces += [_uploads(result, name, rows) for name in uploading_methods(result)]
    layout = plain_layout("virtual time, h", "")
    layout |= {"barmode": "overlay", "hovermode": "closest"}
    layout["yaxis"] |= {
        "tickvals": list(rows.values()),
        "ticktext": clusters,
        "range": [-0.6, len(clusters) - 0.4],
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }
    layout["xaxis"] |= {"range": [0, end_h(result)], "dtick": _hour_step(result)}
    return {"data": traces, "layout": layout}


def uploading_methods(result: RunResult) -> list[str]:
    """Return the methods whose uploads the timeline knows, EMS-FL first."""
    known = {name for timeline in result.timeline.values() for name in timeline.uploads}
    names = [name for name in result.methods if name in known]
    return sorted(names, key=lambda name: name != EMS_FL)


def end_h(result: RunResult) -> float:
    """Return the end of the run in hours: the last point of the common grid."""
    return next(iter(result.methods.values())).curve[0][-1].time_s / SECONDS_PER_HOUR


def _hour_step(result: RunResult) -> float:
    """Return the hours between ticks: a step that people count days in, for 4 to 8 ticks."""
    steps = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 48.0)
    return next((step for step in steps if end_h(result) <= 8 * step), 24.0 * 7)


def _uploads(result: RunResult, name: str, rows: dict[str, int]) -> Chart:
    """Draw one method's uploads: a line from start to arrival, a marker at the arrival."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for cluster, timeline in result.timeline.items():
        for start, arrival in timeline.uploads.get(name, []):
            xs += [start / SECONDS_PER_HOUR, arrival / SECONDS_PER_HOUR, None]
            ys += [rows[cluster] + _UPLOAD_OFFSET, rows[cluster] + _UPLOAD_OFFSET, None]
            text = f"{cluster}: upload {start / SECONDS_PER_HOUR:.2f} h, took "
            text += f"{(arrival - start) / 60:.1f} min"
            texts += [text, text, ""]
    style = method_styles(list(result.methods))[name]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": style.label,
        "meta": name,
        "x": xs,
        "y": ys,
        "text": texts,
        "line": {"color": f"${name}", "width": 2},
        "marker": {
            "color": f"${name}",
            "symbol": style.symbol,
            "size": [0 if position % 3 == 0 else 8 for position in range(len(xs))],
            "opacity": 1,
            "line": {"color": "$panel", "width": 1},
        },
        "hovertemplate": "%{text}<extra></extra>",
    }


def _curves(
    result: RunResult, x_of: Callable[[CurvePoint], float], x_title: str, x_unit: str
) -> Chart:
    styles = method_styles(list(result.methods))
    metric = metric_of(result)
    bands: list[Chart] = []
    lines: list[Chart] = []
    # EMS-FL comes last in the drawing order, so that no other line covers it.
    for name in sorted(result.methods, key=lambda name: (name == EMS_FL, not is_ablation(name))):
        method = result.methods[name]
        xs = _over_seeds(method, x_of, _mean)
        if len(result.seeds) > 1:
            bands.append(_band(name, method, xs, metric))
        lines.append(_line(name, method, xs, styles[name], x_unit, metric))
    layout = plain_layout(x_title, f"merged model: {metric.axis_title}")
    layout["xaxis"]["rangemode"] = "tozero"
    if result.target_accuracy is not None:
        target = metric.scale * _mean(result.target_accuracy)
        layout["shapes"] = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": target,
                "y1": target,
                "line": {"color": "$muted", "width": 1, "dash": "dot"},
                "layer": "below",
            }
        ]
    return {"data": bands + lines, "layout": layout}


def _line(
    name: str,
    method: MethodResult,
    xs: list[float],
    style: MethodStyle,
    x_unit: str,
    metric: Metric,
) -> Chart:
    ys = _over_seeds(method, _shown_value(metric), _mean)
    ablation = is_ablation(name)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": method.label,
        "meta": name,
        "x": xs,
        "y": ys,
        "line": {
            "color": f"${name}",
            "width": _ABLATION_WIDTH_PX if ablation else _LINE_WIDTH_PX,
            "dash": style.dash,
        },
        "marker": {
            "color": f"${name}",
            "symbol": style.symbol,
            "size": 6 if ablation else 8,
            "maxdisplayed": _NUM_MARKERS,
        },
        "hovertemplate": f"{method.label} {_shown(metric)} at %{{x:.3~g}} {x_unit}<extra></extra>",
    }


def _band(name: str, method: MethodResult, xs: list[float], metric: Metric) -> Chart:
    """Fill the space between the lowest and the highest seed."""
    low = _over_seeds(method, _shown_value(metric), min)
    high = _over_seeds(method, _shown_value(metric), max)
    return {
        "type": "scatter",
        "mode": "none",
        "meta": name,
        "x": xs + xs[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": f"${name}-band",
        "hoverinfo": "skip",
    }


def _over_seeds(
    method: MethodResult,
    value_of: Callable[[CurvePoint], float],
    reduce: Callable[[Sequence[float]], float],
) -> list[float]:
    """Return `reduce` of the seeds' values at every time of the grid."""
    return [
        reduce([value_of(point) for point in points]) for points in zip(*method.curve, strict=True)
    ]


def _shown_value(metric: Metric) -> Callable[[CurvePoint], float]:
    return lambda point: metric.scale * point.accuracy


def _shown(metric: Metric) -> str:
    """Return how a hover text shows the value."""
    return metric.with_unit(f"%{{y:.{metric.num_digits}f}}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def plain_layout(x_title: str, y_title: str) -> Chart:
    """Return the look that all charts of the page share."""
    axis = {
        "gridcolor": "$grid",
        "zerolinecolor": "$grid",
        "linecolor": "$line",
        "automargin": True,
        "ticks": "outside",
        "tickcolor": "$line",
        "ticklen": 4,
    }
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "$text"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 10, "b": 48},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "$panel",
            "bordercolor": "$line",
            "font": {"color": "$text", "size": 12},
            "align": "left",
        },
        "xaxis": {**axis, "title": {"text": x_title, "standoff": 8}},
        "yaxis": {**axis, "title": {"text": y_title, "standoff": 6}},
    }
