"""Arguments and output that the commands on checkpoints share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from emsfl.data.files import Table

# Commands show their own progress and errors; read by these packages when they are imported.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

Model = Annotated[
    str,
    typer.Argument(help="A checkpoint folder, or a model's name on the hub.", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="CSV, JSONL or Parquet file, a saved data set or image folder, or a hub name.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Where to write.", show_default=False)]
OutFile = Annotated[
    Path, typer.Option("--out", help="Where to write.", show_default=False, dir_okay=False)
]
InputColumn = Annotated[
    str | None, typer.Option(help="Column of texts or images. Default: text, sentence or image.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of labels. Default: label.")]
DomainColumn = Annotated[str | None, typer.Option(help="Column of domains. Default: domain.")]
Domain = Annotated[
    list[str] | None, typer.Option("--domain", help="Use this domain's rows only; repeatable.")
]
Split = Annotated[str, typer.Option(help="Split of a data set that has splits.")]
Limit = Annotated[int, typer.Option(min=0, help="Use at most so many rows, evenly spread; 0: all.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per forward pass.")]
MaxLength = Annotated[int, typer.Option(min=2, help="Tokens per sample, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def load_rows(
    data: str,
    input_column: str | None,
    label_column: str | None,
    domain_column: str | None,
    domains: list[str] | None,
    split: str,
    limit: int,
) -> Table:
    """Read the rows that a command's options name."""
    from emsfl.data.files import Columns, read_table

    columns = Columns(input=input_column, label=label_column, domain=domain_column)
    table = read_table(data, columns, split=split)
    return (table.only(domains) if domains else table).spread(limit)


def print_json(value: Any) -> None:
    """Print a dataclass or plain value as JSON."""
    tree = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    typer.echo(json.dumps(tree, indent=2, allow_nan=False, default=str))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headers; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(box=None, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    Console().print(table)


def human_bytes(count: int) -> str:
    """Return a size with three digits, such as 4.29 GB (powers of ten)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


@contextmanager
def progress_bar(
    text: str, total: float, *, quiet: bool, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while the body runs; yield what advances it. Threads may call it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda count: progress.advance(task, count)
