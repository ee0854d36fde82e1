"""What data look like to the federation: samples, shards per device, and who holds what."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsfl.data.partition import IntArray
from emsfl.files import atomic_path, sha256_of


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs and their labels.

    Images are float32 [num_samples, height, width] in 0..1; texts are token ids int64
    [num_samples, num_tokens], filled up with the model's padding id. Labels are int64
    [num_samples]: classes, or what the model's family makes of them.
    """

    inputs: NDArray[Any]
    labels: IntArray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, indices: IntArray) -> Samples:
        """Return the samples at `indices`, copied."""
        return Samples(inputs=self.inputs[indices], labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Who holds what: how many samples of each domain and class every device has."""

    devices: tuple[str, ...]
    """`CLUSTER 1`, `CLUSTER 2`, ..., cluster by cluster."""
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    counts: IntArray
    """[devices, domains, classes]."""
    rows: Mapping[str, IntArray]
    """Per part (`public`, `validation`, `test`, and each device) the rows of the data set."""

    def save(self, path: Path) -> None:
        """Write everything as an .npz file; names are arrays of text."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"rows/{name}": rows for name, rows in self.rows.items()}
        np.savez_compressed(
            buffer,
            devices=np.array(self.devices),
            domains=np.array(self.domains),
            classes=np.array(self.classes),
            counts=self.counts,
            **arrays,
        )
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Holdings:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(
                devices=tuple(file["devices"].tolist()),
                domains=tuple(file["domains"].tolist()),
                classes=tuple(file["classes"].tolist()),
                counts=file["counts"],
                rows={
                    name.removeprefix("rows/"): file[name]
                    for name in file.files
                    if name.startswith("rows/")
                },
            )


@dataclass(frozen=True, kw_only=True)
class FederatedData:
    """One data set as the federation sees it."""

    num_classes: int
    public: Samples
    """For pre-training; held by nobody in particular."""
    shards: dict[str, tuple[Samples, ...]]
    """Per cluster, one shard per device."""
    domain_of: dict[str, str]
    """The domain that most of a cluster's data come from."""
    validation: dict[str, Samples]
    """Per domain; for tuning."""
    test: dict[str, Samples]
    """Per domain; for results only."""
    holdings: Holdings | None = field(default=None, compare=False)

    def without(self, clusters: Collection[str]) -> FederatedData:
        """Return the same data where `clusters` take no part; all else stays."""
        return replace(
            self,
            shards={name: held for name, held in self.shards.items() if name not in clusters},
            domain_of={name: d for name, d in self.domain_of.items() if name not in clusters},
        )

    def hash(self) -> str:
        """Return the SHA-256 of every array, in a fixed order."""
        everything = [self.public]
        for cluster in sorted(self.shards):
            everything += self.shards[cluster]
        for split in (self.validation, self.test):
            everything += [split[domain] for domain in sorted(split)]
        return sha256_of(*[array for part in everything for array in (part.inputs, part.labels)])
