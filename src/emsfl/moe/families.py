"""The few facts about a model family that its structure does not tell.

A family is known by the `model_type` of its configuration. An unknown family that obeys the
structural rule of `adapter.py` gets the defaults, which hold for most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emsfl.errors import DataError

COUNT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names under which configurations keep the number of experts per layer."""
TOP_K_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
"""Names under which configurations keep the number of experts per token."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the routers of one family score and choose."""

    score_function: Literal["softmax", "sigmoid"] = "softmax"
    """What turns router logits into routing weights."""
    top_k: int | None = None
    """Experts per token where the family fixes it; else the configuration says."""
    min_experts_per_group: int = 1
    """Experts of every routing group that the router must be able to choose from."""


FAMILIES: dict[str, Family] = {
    "mixtral": Family(),
    "olmoe": Family(),
    "qwen2_moe": Family(),
    "qwen3_moe": Family(),
    "deepseek_v2": Family(),
    # The score of a group is the sum of its two best experts.
    "deepseek_v3": Family(score_function="sigmoid", min_experts_per_group=2),
    "gpt_oss": Family(),
    "granitemoe": Family(),
    "glm4_moe": Family(score_function="sigmoid", min_experts_per_group=2),
    "dots1": Family(score_function="sigmoid", min_experts_per_group=2),
    "exaone_moe": Family(score_function="sigmoid", min_experts_per_group=2),
    "minimax_m2": Family(score_function="sigmoid"),
    "lfm2_moe": Family(score_function="sigmoid"),
    # The sparse mixer draws two experts whatever the configuration says.
    "phimoe": Family(top_k=2),
    "switch_transformers": Family(top_k=1),
    "emsfl_upcycled": Family(),
}


@dataclass(frozen=True, kw_only=True)
class RoutingRules:
    """What a sub-model must respect so that its router works."""

    family: Family
    top_k: int
    num_groups: int
    """Routing groups that an expert axis is divided into; 1 where there are none."""
    groups_used: int
    """Groups that a token may use."""

    @property
    def min_experts(self) -> int:
        """The least number of experts per layer of a sub-model."""
        for_choice = -(-self.top_k // self.groups_used)
        return self.num_groups * max(self.family.min_experts_per_group, for_choice)


def routing_rules(config: Mapping[str, Any]) -> RoutingRules:
    """Read the routing rules out of a model's configuration (the content of `config.json`).

    Raises:
        DataError: the number of experts per token is not among the fields that are known.
    """
    family = FAMILIES.get(str(config.get("model_type")), Family())
    top_k = family.top_k or _first(config, TOP_K_FIELDS)
    if top_k is None:
        raise DataError(
            f"model type {config.get('model_type')!r}: looked for the number of experts per token "
            f"in the fields {', '.join(TOP_K_FIELDS)}"
        )
    grouped = config.get("topk_method") != "greedy"
    num_groups = (_first(config, ("n_group",)) or 1) if grouped else 1
    return RoutingRules(
        family=family,
        top_k=top_k,
        num_groups=num_groups,
        groups_used=_first(config, ("topk_group",)) or num_groups,
    )


def with_num_experts(
    config: Mapping[str, Any], num_experts: int, new_num_experts: int, new_top_k: int | None
) -> dict[str, Any]:
    """Return a copy of a configuration that says another number of experts per layer.

    Args:
        config: content of `config.json`; all fields, those at their defaults included.
        num_experts: the number it says now; only fields that hold it are changed.
        new_num_experts: what to say instead.
        new_top_k: experts per token to say, or None to leave it.

    Raises:
        DataError: no known field holds `num_experts`.
    """
    changed = 0

    def rewrite(node: Any) -> Any:
        nonlocal changed
        if not isinstance(node, Mapping):
            return node
        copy = {key: rewrite(value) for key, value in node.items()}
        for field in COUNT_FIELDS:
            if copy.get(field) == num_experts:
                copy[field] = new_num_experts
                changed += 1
        for field in TOP_K_FIELDS:
            if new_top_k is not None and isinstance(copy.get(field), int):
                copy[field] = new_top_k
        return copy

    rewritten: dict[str, Any] = rewrite(config)
    if not changed:
        raise DataError(
            f"model type {config.get('model_type')!r}: looked for the number of experts, "
            f"{num_experts}, in the fields {', '.join(COUNT_FIELDS)}"
        )
    return rewritten


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first whole number under one of `names`, at any depth."""
    for node in _nodes(config):
        for name in names:
            if isinstance(node.get(name), int):
                return int(node[name])
    return None


def _nodes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _nodes(value)
