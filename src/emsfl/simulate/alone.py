"""Virtual time without a network: sites that train by themselves, and one trainer on all data.

There is no transfer to wait for, so nothing happens but training and evaluation: at every time of
the grid a trainer has done as many steps as the cost model gives by then. Contacts matter in one
way only: the cap on local steps counts from one to the next, as it does for every method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emsfl.data import Samples
from emsfl.errors import UpdateRefusedError
from emsfl.methods import Cluster, CostModel, Device, Federation, Method, Venue, make_cluster
from emsfl.simulate.gateway import LocalGateway
from emsfl.simulate.judge import Judge
from emsfl.simulate.ledger import Ledger
from emsfl.simulate.simulate import Scenario
from emsfl.simulate.site import Site
from emsfl.training import Executor

POOL = "pool"
"""Name of the only cluster where all data are in one place."""


def pooled(federation: Federation) -> Federation:
    """Return the federation whose one cluster holds everybody's data."""
    return replace(federation, clusters=(POOL,), weights={POOL: 1.0}, scores=None, statistics=None)


class AloneSimulation:
    """One method without a network, from the epoch to the plan's end."""

    def __init__(
        self,
        scenario: Scenario,
        venue: Venue,
        method: Method,
        judge: Judge,
        executor: Executor,
    ) -> None:
        """Set everything to the epoch.

        Args:
            scenario: plan, data and cost model of the federation.
            venue: who trains, with how many steps; not `Venue.CONTACTS`.
            method: made for the scenario's federation, or for `pooled` of it.
            judge: has the grid of times.
            executor: runs the training.
        """
        self.scenario = scenario
        self.venue = venue
        self.method = method
        self.judge = judge
        self.executor = executor
        self.cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
        self.ledger = Ledger(scenario.config)
        self.now_s = 0.0
        self.num_contacts = 0
        """None: there is no network."""
        self.num_evaluated = 0
        self.duration_s = scenario.plan.duration_s
        names = scenario.federation.clusters
        shards = [scenario.data.shards[name] for name in names]
        own = [
            self._gateway(i, make_cluster(n, scenario.data), shards[i]) for i, n in enumerate(names)
        ]
        self.clocks = [_site(scenario, gateway) for gateway in own]
        """Where steps are counted: one site per cluster of the federation."""
        self.clock_steps = [0] * len(self.clocks)
        self.trainers = own
        if venue is not Venue.SITES:
            everything = _concatenated([shard for parts in shards for shard in parts])
            self.trainers = [self._gateway(0, Cluster(POOL, [1.0], [Device()]), [everything])]
        for trainer in self.trainers:
            self._go_on(trainer)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to happen."""
        return self.num_evaluated == len(self.judge.times_s)

    def step(self) -> None:
        """Train until the next time of the grid, and evaluate."""
        self.now_s = self.judge.times_s[self.num_evaluated]
        for clock in self.clocks:
            self._count(clock, self.now_s)
        for trainer in self.trainers:
            trainer.train(self._target(trainer) - trainer.cluster.devices[0].num_steps)
        for trainer in self.trainers:
            if trainer.steps_under_way:
                self._keep(trainer)
                self._go_on(trainer)
        self.judge.evaluate(self.now_s, self.method, self.ledger, self.executor)
        self.num_evaluated += 1

    def save(self) -> dict[str, Any]:
        """Return the whole state, for a checkpoint; waits for evaluations under way."""
        return {
            "num_evaluated": self.num_evaluated,
            "clock_steps": self.clock_steps,
            "clocks": [clock.save() for clock in self.clocks],
            "trainers": [trainer.save() for trainer in self.trainers],
            "method": self.method.save(),
            "outstanding": self.method.outstanding,
            "judge": self.judge.save(),
            "ledger": self.ledger.save(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        self.num_evaluated, self.clock_steps = saved["num_evaluated"], saved["clock_steps"]
        for site, state in zip(self.clocks, saved["clocks"], strict=True):
            site.restore(state)
        for trainer, state in zip(self.trainers, saved["trainers"], strict=True):
            trainer.restore(state)
        self.method.restore(saved["method"])
        self.method.outstanding = saved["outstanding"]
        self.judge.restore(saved["judge"])
        self.ledger.restore(saved["ledger"])

    def _gateway(self, index: int, cluster: Cluster, shards: Sequence[Samples]) -> LocalGateway:
        return LocalGateway(
            index=index,
            cluster=cluster,
            shards=shards,
            executor=self.executor,
            model=self.scenario.model,
            federation=self.method.federation,
            training=self.scenario.training,
        )

    def _keep(self, trainer: LocalGateway) -> None:
        """Keep what was trained; what has diverged is counted and the last good state stays."""
        trainer.answer()
        try:
            self.method.receive(trainer.update())
        except UpdateRefusedError:
            self.ledger.num_refused += 1

    def _go_on(self, trainer: LocalGateway) -> None:
        """Give the trainer its next work, at no transfer."""
        work = self.method.hand_out(trainer.cluster.name)
        if work is None:
            raise RuntimeError(f"{self.method} has no work for {trainer.cluster.name}")
        trainer.take_over(work)
        self.ledger.note_work(
            work, self.method.federation, self.scenario.model, self.scenario.data.public
        )

    def _count(self, clock: Site, until_s: float) -> None:
        """Count and charge the steps of one cluster until then, within the cap."""
        work = self.trainers[0].cluster.work
        if work is None:
            raise RuntimeError("nobody has work")
        flops = self.cost.step_flops(work)
        step_s = self.cost.seconds(clock.name, flops)
        starts = [start for start, _ in clock.contacts if clock.free_since_s < start <= until_s]
        num_steps = 0
        for time_s in (*starts, until_s):
            num_steps += clock.count_steps(time_s, step_s)
            if time_s in starts:
                clock.steps_left = self.scenario.config.max_local_steps_per_contact
        self.clock_steps[clock.index] += num_steps
        devices = {
            Venue.SITES: len(clock.sample_counts),
            Venue.POOL: 1 / len(self.clocks),
            Venue.POOL_OF_ALL: 1,
        }[self.venue]
        self.ledger.computed(devices * num_steps * flops, devices * num_steps * step_s)

    def _target(self, trainer: LocalGateway) -> int:
        """Return how many steps the trainer has done by now."""
        if self.venue is Venue.SITES:
            return self.clock_steps[trainer.index]
        everybody = sum(self.clock_steps)
        return everybody // len(self.clocks) if self.venue is Venue.POOL else everybody


def _site(scenario: Scenario, gateway: LocalGateway) -> Site:
    name = gateway.cluster.name
    return Site(
        index=gateway.index,
        name=name,
        sample_counts=[len(shard) for shard in gateway.shards],
        gateway=gateway,
        contacts=[(c.start_s, c.end_s) for c in scenario.plan.contacts(name)],
        steps_left=scenario.config.max_local_steps_per_contact,
    )


def _concatenated(shards: Sequence[Samples]) -> Samples:
    return Samples(
        inputs=np.concatenate([shard.inputs for shard in shards]),
        labels=np.concatenate([shard.labels for shard in shards]),
    )
