"""`emsfl split`: one loadable checkpoint per cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.model_options import (
    AsJson,
    Model,
    Out,
    human_bytes,
    print_json,
    print_table,
    progress_bar,
)


def split(
    model: Model,
    assignment: Annotated[
        Path, typer.Option(help="A file from `emsfl assign`.", show_default=False)
    ],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Cut one sub-model per cluster out of a checkpoint, tensor by tensor.

    Each loads with the stock class. A split that was stopped goes on when it is started again.
    """
    from emsfl.moe.manifests import AssignmentFile, read_document
    from emsfl.moe.pretrained import resolve_folder
    from emsfl.moe.split_checkpoint import split_bytes, split_checkpoint

    folder = resolve_folder(model)
    wanted = read_document(AssignmentFile, assignment)
    total = split_bytes(folder, wanted)
    with progress_bar("splitting", total, quiet=as_json, in_bytes=True) as advance:
        parts = split_checkpoint(folder, wanted, out, name=model, progress=advance)
    if as_json:
        print_json({"parts": [vars(part) for part in parts]})
        return
    print_table(
        ["cluster", "folder", "bytes", ""],
        [
            [p.cluster, p.folder, human_bytes(p.num_bytes), "was there" if p.was_there else ""]
            for p in parts
        ],
    )
