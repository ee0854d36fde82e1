"""FedAvg on the experts alone: shared parameters and routers stay as pre-trained.

Rounds and weights are FedAvg's (arXiv 1602.05629, algorithm 1); only experts train, and only they
are sent, in both directions.
"""

from __future__ import annotations

from dataclasses import replace

from emsfl.methods.fedavg import FedAvg
from emsfl.methods.method import Federation
from emsfl.training import LocalSettings


class FedAvgExperts(FedAvg):
    """Synchronous rounds on all experts."""

    def __init__(
        self, federation: Federation, settings: LocalSettings, local_steps: int | None
    ) -> None:
        """Train as FedAvg does, with everything frozen but the experts."""
        frozen = replace(settings, train_shared=False, train_routers=False)
        super().__init__(federation, frozen, local_steps)
