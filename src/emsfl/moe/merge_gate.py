"""The domain gate of a merged checkpoint, from the statistics beside the clusters' scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emsfl.errors import DataError
from emsfl.moe.checkpoint import Checkpoint, open_checkpoint
from emsfl.moe.domain_statistics import read_statistics, statistics_path
from emsfl.moe.gate import DomainStatistics, fit_gate
from emsfl.moe.gate_wrapper import gate_info, save_gate
from emsfl.moe.manifests import Manifest, ScoresFile, StatisticsInfo, read_document
from emsfl.moe.pretrained_features import sha256_of_tensors


@dataclass(frozen=True)
class GateStatistics:
    """The statistics of all clusters that a merge takes in, in the order of its updates."""

    info: StatisticsInfo
    """Of the first; all agree but for `sha256`."""
    clusters: tuple[DomainStatistics, ...]
    hashes: tuple[str, ...]
    """SHA-256 of the statistics' files."""


def read_gate_statistics(
    score_files: Sequence[Path], manifests: Sequence[Manifest], base: Checkpoint
) -> GateStatistics:
    """Read the statistics beside scores files and check them against the updates and the base.

    Args:
        score_files: as `emsfl score` wrote them, one per cluster.
        manifests: of the updates.
        base: the pre-trained checkpoint.

    Raises:
        DataError: scores without statistics, of other clusters than the updates, or of another
            pre-trained model.
    """
    found: dict[str, tuple[StatisticsInfo, DomainStatistics]] = {}
    for path in score_files:
        scores = read_document(ScoresFile, path)
        info = scores.statistics
        if info is None:
            raise DataError(f"{path} came without domain statistics: score without --no-statistics")
        if scores.cluster in found:
            raise DataError(f"two scores are of cluster {scores.cluster}; give one of them")
        if scores.structure_sha256 != base.structure_sha256:
            raise DataError(f"{path} has the scores of another model than {base.folder}")
        found[scores.cluster] = info, read_statistics(statistics_path(path), info.sha256)
    clusters = [manifest.cluster for manifest in manifests]
    for cluster in sorted(found.keys() ^ set(clusters)):
        lacking = "scores" if cluster in clusters else "update"
        raise DataError(f"cluster {cluster} has no {lacking}: the gate needs both of each cluster")
    infos = [found[cluster][0] for cluster in clusters]
    actual = sha256_of_tensors(base, infos[0].features)
    for cluster, info in zip(clusters, infos, strict=True):
        if info.features_sha256 != actual or info.features != infos[0].features:
            raise DataError(
                f"the domain statistics of {cluster} are of another pre-trained model than "
                f"{base.folder}"
            )
        if info.pooling is not infos[0].pooling:
            raise DataError("the domain statistics of the clusters are of different kinds")
    return GateStatistics(
        infos[0],
        tuple(found[cluster][1] for cluster in clusters),
        tuple(info.sha256 for info in infos),
    )


def write_gate(
    folder: Path,
    statistics: GateStatistics,
    manifests: Sequence[Manifest],
    base: Checkpoint,
    config: Mapping[str, Any],
) -> None:
    """Fit the gate and write it beside the merged tensor files in `folder`.

    Args:
        folder: holds the merged tensor files.
        statistics: of the clusters that `manifests` are of, in that order.
        manifests: of the updates: who owns which experts.
        base: the pre-trained checkpoint.
        config: of the model.
    """
    layers = manifests[0].layers
    owner = torch.full((len(layers), max(layer.num_experts for layer in layers)), -1)
    for cluster, manifest in enumerate(manifests):
        for index, layer in enumerate(manifest.layers):
            owner[index, list(layer.owned)] = cluster
    merged = open_checkpoint(folder)
    names = statistics.info.features
    moved = [n for n in names if sha256_of_tensors(base, [n]) != sha256_of_tensors(merged, [n])]
    clusters = [manifest.cluster for manifest in manifests]
    info = gate_info(config, clusters, statistics.info.pooling, moved)
    save_gate(folder, fit_gate(statistics.clusters, owner), info, base)
