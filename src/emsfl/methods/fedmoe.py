"""FedMoE-like: overlapping experts by activation, synchronous rounds (after arXiv 2408.11304).

Every cluster holds the experts that its data use most, so several may hold the same expert; it
trains them, their router rows and the shared parameters. When all have reported, each expert is the
data-weighted mean over the clusters that hold it, shared parameters over all clusters. Holding all
experts makes it FedAvg. The article searches sub-models in a first stage and re-configures them as
it goes; here each is fixed by the scores of the pre-trained model, which EMS-FL's assignment uses
too. The merged model runs with its plain router, each sub-model with its own rows of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from emsfl.errors import InfeasibleError
from emsfl.methods.fedavg import FedAvg
from emsfl.methods.method import Federation, Work
from emsfl.moe import Owned, State, split_state
from emsfl.moe.adapter import MoELayerInfo
from emsfl.training import LocalSettings, weighted_mean


class FedMoE(FedAvg):
    """Synchronous rounds on sub-models that overlap."""

    def __init__(
        self,
        federation: Federation,
        settings: LocalSettings,
        local_steps: int | None,
        experts_per_cluster: int | None,
    ) -> None:
        """Prepare the server.

        Args:
            federation: what is known from the start.
            settings: local training.
            local_steps: steps per round; None: training until the upload contact.
            experts_per_cluster: held per layer; None: as many as EMS-FL's equal shares (at least
                the sub-model's top-k).

        Raises:
            InfeasibleError: fewer experts than a token needs, or more than there are.
        """
        super().__init__(federation, settings, local_steps)
        num_experts = federation.layout.layers[0].num_experts
        equal_share = max(federation.top_k, num_experts // len(federation.clusters))
        self.num_held = experts_per_cluster or equal_share
        if not federation.top_k <= self.num_held <= num_experts:
            raise InfeasibleError(
                f"fedmoe.experts_per_cluster is {self.num_held}; it must lie within top_k "
                f"{federation.top_k} and num_experts {num_experts}"
            )

    def next_work(self, cluster: str) -> Work | None:
        """Ask for scores first; then send the cluster's part of the current version."""
        if cluster not in self.scores:
            return self.scoring_work(cluster, self.settings)
        if cluster in self.reports:
            return None
        owned = self.owned(cluster)
        part = split_state(self.state, self.federation.layout, owned)
        return Work(
            owned=owned,
            payload=self.to_send(cluster, part, self.settings),
            settings=self.settings,
            num_steps=self.local_steps,
            version=self.version,
        )

    def owned(self, cluster: str) -> Owned:
        """Return the experts that the cluster's data use most, per layer, ascending."""
        ranked = self.scores[cluster].sort(dim=1, descending=True, stable=True).indices
        return tuple(tuple(sorted(row[: self.num_held].tolist())) for row in ranked)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the cluster's part of the current version."""
        if cluster not in self.scores:
            return super().submodel(cluster)
        owned = self.owned(cluster)
        return split_state(self.state, self.federation.layout, owned), owned

    def average(self) -> State:
        """Return shared parameters averaged over all, every expert over those that hold it."""
        layout, clusters = self.federation.layout, list(self.federation.clusters)
        shared = [
            {n: t for n, t in self.reports[c].items() if layout.is_shared(n)} for c in clusters
        ]
        mean = weighted_mean(shared, self.shares(clusters))
        held = {c: self.owned(c) for c in clusters}
        for index, layer in enumerate(layout.layers):
            axes = {**layer.expert_axes, **layer.router_axes}
            for expert in range(layer.num_experts):
                holders = [c for c in clusters if expert in held[c][index]]
                if not holders:
                    continue
                parts = [
                    _part(self.reports[c], layer, axes, expert, held[c][index].index(expert))
                    for c in holders
                ]
                for name, row in weighted_mean(parts, self.shares(holders)).items():
                    if name in axes:
                        mean.setdefault(name, self.state[name].clone())
                        mean[name].select(axes[name], expert).copy_(row)
                    else:
                        mean[name] = row
        return mean


def _part(
    values: Mapping[str, Tensor],
    layer: MoELayerInfo,
    axes: Mapping[str, int],
    expert: int,
    place: int,
) -> State:
    """Return what a report says of one expert, `place` in its sub-model, by the model's names."""
    part = {name: values[name].select(axis, place) for name, axis in axes.items() if name in values}
    for name, (number, inside) in layer.member_names.items():
        if number == expert:
            part[name] = values[layer.member(place, inside)]
    return part
