"""Find the experts of a model by structure, so that one code serves every MoE family.

The rule: an MoE layer is a module with a child `experts` and a sibling `router` or `gate`. The
expert axis of every parameter and buffer under those two children is dimension 0, or else the one
dimension whose length is the number of experts; vectors of that length that the layer itself holds
belong to the router. Where `experts` is a list or dict of modules, one
per expert, the module's number takes the place of the axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from emsfl.errors import DataError

State = dict[str, Tensor]
"""Parameters and buffers by their full names, as `state_dict()` gives them."""

Owned = tuple[tuple[int, ...], ...]
"""Per MoE layer, the original ids of the experts that a sub-model holds, ascending."""

ROUTER_NAMES = ("router", "gate")


@dataclass(frozen=True, kw_only=True)
class MoELayerInfo:
    """Where one MoE layer keeps its experts and its router."""

    name: str
    """Module path, such as `blocks.0.moe`."""
    router: str
    """Module path of the router."""
    experts: str
    """Module path of the experts."""
    num_experts: int
    expert_axes: Mapping[str, int]
    """Tensor name -> expert axis, for tensors that hold all experts."""
    expert_modules: tuple[str, ...]
    """Module path per expert; empty where experts are stacked in common tensors."""
    member_names: Mapping[str, tuple[int, str]]
    """Tensor name -> (expert, name inside the expert's module), for tensors of one expert."""
    router_axes: Mapping[str, int]
    """Tensor name -> expert axis, for tensors of the router."""

    def member(self, expert: int, inside: str) -> str:
        """Return the name of the tensor `inside` the module of one expert."""
        return f"{self.expert_modules[expert]}.{inside}"


@dataclass(frozen=True)
class MoELayout:
    """Every MoE layer of a model, in order of depth, and what is frozen."""

    layers: tuple[MoELayerInfo, ...]
    frozen_names: frozenset[str] = frozenset()
    """Parameters that are never trained and never travel, such as those of lower layers: every
    device has had them from the start. They are no part of a `State`."""
    frozen_bytes: int = 0
    """What they take in memory."""

    @cached_property
    def expert_names(self) -> frozenset[str]:
        """Names of all tensors of experts."""
        return frozenset(
            name
            for layer in self.layers
            for names in (layer.expert_axes, layer.member_names)
            for name in names
        )

    @cached_property
    def router_names(self) -> frozenset[str]:
        """Names of all tensors of routers."""
        return frozenset(name for layer in self.layers for name in layer.router_axes)

    def is_shared(self, name: str) -> bool:
        """Tell whether a tensor is neither expert nor router nor frozen."""
        return (
            name not in self.expert_names
            and name not in self.router_names
            and name not in self.frozen_names
        )

    def all_experts(self) -> Owned:
        """Return every expert of every layer: what the full model holds."""
        return tuple(tuple(range(layer.num_experts)) for layer in self.layers)


def find_moe_layers(model: nn.Module) -> MoELayout:
    """Find the MoE layers of `model`.

    Raises:
        DataError: no layer obeys the rule; the message says what was looked for.
    """
    layers = []
    for name, module in model.named_modules():
        children = dict(module.named_children())
        router_name = next((r for r in ROUTER_NAMES if r in children), None)
        if "experts" in children and router_name is not None:
            layers.append(_describe(name, router_name, module))
    if not layers:
        raise DataError(
            f"{type(model).__name__} has no MoE layer: looked for a module with a child 'experts' "
            "and a sibling 'router' or 'gate'"
        )
    return MoELayout(tuple(layers))


def _describe(name: str, router_name: str, module: nn.Module) -> MoELayerInfo:
    prefix = f"{name}." if name else ""
    experts = module.get_submodule("experts")
    members = _members(experts)
    if members:
        modules = tuple(f"{prefix}experts.{member}" for member in members)
        member_names = {
            f"{modules[expert]}.{inside}": (expert, inside)
            for expert, member in enumerate(members)
            for inside in experts.get_submodule(member).state_dict()
        }
        stacked: dict[str, Tensor] = {}
        num_experts = len(members)
    else:
        modules, member_names = (), {}
        stacked = experts.state_dict()
        if not stacked:
            raise DataError(f"{prefix}experts holds no tensors")
        num_experts = next(iter(stacked.values())).shape[0]
    router = {
        key: tensor
        for key, tensor in module.state_dict().items()
        if key.startswith(f"{router_name}.")
        or ("." not in key and tuple(tensor.shape) == (num_experts,))
    }
    return MoELayerInfo(
        name=name,
        router=f"{prefix}{router_name}",
        experts=f"{prefix}experts",
        num_experts=num_experts,
        expert_axes={
            f"{prefix}experts.{key}": expert_axis(
                f"{prefix}experts.{key}", tuple(tensor.shape), num_experts
            )
            for key, tensor in stacked.items()
        },
        expert_modules=modules,
        member_names=member_names,
        router_axes={
            f"{prefix}{key}": expert_axis(f"{prefix}{key}", tuple(tensor.shape), num_experts)
            for key, tensor in router.items()
        },
    )


def _members(experts: nn.Module) -> list[str]:
    """Return the children that are one expert each, by number; none if experts are stacked."""
    numbered = {}
    for name, _ in experts.named_children():
        match = re.fullmatch(r"(?:\w*_)?(\d+)", name)
        if match:
            numbered[int(match[1])] = name
    has_own = next(iter(experts.parameters(recurse=False)), None) is not None
    if has_own or sorted(numbered) != list(range(len(numbered))):
        return []
    return [numbered[expert] for expert in range(len(numbered))]


def expert_axis(name: str, shape: tuple[int, ...], num_experts: int) -> int:
    """Return the axis of a tensor that counts experts.

    Raises:
        DataError: no axis, or more than one but not the first, has the length `num_experts`.
    """
    if shape and shape[0] == num_experts:
        return 0
    axes = [axis for axis, length in enumerate(shape) if length == num_experts]
    if len(axes) != 1:
        raise DataError(
            f"tensor {name} {list(shape)} has no single axis of length {num_experts}, "
            "the number of experts: this family needs a description of its own"
        )
    return axes[0]


def check_owned(layout: MoELayout, owned: Sequence[Sequence[int]]) -> Owned:
    """Return `owned` in canonical form (ascending tuples).

    Raises:
        ValueError: wrong number of layers, an id out of range, or an id twice.
    """
    if len(owned) != len(layout.layers):
        raise ValueError(f"{len(owned)} layers of expert ids for {len(layout.layers)} MoE layers")
    for layer, ids in zip(layout.layers, owned, strict=True):
        if len(set(ids)) != len(ids) or not all(0 <= e < layer.num_experts for e in ids):
            raise ValueError(f"{layer.name}: expert ids {list(ids)} are not distinct and in range")
    return tuple(tuple(sorted(ids)) for ids in owned)
