"""What an upload must be before anything in it is looked at as a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from emsfl.errors import UpdateRefusedError
from emsfl.methods import Activity, Federation, Update, Work
from emsfl.moe import State, split_sizes, split_state
from emsfl.training import is_trained

FRAME_BYTES = 64 * 1024
"""Names, shapes and settings around the tensors of one upload, at most."""
BYTES_PER_VALUE = 8
"""The widest type that an update may hold."""


@dataclass(frozen=True)
class UploadLimits:
    """How large an upload may be, by what was asked for."""

    federation: Federation
    max_change_norm: float | None = None
    """Largest L2 norm of the change of everything in one update; None: any that is finite."""

    def max_bytes(self, work: Work | None) -> int:
        """Return the bytes that an answer to `work` can have."""
        if work is None:
            return 0
        federation = self.federation
        if work.activity is Activity.SCORE:
            width = max(max(t.shape, default=1) for t in federation.pretrained.values())
            num_layers = len(federation.layout.layers)
            num_experts = max(layer.num_experts for layer in federation.layout.layers)
            values = width * (width + 1) + num_layers * num_experts
        else:
            sizes = split_sizes(federation.pretrained, federation.layout, work.owned)
            values = sum(
                size
                for name, size in sizes.items()
                if is_trained(name, federation.layout, work.settings)
            )
        return values * BYTES_PER_VALUE + FRAME_BYTES

    def check_change(self, update: Update, work: Work, base: State) -> State:
        """Refuse an update that changes too much; return the base that its next one counts from.

        Args:
            update: as it came; names or shapes that were not asked for are left to the method.
            work: what it answers.
            base: the cluster's own values as it has uploaded them last.

        Raises:
            UpdateRefusedError: its change is longer than `max_change_norm`.
        """
        if self.max_change_norm is None:
            return {}
        held = split_state(self.federation.pretrained, self.federation.layout, work.owned)
        start = {**held, **base, **work.payload}
        change = dict(update.shared_delta)
        for name, tensor in update.values.items():
            if name in start and start[name].shape == tensor.shape:
                change[name] = tensor - start[name]
        norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in change.values()))
        if norm > self.max_change_norm:
            raise UpdateRefusedError(
                f"{update.cluster}: its update changes the model by {norm:.3g}, more than "
                f"{self.max_change_norm:g}"
            )
        return {**base, **update.values}


def check_upload(tree: Any, cluster: str, work_id: str, work: Work) -> Update:
    """Return the update in what `cluster` uploaded, if it is its own answer to `work`.

    Shapes, names and finiteness are `Method.receive`'s to check.

    Raises:
        UpdateRefusedError: it is something else; the message names what.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("update"), Update):
        raise UpdateRefusedError(f"{cluster}: its upload holds no update")
    update: Update = tree["update"]
    if update.cluster != cluster:
        raise UpdateRefusedError(f"{cluster}: its upload is an update of {update.cluster!r}")
    if tree.get("work") != work_id:
        raise UpdateRefusedError(
            f"{cluster}: its upload answers {tree.get('work')!r} again, not {work_id!r}"
        )
    if update.version != work.version:
        raise UpdateRefusedError(
            f"{cluster}: its upload is based on version {update.version}, not {work.version}"
        )
    if tree.get("owned") != work.owned:
        raise UpdateRefusedError(
            f"{cluster}: its upload holds experts {tree.get('owned')} that are not its own "
            f"({work.owned})"
        )
    return update
