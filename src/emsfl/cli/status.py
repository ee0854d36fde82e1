"""`emsfl status`: where a deployment is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from emsfl.deploy import Status


def status(
    run: Annotated[Path, typer.Argument(help="The run folder of an 'emsfl serve'.")],
    watch: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Go on, and look again this often."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the status as JSON, nothing else.")
    ] = False,
) -> None:
    """Show where a deployment is: nodes, next contact, versions, bytes, last loss."""
    import json
    import time
    from dataclasses import asdict

    from rich.console import Console
    from rich.live import Live

    from emsfl.deploy import Status

    found = Status.read(run)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    if watch is None:
        Console(width=110).print(_table(found))
        return
    with Live(_table(found), auto_refresh=False) as live:
        while not found.finished:
            time.sleep(watch)
            found = Status.read(run)
            live.update(_table(found), refresh=True)


def _table(found: Status) -> Table:
    from rich.table import Table

    hours, total = found.time_s / 3600, found.duration_s / 3600
    judged = "" if found.accuracy is None else f", judged at {found.accuracy:.3f}"
    table = Table(
        title=f"{found.session}: {hours:.2f} of {total:.0f} h, version {found.version}, "
        f"{found.num_refused} refused{judged}"
    )
    table.add_column("node")
    table.add_column("phase")
    table.add_column("work")
    for name in ("based on", "next contact (h)", "up (kB)", "down (kB)", "last loss"):
        table.add_column(name, justify="right")
    for node in found.nodes:
        contact = "never" if node.next_contact_s is None else f"{node.next_contact_s / 3600:.2f}"
        table.add_row(
            node.name,
            node.phase,
            node.work,
            "-" if node.based_on is None else str(node.based_on),
            "now" if node.in_contact else contact,
            f"{node.uploaded_bytes / 1e3:.1f}",
            f"{node.downloaded_bytes / 1e3:.1f}",
            "-" if node.loss is None else f"{node.loss:.3f}",
        )
    return table
