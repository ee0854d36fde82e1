"""How a driver talks to a cluster's gateway, and the gateway of a cluster in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emsfl.data import Samples
from emsfl.methods import (
    Activity,
    Cluster,
    Federation,
    Update,
    Work,
    measure_cluster,
    take_results,
    training_tasks,
)
from emsfl.moe import ModelSpec
from emsfl.training import Executor, Pending, TrainingConfig, train_locally


class Gateway(Protocol):
    """What the order of events asks of a cluster, wherever the cluster is.

    Calls are carried out in the order in which they are made.
    """

    retry_s: float
    """Virtual seconds after which a transfer that has not ended in time is looked at again."""

    def download(self, work: Work) -> None:
        """Start to send `work` to the cluster."""
        ...

    def take_over(self, work: Work) -> None:
        """Let the devices go on with `work`; what had to be sent of it has arrived by now."""
        ...

    def train(self, num_steps: int) -> None:
        """Start `num_steps` steps on every device."""
        ...

    def answer(self) -> int:
        """Take a snapshot, start to send the update that answers the work; return its bytes."""
        ...

    def arrived(self) -> bool:
        """Tell whether what was to have arrived by now has; False: ask again later."""
        ...

    def update(self) -> Update:
        """Return the update, which has arrived by now.

        Raises:
            UpdateRefusedError: what has arrived is no update that may be looked at.
        """
        ...

    def save(self) -> dict[str, Any]:
        """Return everything that changes, for a checkpoint."""
        ...

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `save` returned, and start again what was under way."""
        ...


@dataclass
class LocalGateway:
    """A cluster in this process: its steps run on an executor, nothing really travels."""

    index: int
    """Of the cluster in the federation."""
    cluster: Cluster
    shards: Sequence[Samples]
    """One per device."""
    executor: Executor
    model: ModelSpec
    federation: Federation
    training: TrainingConfig
    steps_under_way: int = 0
    pending: list[Pending] = field(default_factory=list)
    sent: Update | None = None
    retry_s: float = math.inf

    def download(self, work: Work) -> None:
        """See `Gateway`: nothing is to be done before it has arrived."""

    def take_over(self, work: Work) -> None:
        """See `Gateway`."""
        self._finish_training()
        self.cluster.take_over(work, self.federation)

    def train(self, num_steps: int) -> None:
        """See `Gateway`."""
        self._finish_training()
        self.steps_under_way = num_steps
        if num_steps:
            seed = (self.federation.seed, 4, self.index)
            tasks = training_tasks(self.cluster, self.shards, self.model, seed, num_steps)
            self.pending = [self.executor.submit(train_locally, task) for task in tasks]

    def answer(self) -> int:
        """See `Gateway`."""
        self._finish_training()
        bootstrap = None
        if self.cluster.work is not None and self.cluster.work.activity is Activity.SCORE:
            bootstrap = measure_cluster(
                self.cluster,
                self.shards,
                self.executor,
                self.model,
                self.federation.pretrained,
                self.training,
            )
        self.cluster.take_snapshot()
        self.sent = self.cluster.build_update(self.federation, bootstrap)
        return self.sent.num_bytes()

    def arrived(self) -> bool:
        """See `Gateway`: nothing is ever late here."""
        return True

    def update(self) -> Update:
        """See `Gateway`."""
        if self.sent is None:
            raise RuntimeError(f"{self.cluster.name}: no update is on its way")
        update, self.sent = self.sent, None
        return update

    def save(self) -> dict[str, Any]:
        """See `Gateway`."""
        return {
            "cluster": self.cluster.save(),
            "steps_under_way": self.steps_under_way,
            "sent": self.sent,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """See `Gateway`."""
        self.cluster.restore(saved["cluster"])
        self.sent, self.pending, self.steps_under_way = saved["sent"], [], 0
        if saved["steps_under_way"]:
            self.train(saved["steps_under_way"])

    def _finish_training(self) -> None:
        """Wait for the steps under way and let the devices hold their results."""
        if self.pending:
            results = [pending.result() for pending in self.pending]
            take_results(self.cluster, results, self.steps_under_way)
        self.pending, self.steps_under_way = [], 0
