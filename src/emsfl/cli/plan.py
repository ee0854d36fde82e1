"""`emsfl plan`: what to expect of an experiment, before any training."""

from __future__ import annotations

from typing import Annotated

import typer

from emsfl.cli.run import Config, Methods, Overrides, Seeds, split_names, split_seeds


def plan(
    config: Config,
    overrides: Overrides = None,
    methods: Methods = None,
    seeds: Seeds = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rows as JSON, nothing else.")
    ] = False,
) -> None:
    """Show what to expect of an experiment, before any training.

    For every method and site: contacts a day, bytes of an update against bytes that a contact
    carries, optimiser steps between contacts, the time of a round, the memory of a device, and
    what most of a round goes into.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from emsfl import experiment

    settings = experiment.load(
        config, overrides or [], methods=split_names(methods), seeds=split_seeds(seeds)
    )
    rows = experiment.expect(settings)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False))
        return
    table = Table(
        title=f"{settings.name}: {settings.orbit.hours:g} h, before any training",
        caption="bottleneck: contacts (a round waits for one, or trains until one comes), training,"
        " or link (also where an update needs more than one contact)",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column("site")
    for name in (
        "contacts\na day",
        "a contact\nsends (kB)",
        "update up\n(kB)",
        "and down\n(kB)",
        "contacts\nan upload",
        "steps\na gap",
        "round\n(h)",
        "waiting",
        "training",
        "link",
        "memory\n(MB)",
        "bottleneck",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.method,
            row.site,
            f"{row.contacts_per_day:.1f}",
            f"{row.uplink_bytes_per_contact / 1e3:.0f}",
            f"{row.upload_bytes / 1e3:.1f}",
            f"{row.download_bytes / 1e3:.1f}",
            f"{row.contacts_per_upload:.3g}",
            f"{row.steps_per_gap:.3g}",
            "-" if row.round_s is None else f"{row.round_s / 3600:.2f}",
            f"{row.waiting_share:.0%}",
            f"{row.training_share:.0%}",
            f"{row.link_share:.1%}",
            f"{row.memory_bytes / 1e6:.2f}",
            row.bottleneck,
        )
    Console(width=150).print(table)
