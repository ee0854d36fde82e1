"""FedAsync over contacts (Xie et al., arXiv 1903.03934, algorithm 1, polynomial staleness).

The server mixes every upload at once: x <- (1 - a_t) x + a_t x_c with
a_t = mixing * (staleness + 1)^-exponent, staleness counting the versions since the download.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emsfl.methods.method import Federation, MergedModel, Method, Update, Work
from emsfl.moe import State
from emsfl.training import LocalSettings, mix


class FedAsync(Method):
    """Asynchronous mixing of full models."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        *,
        local_steps: int | None,
        mixing: float,
        staleness_exponent: float,
    ) -> None:
        """Mix with share `mixing` (0..1], discounted by `staleness_exponent` (>= 0)."""
        super().__init__(federation)
        self.settings = settings
        self.local_steps = local_steps
        self.mixing = mixing
        self.staleness_exponent = staleness_exponent
        self.state: State = dict(federation.pretrained)

    def next_work(self, cluster: str) -> Work | None:
        """Send the current model; nobody ever waits."""
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.state,
            settings=self.settings,
            num_steps=self.local_steps,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Mix the update in, the less the staler it is."""
        staleness = self.version - work.version
        share = self.mixing * (staleness + 1) ** -self.staleness_exponent
        trained = {name: self.state[name] for name in update.values}
        self.state = {**self.state, **mix(trained, update.values, share)}
        self.version += 1

    def merged(self) -> MergedModel:
        """Return the current model."""
        return MergedModel(state=self.state)

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {"version": self.version, "state": self.state}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        self.version, self.state = saved["version"], saved["state"]
