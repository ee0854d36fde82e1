"""Serve an experiment to real machines, or join one: config -> plan -> method -> Flower -> folder.

The order of events, the methods, the run folder and the report are those of a simulation; the
clusters are elsewhere, and every event is on disk before it takes effect there.
"""

from __future__ import annotations

import json
import multiprocessing
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from emsfl.config import to_yaml
from emsfl.data import load_data
from emsfl.deploy import (
    Clock,
    Duty,
    Node,
    NodeSettings,
    Notes,
    Server,
    ServerSettings,
    Windows,
    keys,
)
from emsfl.deploy.memory import return_freed_memory
from emsfl.deploy.metrics import serve_metrics
from emsfl.deploy.privacy import combiner, epsilon_spent, finisher
from emsfl.deploy.status import NodeStatus, Status
from emsfl.errors import ConfigError, UserError
from emsfl.experiment_config import ExperimentConfig
from emsfl.files import cache_dir, sole_writer, write_json
from emsfl.methods import METHODS, Method, Venue, make_federation
from emsfl.moe import make_spec, tokenise_for
from emsfl.orbit import ContactPlan, make_plan
from emsfl.results import RunFolder, RunResult, write_checkpoint, write_report
from emsfl.simulate import Arm, Elsewhere, Outcome, Simulation, arms_of, open_executor, prepare
from emsfl.training import one_thread

END_S = 20.0
"""How long the server tries to tell all nodes that it is over."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve."""

    out: Path
    """The run folder; one that has been served from before goes on where it stopped."""
    host: str
    port: int
    keys_folder: Path | None
    """None: plain text, open to all."""
    speedup: float
    rehearses: bool
    metrics_port: int | None


def serve(config: ExperimentConfig, options: ServeOptions) -> RunResult:
    """Serve `config` until its plan ends, and return what it found.

    Raises:
        UserError: the input cannot be used.
    """
    _check(config)
    return_freed_memory()
    if not (options.out / "config.yaml").is_file():
        _fill_cache_elsewhere(config)
    plan = make_plan(config.orbit, cache_dir())
    folder = _open_folder(config, options.out)
    notes = Notes(folder.path / "server.jsonl")
    contacts = {name: [(c.start_s, c.end_s) for c in plan.contacts(name)] for name in plan.sites}
    windows = {name: Windows(found, config.deploy.guard_s) for name, found in contacts.items()}
    clock = _clock(folder, plan, options)
    settings = ServerSettings(
        folder=folder.path / "deploy",
        host=options.host,
        port=options.port,
        tls=keys.server_tls(options.keys_folder) if options.keys_folder else None,
        public_keys=_public_keys(plan, options.keys_folder),
        patience_s=15.0,
        part_bytes=config.deploy.part_bytes,
        max_change_norm=config.deploy.max_change_norm,
        rehearses=options.rehearses,
    )
    with ExitStack() as stack:
        stack.enter_context(sole_writer(folder.path))
        if options.metrics_port is not None:
            metrics = serve_metrics(folder.path, options.metrics_port, notes)
            stack.callback(metrics.shutdown)
        server = Server(settings, windows, clock, notes)
        stack.callback(server.close)
        return _Service(config, plan, folder, clock, server, options).run(notes)


