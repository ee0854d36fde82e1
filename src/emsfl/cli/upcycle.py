"""`emsfl upcycle`: turn a dense model into a mixture of experts."""

from __future__ import annotations

from typing import Annotated

import typer

from emsfl.cli.model_options import AsJson, Model, Out, human_bytes, print_json


def upcycle(
    model: Model,
    out: Out,
    experts: Annotated[int, typer.Option(min=1, help="Copies of every feed-forward block.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="Experts that each token uses.")] = 2,
    layers: Annotated[
        str | None, typer.Option(metavar="4,5", help="Layers that get experts. Default: all.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Classes of a fresh classifier on an encoder."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws routers and the classifier.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make every feed-forward block a router and copies of itself.

    The outputs stay those of the dense model until training sets the copies apart.
    """
    from emsfl.moe.inspection import inspect_checkpoint
    from emsfl.moe.pretrained import resolve_folder
    from emsfl.moe.upcycling import UpcycleSettings
    from emsfl.moe.upcycling import upcycle as run

    numbers = None if layers is None else tuple(_numbers(layers))
    settings = UpcycleSettings(
        num_experts=experts,
        top_k=top_k,
        layers=numbers,
        labels=() if labels is None else tuple(labels.split(",")),
        seed=seed,
    )
    run(resolve_folder(model), out, settings)
    found = inspect_checkpoint(out)
    if as_json:
        print_json(found)
        return
    typer.echo(
        f"{out}: {found.model_class}, {len(found.layers)} layers of {experts} experts, "
        f"{human_bytes(found.total_bytes)}"
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} must be whole numbers between commas, such as 4,5", param_hint="--layers"
        ) from None
