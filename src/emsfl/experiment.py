"""START HERE: config -> plan -> model -> split -> method -> driver -> run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from emsfl.config import to_yaml
from emsfl.data import load_data
from emsfl.experiment_config import ExperimentConfig, load
from emsfl.files import cache_dir
from emsfl.moe import make_spec
from emsfl.orbit import ContactPlan, make_plan
from emsfl.results import RunFolder, RunResult, write_report
from emsfl.simulate import (
    Arm,
    Expectation,
    Outcome,
    arms_of,
    expectations,
    open_executor,
    prepare,
    show_progress,
)

__all__ = ["ExperimentConfig", "Result", "expect", "load", "resume", "run"]


@dataclass(frozen=True)
class Result:
    """A finished run: where it is and what it found."""

    folder: Path
    result: RunResult


def expect(config: ExperimentConfig) -> list[Expectation]:
    """Return what to expect of an experiment (sizes, times, bottlenecks), training nothing."""
    plan = make_plan(config.orbit, cache_dir())
    data = load_data(config.data, plan.sites, config.seeds[0])
    return expectations(
        plan,
        make_spec(config.model, data.num_classes),
        config.training,
        config.simulate,
        config.method_settings,
        config.methods,
    )


def run(
    config: ExperimentConfig | Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    workers: int = 1,
    progress: bool = True,
    report: bool = True,
) -> Result:
    """Run an experiment to its end and return what it found.

    Args:
        config: a config, or what `load` takes.
        out: the run folder itself, made at once; default `runs/NAME-TIME`.
        workers: processes that train at the same time; the result does not depend on it. Above 1
            the calling script needs the usual `if __name__ == "__main__":`.
        progress: show a progress bar on stderr.
        report: write `report.html`; `emsfl report` does it later.

    Raises:
        UserError: the input cannot be used; the message says what to change.
    """
    if not isinstance(config, ExperimentConfig):
        config = load(config)
    path = Path(out) if out else Path("runs", f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    plan = make_plan(config.orbit, cache_dir())
    folder = RunFolder.create(path, to_yaml(config))
    return _execute(folder, config, plan, workers, progress, report)


def resume(
    folder: Path | str, workers: int = 1, progress: bool = True, report: bool = True
) -> Result:
    """Go on with a run that was stopped; the result is the same as without the stop.

    Raises:
        RunFolderError: `folder` is not a run.
    """
    opened = RunFolder.open(folder)
    if opened.result_path.exists():
        return Result(opened.path, opened.read_result())
    config = load(opened.config_path)
    plan = make_plan(config.orbit, cache_dir())
    return _execute(opened, config, plan, workers, progress, report)


def _execute(
    folder: RunFolder,
    config: ExperimentConfig,
    plan: ContactPlan,
    workers: int,
    progress: bool,
    report: bool,
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
    if report:
        write_report(folder)
    return Result(folder.path, result)
