"""`emsfl report`: print the tables of finished runs and write their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the paths of the pages as JSON, nothing else.")
    ] = False,
) -> None:
    """Print the tables of finished runs and write report.html into each."""
    import json

    from emsfl.results import RunFolder, print_result, table_console, write_report

    folders = [RunFolder.open(run) for run in runs]
    console = table_console()
    pages = []
    for folder in folders:
        page = write_report(folder)
        pages.append(str(page))
        if not as_json:
            result = folder.read_result()
            console.print(f"{result.name}", markup=False, highlight=False, style="bold")
            print_result(result, console)
            console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(pages))
