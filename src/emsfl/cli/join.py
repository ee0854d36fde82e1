"""`emsfl join`: be one cluster's gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.run import Config, Overrides
from emsfl.cli.serve import Insecure, Keys, keys_folder


def join(
    config: Config,
    overrides: Overrides = None,
    cluster: Annotated[
        str, typer.Option(metavar="NAME", help="The site in the config that this machine is.")
    ] = ...,  # type: ignore[assignment]
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where 'emsfl serve' listens.")
    ] = "127.0.0.1:9443",
    journal: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where work is kept. Default: node-NAME."),
    ] = None,
    keys: Keys = None,
    insecure: Insecure = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Send whenever the link is up; the server keeps time."),
    ] = False,
    speedup: Annotated[
        float, typer.Option(min=1.0, help="That of the server, if it was given one.")
    ] = 1.0,
    poll_s: Annotated[
        float, typer.Option(min=0.01, help="Most seconds between looks for messages in a contact.")
    ] = 5.0,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON log. Default: stderr.")
    ] = None,
) -> None:
    """Join a federation as the gateway of one cluster, with the same config as the server.

    Work is kept on disk before it is confirmed: a gateway that was killed is started again with
    the same command and goes on where it was. It ends when the federation has ended.
    """
    from emsfl import experiment_config, service

    service.join(
        experiment_config.load(config, overrides or []),
        service.JoinOptions(
            cluster=cluster,
            server=server,
            folder=journal or Path(f"node-{cluster}"),
            keys_folder=keys_folder(keys, insecure),
            poll_s=poll_s,
            speedup=speedup,
            rehearses=rehearse,
            log=log,
        ),
    )
