"""FedAvg over contacts (McMahan et al., arXiv 1602.05629, algorithm 1), also with a quorum.

The server holds version v. Each cluster downloads it at its first contact with room for it,
trains, and uploads at its first contact after that; when all clusters have reported, their
data-weighted average is version v + 1.

With a quorum the round ends as soon as a share of the clusters has reported. Reports that come
later are refused and not used, as Bonawitz et al. do with devices that report after the round has
closed (arXiv 1902.01046, section 2.2); their cluster gets the newer version in the same contact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from emsfl.errors import UpdateRefusedError
from emsfl.methods.method import Federation, Method, Update, Work
from emsfl.moe import State
from emsfl.training import LocalSettings, weighted_mean


class FedAvg(Method):
    """Synchronous rounds."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        local_steps: int | None,
        quorum: float = 1.0,
    ) -> None:
        """Prepare the server.

        Args:
            federation: what is known from the start.
            settings: local training; what does not train is not sent.
            local_steps: steps per round; None: training until the upload contact.
            quorum: share (0..1] of the clusters, rounded up, that ends a round.
        """
        super().__init__(federation)
        self.settings = settings
        self.local_steps = local_steps
        # Rounded first: 0.7 * 10 is a little more than 7.
        self.num_needed = math.ceil(round(quorum * len(federation.clusters), 9))
        self.reports: dict[str, State] = {}
        """What the clusters of this round have sent."""

    def next_work(self, cluster: str) -> Work | None:
        """Send the current version, unless the cluster has reported on it."""
        if cluster in self.reports:
            return None
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.to_send(cluster, self.state, self.settings),
            settings=self.settings,
            num_steps=self.local_steps,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Keep the report; average when it was the last one that the round needs."""
        if work.version != self.version:
            raise UpdateRefusedError(
                f"{update.cluster} reported on version {work.version} after its round had ended"
            )
        self.reports[update.cluster] = update.values
        if len(self.reports) == self.num_needed:
            self.state = {**self.state, **self.average()}
            self.reports = {}
            self.version += 1

    def average(self) -> State:
        """Return the data-weighted mean of the reports."""
        clusters = [c for c in self.federation.clusters if c in self.reports]
        return weighted_mean([self.reports[c] for c in clusters], self.shares(clusters))

    def shares(self, clusters: list[str]) -> list[float]:
        """Return the clusters' shares of their samples together; they sum to 1."""
        weights = self.federation.weights
        everybody = len(clusters) == len(self.federation.clusters)
        total = 1.0 if everybody else math.fsum(weights[c] for c in clusters)
        return [weights[c] / total for c in clusters]

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {**super().save(), "reports": self.reports}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        super().restore(saved)
        self.reports = saved["reports"]
