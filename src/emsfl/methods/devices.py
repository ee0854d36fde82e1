"""What a cluster's devices compute: training between two synchronisations, and measuring.

It says what is to be computed; where it runs is the driver's to decide.
"""

from __future__ import annotations

from collections.abc import Sequence

from emsfl.data import FederatedData, Samples
from emsfl.methods.cluster import Bootstrap, Cluster, Device
from emsfl.moe import ModelSpec, State
from emsfl.training import (
    Executor,
    MeasureTask,
    TrainingConfig,
    TrainResult,
    TrainTask,
    first_samples,
    measure_domain,
    score_experts,
)


def training_tasks(
    cluster: Cluster,
    shards: Sequence[Samples],
    model: ModelSpec,
    seed: tuple[int, ...],
    num_steps: int,
) -> list[TrainTask]:
    """Return the next `num_steps` steps of every device; `seed` is the cluster's own."""
    if cluster.work is None:
        raise ValueError(f"{cluster.name} has no work yet")
    return [
        TrainTask(
            model=model,
            num_experts=cluster.num_experts,
            state=device.state,
            momentum=device.momentum,
            shard=shard,
            seed=(*seed, number),
            first_step=device.num_steps,
            num_steps=num_steps,
            settings=cluster.work.settings,
        )
        for number, (device, shard) in enumerate(zip(cluster.devices, shards, strict=True))
    ]


def take_results(cluster: Cluster, results: Sequence[TrainResult], num_steps: int) -> None:
    """Let the devices hold what `num_steps` steps have given; no results change nothing."""
    for device, result in zip(cluster.devices, results, strict=False):
        device.state, device.momentum = result.state, result.momentum
        device.num_steps += num_steps


def make_cluster(name: str, data: FederatedData) -> Cluster:
    """Return the cluster `name` with devices that hold nothing yet."""
    sizes = [len(shard) for shard in data.shards[name]]
    return Cluster(name, [size / sum(sizes) for size in sizes], [Device() for _ in sizes])


def measure_cluster(
    cluster: Cluster,
    shards: Sequence[Samples],
    executor: Executor,
    model: ModelSpec,
    pretrained: State,
    training: TrainingConfig,
) -> Bootstrap:
    """Score the experts of the pre-trained model and measure the domain on every device.

    Returns:
        The mean of the devices' scores, by their share of samples, and the sum of their
        statistics.
    """
    tasks = [
        MeasureTask(
            model=model,
            num_experts=model.config.num_experts,
            state=pretrained,
            shard=first_samples(shard, training.score_samples),
            score_kind=training.score_kind,
            device=training.device,
        )
        for shard in shards
    ]
    scored = [executor.submit(score_experts, task) for task in tasks]
    measured = [executor.submit(measure_domain, task) for task in tasks]
    scores = [
        weight * score.result()
        for weight, score in zip(cluster.device_weights, scored, strict=True)
    ]
    first, *others = [statistics.result() for statistics in measured]
    return Bootstrap(sum(scores[1:], scores[0]), sum(others, first))
