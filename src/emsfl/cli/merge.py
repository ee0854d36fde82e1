"""`emsfl merge`: put the clusters' experts back into the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.model_options import AsJson, Model, Out, human_bytes, print_json, progress_bar


def merge(
    model: Model,
    updates: Annotated[
        list[Path],
        typer.Option(help="A folder from `emsfl tune` or `emsfl split`; repeatable."),
    ],
    out: Out,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            help="The cluster's file from `emsfl score`, repeatable: makes the domain gate."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the model with the updates' experts in place and the shared parameters' mean change.

    The result loads with the stock class. With the clusters' scores given too, the domain gate is
    fitted to the statistics beside them and written beside the weights. Nothing is left of a merge
    that is refused.
    """
    from emsfl.moe.merge_checkpoint import merge_bytes, merge_checkpoint
    from emsfl.moe.pretrained import resolve_folder

    folder = resolve_folder(model)
    total = merge_bytes(folder, updates)
    with progress_bar("merging", total, quiet=as_json, in_bytes=True) as advance:
        merged = merge_checkpoint(folder, updates, out, score_files=scores or [], progress=advance)
    if as_json:
        print_json(merged)
        return
    gate = ", domain gate beside it" if merged.has_gate else ", no domain gate (needs --scores)"
    clusters = ", ".join(merged.clusters)
    typer.echo(f"{out}: {human_bytes(merged.num_bytes)} from {clusters}{gate}")
