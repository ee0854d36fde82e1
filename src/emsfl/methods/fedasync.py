"""FedAsync over contacts (Xie et al., arXiv 1903.03934, algorithm 1, polynomial staleness).

The server mixes every upload at once: x <- (1 - a_t) x + a_t x_c with
a_t = mixing * (staleness + 1)^-exponent, staleness counting the versions since the download.
Devices train on their plain loss: the article's proximal term has weight rho = 0.
"""

from __future__ import annotations

from emsfl.methods.method import Federation, Method, Update, Work
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
        """Mix the update in, the less the staler it is."""
        staleness = self.version - work.version
        share = self.mixing * (staleness + 1) ** -self.staleness_exponent
        trained = {name: self.state[name] for name in update.values}
        self.state = {**self.state, **mix(trained, update.values, share)}
        self.version += 1
