"""Local only: every cluster tunes the full model on its own data, and nothing is exchanged.

There is no common model. Every domain is judged by the model of the cluster whose domain it is; the
figure for the union of domains is over all test samples, each judged by its own domain's model. A
user at an unknown site would have to know which model to ask, so this is no model that a federation
could hand out, but what each site has without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emsfl.methods.method import Federation, MergedModel, Method, Receive, Update, Work
from emsfl.moe import Owned, State
from emsfl.training import LocalSettings


class Local(Method):
    """One model per cluster; its devices are averaged at their gateway."""

    def __init__(self, federation: Federation, settings: LocalSettings) -> None:
        """Let everybody start from the pre-trained model."""
        super().__init__(federation)
        self.settings = settings
        self.models: dict[str, State] = dict.fromkeys(federation.clusters, self.state)

    def next_work(self, cluster: str) -> Work | None:
        """Let the cluster go on, from the average of its devices."""
        return Work(
            owned=self.federation.layout.all_experts(),
            payload={},
            settings=self.settings,
            receive=Receive.REBASE if cluster in self.reached else Receive.RESET,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Note the cluster's model; it is never sent to anybody."""
        self.models[update.cluster] = {**self.state, **update.values}
        self.version += 1

    def merged(self) -> MergedModel:
        """Return every cluster's own model."""
        return MergedModel(state=self.state, by_cluster=dict(self.models))

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the cluster's own model."""
        return self.models[cluster], self.federation.layout.all_experts()

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {**super().save(), "models": self.models}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        super().restore(saved)
        self.models = saved["models"]
