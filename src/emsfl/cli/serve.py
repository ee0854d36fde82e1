"""`emsfl serve`: be the parameter server of real machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.run import AsJson, Config, Methods, Overrides, Seeds, split_names, split_seeds

Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Keys and certificates (see 'emsfl keys')."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain text, open to all: for rehearsals only.")
]


def serve(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The run folder; a served one goes on.")
    ] = Path("runs/served"),
    methods: Methods = None,
    seeds: Seeds = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9443,
    keys: Keys = None,
    insecure: Insecure = False,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Count steps by the cost model and follow the plan's order of events, as a "
            "simulation does: the same bits come out.",
        ),
    ] = False,
    speedup: Annotated[
        float, typer.Option(min=1.0, help="Virtual seconds per second, from now on.")
    ] = 1.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this port, locally."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve an experiment to the clusters that join it, until its contact plan ends.

    The run folder and the report are those of 'emsfl run'. A server that was stopped or killed is
    started again with the same command and goes on; nothing that it accepted is lost.
    """
    from emsfl import experiment_config, service
    from emsfl.cli.run import print_result_of
    from emsfl.experiment import Result

    settings = experiment_config.load(
        config, overrides or [], methods=split_names(methods), seeds=split_seeds(seeds)
    )
    found = service.serve(
        settings,
        service.ServeOptions(
            out=out,
            host=host,
            port=port,
            keys_folder=keys_folder(keys, insecure),
            speedup=speedup,
            rehearses=rehearse,
            metrics_port=metrics_port,
        ),
    )
    print_result_of(Result(out, found), as_json)


def keys_folder(keys: Path | None, insecure: bool) -> Path | None:
    """Return the folder of the keys, None where the user typed --insecure."""
    if insecure and keys is not None:
        raise typer.BadParameter("cannot be combined with --keys", param_hint="--insecure")
    if keys is None and not insecure:
        raise typer.BadParameter(
            "is missing; make keys with 'emsfl keys', or type --insecure", param_hint="--keys"
        )
    return keys
