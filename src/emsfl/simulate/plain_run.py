"""Run a method as the theorems describe it: plain SGD, independent batches, the run's own events.

The server's side and the cluster's side are the code that every run uses; only the optimiser and
the clock (local steps, one for all) are the theorems' own. docs/theory.md, sections 2 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emsfl.errors import DataError
from emsfl.methods import Cluster, EmsFl, MergedModel, Update, Work, make_cluster
from emsfl.moe import Owned, State, experts_per_layer, split_state
from emsfl.planning import Schedule
from emsfl.simulate.contact_log import Event
from emsfl.simulate.simulate import Scenario
from emsfl.training import (
    Executor,
    LocalSettings,
    PlainTask,
    add_scaled,
    difference,
    is_trained,
    train_plainly,
    weighted_mean,
)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Everything that the theorems speak of, at the beginning of one tick."""

    tick: int
    time_s: float
    owned: dict[str, Owned]
    """Per cluster, the experts of the models below."""
    virtual: dict[str, State]
    """Per cluster z^c: the weighted sum of everybody's work so far, as the cluster sees it."""
    server: dict[str, State]
    """Per cluster, its sub-model as the server holds it (FedAvg: the full model)."""
    local: dict[str, list[State]]
    """Per cluster, what its devices hold; empty for FedAvg, visited between rounds only."""
    merged: MergedModel


class PlainRun:
    """What a plain run needs besides its schedule."""

    def __init__(
        self, scenario: Scenario, settings: LocalSettings, step_s: float, executor: Executor
    ) -> None:
        """Train with `settings` (momentum unused), one step in `step_s` seconds."""
        self.scenario = scenario
        self.settings = settings
        self.step_s = step_s
        self.executor = executor
        self.clusters = [make_cluster(n, scenario.data) for n in scenario.federation.clusters]

    def train(self, owned: Owned, jobs: Sequence[tuple[int, int, State, int, int]]) -> list[State]:
        """Return the states after (cluster, device, state, first step, number of steps)."""
        scenario = self.scenario
        pending = [
            self.executor.submit(
                train_plainly,
                PlainTask(
                    model=scenario.model,
                    num_experts=experts_per_layer(owned),
                    state=state,
                    shard=scenario.data.shards[self.clusters[c].name][k],
                    seed=(scenario.federation.seed, 6, c, k),
                    first_step=first,
                    num_steps=count,
                    settings=self.settings,
                ),
            )
            for c, k, state, first, count in jobs
        ]
        return [work.result() for work in pending]


def visit_rounds(run: PlainRun, schedule: Schedule, ticks: Sequence[int]) -> Iterator[Visit]:
    """Train synchronous FedAvg and yield what it holds at the ends of rounds.

    Args:
        run: what to train.
        schedule: as from `synchronous`.
        ticks: which ticks to visit, ascending; each must begin a round (or be the last, T).
    """
    federation = run.scenario.federation
    everything = federation.layout.all_experts()
    state = federation.pretrained
    bounds = np.unique(schedule.delivered[0])
    for begin, end in zip(bounds, np.append(bounds[1:], -1), strict=True):
        if begin in ticks:
            same = {cluster.name: state for cluster in run.clusters}
            yield Visit(
                tick=int(begin),
                time_s=float(schedule.time_s[begin]),
                owned=dict.fromkeys(same, everything),
                virtual=same,
                server=same,
                local={},
                merged=MergedModel(state=state),
            )
        if end < 0:
            return
        steps = schedule.active[:, begin:end].sum(axis=1)
        before = schedule.active[:, :begin].sum(axis=1)
        jobs = [
            (c, k, state, int(before[c]), int(steps[c]))
            for c, cluster in enumerate(run.clusters)
            for k in range(len(cluster.devices))
        ]
        results = iter(run.train(everything, jobs))
        models = [
            weighted_mean([next(results) for _ in cluster.devices], cluster.device_weights)
            for cluster in run.clusters
        ]
        weights = [federation.weights[cluster.name] for cluster in run.clusters]
        state = weighted_mean(models, weights)


def visit_ticks(
    run: PlainRun, method: EmsFl, schedule: Schedule, events: Sequence[Event], ticks: Sequence[int]
) -> Iterator[Visit]:
    """Train EMS-FL over the events of its run and yield what everybody holds at some ticks.

    Args:
        run: what to train.
        method: the server, as at the epoch.
        schedule: as from `asynchronous`.
        events: of this method's run.
        ticks: which ticks to visit, ascending.
    """
    replay = _Replay(run, method, schedule, events)
    for tick in ticks:
        replay.handle(tick * run.step_s * (1 + 1e-12))
        server, merged = replay.server(), method.merged()
        # What arrives during a tick takes effect in it, so local models are looked at behind that.
        replay.handle((tick + 1) * run.step_s * (1 - 1e-12))
        replay.advance_all(tick)
        yield Visit(
            tick=int(tick),
            time_s=float(schedule.time_s[tick]),
            owned={c.name: method.owned(c.name) for c in run.clusters},
            virtual=replay.virtual(),
            server=server,
            local={c.name: [device.state for device in c.devices] for c in run.clusters},
            merged=merged,
        )


