"""The two clusters of the simulator's tests, behind gateways that may lose everything."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emsfl.deploy import Duty, Node, NodeSettings
from emsfl.deploy.checks import UploadLimits
from emsfl.deploy.flower import Envelope
from emsfl.deploy.privacy import finisher
from emsfl.deploy.remote import RemoteGateway
from emsfl.methods import MethodSettings
from emsfl.results import RunFolder
from emsfl.simulate import Arm, Elsewhere
from emsfl.training import InlineExecutor, weighted_mean
from tests.simulate.conftest import data, scenario

__all__ = ["data", "scenario"]

SETTINGS = MethodSettings.model_validate(
    {"fedavg": {"local_steps": 3}, "ems_fl": {"learning_rate": 0.05}}
)


class KilledError(Exception):
    """The server has been killed."""


@dataclass
class Federates:
    """A server and its nodes in one process: everything is real but the link."""

    scenario: Any
    folder: Path
    method: str = "ems_fl"
    random: random.Random = field(default_factory=lambda: random.Random(0))
    loss: float = 0.0
    """Chance that a request, and that a reply, is lost; and that a request comes twice."""
    node_kill: float = 0.0
    """Chance after a message that its node is started anew."""
    server_kills: int = 0
    events_seen: int = 0
    part_bytes: int = 512 * 1024
    free_running: bool = False
    max_change_norm: float | None = None
    privacy: Any = None
    combine: Any = weighted_mean
    tamper: Any = None
    """Takes cluster, request and reply, and returns the reply that arrives."""
    nodes: dict[str, Node] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    gateways: dict[str, RemoteGateway] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            scenario = self.scenario
            duty = Duty(
                name=name,
                index=scenario.federation.clusters.index(name),
                data=scenario.data,
                model=scenario.model,
                federation=scenario.federation,
                training=scenario.training,
                finish=finisher(self.privacy, scenario.federation),
                keeps_released=self.privacy is not None,
                combine=self.combine,
                released_note=lambda count: None,
            )
            settings = NodeSettings(
                name=name,
                folder=self.folder / f"node-{name}",
                poll_s=0.01,
                part_bytes=self.part_bytes,
                windows=None,
                epoch_wall_s=0.0,
                speedup=1.0,
            )
            self.nodes[name] = Node(settings, None, lambda seed: duty, self.note)
        return self.nodes[name]

    def note(self, event: str, **details: Any) -> None:
        self.notes.append({"event": event, **details})

    def events_of(self, event: str) -> list[dict[str, Any]]:
        return [note for note in self.notes if note["event"] == event]

    def exchange(self, name: str, request: Envelope) -> Envelope | None:
        if self.random.random() < self.loss:
            return None
        times = 2 if self.random.random() < self.loss else 1
        for _ in range(times):
            reply, _ = self.node(name).answer(request)
        if self.tamper is not None:
            reply = self.tamper(name, json.loads(request.text), reply)
        if self.random.random() < self.node_kill:
            node = self.nodes.pop(name)
            if node.worker is not None:
                node.worker.close()
        return None if self.random.random() < self.loss else reply

    def gateway(self, index: int, name: str) -> RemoteGateway:
        gateway = RemoteGateway(
            name,
            self.folder / "incoming" / name,
            UploadLimits(self.scenario.federation, self.max_change_norm),
            lambda event, **details: self.note(event, cluster=name, **details),
            part_bytes=self.part_bytes,
            retry_s=1.0,
            free_running=self.free_running,
            may_send=lambda: True,
            heading=lambda: {"session": "one", "seed": 0, "cluster": name, "epoch": 0.0},
        )
        gateway.connect(lambda request: self.exchange(name, request))
        self.gateways[name] = gateway
        return gateway

    def arm(self, elsewhere: Elsewhere | None) -> Arm:
        every_event = self.scenario.config.model_copy(update={"checkpoint_interval_s": 0.0})
        scenario = type(self.scenario)(**{**vars(self.scenario), "config": every_event})
        return Arm(self.method, {self.method: True}, scenario, SETTINGS, elsewhere)

    def simulate(self) -> Any:
        folder = RunFolder.create(self.folder / "simulated", "name: x\n")
        with folder.open_events() as log:
            self.arm(None).run(folder, log, InlineExecutor(), lambda title, simulation: None)
        return folder.events_path.read_text()

    def serve(self) -> str:
        """Run to the end, over as many lives of the server as it takes; return the events."""
        path = self.folder / "served"
        folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, "name: x\n")
        while True:
            elsewhere = Elsewhere(
                open_gateway=self.gateway,
                saved=lambda simulation: [g.release() for g in self.gateways.values()],
                finished=lambda method: None,
            )
            try:
                with folder.open_events() as log:
                    self.arm(elsewhere).run(folder, log, InlineExecutor(), self.maybe_killed)
            except KilledError:
                continue
            else:
                return folder.events_path.read_text()
            finally:
                for gateway in self.gateways.values():
                    gateway.close()

    def maybe_killed(self, title: str, simulation: Any) -> None:
        self.events_seen += 1
        if self.server_kills and self.events_seen % 4 == 0:
            self.server_kills -= 1
            raise KilledError

    def close(self) -> None:
        for node in self.nodes.values():
            if node.worker is not None:
                node.worker.close()


@pytest.fixture
def federates(scenario, tmp_path):
    found = Federates(scenario, tmp_path)
    yield found
    found.close()