class _Service:
    """One server's work, arm by arm."""

    def __init__(
        self,
        config: ExperimentConfig,
        plan: ContactPlan,
        folder: RunFolder,
        clock: Clock,
        server: Server,
        options: ServeOptions,
    ) -> None:
        self.config, self.plan, self.folder = config, plan, folder
        self.clock, self.server, self.options = clock, server, options
        self.run_id = _run_id(folder)

    def run(self, notes: Notes) -> RunResult:
        """Serve every arm that is not done, and write result and report."""
        config, folder = self.config, self.folder
        self.plan.save(folder.plan_path / "plan.npz")
        outcome = Outcome(config.name, config.seeds, self.plan)
        every_event = config.simulate.model_copy(update={"checkpoint_interval_s": 0.0})
        with open_executor(1) as executor, folder.open_events() as log:
            for seed in config.seeds:
                scenario = prepare(
                    plan=self.plan,
                    server_delay_s=config.orbit.server.inter_satellite_delay_s,
                    data_config=config.data,
                    model_config=config.model,
                    training=config.training,
                    config=every_event,
                    seed=seed,
                    executor=executor,
                    cache_dir=cache_dir(),
                )
                outcome.add_seed(scenario, executor)
                for trained, names in arms_of(config.methods).items():
                    title = f"{trained}-seed{seed}"
                    arms = folder.path / "deploy" / "arms"
                    self.server.begin(
                        f"{self.run_id}-{title}", seed, scenario.federation, arms / title
                    )
                    self.title = title
                    elsewhere = Elsewhere(
                        open_gateway=self.server.gateway,
                        saved=self._saved,
                        finished=self._finished,
                    )
                    arm = Arm(trained, names, scenario, config.method_settings, elsewhere)
                    outcome.add_arm(
                        trained, arm.run(folder, log, executor, lambda _, s: self._pace(s))
                    )
        result = outcome.result(config.model_dump(mode="json"), folder)
        folder.write_result(result)
        write_report(folder)
        self.server.end(END_S)
        notes("finished")
        return result

    def _saved(self, simulation: Simulation) -> None:
        """Let out what is on disk now, and show where the run is."""
        for gateway in self.server.gateways.values():
            gateway.release()
        self._status(simulation).write(self.folder.path)

    def _pace(self, simulation: object) -> None:
        """Wait until the next event is due; a rehearsal that is late lets its time wait."""
        if not isinstance(simulation, Simulation) or simulation.finished:
            return
        if self.options.rehearses:
            for site in simulation.sites:
                # Its contact must not end, in virtual time, before it knows what to do.
                if site.in_contact(simulation.now_s):
                    self.server.gateways[site.name].settle()
        wait_s = self.clock.wall_until(simulation.queue[0][0])
        if wait_s > 0:
            time.sleep(wait_s)
        elif self.options.rehearses:
            self.clock.set(simulation.now_s)

    def _finished(self, method: Method) -> None:
        """Keep the final model."""
        arrays = {n: t.cpu().numpy() for n, t in method.merged().state.items()}
        path = self.folder.path / "models" / f"{self.title}.safetensors"
        write_checkpoint(path, arrays, {"version": method.version})

    def _status(self, simulation: Simulation) -> Status:
        now_s = simulation.now_s
        return Status(
            session=self.title,
            time_s=now_s,
            duration_s=simulation.duration_s,
            next_event_s=simulation.queue[0][0] if simulation.queue else now_s,
            version=simulation.method.version,
            num_refused=simulation.ledger.num_refused,
            finished=simulation.finished,
            accuracy=simulation.judge.latest_accuracy(),
            nodes=[
                NodeStatus(
                    name=site.name,
                    phase=site.phase.value,
                    work=f"{site.name}-{gateway.number}",
                    based_on=site.work.version if site.work else None,
                    next_contact_s=site.next_contact_s(now_s),
                    in_contact=site.in_contact(now_s),
                    uploaded_bytes=gateway.upload.received_bytes,
                    downloaded_bytes=gateway.downloaded_bytes,
                    loss=gateway.last_loss,
                )
                for site, gateway in zip(
                    simulation.sites, self.server.gateways.values(), strict=True
                )
            ],
        )


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """How to join."""

    cluster: str
    server: str
    """host:port."""
    folder: Path
    """The node's journal."""
    keys_folder: Path | None
    """None: plain text, as a key that anyone can make."""
    poll_s: float
    speedup: float
    rehearses: bool
    log: Path | None


