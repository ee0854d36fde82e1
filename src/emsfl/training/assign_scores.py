"""From the scores of clusters to the assignment of experts: what `emsfl assign` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emsfl.errors import DataError
from emsfl.moe.families import routing_rules
from emsfl.moe.inspection import Inspection, inspect_checkpoint
from emsfl.moe.manifests import AssignmentFile, ClusterAssignment, ScoresFile
from emsfl.moe.pretrained import full_config
from emsfl.planning import Objective, assign_experts


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of an assignment, besides being the best."""

    budget_bytes: Mapping[str, int]
    """Cluster -> most bytes of experts that it may own; clusters left out have no limit."""
    experts_per_layer: int | None
    """Most experts per layer and cluster; None: as many as there are."""
    local_top_k: int | None
    """Experts per token in the sub-models, if fewer than in the model."""
    fair: bool
    """Raise the least mass kept of any cluster first."""


def parse_budgets(texts: Sequence[str], clusters: Sequence[str]) -> dict[str, int]:
    """Read budgets such as `polar=2e9`, or `2e9` for every cluster.

    Raises:
        DataError: not a positive number of bytes, or no such cluster.
    """
    budgets: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name and name not in clusters:
            raise DataError(f"budget {text!r}: the clusters are {', '.join(clusters)}")
        try:
            value = int(float(number))
        except (ValueError, OverflowError):
            value = 0
        if value < 1:
            raise DataError(f"budget {text!r} must be a positive number of bytes, such as 2e9")
        budgets.update(dict.fromkeys([name] if name else clusters, value))
    return budgets


def assign_for_model(
    scores: Sequence[ScoresFile], folder: Path, demand: Demand
) -> tuple[AssignmentFile, dict[str, int]]:
    """Assign the experts of a checkpoint; return also the bytes of experts per cluster.

    Raises: as `assign_from_scores`.
    """
    model = inspect_checkpoint(folder)
    rules = routing_rules(full_config(folder))
    assignment = assign_from_scores(scores, model, rules.num_groups, demand)
    owned_bytes = {
        name: sum(
            len(ids) * layer.bytes_per_expert
            for ids, layer in zip(part.owned, model.layers, strict=True)
        )
        for name, part in assignment.clusters.items()
    }
    return assignment, owned_bytes


def assign_from_scores(
    scores: Sequence[ScoresFile],
    model: Inspection,
    num_groups: int,
    demand: Demand,
) -> AssignmentFile:
    """Return the assignment that keeps the most routing weight, weighted by clusters' samples.

    Raises:
        DataError: scores of different models or kinds, or two of one cluster.
        InfeasibleError: no assignment meets the demand; says which constraint fails.
    """
    _check(scores, model)
    names = [s.cluster for s in scores]
    least = model.min_experts_per_cluster
    if demand.local_top_k is not None:
        top_k = model.layers[0].top_k
        if not 1 <= demand.local_top_k <= top_k:
            raise DataError(f"local top-k = {demand.local_top_k} must lie in 1..{top_k}")
        if num_groups == 1:
            least = demand.local_top_k
    counts = np.array([s.num_samples for s in scores], dtype=np.float64)
    unlimited = float(sum(layer.bytes_per_expert * layer.num_experts for layer in model.layers))
    budgets = [float(demand.budget_bytes.get(name, unlimited)) for name in names]
    assignment = assign_experts(
        np.array([[layer.scores for layer in s.layers] for s in scores]),
        cluster_weights=counts / counts.sum(),
        min_experts_per_layer=least,
        max_experts_per_layer=demand.experts_per_layer,
        num_groups=num_groups,
        bytes_per_expert=np.array([float(layer.bytes_per_expert) for layer in model.layers]),
        budget_bytes=np.array(budgets) if demand.budget_bytes else None,
        objective=Objective.MAX_MIN if demand.fair else Objective.TOTAL,
    )
    return AssignmentFile(
        structure_sha256=model.structure_sha256,
        kind=scores[0].kind,
        layers=tuple(layer.name for layer in model.layers),
        num_experts=model.layers[0].num_experts,
        local_top_k=demand.local_top_k,
        clusters={
            name: ClusterAssignment(
                owned=tuple(
                    tuple(int(e) for e in assignment.experts_of(index, layer))
                    for layer in range(len(model.layers))
                ),
                mass_kept=tuple(float(share) for share in assignment.mass_kept[index]),
                num_samples=scores[index].num_samples,
            )
            for index, name in enumerate(names)
        },
    )


def _check(scores: Sequence[ScoresFile], model: Inspection) -> None:
    layers = [(layer.name, layer.num_experts) for layer in model.layers]
    seen: set[str] = set()
    for s in scores:
        if s.structure_sha256 != model.structure_sha256:
            raise DataError(f"the scores of {s.cluster} are of another model")
        if s.kind is not scores[0].kind:
            raise DataError(
                f"the scores of {s.cluster} are of kind {s.kind.value}, those of "
                f"{scores[0].cluster} of kind {scores[0].kind.value}; score all alike"
            )
        if [(layer.name, len(layer.scores)) for layer in s.layers] != layers:
            raise DataError(f"the scores of {s.cluster} are not of the model's layers")
        if s.cluster in seen:
            raise DataError(f"two scores are of cluster {s.cluster}; give one of them")
        seen.add(s.cluster)
