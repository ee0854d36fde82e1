"""ESFT-like: all experts held and run, only the assigned ones trained (after arXiv 2407.01906).

Expert-specialised fine-tuning trains the experts that a task uses most and freezes everything
else; the router still chooses among all experts. Here the assigned experts are EMS-FL's, disjoint,
and clusters work as asynchronously as EMS-FL's: in contacts they upload their own experts and
download those of the others. So the difference to EMS-FL with frozen shared parameters is what a
device holds and runs, and that the plain router fits the merged model.
"""

from __future__ import annotations

from dataclasses import replace

from emsfl.methods.ems_fl import EmsFl
from emsfl.methods.method import Federation, MergedModel, Receive, Upload, Work
from emsfl.moe import Owned, State, split_state
from emsfl.training import LocalSettings


class Esft(EmsFl):
    """Disjoint experts, asynchronous clusters, full models everywhere."""

    def __init__(
        self, federation: Federation, settings: LocalSettings, experts_per_cluster: int | None
    ) -> None:
        """Assign experts as EMS-FL does; train nothing else."""
        frozen = replace(settings, train_shared=False, train_routers=False)
        super().__init__(federation, frozen, experts_per_cluster=experts_per_cluster)

    def next_work(self, cluster: str) -> Work | None:
        """Ask for scores first; then send the others' experts and let the cluster go on."""
        if not self.has_experts(cluster):
            return self.scoring_work(cluster, self.settings)
        resets = cluster in self.to_reset
        self.to_reset.discard(cluster)
        own = self.owned(cluster)
        settings = replace(self.settings, trained_experts=own)
        layout = self.federation.layout
        everything = layout.all_experts()
        experts = self.to_send(cluster, self.state, settings)
        if resets:
            payload, sent = (experts if self.version > 0 else {}), None
        else:
            sent = tuple(
                tuple(e for e in ids if e not in mine)
                for ids, mine in zip(everything, own, strict=True)
            )
            payload = split_state(experts, layout, sent)
        return Work(
            owned=everything,
            payload=payload,
            payload_experts=sent,
            settings=settings,
            receive=Receive.RESET if resets else Receive.REBASE,
            upload=Upload.SPLIT,
            trains_while_uploading=True,
            version=self.version,
        )

    def merged(self) -> MergedModel:
        """Return the server's model with its plain router, which clusters train with."""
        return MergedModel(state=self.state)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the server's model: every cluster runs all of it."""
        return self.state, self.federation.layout.all_experts()
