"""`emsfl run`: run the experiment of a config file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from emsfl.experiment import Result

Config = Annotated[Path, typer.Argument(help="The experiment, in YAML.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Replace single values: orbit.hours=24, seeds=[0,1]. The value is YAML.",
        show_default=False,
    ),
]
Methods = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Methods, in place of the config's.")
]
Seeds = Annotated[
    str | None, typer.Option(metavar="0,1,...", help="Seeds, in place of the config's.")
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that train. The result is the same for any number.")
]
Executor = Annotated[
    str, typer.Option(metavar="local|ray", help="Where training runs. The result is the same.")
]
Sink = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Give the curves to a tracker as well: tensorboard, mlflow, wandb (offline unless "
        "WANDB_MODE is set) or trackio. May be given several times.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print result.json, nothing else.")]


def run(
    config: Config,
    overrides: Overrides = None,
    methods: Methods = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run folder, made at once. Default: one below runs/."),
    ] = None,
    workers: Workers = 1,
    executor: Executor = "local",
    sink: Sink = None,
    as_json: AsJson = False,
) -> None:
    """Run the experiment of a config file and write a run folder.

    --methods and --seeds win over KEY=VALUE, that wins over the file, and the file over the
    defaults. A run that was stopped goes on with `emsfl resume`.
    """
    from emsfl import experiment

    settings = experiment.load(
        config, overrides or [], methods=split_names(methods), seeds=split_seeds(seeds)
    )
    finished = experiment.run(
        settings,
        out=out,
        workers=workers,
        executor=checked_executor(executor),
        sinks=sink or (),
        progress=not as_json,
    )
    print_result_of(finished, as_json)


def checked_executor(name: str) -> str:
    """Return the name of an executor; anything else is a usage error."""
    if name not in ("local", "ray"):
        raise typer.BadParameter(f"{name!r} is neither local nor ray", param_hint="--executor")
    return name


def split_names(text: str | None) -> list[str] | None:
    """Split "a,b" into names; None stays None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise typer.BadParameter(
            f"{text!r} must be names between commas, such as a,b", param_hint="--methods"
        )
    return names


def split_seeds(text: str | None) -> list[int] | None:
    """Split "0,1,2" into whole numbers; None stays None."""
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} must be whole numbers between commas, such as 0,1,2", param_hint="--seeds"
        ) from None


def print_result_of(finished: Result, as_json: bool) -> None:
    """Print the tables of a finished run and where it lies, or its result.json as it is."""
    from emsfl.results import RunFolder, print_result, table_console

    if as_json:
        typer.echo(
            RunFolder.open(finished.folder).result_path.read_text(encoding="utf-8"), nl=False
        )
        return
    print_result(finished.result, table_console())
    typer.echo(f"report: {RunFolder.open(finished.folder).report_path}")
