"""What a checkpoint holds: MoE layers, sizes, and how many clusters can share its experts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emsfl.moe.checkpoint import open_checkpoint, stored_layout
from emsfl.moe.families import FAMILIES, routing_rules
from emsfl.moe.pretrained import full_config, skeleton


@dataclass(frozen=True, kw_only=True)
class InspectedLayer:
    """One MoE layer."""

    name: str
    num_experts: int
    top_k: int
    bytes_per_expert: int
    router_bytes: int
    expert_shapes: dict[str, list[int]]
    """Tensor in memory -> its shape, for one expert."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A checkpoint's mixture of experts."""

    model_type: str
    model_class: str
    known_family: bool
    """Whether `families.py` describes it; else the defaults are taken."""
    layers: tuple[InspectedLayer, ...]
    total_bytes: int
    shared_bytes: int
    """Of all tensors that are neither expert nor router."""
    min_experts_per_cluster: int
    """Per layer: what the router needs at least to choose from."""
    max_clusters: int
    """How many clusters can own experts of every layer without sharing any."""
    structure_sha256: str


def inspect_checkpoint(folder: Path) -> Inspection:
    """Inspect a checkpoint by the headers of its files.

    Raises:
        DataError: no readable checkpoint, or a model without MoE layers.
    """
    checkpoint = open_checkpoint(folder)
    model = skeleton(folder)
    layout = stored_layout(checkpoint, model)
    config = full_config(folder)
    rules = routing_rules(config)
    sizes = {name: tensor.num_bytes for name, tensor in checkpoint.tensors.items()}
    roles = layout.roles
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    layers = tuple(
        InspectedLayer(
            name=layer.name,
            num_experts=layer.num_experts,
            top_k=rules.top_k,
            bytes_per_expert=sum(
                sizes[n] for n, r in roles.items() if r.layer == index and r.is_expert
            )
            // layer.num_experts,
            router_bytes=sum(
                sizes[n] for n, r in roles.items() if r.layer == index and not r.is_expert
            ),
            expert_shapes={
                name.removeprefix(f"{layer.experts}."): shapes[name][:axis]
                + shapes[name][axis + 1 :]
                for name, axis in layer.expert_axes.items()
            }
            or {
                inside: shapes[name]
                for name, (expert, inside) in layer.member_names.items()
                if expert == 0
            },
        )
        for index, layer in enumerate(layout.layers)
    )
    fewest = min(layer.num_experts for layer in layers)
    return Inspection(
        model_type=str(config.get("model_type")),
        model_class=type(model).__name__,
        known_family=config.get("model_type") in FAMILIES,
        layers=layers,
        total_bytes=sum(sizes.values()),
        shared_bytes=sum(sizes[name] for name, role in roles.items() if role.layer < 0),
        min_experts_per_cluster=rules.min_experts,
        max_clusters=fewest // rules.min_experts,
        structure_sha256=checkpoint.structure_sha256,
    )
