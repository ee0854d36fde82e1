"""What is known before the epoch: clusters, weights, the pre-trained model, scores of experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emsfl.data import FederatedData
from emsfl.methods.devices import make_cluster, measure_cluster
from emsfl.methods.method import Federation
from emsfl.moe import ModelSpec
from emsfl.training import Executor, TrainingConfig, pretrain


def make_federation(
    data: FederatedData,
    model: ModelSpec,
    training: TrainingConfig,
    seed: int,
    cache_dir: Path,
    executor: Executor | None,
) -> Federation:
    """Return what a method knows from the start.

    Args:
        data: of all clusters, in their order.
        model: what is trained; it is pre-trained on the public split, or read from `cache_dir`.
        training: how experts are scored.
        seed: of the whole scenario.
        cache_dir: for the pre-trained model.
        executor: lets every device score the pre-trained model now; None leaves scores and
            domain statistics to be uploaded in contacts.
    """
    pretrained = pretrain(model, data.public, seed, cache_dir, training.device)
    counts = {name: sum(len(shard) for shard in shards) for name, shards in data.shards.items()}
    total = sum(counts.values())
    federation = Federation(
        clusters=tuple(counts),
        weights={name: count / total for name, count in counts.items()},
        pretrained=pretrained,
        layout=model.layout(),
        top_k=model.config.top_k,
        seed=seed,
    )
    return federation if executor is None else scored(federation, data, model, training, executor)


def scored(
    federation: Federation,
    data: FederatedData,
    model: ModelSpec,
    training: TrainingConfig,
    executor: Executor,
) -> Federation:
    """Return the federation with the scores that `training.score_kind` gives before the epoch."""
    measured = {
        name: measure_cluster(
            make_cluster(name, data), shards, executor, model, federation.pretrained, training
        )
        for name, shards in data.shards.items()
    }
    return replace(
        federation,
        scores={name: found.scores for name, found in measured.items()},
        statistics={name: found.statistics for name, found in measured.items()},
    )
