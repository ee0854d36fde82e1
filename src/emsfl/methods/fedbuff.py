"""FedBuff over contacts (Nguyen et al., arXiv 2106.06639, algorithm 1).

Nobody waits. The server adds up the changes that clusters send, each discounted by its staleness
(section 5: s = 1 / sqrt(1 + staleness)), and moves its model once K of them have come:
x <- x + server_learning_rate * (1 / K) * sum_i s_i * (x_i - x_sent,i).

The article counts every client alike. Here a change counts by its cluster's share of the samples
times the number of clusters, which is 1 for clusters of equal size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emsfl.methods.method import Federation, Method, Update, Work
from emsfl.moe import State
from emsfl.training import LocalSettings, add_scaled, difference


class FedBuff(Method):
    """Buffered asynchronous aggregation of full models."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        *,
        local_steps: int | None,
        buffer_size: int,
        server_learning_rate: float,
        staleness_exponent: float,
    ) -> None:
        """Move by the mean of `buffer_size` (>= 1) changes; None local steps: until a contact."""
        super().__init__(federation)
        self.settings = settings
        self.local_steps = local_steps
        self.buffer_size = buffer_size
        self.server_learning_rate = server_learning_rate
        self.staleness_exponent = staleness_exponent
        self.total: State = {}
        """Sum of the discounted changes in the buffer."""
        self.num_buffered = 0

    def next_work(self, cluster: str) -> Work | None:
        """Send the current model; nobody ever waits."""
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.to_send(cluster, self.state, self.settings),
            settings=self.settings,
            num_steps=self.local_steps,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Put the change into the buffer, the less of it the staler it is; empty a full buffer."""
        staleness = self.version - work.version
        share = self.federation.weights[update.cluster] * len(self.federation.clusters)
        scale = share * (staleness + 1) ** -self.staleness_exponent
        change = difference(update.values, work.payload)
        if self.num_buffered == 0:
            self.total = {name: tensor * scale for name, tensor in change.items()}
        else:
            self.total = add_scaled(self.total, change, scale)
        self.num_buffered += 1
        if self.num_buffered == self.buffer_size:
            step = self.server_learning_rate / self.buffer_size
            self.state = add_scaled(self.state, self.total, step)
            self.total, self.num_buffered = {}, 0
            self.version += 1

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {**super().save(), "total": self.total, "num_buffered": self.num_buffered}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        super().restore(saved)
        self.total, self.num_buffered = saved["total"], saved["num_buffered"]
