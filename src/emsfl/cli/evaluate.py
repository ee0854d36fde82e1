"""`emsfl evaluate`: loss, and accuracy or perplexity, per domain."""

from __future__ import annotations

from typing import Annotated

import typer

from emsfl.cli.model_options import (
    AsJson,
    BatchSize,
    Data,
    Domain,
    DomainColumn,
    InputColumn,
    LabelColumn,
    Limit,
    MaxLength,
    Model,
    Split,
    load_rows,
    print_json,
    print_table,
    progress_bar,
)


def evaluate(
    model: Model,
    data: Data,
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Route by the domain gate. Default: if it is there."),
    ] = None,
    domain: Domain = None,
    input_column: InputColumn = None,
    label_column: LabelColumn = None,
    domain_column: DomainColumn = None,
    split: Split = "train",
    limit: Limit = 0,
    batch_size: BatchSize = 8,
    max_length: MaxLength = 256,
    as_json: AsJson = False,
) -> None:
    """Judge a model on every domain of a table."""
    from emsfl.moe.pretrained import resolve_folder
    from emsfl.training.model_scores import evaluate_model

    rows = load_rows(data, input_column, label_column, domain_column, domain, split, limit)
    with progress_bar("evaluating", len(rows), quiet=as_json) as advance:
        report = evaluate_model(
            resolve_folder(model),
            rows,
            gate=gate,
            batch_size=batch_size,
            max_length=max_length,
            progress=advance,
        )
    if as_json:
        print_json(report)
        return
    figures = ["samples", "loss", "perplexity", "accuracy", "mass kept"]
    print_table(
        ["domain" + (" (domain gate)" if report.gated else ""), *figures],
        [
            [
                name,
                e.num_samples,
                f"{e.loss:.4f}",
                "-" if e.perplexity is None else f"{e.perplexity:.3f}",
                "-" if e.accuracy is None else f"{e.accuracy:.4f}",
                "-" if e.mass_kept is None else f"{e.mass_kept:.3f}",
            ]
            for name, e in report.domains.items()
        ],
    )
