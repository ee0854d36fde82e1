"""START HERE: config -> plan -> model -> split -> method -> driver -> run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from emsfl.config import to_yaml
from emsfl.data import load_data
from emsfl.experiment_config import ExperimentConfig, load
from emsfl.files import cache_dir, sole_writer
from emsfl.moe import make_spec, tokenise_for
from emsfl.orbit import ContactPlan, make_plan
from emsfl.results import RunFolder, RunResult, Sinks, write_report
from emsfl.simulate import (
    Arm,
    ExecutorKind,
    Expectation,
    Outcome,
    Scenario,
    arms_of,
    expectations,
    open_executor,
    prepare,
    show_progress,
)
from emsfl.training import Executor

__all__ = ["ExperimentConfig", "Result", "expect", "load", "resume", "run"]


@dataclass(frozen=True)
class Result:
    """A finished run: where it is and what it found."""

    folder: Path
    result: RunResult


def expect(config: ExperimentConfig) -> list[Expectation]:
    """Return what to expect of an experiment (sizes, times, bottlenecks), training nothing."""
    plan = make_plan(config.orbit, cache_dir())
    data = load_data(config.data, plan.sites, config.seeds[0], tokenise_for(config.model))
    return expectations(
        plan,
        make_spec(config.model, data.num_classes),
        config.training,
        config.simulate,
        config.method_settings,
        config.methods,
    )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; its result depends on none of it."""

    workers: int = 1
    """Tasks that train at the same time. Above 1 the calling script needs the usual
    `if __name__ == "__main__":`."""
    executor: ExecutorKind = "local"
    """`local`: processes of this machine; `ray`: a Ray cluster."""
    progress: bool = True
    """Show a progress bar on stderr."""
    report: bool = True
    """Write `report.html`; `emsfl report` does it later."""
    sinks: Sequence[str] = ()
    """Experiment trackers that get the curves as well: `tensorboard`, `mlflow`, ..."""


def run(
    config: ExperimentConfig | Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    **execution: Any,
) -> Result:
    """Run an experiment to its end and return what it found.

    Args:
        config: a config, or what `load` takes.
        out: the run folder itself, made at once; default `runs/NAME-TIME`.
        execution: the fields of `Execution`, such as `workers=2`.

    Raises:
        UserError: the input cannot be used; the message says what to change.
    """
    if not isinstance(config, ExperimentConfig):
        config = load(config)
    path = Path(out) if out else Path("runs", f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    plan = make_plan(config.orbit, cache_dir())
    folder = RunFolder.create(path, to_yaml(config))
    return _execute(folder, config, plan, Execution(**execution))


def resume(folder: Path | str, **execution: Any) -> Result:
    """Go on with a run that was stopped; the result is the same as without the stop.

    Args:
        folder: the run folder.
        execution: the fields of `Execution`.

    Raises:
        RunFolderError: `folder` is not a run.
    """
    opened = RunFolder.open(folder)
    if opened.result_path.exists():
        return Result(opened.path, opened.read_result())
    config = load(opened.config_path)
    return _execute(opened, config, make_plan(config.orbit, cache_dir()), Execution(**execution))


def scenario_of(
    config: ExperimentConfig, plan: ContactPlan, seed: int, executor: Executor
) -> Scenario:
    """Return what all methods share on one seed: data, pre-trained model, scores, devices."""
    return prepare(
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


def _execute(
    folder: RunFolder, config: ExperimentConfig, plan: ContactPlan, how: Execution
) -> Result:
    """Run what is not done yet, arm by arm, and write result and report."""
    resolved = config.model_dump(mode="json")
    arms = arms_of(config.methods)
    outcome = Outcome(config.name, config.seeds, plan)
    sinks = Sinks(how.sinks, folder.path, config.name, resolved)
    with (
        sole_writer(folder.path),
        open_executor(how.workers, how.executor) as executor,
        folder.open_events() as log,
        show_progress(how.progress, len(arms) * len(config.seeds)) as show,
    ):
        plan.save(folder.plan_path / "plan.npz")
        for seed in config.seeds:
            scenario = scenario_of(config, plan, seed, executor)
            if scenario.data.holdings is not None:
                scenario.data.holdings.save(folder.split_path(seed))
            outcome.add_seed(scenario, executor)
            for trained, names in arms.items():
                arm = Arm(trained, names, scenario, config.method_settings)
                found = arm.run(folder, log, executor, show)
                outcome.add_arm(trained, found)
                for name, record in found.records.items():
                    sinks.add(name, seed, record)
    sinks.close()
    result = outcome.result(resolved, folder)
    folder.write_result(result)
    if how.report:
        write_report(folder)
    return Result(folder.path, result)
