"""The tables of a run as text cells: printed by rich, and shown on the page by the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emsfl.results.labels import EMS_FL, domain_label
from emsfl.results.metric import Metric, metric_of
from emsfl.results.schema import MethodResult, RunResult
from emsfl.results.summary import best_fedavg
from emsfl.results.wording import (
    BYTES_PER_MB,
    MISSING,
    amount,
    compute_unit,
    count,
    duration,
    energy_unit,
    hours_to_target,
    listing,
)

PIPE_WIDTH = 100
"""Columns of a table that goes to a file or a pipe."""


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table ready to be shown: the first column names the row, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...] = ()
    """The method of each row, where rows are methods."""
    text_columns: tuple[int, ...] = (0,)
    """Positions of the columns that hold text, not numbers."""
    note: str = ""


def best_fedavg_of(result: RunResult) -> str | None:
    """Return the name of the best FedAvg form of a finished run, or None where none ran."""
    return best_fedavg(
        {name: method.final_accuracy.per_seed for name, method in result.methods.items()},
        metric_of(result),
    )


def time_ratio(result: RunResult, method: str) -> float | None:
    """Return the mean time to target over that of the best FedAvg form.

    None when either did not reach its target with every seed, or FedAvg needed no time at all.
    """
    form = best_fedavg_of(result)
    own = result.methods[method].time_to_target_s.mean
    theirs = result.methods[form].time_to_target_s.mean if form else None
    return own / theirs if own is not None and theirs else None


def quality_table(result: RunResult) -> TextTable:
    """Return how good every method ends: merged, per domain, and its sub-models."""
    metric = metric_of(result)
    domains = list(dict.fromkeys(d for m in result.methods.values() for d in m.accuracy_by_domain))
    rows = []
    for method in result.methods.values():
        by_domain = method.accuracy_by_domain
        rows.append(
            (
                method.label,
                metric.spread(method.final_accuracy),
                *(metric.value(by_domain[d].mean) if d in by_domain else MISSING for d in domains),
                _submodels(method, metric),
            )
        )
    num_seeds = len(result.seeds)
    start = sum(result.initial_accuracy) / num_seeds
    spread = (
        f"mean ± standard deviation over {num_seeds} seeds; " if num_seeds > 1 else "one seed; "
    )
    return TextTable(
        title=", ".join(filter(None, [f"{metric.title.capitalize()} at the end", metric.unit])),
        columns=("method", "merged model", *(domain_label(d) for d in domains), "sub-models"),
        rows=tuple(rows),
        keys=tuple(result.methods),
        note=f"{spread}before any tuning {metric.value(start)}; sub-models on their own domain",
    )


def cost_table(result: RunResult) -> TextTable:
    """Return what every method took: time to target, traffic, compute and energy, seed means."""
    methods = result.methods
    joules, energy = energy_unit([method.energy_J.mean for method in methods.values()])
    flops, compute = compute_unit([method.device_flops.mean for method in methods.values()])
    rows = []
    for name, method in methods.items():
        ratio = time_ratio(result, name)
        has_target = result.target_accuracy is not None
        rows.append(
            (
                method.label,
                hours_to_target(method.time_to_target_s) if has_target else MISSING,
                MISSING if ratio is None else f"{ratio:.2f}",
                amount(method.uploaded_bytes.mean / BYTES_PER_MB),
                amount(method.upload_bytes_per_contact.mean / BYTES_PER_MB),
                amount(method.device_flops.mean / flops),
                amount(method.energy_J.mean / joules),
            )
        )
    return TextTable(
        title="What it took",
        columns=(
            "method",
            "hours to target",
            "of FedAvg's time",
            "upload MB",
            "MB per contact",
            f"compute {compute}",
            f"energy {energy}",
        ),
        rows=tuple(rows),
        keys=tuple(methods),
        note=target_note(result),
    )


def target_note(result: RunResult) -> str:
    """Return what the target of `result` is, in one sentence without a full stop."""
    form = best_fedavg_of(result)
    if form is None or result.target_accuracy is None:
        return "no target: no form of FedAvg ran"
    metric = metric_of(result)
    shown = metric.with_unit(listing([metric.value(value) for value in result.target_accuracy]))
    each = " (one per seed)" if len(result.target_accuracy) > 1 else ""
    return f"target: the final {metric.title} of {result.methods[form].label}, {shown}{each}"


def traffic_table(result: RunResult) -> TextTable:
    """Return the rest of what every method took: updates, downloads, trainable parameters."""
    return TextTable(
        title="Traffic and load, means over the seeds",
        columns=(
            "method",
            "updates merged",
            "updates refused",
            "download, MB",
            "peak trainable parameters",
            "optimiser, MB",
            "memory, MB",
        ),
        rows=tuple(
            (
                method.label,
                count(method.num_updates.mean),
                count(method.num_refused.mean),
                amount(method.downloaded_bytes.mean / BYTES_PER_MB),
                f"{method.peak_trainable_parameters:,}",
                _megabytes(method.peak_optimizer_bytes),
                _megabytes(method.peak_memory_bytes),
            )
            for method in result.methods.values()
        ),
        keys=tuple(result.methods),
        note="parameters, optimiser state and memory: the most that one device needs",
    )


def _megabytes(size: int | None) -> str:
    return MISSING if size is None else amount(size / BYTES_PER_MB)


def lead_table(result: RunResult) -> TextTable | None:
    """Return EMS-FL's lead over every other method with its evidence; None where it did not run."""
    ems = result.methods.get(EMS_FL)
    others = {name: method for name, method in result.methods.items() if name != EMS_FL}
    if ems is None or not others:
        return None
    metric = metric_of(result)
    rows = []
    for method in others.values():
        lead = metric.lead(ems.final_accuracy, method.final_accuracy)
        rows.append((method.label, metric.gain(lead.mean), metric.evidence(lead)))
    return TextTable(
        title=f"EMS-FL's lead in final {metric.title}, {metric.difference_unit}, paired by seed",
        columns=("over", "lead", "evidence"),
        rows=tuple(rows),
        keys=tuple(others),
        text_columns=(0, 2),
    )


