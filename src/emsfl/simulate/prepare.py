"""From rooms' configs and a seed to a scenario: data, pre-trained model, scores, devices."""

from __future__ import annotations

from pathlib import Path

from emsfl.data import DataConfig, load_data
from emsfl.methods import Federation
from emsfl.moe import ModelConfig, make_spec
from emsfl.orbit import ContactPlan
from emsfl.simulate.config import SimulateConfig
from emsfl.simulate.executor import Executor
from emsfl.simulate.simulate import Scenario
from emsfl.simulate.site import make_cluster, measure_cluster
from emsfl.training import TrainingConfig, pretrain


def prepare(
    *,
    plan: ContactPlan,
    server_delay_s: float,
    data_config: DataConfig,
    model_config: ModelConfig,
    training: TrainingConfig,
    config: SimulateConfig,
    seed: int,
    executor: Executor,
    cache_dir: Path,
) -> Scenario:
    """Return everything that all methods share on one seed.

    With `bootstrap: preinstalled` every device has scored the pre-trained model before the epoch.
    """
    clusters = plan.sites
    data = load_data(data_config, clusters, seed)
    model = make_spec(model_config, data.num_classes)
    pretrained = pretrain(model, data.public, seed, cache_dir)
    counts = {name: sum(len(shard) for shard in data.shards[name]) for name in clusters}
    total = sum(counts.values())
    scores, statistics = None, None
    if config.bootstrap == "preinstalled":
        measured = {
            name: measure_cluster(
                make_cluster(name, data), data.shards[name], executor, model, pretrained, training
            )
            for name in clusters
        }
        scores = {name: found.scores for name, found in measured.items()}
        statistics = {name: found.statistics for name, found in measured.items()}
    federation = Federation(
        clusters=tuple(clusters),
        weights={name: counts[name] / total for name in clusters},
        pretrained=pretrained,
        layout=model.layout(),
        top_k=model_config.top_k,
        seed=seed,
        scores=scores,
        statistics=statistics,
    )
    return Scenario(
        plan=plan,
        server_delay_s=server_delay_s,
        data=data,
        model=model,
        federation=federation,
        training=training,
        config=config,
    )
