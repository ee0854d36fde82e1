"""What the work that is handed out needs on a device, measured once per kind of work."""

from __future__ import annotations

from dataclasses import dataclass, field

from emsfl.data import Samples
from emsfl.methods import Activity, Federation, Work, device_memory, num_trained_parameters
from emsfl.moe import ModelSpec, Owned, split_state
from emsfl.simulate.ledger import Ledger
from emsfl.training import LocalSettings


@dataclass
class MemoryMeter:
    """Tells a ledger the most that any device trains and holds."""

    ledger: Ledger
    model: ModelSpec
    federation: Federation
    known: set[tuple[Owned, LocalSettings]] = field(default_factory=set)
    """Kinds of work that the ledger has been told of."""

    def note(self, work: Work, shard: Samples) -> None:
        """Note what `work` needs on a device that holds `shard`."""
        kind = (work.owned, work.settings)
        if work.activity is not Activity.TRAIN or kind in self.known:
            return
        self.known.add(kind)
        federation = self.federation
        state = split_state(federation.pretrained, federation.layout, work.owned)
        memory = device_memory(work, federation, self.model, state, shard)
        self.ledger.note_device(num_trained_parameters(work, federation), memory)
