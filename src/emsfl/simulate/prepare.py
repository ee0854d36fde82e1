"""From rooms' configs and a seed to a scenario: data, pre-trained model, scores, devices."""

from __future__ import annotations

from pathlib import Path

from emsfl.data import DataConfig, load_data
from emsfl.methods import make_federation
from emsfl.moe import ModelConfig, make_spec, tokenise_for
from emsfl.orbit import ContactPlan
from emsfl.simulate.config import SimulateConfig
from emsfl.simulate.simulate import Scenario
from emsfl.training import Executor, TrainingConfig


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
    data = load_data(data_config, plan.sites, seed, tokenise_for(model_config))
    model = make_spec(model_config, data.num_classes)
    measures = executor if config.bootstrap == "preinstalled" else None
    federation = make_federation(data, model, training, seed, cache_dir, measures)
    return Scenario(
        plan=plan,
        server_delay_s=server_delay_s,
        data=data,
        model=model,
        federation=federation,
        training=training,
        config=config,
    )
