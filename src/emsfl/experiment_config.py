"""The whole configuration: every room's section in one, and what must hold between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from emsfl.config import ConfigModel, load_config
from emsfl.data import DataConfig, MnistRotatedConfig
from emsfl.deploy import DeployConfig
from emsfl.methods import METHODS, MethodSettings
from emsfl.moe import ModelConfig, PatchMoEConfig
from emsfl.orbit import OrbitConfig
from emsfl.simulate import SimulateConfig
from emsfl.training import TrainingConfig


class ExperimentConfig(ConfigModel):
    """A whole experiment; each section belongs to the room of the same name."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Letters, digits, `_`, `.` and `-`; it names the run folder."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """One repetition each: data split, pre-training, device shards and batches."""
    methods: tuple[str, ...] = Field(
        default=("ems_fl", "fedavg", "fedavg_fill", "fedasync"), min_length=1
    )
    orbit: OrbitConfig
    data: DataConfig = MnistRotatedConfig()
    model: ModelConfig = PatchMoEConfig()
    training: TrainingConfig = TrainingConfig()
    method_settings: MethodSettings = MethodSettings()
    simulate: SimulateConfig = SimulateConfig()
    deploy: DeployConfig = DeployConfig()

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in methods if name not in METHODS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no method; choose from {', '.join(METHODS)}")
        return _distinct(methods)

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0:
            raise ValueError("seeds must be 0 or more")
        return _distinct(seeds)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        speed = self.simulate.device_flops_per_s
        names = {site.name for site in self.orbit.sites}
        if isinstance(speed, dict) and set(speed) != names:
            raise ValueError(
                f"simulate.device_flops_per_s must name every site: {', '.join(sorted(names))}"
            )
        needed = len(names) * self.model.top_k
        if needed > self.model.num_experts and any(map(_splits, self.methods)):
            raise ValueError(
                f"{len(names)} clusters x top_k {self.model.top_k} need {needed} experts per "
                f"layer, model.num_experts is {self.model.num_experts}: use fewer sites, more "
                "experts or a smaller top_k"
            )
        return self


def load(
    source: Path | str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> ExperimentConfig:
    """Read a config (YAML file or mapping); `overrides` are "dotted.key=value".

    Raises:
        ConfigError: it is missing, empty or wrong; the message names field, value and range.
    """
    chosen = [f"methods=[{', '.join(methods)}]"] if methods is not None else []
    chosen += [f"seeds=[{', '.join(map(str, seeds))}]"] if seeds is not None else []
    return load_config(ExperimentConfig, source, [*overrides, *chosen])


def _splits(method: str) -> bool:
    """Tell whether a method gives every expert to one cluster at most."""
    return method.startswith("ems_fl") or method == "esft"


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"each may occur once, not {list(values)}")
    return values
