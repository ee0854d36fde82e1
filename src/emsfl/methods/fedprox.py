"""FedProx over contacts (Li et al., arXiv 1812.06127, algorithm 2): FedAvg with a proximal term.

Devices minimise F_k(w) + mu / 2 |w - w_t|^2 (equation 2), w_t being the version that they received.
The term belongs to the objective, so it also pulls back experts that a batch does not use. The
article lets devices do different amounts of work; `local_steps: null` (training until the upload
contact) does so here. With mu = 0 it is FedAvg.
"""

from __future__ import annotations

from dataclasses import replace

from emsfl.methods.fedavg import FedAvg
from emsfl.methods.method import Federation
from emsfl.training import LocalSettings


class FedProx(FedAvg):
    """Synchronous rounds on the full model, with a pull towards the version received."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        local_steps: int | None,
        mu: float,
    ) -> None:
        """Train as FedAvg does, with a proximal term of weight `mu` (>= 0)."""
        super().__init__(federation, replace(settings, proximal=mu), local_steps)
