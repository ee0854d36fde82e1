"""The report: one HTML page per run that needs nothing but a browser, no network."""

from __future__ import annotations

import base64
import gzip
import json
import math
from functools import cache
from importlib import resources
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from emsfl.files import write_text
from emsfl.results.charts import (
    contact_timeline,
    end_h,
    quality_by_domain,
    quality_over_bytes,
    quality_over_time,
    uploading_methods,
)
from emsfl.results.findings import chance_mass, headline_figures, key_findings
from emsfl.results.labels import CLUSTER_COLOURS, is_ablation, method_styles
from emsfl.results.metric import metric_of
from emsfl.results.run_folder import RunFolder
from emsfl.results.schema import Assignment, RunResult
from emsfl.results.split import Split, split_charts
from emsfl.results.tables import (
    TextTable,
    contact_table,
    cost_table,
    lead_table,
    quality_table,
    target_note,
    traffic_table,
)
from emsfl.results.wording import (
    BYTES_PER_MB,
    MISSING,
    amount,
    duration,
    hours,
    percent,
)

_BAND_OPACITY = 0.16
_ABLATION_BAND_OPACITY = 0.08
_HASH_DIGITS = 16
_GLYPHS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "x": "✖",
    "cross": "✚",
    "star": "★",
    "hexagon": "⬢",
    "pentagon": "⬟",
    "hourglass": "⧗",
    "bowtie": "⧓",
}
_DASHES = {"solid": "", "dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "9 3"}


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` into a finished run and return its path.

    Raises:
        RunFolderError: the run has no readable result.
    """
    result = folder.read_result()
    path = folder.split_path(result.seeds[0])
    split = Split.load(path) if path.is_file() else None
    write_text(folder.report_path, render_report(result, split))
    return folder.report_path


def render_report(result: RunResult, split: Split | None = None) -> str:
    """Return the page as HTML; `split` is the first seed's, where it is known."""
    environment = Environment(
        loader=PackageLoader("emsfl.results", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {
        "time": quality_over_time(result),
        "bytes": quality_over_bytes(result),
        "domains": quality_by_domain(result),
        "contacts": contact_timeline(result),
    }
    split_kinds = split_charts(split) if split else {}
    charts |= {f"split-{kind}": chart for kind, chart in split_kinds.items()}
    return environment.get_template("report.html.j2").render(
        result=result,
        facts=_facts(result),
        figures=headline_figures(result),
        findings=key_findings(result),
        methods=_methods(result),
        quality=quality_table(result),
        metric=metric_of(result),
        cost=cost_table(result),
        traffic=traffic_table(result),
        lead=lead_table(result),
        curve=curve_table(result),
        submodels=submodel_table(result),
        contacts=contact_table(result),
        uploads=upload_table(result),
        upload_methods=uploading_methods(result),
        split_kinds=list(split_kinds),
        num_days=math.ceil(end_h(result) / 24),
        target=target_note(result),
        assignments=_assignments(result),
        provenance=_provenance(result),
        config=yaml.safe_dump(result.config, sort_keys=False, allow_unicode=True, width=100),
        colours={"light": _colours(result, dark=False), "dark": _colours(result, dark=True)},
        style=_template("report.css"),
        script=_template("report.js"),
        # A '<' inside a script element could end it.
        charts=json.dumps(charts, allow_nan=False).replace("<", "\\u003c"),
        plotly=_packed_plotly(),
    )


def curve_table(result: RunResult) -> TextTable:
    """Return the curves as numbers: the metric and megabytes per method at every time."""
    metric = metric_of(result)
    rows = []
    for position, point in enumerate(next(iter(result.methods.values())).curve[0]):
        cells = [hours(point.time_s)]
        for method in result.methods.values():
            points = [curve[position] for curve in method.curve]
            value = sum(p.accuracy for p in points) / len(points)
            uploaded = sum(p.uploaded_bytes for p in points) / len(points)
            cells.append(f"{metric.value(value)} / {amount(uploaded / BYTES_PER_MB)}")
        rows.append(tuple(cells))
    return TextTable(
        title=f"{metric.axis_title.capitalize()} / uploaded, MB, means over the seeds",
        columns=("time, h", *(method.label for method in result.methods.values())),
        rows=tuple(rows),
    )


def submodel_table(result: RunResult) -> TextTable:
    """Return every cluster's own model on its own domain, for the methods that have such models."""
    metric = metric_of(result)
    owners = {name: method for name, method in result.methods.items() if method.submodel_accuracy}
    clusters = list(dict.fromkeys(c for m in owners.values() for c in m.submodel_accuracy))
    return TextTable(
        title=f"Sub-models on their own domain: {metric.axis_title}",
        columns=("method", *clusters),
        rows=tuple(
            (
                method.label,
                *(
                    metric.spread(method.submodel_accuracy[cluster])
                    if cluster in method.submodel_accuracy
                    else MISSING
                    for cluster in clusters
                ),
            )
            for method in owners.values()
        ),
        keys=tuple(owners),
    )


def upload_table(result: RunResult) -> TextTable:
    """Return the timeline as numbers: contacts, and uploads per method, of every cluster."""
    methods = uploading_methods(result)
    return TextTable(
        title=f"Counts, seed {result.seeds[0]}",
        columns=("cluster", "contacts", *(result.methods[name].label for name in methods)),
        rows=tuple(
            (
                cluster,
                str(len(timeline.contacts)),
                *(str(len(timeline.uploads.get(name, []))) for name in methods),
            )
            for cluster, timeline in result.timeline.items()
        ),
    )


def _facts(result: RunResult) -> list[str]:
    num_contacts = sum(len(timeline.contacts) for timeline in result.timeline.values())
    seeds = ", ".join(str(seed) for seed in result.seeds)
    return [
        f"{len(result.methods)} method{'s' if len(result.methods) > 1 else ''}",
        f"seed{'s' if len(result.seeds) > 1 else ''} {seeds}",
        f"{len(result.timeline)} clusters",
        f"{num_contacts:,} contacts",
        f"{end_h(result):.0f} h of virtual time",
    ]


def _methods(result: RunResult) -> list[dict[str, Any]]:
    styles = method_styles(list(result.methods))
    return [
        {
            "name": name,
            "label": method.label,
            "meaning": styles[name].meaning,
            "ablation": is_ablation(name),
            "dash": _DASHES[styles[name].dash],
            "glyph": _GLYPHS[styles[name].symbol],
        }
        for name, method in result.methods.items()
    ]


def _assignments(result: RunResult) -> list[dict[str, Any]]:
    """Return each distinct assignment once, with the labels of the methods that share it."""
    shared: list[tuple[Assignment, list[str]]] = []
    for name, assignment in result.assignment.items():
        label = result.methods[name].label if name in result.methods else name
        for known, labels in shared:
            if known == assignment:
                labels.append(label)
                break
        else:
            shared.append((assignment, [label]))
    return [_assignment(assignment, labels) for assignment, labels in shared]


def _assignment(assignment: Assignment, labels: list[str]) -> dict[str, Any]:
    clusters = [
        {
            "name": cluster,
            "letter": _letter(position),
            "colour": position % len(CLUSTER_COLOURS),
            "mass": assignment.mass_kept.get(cluster, []),
            "num_experts": sum(layer.count(cluster) for layer in assignment.owner),
        }
        for position, cluster in enumerate(assignment.clusters)
    ]
    by_name = {cluster["name"]: cluster for cluster in clusters}
    layers = [[by_name.get(owner or "") for owner in layer] for layer in assignment.owner]
    return {
        "labels": labels,
        "clusters": clusters,
        "layers": layers,
        "num_experts": max((len(layer) for layer in layers), default=0),
        "chance": percent(chance_mass(assignment)),
    }


def _letter(position: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    letters = ascii_uppercase[position % 26]
    return letters if position < 26 else _letter(position // 26 - 1) + letters


def _provenance(result: RunResult) -> list[tuple[str, str]]:
    made = result.provenance
    packages = ", ".join(f"{name} {version}" for name, version in made.packages.items())
    models = ", ".join(f"seed {seed}: {_short(value)}" for seed, value in made.model_hash.items())
    return [
        ("made", f"{made.created_utc}, in {duration(made.wall_time_s)}"),
        ("emsfl", made.emsfl_version),
        ("git", made.git_hash or "not from a checkout"),
        ("Python", f"{made.python} on {made.platform}"),
        ("packages", packages),
        ("config", _short(made.config_hash)),
        ("contact plan", _short(made.plan_hash)),
        ("data", _short(made.data_hash)),
        ("pre-trained model", models),
        ("schema version", str(result.schema_version)),
    ]


def _short(digest: str) -> str:
    return digest[:_HASH_DIGITS]


def _colours(result: RunResult, *, dark: bool) -> dict[str, str]:
    """Return the page's CSS variables for methods and clusters."""
    colours = {}
    for name, style in method_styles(list(result.methods)).items():
        colour = style.dark if dark else style.light
        red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
        colours[name] = colour
        opacity = _ABLATION_BAND_OPACITY if is_ablation(name) else _BAND_OPACITY
        colours[f"{name}-band"] = f"rgba({red},{green},{blue},{opacity})"
    for position, fills in enumerate(CLUSTER_COLOURS):
        colours[f"cluster-{position}"] = fills[dark]
    return colours


def _template(name: str) -> str:
    return (resources.files("emsfl.results") / "templates" / name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    """Return plotly.js as gzip in base64: 2 MB instead of 4.8; the page unpacks it."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs().encode()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()