def join(config: ExperimentConfig, options: JoinOptions) -> None:
    """Be the gateway of one cluster until the federation has ended.

    Raises:
        UserError: the input cannot be used.
    """
    from emsfl.deploy.flower_node import NodeLink

    names = [site.name for site in config.orbit.sites]
    if options.cluster not in names:
        raise UserError(f"{options.cluster!r} is no site; choose from {', '.join(names)}")
    plan = make_plan(config.orbit, cache_dir())
    folder = options.keys_folder
    key = keys.private_key(folder, options.cluster) if folder else keys.open_key(options.cluster)
    link = NodeLink(options.server, key, folder / keys.AUTHORITY if folder else None)
    contacts = [(c.start_s, c.end_s) for c in plan.contacts(options.cluster)]
    settings = NodeSettings(
        name=options.cluster,
        folder=options.folder,
        poll_s=options.poll_s,
        part_bytes=config.deploy.part_bytes,
        windows=None if options.rehearses else Windows(contacts, config.deploy.guard_s),
        epoch_wall_s=plan.epoch_utc.timestamp(),
        speedup=options.speedup,
    )

    notes, privacy = Notes(options.log), config.deploy.privacy
    if privacy is not None:
        epsilon_spent(privacy, 1)  # so that a missing accountant is found out now

    def released(num_releases: int) -> None:
        if privacy is not None:
            epsilon = epsilon_spent(privacy, num_releases)
            notes("privacy_spent", updates=num_releases, epsilon=epsilon, delta=privacy.delta)

    def duty_of(seed: int) -> Duty:
        data = load_data(config.data, plan.sites, seed)
        model = make_spec(config.model, data.num_classes)
        federation = make_federation(data, model, config.training, seed, cache_dir(), None)
        return Duty(
            name=options.cluster,
            index=plan.sites.index(options.cluster),
            data=data,
            model=model,
            federation=federation,
            training=config.training,
            finish=finisher(privacy, federation),
            keeps_released=privacy is not None,
            combine=combiner(config.deploy),
            released_note=released,
        )

    with sole_writer(options.folder):
        Node(settings, link, duty_of, notes).run()


def _fill_cache_elsewhere(config: ExperimentConfig) -> None:
    """Let another process search the contacts and pre-train the model.

    What that takes, the compiler and the optimiser's state, would stay in this process for the
    length of the run.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_fill_cache, config).result()


def _fill_cache(config: ExperimentConfig) -> None:
    plan = make_plan(config.orbit, cache_dir())
    with one_thread():
        for seed in config.seeds:
            data = load_data(config.data, plan.sites, seed, tokenise_for(config.model))
            spec = make_spec(config.model, data.num_classes)
            make_federation(data, spec, config.training, seed, cache_dir(), None)


def _check(config: ExperimentConfig) -> None:
    for name in config.methods:
        if METHODS[METHODS[name].training_of or name].venue is not Venue.CONTACTS:
            raise ConfigError(f"method {name!r} has no federation; it can be simulated only")


def _open_folder(config: ExperimentConfig, path: Path) -> RunFolder:
    """Make the run folder, or go on in it if it is one of this very config."""
    text = to_yaml(config)
    if (path / "config.yaml").is_file():
        folder = RunFolder.open(path)
        if folder.config_text() != text:
            raise UserError(f"{path} holds a run of another config; choose another --out")
        return folder
    return RunFolder.create(path, text)


def _clock(folder: RunFolder, plan: ContactPlan, options: ServeOptions) -> Clock:
    """Return the clock: the plan's own epoch, or a rehearsal's, which begins when it is served."""
    if options.speedup == 1.0 and not options.rehearses:
        return Clock(plan.epoch_utc.timestamp())
    path = folder.path / "deploy" / "epoch.json"
    clock = Clock(time.time(), options.speedup)
    if path.exists() and not options.rehearses:
        clock.epoch_wall_s = float(json.loads(path.read_text(encoding="utf-8")))
    write_json(path, clock.epoch_wall_s)
    return clock


def _run_id(folder: RunFolder) -> str:
    """Return what tells this run from any other that the nodes may have journals of."""
    path = folder.path / "deploy" / "run_id.json"
    if not path.exists():
        write_json(path, secrets.token_hex(6))
    return str(json.loads(path.read_text(encoding="utf-8")))


def _public_keys(plan: ContactPlan, folder: Path | None) -> Mapping[str, bytes]:
    if folder is None:
        return {name: keys.open_public_key(name) for name in plan.sites}
    return {name: keys.public_key(folder, name) for name in plan.sites}