def sweep_table(points: Sequence[tuple[Mapping[str, str], RunResult]]) -> TextTable:
    """Return one row per point of a sweep and method.

    Args:
        points: (swept keys with their values, result); all with the same keys and metric.
    """
    keys = list(points[0][0])
    metric = metric_of(points[0][1])
    rows = []
    for settings, result in points:
        for method in result.methods.values():
            curve = [point.accuracy for seed in method.curve for point in seed]
            rows.append(
                (
                    *settings.values(),
                    method.label,
                    metric.spread(method.final_accuracy),
                    metric.value(sum(curve) / len(curve)),
                    hours_to_target(method.time_to_target_s) if result.target_accuracy else MISSING,
                    amount(method.uploaded_bytes.mean / BYTES_PER_MB),
                )
            )
    return TextTable(
        title=f"{len(points)} points; {metric.axis_title}",
        columns=(
            *(key.rsplit(".", 1)[-1] for key in keys),
            "method",
            "final",
            "mean over the run",
            "hours to target",
            "upload MB",
        ),
        rows=tuple(rows),
        text_columns=(*range(len(keys) + 1),),
    )


def contact_table(result: RunResult) -> TextTable:
    """Return how often each site is in contact."""
    return TextTable(
        title="Contacts of each site",
        columns=(
            "site",
            "contacts per day",
            "mean length",
            "mean gap",
            "longest gap",
            "uplink, MB per day",
            "downlink, MB per day",
        ),
        rows=tuple(
            (
                site.site,
                f"{site.contacts_per_day:.1f}",
                duration(site.mean_duration_s),
                duration(site.mean_gap_s),
                duration(site.longest_gap_s),
                amount(site.uplink_bits_per_day / 8 / BYTES_PER_MB),
                amount(site.downlink_bits_per_day / 8 / BYTES_PER_MB),
            )
            for site in result.contact_statistics
        ),
    )


def print_tables(tables: Sequence[TextTable], console: Console) -> None:
    """Print tables one below the other, each with its note."""
    for table in tables:
        console.print()
        console.print(rich_table(table))
        if table.note:
            console.print(table.note, style="dim", highlight=False, markup=False)


def table_console() -> Console:
    """Return a console on stdout; without a terminal it is wide enough for every table."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    return console


def print_result(result: RunResult, console: Console) -> None:
    """Print what a run found: how good the models are, and what they cost."""
    print_tables([quality_table(result), cost_table(result)], console)


def rich_table(table: TextTable) -> Table:
    """Return `table` for rich; text is taken as it is, not as rich's markup."""
    shown = Table(
        title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for position, column in enumerate(table.columns):
        is_text = position in table.text_columns
        # Numbers and short names never break over lines; a head does, between its words.
        cells = [row[position] for row in table.rows]
        whole = [*column.split(), *(cell for cell in cells if not is_text or len(cell) <= 20)]
        width = max(len(text) for text in whole)
        shown.add_column(
            Text("\n".join(wrap(column, width, break_on_hyphens=False))),
            justify="left" if is_text else "right",
            min_width=width,
        )
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _submodels(method: MethodResult, metric: Metric) -> str:
    own = [values.mean for values in method.submodel_accuracy.values()]
    return metric.value(sum(own) / len(own)) if own else MISSING
