"""`emsfl compare`: several finished runs in one table, with what makes them different."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of finished runs; the first is the reference."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON, nothing else.")
    ] = False,
) -> None:
    """Compare the methods of several runs in one table."""
    import json

    from emsfl.results import compare_runs, print_comparison, read_runs, table_console

    comparison = compare_runs(read_runs(runs))
    if as_json:
        typer.echo(json.dumps(comparison.as_json(), indent=2, allow_nan=False))
    else:
        print_comparison(comparison, table_console())
