"""FedAvg over contacts (McMahan et al., arXiv 1602.05629, algorithm 1).

The server holds version v. Each cluster downloads it at its first contact with room for it,
trains, and uploads at its first contact after that; when all clusters have reported, their
data-weighted average is version v + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emsfl.methods.method import Federation, MergedModel, Method, Update, Work
from emsfl.moe import State
from emsfl.training import LocalSettings, weighted_mean


class FedAvg(Method):
    """Synchronous rounds on the full model."""

    def __init__(
        self, federation: Federation, settings: LocalSettings, local_steps: int | None
    ) -> None:
        """Hand out `local_steps` steps a round; None: training until the upload contact."""
        super().__init__(federation)
        self.settings = settings
        self.local_steps = local_steps
        self.state: State = dict(federation.pretrained)
        self.reports: dict[str, State] = {}
        """What the clusters of this round have sent."""

    def next_work(self, cluster: str) -> Work | None:
        """Send the current version, unless the cluster has reported on it."""
        if cluster in self.reports:
            return None
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.state,
            settings=self.settings,
            num_steps=self.local_steps,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Keep the report; average when it was the last one."""
        self.reports[update.cluster] = update.values
        if len(self.reports) == len(self.federation.clusters):
            clusters = self.federation.clusters
            mean = weighted_mean(
                [self.reports[c] for c in clusters], [self.federation.weights[c] for c in clusters]
            )
            self.state = {**self.state, **mean}
            self.reports = {}
            self.version += 1

    def merged(self) -> MergedModel:
        """Return the last complete version."""
        return MergedModel(state=self.state)

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {"version": self.version, "state": self.state, "reports": self.reports}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        self.version = saved["version"]
        self.state, self.reports = saved["state"], saved["reports"]
