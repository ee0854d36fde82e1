"""Central: one trainer holds everybody's data, and there is no network.

What data in one place are worth, in one stream of batches; several devices to a cluster compute
more gradients in as many steps. A driver gives it a federation of one cluster with
one device, whose shard is all shards together, and decides how many steps it gets by which time.
"""

from __future__ import annotations

from emsfl.methods.local import Local
from emsfl.methods.method import MergedModel
from emsfl.moe import Owned, State


class Central(Local):
    """Plain training on the pooled data."""

    def merged(self) -> MergedModel:
        """Return the one model."""
        (only,) = self.models.values()
        return MergedModel(state=only)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the one model, which serves everybody."""
        return self.merged().state, self.federation.layout.all_experts()
