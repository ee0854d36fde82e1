"""A whole data set before it is divided, and the one way to divide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsfl.data.config import SplitConfig
from emsfl.data.partition import IntArray, partition_dirichlet, partition_mixed, partition_pure
from emsfl.data.samples import FederatedData, Holdings, Samples
from emsfl.errors import ConfigError

Encode = Callable[[Sequence[str], IntArray], tuple[IntArray, IntArray]]
"""(texts, their classes) -> (token ids [N, T] with padding, labels [N])."""
Tokenise = Callable[[Sequence[str]], Encode]
"""Public texts, on which a tokenizer may be trained -> how to encode all texts."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Every sample of a data set."""

    name: str
    inputs: NDArray[Any] | tuple[str, ...]
    """Images, as in `Samples`, or texts."""
    labels: IntArray
    """[N], in 0..len(classes) - 1."""
    classes: tuple[str, ...]
    domain: IntArray
    """[N], in 0..len(domains) - 1."""
    domains: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many samples each part gets, evenly from all domains."""

    public: int
    validation: int
    test: int
    tuning: int | None
    """None: all that are left."""


def divide(
    pool: Pool,
    sizes: Sizes,
    split: SplitConfig,
    clusters: Sequence[str],
    devices_per_cluster: int,
    device_alpha: float,
    tokenise: Tokenise | None,
    generator: np.random.Generator,
) -> FederatedData:
    """Divide a data set: public, tuning, validation and test parts; clusters; devices.

    Args:
        pool: all samples; texts need `tokenise`.
        sizes: of the parts.
        split: how clusters differ. By label, groups of classes take the place of domains.
        clusters: their names.
        devices_per_cluster: at least 1.
        device_alpha: Dirichlet concentration of the classes over a cluster's devices.
        tokenise: turns texts into token ids.
        generator: source of randomness.

    Raises:
        ConfigError: too few samples, or texts without a model that reads them.
    """
    parts = _parts(pool, sizes, generator)
    if split.by == "label":
        pool = _with_label_groups(pool, len(clusters))
    groups = pool.labels if split.by == "label" else pool.domain
    tuning = parts["tuning"]
    if len(tuning) < devices_per_cluster * len(clusters):
        raise ConfigError(
            f"data: {len(tuning)} of {len(pool)} samples of {pool.name!r} are left for "
            f"{devices_per_cluster * len(clusters)} devices; lower the other parts"
        )
    if split.alpha is None:
        num_groups = len(pool.classes if split.by == "label" else pool.domains)
        shares = partition_pure(groups[tuning], num_groups, len(clusters), generator)
    else:
        shares = partition_mixed(groups[tuning], len(clusters), split.alpha, generator)
    rows = {part: parts[part] for part in ("public", "validation", "test")}
    members: dict[str, list[IntArray]] = {}
    for cluster, share in zip(clusters, shares, strict=True):
        held = tuning[share]
        if len(held) < devices_per_cluster:
            raise ConfigError(
                f"data: {cluster} would hold {len(held)} samples for {devices_per_cluster} devices"
            )
        pieces = partition_dirichlet(
            pool.labels[held], devices_per_cluster, device_alpha, generator
        )
        members[cluster] = [held[piece] for piece in pieces]
    samples = _encoder(pool, tokenise, parts["public"])
    by_domain = {
        part: {
            name: samples(rows[part][pool.domain[rows[part]] == number])
            for number, name in enumerate(pool.domains)
            if (pool.domain[rows[part]] == number).any()
        }
        for part in ("validation", "test")
    }
    return FederatedData(
        num_classes=len(pool.classes),
        public=samples(rows["public"]),
        shards={
            cluster: tuple(samples(m) for m in devices) for cluster, devices in members.items()
        },
        domain_of={
            cluster: pool.domains[np.bincount(pool.domain[np.concatenate(devices)]).argmax()]
            for cluster, devices in members.items()
        },
        validation=by_domain["validation"],
        test=by_domain["test"],
        holdings=holdings(pool.domains, pool.classes, pool.domain, pool.labels, members, rows),
    )


def holdings(
    domains: tuple[str, ...],
    classes: tuple[str, ...],
    domain: IntArray,
    labels: IntArray,
    members: Mapping[str, Sequence[IntArray]],
    rows: Mapping[str, IntArray],
) -> Holdings:
    """Count who holds what; `members` are the rows of each cluster's devices."""
    devices = {
        f"{cluster} {number}": held
        for cluster, parts in members.items()
        for number, held in enumerate(parts, start=1)
    }
    counts = np.zeros((len(devices), len(domains), len(classes)), dtype=np.int64)
    for index, held in enumerate(devices.values()):
        np.add.at(counts[index], (domain[held], labels[held]), 1)
    return Holdings(
        devices=tuple(devices),
        domains=domains,
        classes=classes,
        counts=counts,
        rows={**rows, **devices},
    )


def _parts(pool: Pool, sizes: Sizes, generator: np.random.Generator) -> dict[str, IntArray]:
    """Draw the parts, each evenly from all domains."""
    wanted = {
        "public": sizes.public,
        "validation": sizes.validation,
        "test": sizes.test,
        "tuning": sizes.tuning,
    }
    taken: dict[str, list[IntArray]] = {part: [] for part in wanted}
    num_domains = len(pool.domains)
    for number, name in enumerate(pool.domains):
        left = generator.permutation(np.flatnonzero(pool.domain == number))
        for part, size in wanted.items():
            count = len(left) if size is None else _share(size, num_domains, number)
            if count > len(left):
                raise ConfigError(
                    f"data: {pool.name!r} has too few samples of domain {name!r}: "
                    f"{len(left)} are left for num_{part}, which asks for {count}"
                )
            taken[part].append(left[:count])
            left = left[count:]
    return {part: np.concatenate(pieces) for part, pieces in taken.items()}


def _share(size: int, num_parts: int, part: int) -> int:
    return size // num_parts + (part < size % num_parts)


def _with_label_groups(pool: Pool, num_clusters: int) -> Pool:
    """Return the pool with runs of neighbouring classes as its domains, one per cluster."""
    runs = np.array_split(np.arange(len(pool.classes)), min(num_clusters, len(pool.classes)))
    domain = np.empty_like(pool.labels)
    for number, run in enumerate(runs):
        domain[np.isin(pool.labels, run)] = number
    names = tuple(
        pool.classes[run[0]]
        if len(run) == 1
        else f"{pool.classes[run[0]]} to {pool.classes[run[-1]]}"
        for run in runs
    )
    return Pool(
        name=pool.name,
        inputs=pool.inputs,
        labels=pool.labels,
        classes=pool.classes,
        domain=domain,
        domains=names,
    )


def _encoder(
    pool: Pool, tokenise: Tokenise | None, public: IntArray
) -> Callable[[IntArray], Samples]:
    """Return what makes samples of rows."""
    inputs = pool.inputs
    if not isinstance(inputs, tuple):
        if tokenise is not None:
            raise ConfigError(f"data set {pool.name!r} holds images, and model.kind reads text")
        images = inputs
        return lambda rows: Samples(inputs=images[rows], labels=pool.labels[rows])
    if tokenise is None:
        raise ConfigError(f"data set {pool.name!r} holds texts, and model.kind reads images")
    texts = inputs
    encode = tokenise([texts[row] for row in public.tolist()])

    def encoded(rows: IntArray) -> Samples:
        ids, labels = encode([texts[row] for row in rows.tolist()], pool.labels[rows])
        return Samples(inputs=ids, labels=labels)

    return encoded
