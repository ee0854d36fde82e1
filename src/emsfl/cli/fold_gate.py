"""`emsfl fold-gate`: fold the domain gate into router weights, if that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.model_options import (
    AsJson,
    BatchSize,
    Data,
    DomainColumn,
    InputColumn,
    LabelColumn,
    Limit,
    MaxLength,
    Out,
    Split,
    load_rows,
    print_json,
    print_table,
)


def fold_gate(
    merged: Annotated[
        Path, typer.Argument(help="A folder from `emsfl merge`.", show_default=False)
    ],
    data: Data,
    held_out: Annotated[
        str, typer.Option(help="Other rows of the same domains, to judge by.", show_default=False)
    ],
    out: Out,
    input_column: InputColumn = None,
    label_column: LabelColumn = None,
    domain_column: DomainColumn = None,
    split: Split = "train",
    limit: Limit = 0,
    batch_size: BatchSize = 8,
    max_length: MaxLength = 256,
    as_json: AsJson = False,
) -> None:
    """Approximate the domain gate by router weights, so that the plain checkpoint has it.

    Written only if the held-out loss improves. Domains must bear the clusters' names.
    """
    from emsfl.training.fold_gate import fold_gate as run

    columns = (input_column, label_column, domain_column, None, split, limit)
    report = run(
        merged,
        load_rows(data, *columns),
        load_rows(held_out, *columns),
        out,
        batch_size=batch_size,
        max_length=max_length,
    )
    if as_json:
        print_json(report)
        return
    kinds = {"plain": report.plain, "folded": report.folded, "exact gate": report.exact}
    headers = [f"{figure}, {kind}" for figure in ("loss", "mass kept") for kind in kinds]
    print_table(
        ["domain", *headers],
        [
            [
                name,
                *[f"{judged[name].loss:.4f}" for judged in kinds.values()],
                *[
                    "-" if judged[name].mass_kept is None else f"{judged[name].mass_kept:.3f}"
                    for judged in kinds.values()
                ],
            ]
            for name in report.plain
        ],
    )
    if report.improved:
        typer.echo(f"strength {report.strength}: written to {out}")
    else:
        typer.echo("the held-out loss did not improve: nothing written")
