"""`emsfl assign`: which cluster owns which experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.model_options import AsJson, OutFile, human_bytes, print_json, print_table


def assign(
    scores: Annotated[
        list[Path], typer.Argument(help="Files from `emsfl score`, one per cluster.")
    ],
    model: Annotated[
        str, typer.Option(help="The model that was scored: folder or hub name.", show_default=False)
    ],
    out: OutFile,
    budget_bytes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLUSTER=]BYTES",
            help="Most bytes of experts that a cluster may own, or that each may; repeatable.",
        ),
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, help="Most experts per layer and cluster.")
    ] = None,
    local_top_k: Annotated[
        int | None, typer.Option(min=1, help="Experts per token in sub-models, if fewer.")
    ] = None,
    fair: Annotated[
        bool, typer.Option("--fair", help="Raise the least mass kept of any cluster first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the best non-overlapping assignment of experts and write it for `emsfl split`."""
    from emsfl.moe.manifests import ScoresFile, read_document, write_document
    from emsfl.moe.pretrained import resolve_folder
    from emsfl.training.assign_scores import Demand, assign_for_model, parse_budgets

    documents = [read_document(ScoresFile, path) for path in scores]
    demand = Demand(
        budget_bytes=parse_budgets(budget_bytes or [], [s.cluster for s in documents]),
        experts_per_layer=experts,
        local_top_k=local_top_k,
        fair=fair,
    )
    assignment, owned_bytes = assign_for_model(documents, resolve_folder(model), demand)
    write_document(out, assignment)
    if as_json:
        print_json({**assignment.model_dump(mode="json"), "owned_bytes": owned_bytes})
        return
    print_table(
        ["cluster", "experts per layer", "bytes of experts", "mass kept", "least in a layer"],
        [
            [
                name,
                len(part.owned[0]),
                human_bytes(owned_bytes[name]),
                f"{sum(part.mass_kept) / len(part.mass_kept):.3f}",
                f"{min(part.mass_kept):.3f}",
            ]
            for name, part in assignment.clusters.items()
        ],
    )
    typer.echo(f"written to {out}", err=True)
