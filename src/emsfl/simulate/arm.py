"""One arm of an experiment: a method's training on one seed, with checkpoints and its records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from emsfl.files import sha256_of, write_json
from emsfl.methods import METHODS, EmsFl, Method, MethodSettings, Venue, pack, scored, unpack
from emsfl.moe import ScoreKind
from emsfl.planning import NOBODY
from emsfl.results import (
    Assignment,
    CurvePoint,
    EventLog,
    RunFolder,
    SeedRecord,
    read_checkpoint,
    write_checkpoint,
)
from emsfl.simulate.alone import AloneSimulation, pooled
from emsfl.simulate.gateway import Gateway
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.simulate.simulate import Scenario, Simulation
from emsfl.training import Executor

Progress = Callable[[str, Simulation | AloneSimulation], None]
"""Told the arm's title and its state after every event."""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What one training run is reported as."""

    records: dict[str, SeedRecord]
    """By method name: the trained method, and those that differ in evaluation only."""
    assignment: Assignment | None


_RESULT = TypeAdapter(ArmResult)


def arms_of(methods: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return, per training run that `methods` need, the names it is judged under.

    Each name maps to whether its domain gate is on.
    """
    arms: dict[str, dict[str, bool]] = {}
    for name in methods:
        entry = METHODS[name]
        arms.setdefault(entry.training_of or name, {})[name] = entry.gated
    return arms


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Clusters that are not in this process. Every event is saved before it takes effect there.

    A save writes the whole state anew and syncs it: the server's model, what it has sent to every
    cluster, and the ledger. So an event costs a write of a model's size or more.
    """

    open_gateway: Callable[[int, str], Gateway]
    """Takes a cluster's index and name."""
    saved: Callable[[Simulation], None]
    """Told after each checkpoint."""
    finished: Callable[[Method], None]
    """Told at the end."""


@dataclass(frozen=True)
class Arm:
    """A training run that is to be simulated."""

    trained: str
    """The method whose training is run."""
    names: Mapping[str, bool]
    """As from `arms_of`."""
    scenario: Scenario
    settings: MethodSettings
    elsewhere: Elsewhere | None = None

    @property
    def title(self) -> str:
        """Names the arm's files."""
        return f"{self.trained}-seed{self.scenario.federation.seed}"

    def run(
        self, folder: RunFolder, log: EventLog, executor: Executor, progress: Progress
    ) -> ArmResult:
        """Simulate, or go on from the last checkpoint, or read what an earlier call found.

        The event log is cut back to where this arm's checkpoint, or the arm itself, begins.
        """
        done = folder.checkpoints_path / f"{self.title}.json"
        if done.exists():
            return _RESULT.validate_json(done.read_bytes())
        simulation = self._simulation(log, executor)
        saved = folder.checkpoints_path / f"{self.title}.safetensors"
        if saved.exists():
            arrays, meta = read_checkpoint(saved)
            log.truncate(meta["events_end"])
            simulation.restore(unpack(arrays, meta["state"]))
        else:
            _save(simulation, saved, log)
        self._tell_saved(simulation)
        interval_s = self.scenario.config.checkpoint_interval_s
        next_save = time.monotonic() + interval_s
        while not simulation.finished:
            simulation.step()
            if time.monotonic() >= next_save or self._saves_now(simulation):
                _save(simulation, saved, log)
                next_save = time.monotonic() + interval_s
                self._tell_saved(simulation)
            progress(self.title, simulation)
        if isinstance(simulation, Simulation):
            log.append({**self._heading, "event": "finished", **_final_model(simulation)})
        if self.elsewhere is not None:
            self.elsewhere.finished(simulation.method)
        result = _result(simulation, executor)
        write_json(done, _RESULT.dump_python(result, mode="json"))
        saved.unlink()
        return result

    def _simulation(self, log: EventLog, executor: Executor) -> Simulation | AloneSimulation:
        config, entry = self.scenario.config, METHODS[self.trained]
        scenario = _rescored(self.scenario, entry.score_kind, executor)
        samples = scenario.data.test if config.judged_on == "test" else scenario.data.validation
        times_s = evaluation_times(scenario.plan.duration_s, config.evaluation_points)
        judge = Judge(
            self.names,
            scenario.model,
            samples,
            times_s,
            scenario.training.device,
            domain_of=scenario.data.domain_of,
            choose_on=scenario.data.validation,
        )
        federation = scenario.federation
        if entry.venue in (Venue.POOL, Venue.POOL_OF_ALL):
            federation = pooled(federation)
        method = entry.build(federation, scenario.training, self.settings)
        if entry.venue is not Venue.CONTACTS:
            return AloneSimulation(scenario, entry.venue, method, judge, executor)
        return Simulation(
            scenario,
            method,
            judge,
            executor,
            lambda event: log.append({**self._heading, **event}),
            self.elsewhere.open_gateway if self.elsewhere else None,
        )

    @property
    def _heading(self) -> dict[str, Any]:
        return {"method": self.trained, "seed": self.scenario.federation.seed}

    def _saves_now(self, simulation: Simulation | AloneSimulation) -> bool:
        """Tell whether the last event must be on disk before anybody acts on it."""
        waited = isinstance(simulation, Simulation) and simulation.waited
        return self.elsewhere is not None and not waited

    def _tell_saved(self, simulation: Simulation | AloneSimulation) -> None:
        if self.elsewhere is not None and isinstance(simulation, Simulation):
            self.elsewhere.saved(simulation)


def _rescored(scenario: Scenario, kind: ScoreKind | None, executor: Executor) -> Scenario:
    """Return the scenario with experts scored in a method's own way; None: as they are."""
    if kind is None or kind is scenario.training.score_kind:
        return scenario
    training = scenario.training.model_copy(update={"score_kind": kind})
    federation = scenario.federation
    if federation.preinstalled:
        federation = scored(federation, scenario.data, scenario.model, training, executor)
    return replace(scenario, training=training, federation=federation)


def _final_model(simulation: Simulation) -> dict[str, Any]:
    """Return what tells whether two runs ended with the same bits."""
    state = simulation.method.merged().state
    parts = [part for name in sorted(state) for part in (name, state[name].cpu().numpy())]
    return {"version": simulation.method.version, "model_sha256": sha256_of(*parts)}


def _save(simulation: Simulation | AloneSimulation, path: Path, log: EventLog) -> None:
    """Write everything anew; tensors go to the file from where they are."""
    arrays, state = pack(simulation.save())
    write_checkpoint(path, arrays, {"events_end": log.offset(), "state": state})


def _result(simulation: Simulation | AloneSimulation, executor: Executor) -> ArmResult:
    judge, ledger = simulation.judge, simulation.ledger
    submodels = judge.submodel_accuracy(simulation.method, simulation.scenario.data, executor)
    records = {
        name: SeedRecord(
            curve=[
                CurvePoint(
                    time_s=point.time_s,
                    accuracy=judge.accuracy(name, index),
                    uploaded_bytes=point.uploaded_bytes,
                )
                for index, point in enumerate(judge.curves[name])
            ],
            accuracy_by_domain=judge.accuracy_by_domain(name),
            submodel_accuracy=submodels,
            uploaded_bytes=ledger.uploaded_bytes,
            downloaded_bytes=ledger.downloaded_bytes,
            update_bytes=ledger.update_bytes,
            num_refused=ledger.num_refused,
            device_flops=ledger.device_flops,
            energy_J=ledger.energy_J,
            peak_trainable_parameters=ledger.peak_trainable_parameters,
            peak_optimizer_bytes=ledger.peak_optimizer_bytes,
            peak_memory_bytes=ledger.peak_memory_bytes,
        )
        for name in judge.names
    }
    return ArmResult(records=records, assignment=_assignment(simulation.method))


def _assignment(method: Method) -> Assignment | None:
    if not isinstance(method, EmsFl) or (method.owner == NOBODY).all():
        return None
    clusters = method.federation.clusters
    return Assignment(
        clusters=list(clusters),
        owner=[
            [None if index == NOBODY else clusters[index] for index in layer]
            for layer in method.owner.tolist()
        ],
        mass_kept=method.mass_kept(),
    )
