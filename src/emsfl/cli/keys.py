"""`emsfl keys`: make keys and certificates."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class What(StrEnum):
    """What is made."""

    SERVER = "server"
    NODE = "node"


def keys(
    what: Annotated[
        What, typer.Argument(help="server: certificates of 'serve'. node: a key of 'join'.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="server: addresses under which nodes reach it. node: names of clusters.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the keys, made if missing.")
    ] = Path("keys"),
) -> None:
    """Make keys and certificates for 'emsfl serve' and 'emsfl join'.

    The server needs server.pem, server.key, authority.pem and every cluster's NAME.pub; a node
    needs authority.pem and its own NAME.key. To register a cluster, copy its .pub file to the
    server; to shut it out, remove that file and start the server again.
    """
    from emsfl.deploy import keys as files

    if what is What.SERVER:
        files.make_server_keys(out, names or [])
        typer.echo(f"nodes need {out / files.AUTHORITY}; {files.SERVER_KEY} stays on the server")
        return
    if not names:
        raise typer.BadParameter("name at least one cluster", param_hint="NAME")
    for name in names:
        files.make_node_key(out, name)
        typer.echo(f"{out / name}.pub goes to the server's keys; {name}.key stays on its machine")
