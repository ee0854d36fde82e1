"""EMS-FL: expert-driven model splitting over satellite links (arXiv 2602.19485).

Every cluster owns the experts that fit its data, no expert is owned twice. Clusters train without
waiting for anyone and upload in contacts; the server writes their experts as they come, adds their
shared deltas by data weight, and routes the merged model by a domain gate. The domain gate, the
weight of the deltas and the separate step size of shared parameters are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emsfl.methods.method import (
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
    Owned,
    State,
    split_state,
    write_experts,
)
from emsfl.planning import (
    NOBODY,
    assign_experts,
    assign_next,
    mass_kept,
    random_assignment,
    uniform_count,
)
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
        staleness_exponent: float = 0.0,
        shared_warmup_uploads: int = 0,
    ) -> None:
        """Prepare the server.

        Args:
            federation: what is known from the start.
            settings: local training; routers are never trained locally.
            experts_per_cluster: experts per layer for each cluster; None: all that there are.
            random_experts: ablation, assign experts at random.
            tunes: False for the ablation that only gates the untuned model.
            staleness_exponent: a >= 0 in (staleness + 1)^-a, by which a shared delta's weight is
                multiplied; staleness counts the versions since the cluster's download.
            shared_warmup_uploads: a cluster's step size of shared parameters grows to its full
                value over so many of its uploads, linearly; 0: it is full from the start.

        Raises:
            InfeasibleError: there are too few experts for the clusters.
        """
        super().__init__(federation)
        self.settings = settings
        self.experts_per_cluster = experts_per_cluster
        self.random_experts = random_experts
        self.tunes = tunes
        self.staleness_exponent = staleness_exponent
        self.shared_warmup_uploads = shared_warmup_uploads
        self.num_uploads = dict.fromkeys(federation.clusters, 0)
        """Updates of each cluster that were merged."""
        layers = federation.layout.layers
        self.owner: NDArray[np.int64] = np.full((len(layers), layers[0].num_experts), NOBODY)
        """[L, E]: index of the cluster that owns an expert, -1 for nobody."""
        self.num_owned = uniform_count(
            len(federation.clusters),
            layers[0].num_experts,
            min_experts_per_layer=federation.top_k,
            max_experts_per_layer=experts_per_cluster,
        )
        """Experts of every layer that a cluster owns once it is known."""
        self.gate: DomainGate | None = None
        self.to_reset = set(federation.clusters)
        """Clusters that start from the server's model, not from their own."""
        self.scored()

    def next_work(self, cluster: str) -> Work | None:
        """Ask for scores first; then send the shared parameters and let the cluster go on."""
        if not self.has_experts(cluster):
            return self.scoring_work(cluster, self.settings)
        if not self.tunes:
            return None
        resets = cluster in self.to_reset
        self.to_reset.discard(cluster)
        return Work(
            owned=self.owned(cluster),
            payload=self._payload(cluster, resets),
            settings=self._warmed_up(cluster),
            receive=Receive.RESET if resets else Receive.REBASE,
            upload=Upload.SPLIT,
            trains_while_uploading=True,
            version=self.version,
        )

    def accept(self, update: Update, work: Work) -> None:
        """Write the cluster's experts and add its shared delta."""
        self.state = dict(self.state)
        for name, tensor in update.values.items():
            # One after the other: a second copy of all experts would be most of the model.
            self.state[name] = self.state[name].clone()
            write_experts(self.state, self.federation.layout, work.trained_experts, {name: tensor})
        staleness = self.version - work.version
        weight = self.federation.weights[update.cluster]
        weight *= (staleness + 1) ** -self.staleness_exponent
        self.state = add_scaled(self.state, update.shared_delta, weight)
        self.version += 1
        self.num_uploads[update.cluster] += 1

    def refused(self, cluster: str) -> None:
        """Let the cluster start again from what the server holds."""
        self.to_reset.add(cluster)

    def merged(self) -> MergedModel:
        """Return the merged model, gated once experts have been assigned."""
        return MergedModel(state=self.state, gate=self.gate)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the cluster's own experts with the current shared parameters."""
        if not self.has_experts(cluster):
            return super().submodel(cluster)
        owned = self.owned(cluster)
        return split_state(self.state, self.federation.layout, owned), owned

    def owned(self, cluster: str) -> Owned:
        """Return the experts of the cluster."""
        if not self.has_experts(cluster):
            raise ValueError(f"{cluster} has not been assigned experts yet")
        index = self.federation.clusters.index(cluster)
        return tuple(tuple(np.flatnonzero(layer == index).tolist()) for layer in self.owner)

    def mass_kept(self) -> dict[str, list[float]]:
        """Return, per cluster that has experts, its routing weight (0 to 1) on them by layer."""
        kept = {}
        for index, cluster in enumerate(self.federation.clusters):
            if self.has_experts(cluster):
                own = np.where(self.owner == index, 0, NOBODY)
                kept[cluster] = mass_kept(self.scores[cluster].numpy()[None], own)[0].tolist()
        return kept

    def has_experts(self, cluster: str) -> bool:
        """Tell whether the cluster has been assigned experts."""
        return bool((self.owner == self.federation.clusters.index(cluster)).any())

    def save(self) -> dict[str, Any]:
        """See `Method.save`."""
        return {
            **super().save(),
            "to_reset": sorted(self.to_reset),
            "num_uploads": dict(self.num_uploads),
            "owner": torch.from_numpy(self.owner),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See `Method.restore`."""
        super().restore(saved)
        self.to_reset = set(saved["to_reset"])
        self.num_uploads = dict(saved.get("num_uploads", self.num_uploads))
        self.owner = saved["owner"].numpy()
        self.scored()

    def _warmed_up(self, cluster: str) -> LocalSettings:
        """Return how a cluster trains next: shared parameters take small steps at first.

        A step of theirs changes what the experts of all clusters get to see, and these follow only
        with their own next uploads.
        """
        share = (self.num_uploads[cluster] + 1) / max(1, self.shared_warmup_uploads)
        if share >= 1:
            return self.settings
        return replace(self.settings, shared_lr_factor=self.settings.shared_lr_factor * share)

    def _payload(self, cluster: str, resets: bool) -> State:
        """Return what the cluster lacks: shared parameters that have changed; all on a reset."""
        if resets and self.version > 0:
            part = split_state(self.state, self.federation.layout, self.owned(cluster))
            return self.to_send(cluster, part, self.settings)
        if resets:
            return {}
        layout = self.federation.layout
        return self.to_send(
            cluster, {n: t for n, t in self.state.items() if layout.is_shared(n)}, self.settings
        )

    def scored(self) -> None:
        """Assign experts to the clusters whose scores have come, and fit the gate to these.

        Where the scores of all are known before anybody owns anything, the assignment is the best
        one for all. Otherwise nobody waits: a cluster takes its best experts of those left over.
        """
        clusters = self.federation.clusters
        known = [c for c in clusters if c in self.scores]
        new = [c for c in known if not self.has_experts(c)]
        if len(new) == len(clusters):
            self.owner = self._best_for_all()
        else:
            for cluster in new:
                self._take(cluster)
        if len(known) >= min(2, len(clusters)):
            # The gate's clusters are those that are known.
            place = np.full(len(clusters) + 1, NOBODY)
            place[[clusters.index(c) for c in known]] = np.arange(len(known))
            statistics = [self.statistics[c] for c in known]
            self.gate = statistics[0].fit(statistics, torch.from_numpy(place[self.owner]))

    def _best_for_all(self) -> NDArray[np.int64]:
        """Return the owners [L, E] that fit the scores of all clusters best, or random ones."""
        clusters = self.federation.clusters
        mass = np.stack([self.scores[c].numpy() for c in clusters])
        weights = [self.federation.weights[c] for c in clusters]
        least, most = self.federation.top_k, self.experts_per_cluster
        if self.random_experts:
            return random_assignment(
                np.random.default_rng([self.federation.seed, 3]),
                mass=mass,
                cluster_weights=weights,
                min_experts_per_layer=least,
                max_experts_per_layer=most,
            ).owner
        return assign_experts(
            mass,
            cluster_weights=weights,
            min_experts_per_layer=least,
            max_experts_per_layer=most,
        ).owner

    def _take(self, cluster: str) -> None:
        """Let a cluster take its best experts of those left over, or random ones."""
        index = self.federation.clusters.index(cluster)
        mass = self.scores[cluster].numpy()
        if self.random_experts:
            mass = np.random.default_rng([self.federation.seed, 3, index]).random(mass.shape)
        self.owner = assign_next(self.owner, mass, cluster=index, count=self.num_owned)
