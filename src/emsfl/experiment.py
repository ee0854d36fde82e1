"""START HERE: config -> plan -> model -> split -> method -> driver -> run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from emsfl.config import ConfigModel, load_config, to_yaml
from emsfl.data import DataConfig
from emsfl.files import cache_dir
from emsfl.methods import METHODS, MethodSettings
from emsfl.moe import ModelConfig
from emsfl.orbit import ContactPlan, OrbitConfig, make_plan
from emsfl.results import RunFolder, RunResult, write_report
from emsfl.simulate import (
    Arm,
    Outcome,
    SimulateConfig,
    arms_of,
    open_executor,
    prepare,
    show_progress,
)
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
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    method_settings: MethodSettings = MethodSettings()
    simulate: SimulateConfig = SimulateConfig()

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
        if needed > self.model.num_experts and any(n.startswith("ems_fl") for n in self.methods):
            raise ValueError(
                f"{len(names)} clusters x top_k {self.model.top_k} need {needed} experts per "
                f"layer, model.num_experts is {self.model.num_experts}: use fewer sites, more "
                "experts or a smaller top_k"
            )
        return self


@dataclass(frozen=True)
class Result:
    """A finished run: where it is and what it found."""

    folder: Path
    result: RunResult


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


def run(
    config: ExperimentConfig | Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Result:
    """Run an experiment to its end and return what it found.

    Args:
        config: a config, or what `load` takes.
        out: the run folder itself, made at once; default `runs/NAME-TIME`.
        workers: processes that train at the same time; the result does not depend on it. Above 1
            the calling script needs the usual `if __name__ == "__main__":`.
        progress: show a progress bar on stderr.

    Raises:
        UserError: the input cannot be used; the message says what to change.
    """
    if not isinstance(config, ExperimentConfig):
        config = load(config)
    path = Path(out) if out else Path("runs", f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    plan = make_plan(config.orbit, cache_dir())
    folder = RunFolder.create(path, to_yaml(config))
    return _execute(folder, config, plan, workers, progress)


def resume(folder: Path | str, workers: int = 1, progress: bool = True) -> Result:
    """Go on with a run that was stopped; the result is the same as without the stop.

    Raises:
        RunFolderError: `folder` is not a run.
    """
    opened = RunFolder.open(folder)
    if opened.result_path.exists():
        return Result(opened.path, opened.read_result())
    config = load(opened.config_path)
    return _execute(opened, config, make_plan(config.orbit, cache_dir()), workers, progress)


def _execute(
    folder: RunFolder, config: ExperimentConfig, plan: ContactPlan, workers: int, progress: bool
) -> Result:
    """Run what is not done yet, arm by arm, and write result and report."""
    plan.save(folder.plan_path / "plan.npz")
    arms = arms_of(config.methods)
    outcome = Outcome(config.name, config.seeds, plan)
    with (
        open_executor(workers) as executor,
        folder.open_events() as log,
        show_progress(progress, len(arms) * len(config.seeds)) as show,
    ):
        for seed in config.seeds:
            scenario = prepare(
                plan=plan,
                server_delay_s=config.orbit.server.inter_satellite_delay_s,
                data_config=config.data,
                model_config=config.model,
                training=config.training,
                config=config.simulate,
                seed=seed,
                executor=executor,
                cache_dir=cache_dir(),
            )
            outcome.add_seed(scenario, executor)
            for trained, names in arms.items():
                arm = Arm(trained, names, scenario, config.method_settings)
                outcome.add_arm(trained, arm.run(folder, log, executor, show))
    result = outcome.result(config.model_dump(mode="json"), folder)
    folder.write_result(result)
    write_report(folder)
    return Result(folder.path, result)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"each may occur once, not {list(values)}")
    return values
