"""`emsfl resume`: continue a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.run import AsJson, Workers, print_result_of


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)],
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was stopped, from its last checkpoint to the same result."""
    from emsfl import experiment

    print_result_of(experiment.resume(run, workers=workers, progress=not as_json), as_json)
