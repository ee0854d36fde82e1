"""`emsfl bound`: the convergence bound of a run, or of an experiment before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emsfl.cli.run import Methods, split_names

if TYPE_CHECKING:
    from emsfl.experiment_bound import Forecasts
    from emsfl.simulate import MethodBound


def bound(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CONFIG", help="The folder of a run, or a config file.", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Of a config: replace values.", show_default=False
        ),
    ] = None,
    methods: Methods = None,
    points: Annotated[
        int, typer.Option(min=1, help="Of a run: equal parts of the plan that are looked at.")
    ] = 12,
    step_size: Annotated[
        float | None,
        typer.Option(help="Of a run: the theorems' step size. Default: the run's, if in range."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Of a config: training loss. Default: half of the smallest at first."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a run: the page. Default: bound.html in the run."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Of a run: processes that train.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, nothing else.")
    ] = False,
) -> None:
    """Compare a run with its convergence bound, or predict from a config.

    With a run: repeat it with the algorithm of docs/theory.md (plain SGD, independent batches)
    over the run's own plan and events, estimate the theorems' constants, and set the measured
    squared gradient norm and loss against their bounds, term by term.

    With a config: estimate the constants on the untrained model and say after how many hours
    each method's bound comes down to a training loss, and which term decides that.
    """
    if source.is_dir():
        if overrides or target is not None:
            raise typer.BadParameter("KEY=VALUE and --target are for a config, not for a run")
        _of_run(source, split_names(methods), points, step_size, plot, workers, as_json)
        return
    if step_size is not None or plot is not None:
        raise typer.BadParameter("--step-size and --plot are for a run, not for a config")
    _of_config(source, overrides or [], split_names(methods), target, as_json)


def _of_run(
    folder: Path,
    methods: list[str] | None,
    points: int,
    step_size: float | None,
    plot: Path | None,
    workers: int,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from emsfl.experiment_bound import bound_run
    from emsfl.results import write_bound_page

    found = bound_run(
        folder, methods=methods, num_points=points, step_size=step_size, workers=workers
    )
    rows = [asdict(row) for one in found for row in one.rows]
    page = plot or folder / "bound.html"
    write_bound_page(rows, f"{folder.name}: the theorems' algorithm against its bound", page)
    if as_json:
        _print_json({"rows": rows, "methods": [_facts(one) for one in found]})
        return
    for one in found:
        _print_bound(one)
    typer.echo(f"plot: {page}")


def _of_config(
    config: Path,
    overrides: list[str],
    methods: list[str] | None,
    target: float | None,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from emsfl import experiment
    from emsfl.experiment_bound import forecast

    found = forecast(experiment.load(config, overrides), methods=methods, target=target)
    if as_json:
        rows = [asdict(p) | {"constants": _plain(vars(p.constants))} for p in found.predictions]
        _print_json({"rows": rows, "reference": found.reference, "ratio": found.ratio})
        return
    _print_forecasts(found)


def _print_bound(one: MethodBound) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    table = Table(title=f"{one.method}: step size {one.step_size:.3g}, estimated constants")
    for heading in ("time (h)", "cluster", "quantity", "measured", "bound", "largest terms"):
        table.add_column(heading, justify="right" if heading in ("measured", "bound") else "left")
    for row in one.rows:
        largest = sorted(row.terms.items(), key=lambda item: -item[1])[:2]
        table.add_row(
            f"{row.time_s / 3600:.1f}",
            row.cluster,
            row.quantity,
            f"{row.measured:.4g}",
            "infinite" if row.bound is None else f"{row.bound:.4g}",
            ", ".join(f"{name} {value:.3g}" for name, value in largest if value > 0),
        )
    console.print(table)
    c = one.constants
    typer.echo(
        f"smoothness L {c.smoothness:.3g}, initial gap {c.initial_gap:.3g}, PL {c.pl or 0:.3g}; "
        f"largest over clusters: noise variance {max(c.shared_noise):.3g} shared, "
        f"{max(c.expert_noise):.3g} experts, device gap {max(c.device_gap):.3g}, "
        f"cluster gap {max(c.cluster_gap):.3g}"
    )
    if one.gate:
        wrong = ", ".join(f"{name} {share:.1%}" for name, share in one.gate["misrouted"].items())
        typer.echo(f"gate: misroutes {wrong}; loss range {one.gate['loss_range']:.3g}")
    for line in one.differences:
        typer.echo(f"the run differs from the theorems: {line}")


def _print_forecasts(found: Forecasts) -> None:
    from rich.console import Console
    from rich.table import Table

    target = found.predictions[0].target_loss
    table = Table(title=f"Hours until the bound on the training loss is {target:.3g}")
    for heading in ("method", "loss at first", "L", "steps a day", "step size", "hours", "leads"):
        table.add_column(heading, justify="left" if heading in ("method", "leads") else "right")
    for p in found.predictions:
        share = p.terms[p.leading] / sum(p.terms.values()) if p.leading else 0.0
        table.add_row(
            p.method,
            f"{p.initial_loss:.3f}",
            f"{p.smoothness:.3g}",
            f"{p.ticks_per_day:.1f}",
            "-" if p.step_size is None else f"{p.step_size:.2g}",
            "never" if p.hours is None else f"{p.hours:.0f}",
            "-" if p.leading is None else f"{p.leading} ({share:.0%})",
        )
    Console(width=120).print(table)
    if found.ratio is not None:
        typer.echo(
            f"ems_fl needs {found.ratio:.3g} of the time of {found.reference}, by the bounds"
        )
    for p in found.predictions:
        for line in p.differences:
            typer.echo(f"{p.method} differs from the theorems: {line}")


def _facts(one: MethodBound) -> dict[str, Any]:
    return {
        "method": one.method,
        "step_size": one.step_size,
        "own_step_size": one.own_step_size,
        "largest_step_size": one.largest_step_size,
        "constants": _plain(vars(one.constants)),
        "gate": one.gate,
        "differences": one.differences,
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, "tolist", lambda value=value: value)()
        for name, value in values.items()
    }


def _print_json(tree: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(tree, indent=2, allow_nan=False))
