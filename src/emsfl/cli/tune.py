"""`emsfl tune`: train a sub-model on local data and write an update."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emsfl.cli.model_options import (
    AsJson,
    Data,
    Domain,
    DomainColumn,
    InputColumn,
    LabelColumn,
    Limit,
    Out,
    Split,
    human_bytes,
    load_rows,
    print_json,
    progress_bar,
)


class Mode(StrEnum):
    """Choices of --mode."""

    FULL = "full"
    LORA = "lora"


class Precision(StrEnum):
    """Choices of --precision."""

    FLOAT32 = "float32"
    BF16 = "bf16"


def tune(
    sub_model: Annotated[
        Path, typer.Argument(help="A folder from `emsfl split`.", show_default=False)
    ],
    data: Data,
    out: Out,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, constant.")] = 1e-4,
    shared_lr_factor: Annotated[
        float, typer.Option(help="Step size of shared parameters, as a multiple.")
    ] = 1.0,
    mode: Annotated[
        Mode, typer.Option(help="Train the experts' weights, or low-rank terms added to them.")
    ] = Mode.FULL,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the low-rank terms.")] = 8,
    lora_alpha: Annotated[float, typer.Option(help="Their scale, times the rank.")] = 16.0,
    train_shared: Annotated[
        bool, typer.Option("--train-shared/--freeze-shared", help="Train shared parameters too.")
    ] = True,
    freeze: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Do not train parameters so named; repeatable."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="bf16: frozen weights and products in bfloat16.")
    ] = Precision.FLOAT32,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice.")
    ] = False,
    max_length: Annotated[int, typer.Option(min=2, help="Tokens per sample, at most.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Order of samples, dropout.")] = 0,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between saves that a stopped run goes on from.")
    ] = 100,
    domain: Domain = None,
    input_column: InputColumn = None,
    label_column: LabelColumn = None,
    domain_column: DomainColumn = None,
    split: Split = "train",
    limit: Limit = 0,
    as_json: AsJson = False,
) -> None:
    """Train a sub-model's experts, and its shared parameters, on local data.

    Routers stay as they are. A run that was stopped goes on when it is started again.
    """
    from emsfl.config import load_config
    from emsfl.training.tune import TuneSettings
    from emsfl.training.tune import tune as run

    settings = load_config(
        TuneSettings,
        {
            "num_steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "shared_lr_factor": shared_lr_factor,
            "mode": mode.value,
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "train_shared": train_shared,
            "frozen": freeze or [],
            "precision": precision.value,
            "gradient_checkpointing": gradient_checkpointing,
            "max_length": max_length,
            "seed": seed,
            "save_every": save_every,
        },
    )
    rows = load_rows(data, input_column, label_column, domain_column, domain, split, limit)
    with progress_bar("tuning", steps, quiet=as_json) as advance:
        result = run(sub_model, rows, out, settings, lambda _step, _loss: advance(1))
    if as_json:
        print_json(result)
        return
    loss = "-" if result.mean_loss is None else f"{result.mean_loss:.4f}"
    typer.echo(
        f"{out}: {result.num_steps} steps, loss {loss} nats at the end, "
        f"{human_bytes(result.update_bytes)} to upload"
    )
