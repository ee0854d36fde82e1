"""`emsfl sweep`: run a grid of settings over a config, several points at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.run import Config, Methods, Seeds, split_names, split_seeds


def sweep(
    config: Config,
    axes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=A,B,C...",
            help="A key with its values; every combination is run. One value replaces the file's.",
            show_default=False,
        ),
    ],
    methods: Methods = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Holds one run folder per point. A sweep that was stopped goes on here. "
            "Default: runs/NAME-sweep.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Points that run at the same time.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON, nothing else.")
    ] = False,
) -> None:
    """Run a grid of settings over a config and print one row per point and method.

    To tune, judge on validation data and with other seeds than those that will be reported:
    emsfl sweep demo.yaml method_settings.fedavg.learning_rate=0.01,0.02,0.05
    simulate.judged_on=validation --methods fedavg --seeds 10,11
    """
    import json

    from emsfl import sweep as sweeps
    from emsfl.results import print_tables, sweep_table, table_console

    points = sweeps.grid(config, sweeps.parse_axes(axes), split_names(methods), split_seeds(seeds))
    folder = out or Path("runs", f"{points[0].config.name}-sweep")
    done = 0

    def tell(point: sweeps.Point) -> None:
        nonlocal done
        done += 1
        typer.echo(f"{done} of {len(points)}: {point.name}", err=True)

    results = sweeps.run_points(points, folder, workers, tell)
    rows = [(point.settings, results[point.name]) for point in points]
    if as_json:
        report = [
            {
                "point": str(folder / point.name),
                "settings": point.settings,
                "metric": results[point.name].metric,
                "methods": {
                    name: {
                        "final_accuracy": method.final_accuracy.model_dump(),
                        "time_to_target_s": method.time_to_target_s.model_dump(),
                    }
                    for name, method in results[point.name].methods.items()
                },
            }
            for point in points
        ]
        typer.echo(json.dumps(report, indent=2, allow_nan=False))
        return
    print_tables([sweep_table(rows)], table_console())
    typer.echo(f"runs: {folder}")
