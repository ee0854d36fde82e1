"""`emsfl validate`: check a config file and show what it resolves to."""

from __future__ import annotations

from typing import Annotated

import typer

from emsfl.cli.run import Config, Methods, Overrides, Seeds, split_names, split_seeds


def validate(
    config: Config,
    overrides: Overrides = None,
    methods: Methods = None,
    seeds: Seeds = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the resolved config as JSON, nothing else.")
    ] = False,
) -> None:
    """Check a config file and show every value that a run of it would use.

    Takes the same config, values, --methods and --seeds as `emsfl run`, and runs nothing.
    """
    import json

    from emsfl import experiment
    from emsfl.config import to_yaml

    settings = experiment.load(
        config, overrides or [], methods=split_names(methods), seeds=split_seeds(seeds)
    )
    if as_json:
        typer.echo(json.dumps(settings.model_dump(mode="json"), indent=2, allow_nan=False))
        return
    typer.echo(to_yaml(settings), nl=False)
    typer.echo(f"{config} is valid", err=True)
