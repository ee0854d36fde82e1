"""Tables of text or images, a label and a domain: from local files, or data sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsfl.errors import DataError

ALL = "all"
"""The domain of every sample where no column tells domains apart."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that matter; all others are ignored."""

    input: str | None = None
    """Text, or an image; default: `text`, `sentence` or `image`, the first that is there."""
    label: str | None = None
    """Default: `label`, if it is there."""
    domain: str | None = None
    """Default: `domain`, if it is there."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Samples in the order of their source."""

    inputs: tuple[Any, ...]
    """Texts (str), or images (PIL)."""
    labels: tuple[str, ...] | None
    domains: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def take(self, indices: Sequence[int]) -> Table:
        """Return the samples at `indices`."""
        return Table(
            inputs=tuple(self.inputs[i] for i in indices),
            labels=None if self.labels is None else tuple(self.labels[i] for i in indices),
            domains=tuple(self.domains[i] for i in indices),
        )

    def spread(self, limit: int) -> Table:
        """Return at most `limit` samples, spread evenly; all of them if `limit` is 0."""
        count = len(self)
        if not 0 < limit < count:
            return self
        return self.take([i * count // limit for i in range(limit)])

    def by_domain(self) -> dict[str, Table]:
        """Return one table per domain, by name."""
        return {
            domain: self.take([i for i, d in enumerate(self.domains) if d == domain])
            for domain in sorted(set(self.domains))
        }

    def only(self, domains: Sequence[str]) -> Table:
        """Return the samples of some domains.

        Raises:
            DataError: a domain is not there.
        """
        for domain in domains:
            if domain not in self.domains:
                known = ", ".join(sorted(set(self.domains)))
                raise DataError(f"no sample is of domain {domain!r}; the domains are: {known}")
        return self.take([i for i, d in enumerate(self.domains) if d in domains])


def read_table(source: str, columns: Columns, *, split: str = "train") -> Table:
    """Read samples.

    Args:
        source: a CSV, JSONL or Parquet file; a folder that `datasets` saved, or one of images with
            a metadata file; or the name of a data set on the Hugging Face hub.
        columns: which columns to use.
        split: of a data set that has splits.

    Raises:
        DataError: no such source, a column that is not there, no sample, or inputs that are
            neither texts nor images.
    """
    path = Path(source)
    table = _local(path) if path.is_file() else _data_set(source, path, split)
    names = list(table.column_names)
    inputs = _pick(names, columns.input, ("text", "sentence", "image"), source, required=True)
    label = _pick(names, columns.label, ("label",), source, required=False)
    domain = _pick(names, columns.domain, ("domain",), source, required=False)
    if not len(table):
        raise DataError(f"{source} holds no sample")
    values = [_values(table, column) for column in (inputs, label, domain)]
    for row, sample in enumerate(zip(*filter(None, values), strict=True)):
        if any(value is None for value in sample):
            raise DataError(f"{source}: row {row} has an empty field")
        if not (isinstance(sample[0], str) or hasattr(sample[0], "tobytes")):
            kind = type(sample[0]).__name__
            raise DataError(f"{source}: column {inputs} holds no texts or images but {kind}")
    return Table(
        inputs=tuple(values[0]),
        labels=None if label is None else tuple(str(value) for value in values[1]),
        domains=(ALL,) * len(table) if domain is None else tuple(str(v) for v in values[2]),
    )


def _values(table: Any, column: str | None) -> list[Any]:
    """Return a column of a pyarrow table or a data set; class numbers by their names."""
    if column is None:
        return []
    values = table[column]
    if hasattr(values, "to_pylist"):
        plain: list[Any] = values.to_pylist()
        return plain
    names = getattr(table.features.get(column), "names", None)
    return list(values) if names is None else [names[value] for value in values]


def _local(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.json
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading tables needs pyarrow; run: pip install 'emsfl[hf]'") from None
    readers = {
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".parquet": pyarrow.parquet.read_table,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: the suffix must be one of {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {reason}") from None


def _data_set(source: str, path: Path, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source!r} is no file; a data set by name needs: pip install 'emsfl[hf]'"
        ) from None
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(path))
        elif path.is_dir():
            found = datasets.load_dataset("imagefolder", data_dir=str(path))
        else:
            found = datasets.load_dataset(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{source!r} is no file, and no data set: {reason}") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise DataError(f"{source} has no split {split!r}; it has: {', '.join(found)}")
    return found[split]


def _pick(
    names: Sequence[str], asked: str | None, usual: Sequence[str], source: str, *, required: bool
) -> str | None:
    if asked is not None and asked not in names:
        raise DataError(f"{source} has no column {asked!r}; it has: {', '.join(names)}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None and required:
        raise DataError(
            f"{source} has none of the columns {', '.join(usual)}; it has: {', '.join(names)}"
        )
    return found
