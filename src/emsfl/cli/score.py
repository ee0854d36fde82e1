"""`emsfl score`: how well each expert fits a cluster's data."""

from __future__ import annotations

from enum import StrEnum
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
    OutFile,
    Split,
    load_rows,
    print_json,
    print_table,
    progress_bar,
)


class Kind(StrEnum):
    """Choices of --kind; the names of emsfl.moe.ScoreKind, which is slow to import."""

    MEAN_GATE = "mean_gate"
    ACTIVATION_FREQUENCY = "activation_frequency"
    GATE_TIMES_OUTPUT_NORM = "gate_times_output_norm"


def score(
    model: Model,
    data: Data,
    cluster: Annotated[str, typer.Option(help="Whose data it is.", show_default=False)],
    out: OutFile,
    kind: Annotated[Kind, typer.Option(help="What is counted per expert.")] = Kind.MEAN_GATE,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics/--no-statistics",
            help="Write the mean and covariance of hidden states too, for the domain gate.",
        ),
    ] = True,
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
    """Run a cluster's data through the model and write a scores file for `emsfl assign`."""
    from emsfl.moe.domain_statistics import statistics_path
    from emsfl.moe.pretrained import resolve_folder
    from emsfl.training.model_scores import score_model

    rows = load_rows(data, input_column, label_column, domain_column, domain, split, limit)
    with progress_bar("scoring", len(rows), quiet=as_json) as advance:
        scores = score_model(
            resolve_folder(model),
            rows,
            out,
            cluster=cluster,
            kind=kind.value,
            with_statistics=statistics,
            batch_size=batch_size,
            max_length=max_length,
            progress=advance,
        )
    if as_json:
        print_json(scores.model_dump(mode="json"))
        return
    print_table(
        ["layer", "best experts (share of routing weight)"],
        [
            [
                layer.name,
                ", ".join(
                    f"{e} ({layer.scores[e]:.3f})"
                    for e in sorted(range(len(layer.scores)), key=lambda e: -layer.scores[e])[:4]
                ),
            ]
            for layer in scores.layers
        ],
    )
    beside = f" and {statistics_path(out).name} beside it" if statistics else ""
    counted = f"{scores.num_samples} samples, {scores.num_tokens} tokens"
    typer.echo(f"{counted}: written to {out}{beside}", err=True)
