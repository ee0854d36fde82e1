"""EMS-FL: expert-driven model splitting over satellite links (arXiv 2602.19485).

Every cluster owns the experts that fit its data, no expert is owned twice. Clusters train without
waiting for anyone and upload in contacts; the server writes their experts as they come, adds their
shared deltas by data weight, and routes the merged model by a domain gate. The domain gate, the
weight of the deltas and the separate step size of shared parameters are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emsfl.methods.method import (
    Activity,
    Federation,
    MergedModel,
    Method,
    Receive,
    Update,
    Upload,
    Work,
)
from emsfl.moe import (
    DomainGate,
    DomainStatistics,
    Owned,
    State,
    fit_gate,
    split_state,
    write_experts,
)
from emsfl.planning import Assignment, assign_experts, random_assignment
from emsfl.training import LocalSettings, add_scaled


class EmsFl(Method):
    """Disjoint experts, asynchronous clusters, one gated merged model."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        *,
        experts_per_cluster: int | None = None,
        random_experts: bool = False,
        tunes: bool = True,
    ) -> None:
        """Prepare the server.

        Args:
            federation: what is known from the start.
            settings: local training; routers are never trained locally.
            experts_per_cluster: experts per layer for each cluster; None: all that there are.
            random_experts: ablation, assign experts at random.
            tunes: False for the ablation that only gates the untuned model.

        Raises:
            InfeasibleError: there are too few experts for the clusters.
        """
        super().__init__(federation)
        self.settings = settings
        self.experts_per_cluster = experts_per_cluster
        self.random_experts = random_experts
        self.tunes = tunes
        self.state: State = dict(federation.pretrained)
        self.scores: dict[str, Tensor] = dict(federation.scores or {})
        self.statistics: dict[str, DomainStatistics] = dict(federation.statistics or {})
        self.assignment: Assignment | None = None
        self.gate: DomainGate | None = None
        self.to_reset = set(federation.clusters)
        """Clusters that start from the server's model, not from their own."""
        self._assign_when_scored()

    def next_work(self, cluster: str) -> Work | None:
        """Ask for scores first; then send the shared parameters and let the cluster go on."""
        if self.assignment is None:
            return None if cluster in self.scores else self._scoring_work()
        if not self.tunes:
            return None
        resets = cluster in self.to_reset
        self.to_reset.discard(cluster)
        return Work(
            owned=self.owned(cluster),
            payload=self._payload(cluster, resets),
            settings=self.settings,
            receive=Receive.RESET if resets else Receive.REBASE,
            upload=Upload.SPLIT,
            trains_while_uploading=True,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Write the cluster's experts and add its shared delta; or keep its scores."""
        if update.scores is not None and update.statistics is not None:
            self.scores[update.cluster] = update.scores
            self.statistics[update.cluster] = update.statistics
            self._assign_when_scored()
            return
        state = {**self.state, **{name: self.state[name].clone() for name in update.values}}
        write_experts(state, self.federation.layout, work.owned, update.values)
        weight = self.federation.weights[update.cluster]
        self.state = add_scaled(state, update.shared_delta, weight)
        self.version += 1

    def refused(self, cluster: str) -> None:
        """Let the cluster start again from what the server holds."""
        self.to_reset.add(cluster)

    def merged(self) -> MergedModel:
        """Return the merged model, gated once experts have been assigned."""
        return MergedModel(state=self.state, gate=self.gate)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the cluster's own experts with the current shared parameters."""
        if self.assignment is None:
            return super().submodel(cluster)
        owned = self.owned(cluster)
        return split_state(self.state, self.federation.layout, owned), owned

    def owned(self, cluster: str) -> Owned:
        """Return the experts of the cluster."""
        if self.assignment is None:
            raise ValueError("experts have not been assigned yet")
        index = self.federation.clusters.index(cluster)
        return tuple(
            tuple(np.flatnonzero(layer == index).tolist()) for layer in self.assignment.owner
        )

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {
            "version": self.version,
            "state": self.state,
            "scores": self.scores,
            "statistics": {c: [s.count, s.total, s.outer] for c, s in self.statistics.items()},
            "to_reset": sorted(self.to_reset),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        self.version, self.state = saved["version"], saved["state"]
        self.scores = saved["scores"]
        self.statistics = {c: DomainStatistics(*s) for c, s in saved["statistics"].items()}
        self.to_reset = set(saved["to_reset"])
        self.assignment = None
        self._assign_when_scored()

    def _scoring_work(self) -> Work:
        """Send the whole model once, to be scored on local data."""
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.federation.pretrained,
            settings=self.settings,
            activity=Activity.SCORE,
            num_steps=0,
        )

    def _payload(self, cluster: str, resets: bool) -> State:
        """Return what the cluster lacks: shared parameters that have changed; all on a reset."""
        if resets and self.version > 0:
            return split_state(self.state, self.federation.layout, self.owned(cluster))
        if resets or not self.settings.train_shared:
            return {}
        layout = self.federation.layout
        return {name: tensor for name, tensor in self.state.items() if layout.is_shared(name)}

    def _assign_when_scored(self) -> None:
        clusters = self.federation.clusters
        if len(self.scores) < len(clusters):
            return
        mass = np.stack([self.scores[c].numpy() for c in clusters])
        limits = self.federation.top_k, self.experts_per_cluster
        weights = [self.federation.weights[c] for c in clusters]
        if self.random_experts:
            self.assignment = random_assignment(
                np.random.default_rng([self.federation.seed, 3]),
                mass=mass,
                cluster_weights=weights,
                min_experts_per_layer=limits[0],
                max_experts_per_layer=limits[1],
            )
        else:
            self.assignment = assign_experts(
                mass,
                cluster_weights=weights,
                min_experts_per_layer=limits[0],
                max_experts_per_layer=limits[1],
            )
        statistics = [self.statistics[c] for c in clusters]
        self.gate = fit_gate(statistics, torch.from_numpy(self.assignment.owner))
