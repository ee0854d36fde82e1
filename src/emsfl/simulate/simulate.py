"""Driver 1: run a method in virtual time over a contact plan, with real training.

Events are handled in order of (time, kind, site), so ties never depend on chance. Training is
started as soon as its end is known and waited for when its result is needed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from emsfl.data import FederatedData
from emsfl.errors import UpdateRefusedError
from emsfl.methods import (
    Activity,
    CostModel,
    Federation,
    Method,
    Receive,
    Work,
    make_cluster,
)
from emsfl.moe import ModelSpec
from emsfl.orbit import ContactPlan
from emsfl.simulate.config import SimulateConfig
from emsfl.simulate.gateway import Gateway, LocalGateway
from emsfl.simulate.judge import Judge
from emsfl.simulate.ledger import Ledger
from emsfl.simulate.site import Phase, Site
from emsfl.training import Executor, TrainingConfig, num_bytes


class Kind(IntEnum):
    """What happens; at equal times the lower number comes first."""

    CONTACT_START = 0
    UPLOAD_DUE = 1
    UPLOAD_ARRIVED = 2
    DOWNLOAD_ARRIVED = 3
    CONTACT_END = 4
    EVALUATE = 5


ARRIVALS = (Kind.UPLOAD_ARRIVED, Kind.DOWNLOAD_ARRIVED)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that the methods have in common, for one seed."""

    plan: ContactPlan
    server_delay_s: float
    """One way, between the satellite in contact and the parameter server."""
    data: FederatedData
    model: ModelSpec
    federation: Federation
    training: TrainingConfig
    config: SimulateConfig