class _Replay:
    """Clusters and server of EMS-FL, moved by recorded events."""

    def __init__(
        self, run: PlainRun, method: EmsFl, schedule: Schedule, events: Sequence[Event]
    ) -> None:
        self.run, self.method, self.schedule = run, method, schedule
        self.index = {cluster.name: c for c, cluster in enumerate(run.clusters)}
        self.events = [event for event in events if event["event"] in self._handlers]
        self.num_done = 0
        self.ticks = [0] * len(run.clusters)
        self.sent: dict[int, Update] = {}
        self.works: dict[int, Work | None] = {}
        layout = run.scenario.federation.layout
        self.shared = [
            name
            for name in run.scenario.federation.pretrained
            if layout.is_shared(name) and is_trained(name, layout, run.settings)
        ]
        for cluster in run.clusters:
            work = method.hand_out(cluster.name)
            if work is None:
                raise DataError("the method has no work at the epoch: nothing to bound")
            cluster.take_over(work, run.scenario.federation)

    def handle(self, until_s: float) -> None:
        """Handle all events up to then."""
        while self.num_done < len(self.events):
            event = self.events[self.num_done]
            if event["time_s"] > until_s:
                return
            self.num_done += 1
            self._handlers[event["event"]](self, self.index[event["cluster"]], event["time_s"])

    def advance_all(self, tick: int) -> None:
        """Let all devices complete their steps of the ticks before `tick`."""
        jobs = []
        for c, cluster in enumerate(self.run.clusters):
            active = self.schedule.active[c]
            count = int(active[self.ticks[c] : tick].sum())
            jobs += [
                (c, k, device.state, device.num_steps, count)
                for k, device in enumerate(cluster.devices)
                if count
            ]
            self.ticks[c] = max(self.ticks[c], tick)
        by_owned: dict[Owned, list[tuple[int, int, State, int, int]]] = {}
        for job in jobs:
            by_owned.setdefault(self._owned(job[0]), []).append(job)
        for owned, own_jobs in by_owned.items():
            for (c, k, _, _, count), state in zip(
                own_jobs, self.run.train(owned, own_jobs), strict=True
            ):
                device = self.run.clusters[c].devices[k]
                device.state, device.num_steps = state, device.num_steps + count

    def server(self) -> dict[str, State]:
        """Return every cluster's sub-model as the server holds it."""
        layout = self.run.scenario.federation.layout
        return {
            cluster.name: split_state(self.method.state, layout, self._owned(c))
            for c, cluster in enumerate(self.run.clusters)
        }

    def virtual(self) -> dict[str, State]:
        """Return z^c of every cluster: (3) in docs/theory.md, by what is delivered and what not."""
        shared = {name: self.method.state[name] for name in self.shared}
        means = []
        for c, cluster in enumerate(self.run.clusters):
            mean = weighted_mean([d.state for d in cluster.devices], cluster.device_weights)
            means.append(mean)
            base = cluster.average if cluster.snapshots else cluster.received
            own = difference({name: mean[name] for name in self.shared}, base)
            weight = self.run.scenario.federation.weights[cluster.name]
            shared = add_scaled(shared, own, weight)
            if c in self.sent:
                shared = add_scaled(shared, self.sent[c].shared_delta, weight)
        return {
            cluster.name: {**mean, **shared}
            for cluster, mean in zip(self.run.clusters, means, strict=True)
        }

    def _advance(self, c: int, time_s: float) -> Cluster:
        """Let the devices of one cluster complete their steps until then."""
        cluster = self.run.clusters[c]
        tick = min(int(np.floor(time_s / self.run.step_s + 1e-9)), self.schedule.num_ticks)
        count = int(self.schedule.active[c, self.ticks[c] : tick].sum())
        jobs = [(c, k, d.state, d.num_steps, count) for k, d in enumerate(cluster.devices)]
        if count:
            states = self.run.train(self._owned(c), jobs)
            for device, state in zip(cluster.devices, states, strict=True):
                device.state, device.num_steps = state, device.num_steps + count
        self.ticks[c] = max(self.ticks[c], tick)
        return cluster

    def _snapshot(self, c: int, time_s: float) -> None:
        cluster = self._advance(c, time_s)
        cluster.take_snapshot()
        self.sent[c] = cluster.build_update(self.run.scenario.federation)

    def _arrival(self, c: int, _time_s: float) -> None:
        self.method.receive(self.sent.pop(c))

    def _read(self, c: int, _time_s: float) -> None:
        self.works[c] = self.method.hand_out(self.run.clusters[c].name)

    def _reception(self, c: int, time_s: float) -> None:
        work = self.works.pop(c)
        if work is None:
            raise DataError("the events do not belong to this method: no work was handed out")
        self._advance(c, time_s).take_over(work, self.run.scenario.federation)

    def _owned(self, c: int) -> Owned:
        return self.method.owned(self.run.clusters[c].name)

    _handlers = {  # noqa: RUF012 - never changed
        "upload_started": _snapshot,
        "upload_arrived": _arrival,
        "download_started": _read,
        "download_arrived": _reception,
    }
