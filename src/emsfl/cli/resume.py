"""`emsfl resume`: continue a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.run import AsJson, Executor, Sink, Workers, checked_executor, print_result_of


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)],
    workers: Workers = 1,
    executor: Executor = "local",
    sink: Sink = None,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was stopped, from its last checkpoint to the same result."""
    from emsfl import experiment

    finished = experiment.resume(
        run,
        workers=workers,
        executor=checked_executor(executor),
        sinks=sink or (),
        progress=not as_json,
    )
    print_result_of(finished, as_json)