class Simulation:
    """One method on one scenario, from the plan's epoch to its end."""

    def __init__(
        self,
        scenario: Scenario,
        method: Method,
        judge: Judge,
        executor: Executor,
        log: Callable[[dict[str, Any]], None],
        open_gateway: Callable[[int, str], Gateway] | None = None,
    ) -> None:
        """Set everything to the epoch.

        Args:
            scenario: what all methods have in common.
            method: the server's side.
            judge: judges the merged model as time goes by.
            executor: where models are judged, and where clusters of this process train.
            log: takes one event at a time.
            open_gateway: returns the gateway of a cluster by index and name; by default the
                cluster is in this process.
        """
        self.scenario = scenario
        self.method = method
        self.judge = judge
        self.executor = executor
        self.log = log
        self.cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
        self.ledger = Ledger(scenario.config)
        self.now_s = 0.0
        self.waited = False
        """Whether the last event only found that something had not arrived yet."""
        self.num_contacts = 0
        """Contacts begun so far, over all sites."""
        self.duration_s = scenario.plan.duration_s
        self.sites = [
            _site(
                scenario,
                index,
                name,
                open_gateway(index, name)
                if open_gateway
                else _local_gateway(scenario, index, name, executor),
            )
            for index, name in enumerate(scenario.federation.clusters)
        ]
        self.queue: list[tuple[float, int, int]] = []
        self._fill_queue()
        if scenario.config.bootstrap == "preinstalled":
            self._start_preinstalled()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to happen."""
        return not self.queue

    def step(self) -> None:
        """Handle the next event."""
        self.now_s, kind, index = heapq.heappop(self.queue)
        if kind == Kind.EVALUATE:
            self.judge.evaluate(self.now_s, self.method, self.ledger, self.executor)
            return
        site = self.sites[index]
        self.waited = kind in ARRIVALS and not site.gateway.arrived()
        if self.waited:
            self._push(self.now_s + site.gateway.retry_s, Kind(kind), site)
            return
        if kind == Kind.UPLOAD_DUE:
            self._start_upload(site)
        elif kind == Kind.UPLOAD_ARRIVED:
            self._finish_upload(site)
        elif kind == Kind.DOWNLOAD_ARRIVED:
            self._finish_download(site)
        else:
            self.num_contacts += kind == Kind.CONTACT_START
            self._record(site, "contact_start" if kind == Kind.CONTACT_START else "contact_end")
        self._offer_work()

    def save(self) -> dict[str, Any]:
        """Return the whole state, for a checkpoint; waits for evaluations under way."""
        return {
            "now_s": self.now_s,
            "num_contacts": self.num_contacts,
            "queue": [list(event) for event in self.queue],
            "sites": [site.save() for site in self.sites],
            "method": self.method.save(),
            "outstanding": self.method.outstanding,
            "judge": self.judge.save(),
            "ledger": self.ledger.save(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned, and start again the training that was under way."""
        self.now_s, self.num_contacts = saved["now_s"], saved["num_contacts"]
        self.queue = [(time_s, kind, index) for time_s, kind, index in saved["queue"]]
        for site, state in zip(self.sites, saved["sites"], strict=True):
            site.restore(state)
        self.method.restore(saved["method"])
        self.method.outstanding = saved["outstanding"]
        self.judge.restore(saved["judge"])
        self.ledger.restore(saved["ledger"])

    def _fill_queue(self) -> None:
        for site in self.sites:
            for start_s, end_s in site.contacts:
                self._push(start_s, Kind.CONTACT_START, site)
                self._push(end_s, Kind.CONTACT_END, site)
        for time_s in self.judge.times_s:
            heapq.heappush(self.queue, (time_s, Kind.EVALUATE, -1))

    def _start_preinstalled(self) -> None:
        """Let every cluster begin at the epoch with what the method gives it, at no transfer."""
        for site in self.sites:
            work = self.method.hand_out(site.name)
            if work is not None:
                self._begin(site, work)

    def _begin(self, site: Site, work: Work) -> None:
        """Let the site's devices take over `work` now, and plan until their upload."""
        scenario = self.scenario
        site.gateway.take_over(work)
        site.work, site.phase = work, Phase.WORKING
        if work.receive is Receive.RESET:
            site.free_since_s, site.unused_s = self.now_s, 0.0
            site.steps_left = scenario.config.max_local_steps_per_contact
        self.ledger.note_work(work, scenario.federation, scenario.model, scenario.data.public)
        due_s, num_steps = self._plan_upload(site, work)
        if due_s is not None and due_s < self.duration_s:
            self._push(due_s, Kind.UPLOAD_DUE, site)
            site.gateway.train(num_steps)

    def _plan_upload(self, site: Site, work: Work) -> tuple[float | None, int]:
        """Count the steps until the upload, charge them; return when it is due, and the steps."""
        step_s = self._step_s(site, work)
        if work.activity is Activity.SCORE:
            most, num_steps = self.scenario.training.score_samples, 0
            scored = [min(count, most) for count in site.sample_counts]
            flops = [self.cost.forward_flops(work, count) for count in scored]
            self.ledger.computed(sum(flops), self.cost.seconds(site.name, sum(flops)))
            ready_s = self.now_s + self.cost.seconds(site.name, max(flops))
        elif work.num_steps is None:
            due_s = site.next_contact_s(self.now_s)
            until_s = self.duration_s if due_s is None else due_s
            return due_s, self._steps_until(site, work, until_s)
        else:
            num_steps = min(work.num_steps, site.steps_left)
            ready_s = self.now_s + num_steps * step_s
            self._charge(site, work, min(ready_s, self.duration_s) - self.now_s)
        due_s = ready_s if site.in_contact(ready_s) else site.next_contact_s(ready_s)
        return due_s, num_steps

    def _steps_until(self, site: Site, work: Work, until_s: float) -> int:
        """Count and charge the whole steps that the devices manage until then."""
        step_s = self._step_s(site, work)
        num_steps = site.count_steps(until_s, step_s)
        self._charge(site, work, num_steps * step_s)
        return num_steps

    def _charge(self, site: Site, work: Work, seconds: float) -> None:
        """Charge every device of the site for `seconds` of training."""
        num_devices = len(site.sample_counts)
        flops = self.cost.step_flops(work) * seconds / self._step_s(site, work)
        self.ledger.computed(num_devices * flops, num_devices * seconds)

    def _step_s(self, site: Site, work: Work) -> float:
        return self.cost.seconds(site.name, self.cost.step_flops(work))

    def _start_upload(self, site: Site) -> None:
        """Take the snapshot and send it; where the work says so, training goes on."""
        size = site.upload_bytes = site.gateway.answer()
        site.phase, site.transfer_started_s = Phase.UPLOADING, self.now_s
        site.free_since_s = self.now_s
        site.steps_left = self.scenario.config.max_local_steps_per_contact
        self._record(site, "upload_started", bytes=size)
        arrival_s = self.scenario.plan.finish_time(site.name, "up", self.now_s, size)
        self._push_arrival(arrival_s, Kind.UPLOAD_ARRIVED, site)

    def _finish_upload(self, site: Site) -> None:
        """Hand the update to the method."""
        site.phase = Phase.WAITING
        update, refusal = None, None
        try:
            update = site.gateway.update()
            site.upload_bytes = update.num_bytes()
        except UpdateRefusedError as error:
            refusal = error
        size = site.upload_bytes
        sent_s = self.now_s - self.scenario.server_delay_s - site.transfer_started_s
        self.ledger.uploaded(size, sent_s)
        self._record(site, "upload_arrived", bytes=size, started_s=site.transfer_started_s)
        version = self.method.version
        try:
            if update is None:
                self.method.reject(site.name)
            else:
                self.method.receive(update)
        except UpdateRefusedError as error:
            refusal = error
        if refusal is not None:
            self.ledger.num_refused += 1
            self._record(site, "refused", reason=str(refusal))
            return
        self.ledger.update_bytes.append(size)
        if self.method.version > version:
            self._record(site, "merged", version=self.method.version)

    def _offer_work(self) -> None:
        """Give every waiting site that is in contact its next work, if there is any."""
        for site in self.sites:
            if site.phase is not Phase.WAITING or not site.in_contact(self.now_s):
                continue
            work = self.method.hand_out(site.name)
            if work is None:
                continue
            site.download, site.phase = work, Phase.DOWNLOADING
            site.gateway.download(work)
            size = num_bytes(work.payload)
            starts_s = self.now_s + (self.scenario.server_delay_s if size else 0.0)
            site.transfer_started_s = starts_s
            self._record(site, "download_started", bytes=size, version=work.version)
            arrival_s = self.scenario.plan.finish_time(site.name, "down", starts_s, size)
            self._push_arrival(arrival_s, Kind.DOWNLOAD_ARRIVED, site)

    def _finish_download(self, site: Site) -> None:
        """Let the devices go on with what has arrived."""
        work = site.download
        if work is None:
            raise RuntimeError(f"{site.name}: no work is on its way")
        site.download = None
        size = num_bytes(work.payload)
        self.ledger.downloaded(size, self.now_s - site.transfer_started_s)
        self._record(site, "download_arrived", bytes=size, version=work.version)
        if work.receive is Receive.REBASE:
            before = _work_of(site)
            if before.trains_while_uploading:
                site.gateway.train(self._steps_until(site, before, self.now_s))
            else:
                site.free_since_s = self.now_s
        self._begin(site, work)

    def _push(self, time_s: float, kind: Kind, site: Site) -> None:
        if time_s <= self.duration_s:
            heapq.heappush(self.queue, (time_s, kind, site.index))

    def _push_arrival(self, time_s: float, kind: Kind, site: Site) -> None:
        if kind == Kind.UPLOAD_ARRIVED:
            time_s += self.scenario.server_delay_s
        if math.isfinite(time_s):
            self._push(time_s, kind, site)

    def _record(self, site: Site, event: str, **details: Any) -> None:
        self.log({"time_s": self.now_s, "event": event, "cluster": site.name, **details})


def _work_of(site: Site) -> Work:
    if site.work is None:
        raise RuntimeError(f"{site.name} has no work")
    return site.work


def _local_gateway(scenario: Scenario, index: int, name: str, executor: Executor) -> LocalGateway:
    return LocalGateway(
        index=index,
        cluster=make_cluster(name, scenario.data),
        shards=scenario.data.shards[name],
        executor=executor,
        model=scenario.model,
        federation=scenario.federation,
        training=scenario.training,
    )


def _site(scenario: Scenario, index: int, name: str, gateway: Gateway) -> Site:
    return Site(
        index=index,
        name=name,
        sample_counts=[len(shard) for shard in scenario.data.shards[name]],
        contacts=[(c.start_s, c.end_s) for c in scenario.plan.contacts(name)],
        gateway=gateway,
    )
