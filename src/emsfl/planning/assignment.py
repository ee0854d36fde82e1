"""Decide which cluster owns which experts: non-overlapping, budgeted, and provably the best.

Shapes: C clusters, L mixture-of-experts layers, E experts per layer, G router groups per layer.
`mass[c, l, e]` is the share of cluster c's routing weight in layer l that falls on expert e.

The problem: maximise sum_cle w_c mass_cle x_cle over x in {0, 1}, where every expert has at most
one owner, every cluster owns between a lower and an upper number of experts in every layer (and
group), and the bytes a cluster owns stay within its budget.

- Every cluster the same number k and no budget: the layers (and groups) separate into linear
  assignment problems, solved by scipy's Jonker-Volgenant code.
- Otherwise: linear programming (HiGHS). With equal expert sizes the constraints are two laminar
  families, ((l, e)) and ((c), (c, l), (c, l, group)), so the matrix is totally unimodular and the
  vertices are integral. With unequal sizes or max-min fairness the linear optimum and its reduced
  costs fix most variables, and branch and bound finishes the rest: exactly up to 5,000
  variables, within a proven bound (1% or better, reported) above.

The same input always gives the same output; ties fall as the solvers' fixed order of rows and
columns (cluster, layer, expert) lets them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from emsfl.errors import ConfigError, DataError, InfeasibleError
from emsfl.planning.program import Program, solve

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NOBODY = -1
"""The owner of an expert that no cluster owns."""


class Objective(enum.StrEnum):
    """What the assignment maximises."""

    TOTAL = "total"
    """The weighted sum over clusters of the mass kept, over all layers."""
    MAX_MIN = "max_min"
    """The smallest mean (over layers) mass kept of any cluster, then the weighted total."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """Which cluster owns which experts, and how good that is."""

    owner: IntArray
    """[L, E]: index of the owning cluster, or `NOBODY`."""
    mass_kept: FloatArray
    """[C, L]: share (0 to 1) of each cluster's routing weight on its own experts."""
    owned_bytes: FloatArray
    """[C]: bytes of the experts that each cluster owns, all layers together."""
    value: float
    """The objective reached: weighted total, or smallest mean mass kept for `MAX_MIN`."""
    value_bound: float
    """No assignment can exceed this value; equal to `value` (to rounding) when it is optimal."""

    def experts_of(self, cluster: int, layer: int) -> IntArray:
        """Return the experts that `cluster` owns in `layer`, ascending."""
        return np.flatnonzero(self.owner[layer] == cluster)


def mass_kept(mass: ArrayLike, owner: ArrayLike) -> FloatArray:
    """Return the share of each cluster's routing weight that falls on its own experts.

    Args:
        mass: [C, L, E], at least 0, every [c, l] summing to 1.
        owner: [L, E] int, index of the owning cluster, -1 for nobody.

    Returns:
        [C, L], 0 to 1.

    Raises:
        DataError: shapes that do not agree, or an owner outside -1..C-1.
    """
    mass_cle = _checked_mass(mass)
    owner_le = np.asarray(owner)
    num_clusters = mass_cle.shape[0]
    if owner_le.shape != mass_cle.shape[1:] or not np.issubdtype(owner_le.dtype, np.integer):
        raise DataError(
            f"owner must be integers of shape {mass_cle.shape[1:]} [layer, expert], "
            f"not {owner_le.dtype} of shape {owner_le.shape}"
        )
    if owner_le.min() < NOBODY or owner_le.max() >= num_clusters:
        raise DataError(
            f"owner holds {owner_le.min()}..{owner_le.max()}; "
            f"it must lie within -1..{num_clusters - 1} for {num_clusters} clusters"
        )
    return _kept(mass_cle, owner_le)


def assign_experts(
    mass: ArrayLike,
    *,
    cluster_weights: ArrayLike,
    min_experts_per_layer: int,
    max_experts_per_layer: int | None = None,
    uniform: bool = True,
    num_groups: int = 1,
    bytes_per_expert: ArrayLike = 1.0,
    budget_bytes: ArrayLike | None = None,
    objective: Objective = Objective.TOTAL,
) -> Assignment:
    """Assign the experts of every layer to the clusters whose data use them most.

    Args:
        mass: [C, L, E], at least 0, every [c, l] summing to 1.
        cluster_weights: [C], positive; the share of the data, as a rule.
        min_experts_per_layer: at least the sub-model's top-k.
        max_experts_per_layer: None for no limit.
        uniform: every cluster owns the same number k of experts in every layer, the largest that
            the other constraints leave; a stock model class can hold nothing else.
        num_groups: router groups per layer, of contiguous experts (DeepSeek-V3). Above 1 every
            cluster owns the same number in every group, at least 2; needs `uniform`.
        bytes_per_expert: a number, [L] or [L, E], positive.
        budget_bytes: [C], the most that each cluster may own; None for no limit.
        objective: see `Objective`.

    Raises:
        DataError: shapes, signs or sums that are wrong.
        ConfigError: numbers of experts or groups that cannot be meant.
        InfeasibleError: no assignment meets the constraints; names the one that fails.
    """
    mass_cle = _checked_mass(mass)
    num_clusters, num_layers, num_experts = mass_cle.shape
    weights = _positive("cluster_weights", cluster_weights, (num_clusters,))
    sizes = _sizes(bytes_per_expert, num_layers, num_experts)
    budget = None
    if budget_bytes is not None:
        budget = _positive("budget_bytes", budget_bytes, (num_clusters,))
    low, high = _count_range(
        mass_cle.shape, min_experts_per_layer, max_experts_per_layer, uniform, num_groups
    )
    if budget is not None:
        _check_budgets(sizes, budget, low, num_groups)
        if not uniform and np.all(sizes.sum() <= budget):
            budget = None
    profit = weights[:, None, None] * mass_cle

    counts = range(high, low - 1, -num_groups) if uniform else (high,)
    for count in counts:
        if budget is not None and uniform and _too_large(sizes, budget, count, num_groups):
            continue
        if uniform and objective is Objective.TOTAL and _fits_always(sizes, budget, count):
            owner = _assign_each_layer(profit, count, num_groups)
            kept = _kept(mass_cle, owner)
            value = bound = float(weights @ kept.sum(axis=1))
        else:
            program = Program(
                profit=profit,
                low=(count if uniform else low) // num_groups,
                high=count // num_groups,
                num_groups=num_groups,
                sizes=sizes,
                budget=budget,
                fair_mass=mass_cle if objective is Objective.MAX_MIN else None,
            )
            solution = solve(program)
            if solution is None:
                continue
            owner, value, bound = solution.owner, solution.value, solution.value_bound
            kept = _kept(mass_cle, owner)
        owned = np.array([sizes[owner == c].sum() for c in range(num_clusters)])
        return Assignment(
            owner=owner, mass_kept=kept, owned_bytes=owned, value=value, value_bound=bound
        )
    raise InfeasibleError(
        f"no assignment gives all {num_clusters} clusters {low} experts in every layer within "
        "budget_bytes; raise the smallest budgets, use fewer clusters, or a smaller local top-k"
    )


def uniform_count(
    num_clusters: int,
    num_experts: int,
    *,
    min_experts_per_layer: int,
    max_experts_per_layer: int | None = None,
) -> int:
    """Return how many of a layer's experts each cluster owns, the same number, with no budgets.

    Raises: `ConfigError` and `InfeasibleError` as `assign_experts`.
    """
    shape = (num_clusters, 1, num_experts)
    return _count_range(shape, min_experts_per_layer, max_experts_per_layer, True, 1)[1]


def random_assignment(
    generator: np.random.Generator,
    *,
    mass: ArrayLike,
    cluster_weights: ArrayLike,
    min_experts_per_layer: int,
    max_experts_per_layer: int | None = None,
    uniform: bool = True,
    num_groups: int = 1,
    bytes_per_expert: ArrayLike = 1.0,
    budget_bytes: ArrayLike | None = None,
) -> Assignment:
    """Assign experts under the same constraints as `assign_experts`, blind to the data.

    It is the best assignment for independent uniform random masses: these are exchangeable over
    experts, so with uniform k every feasible assignment is equally likely. `mass_kept` and
    `value` of the result are those of the real `mass`; `value_bound` is infinite (no claim).

    Args and Raises: as `assign_experts`; `generator` is advanced by C * L * E draws.
    """
    mass_cle = _checked_mass(mass)
    weights = _positive("cluster_weights", cluster_weights, mass_cle.shape[:1])
    noise = generator.random(mass_cle.shape)
    blind = assign_experts(
        noise / noise.sum(axis=2, keepdims=True),
        cluster_weights=np.ones(mass_cle.shape[0]),
        min_experts_per_layer=min_experts_per_layer,
        max_experts_per_layer=max_experts_per_layer,
        uniform=uniform,
        num_groups=num_groups,
        bytes_per_expert=bytes_per_expert,
        budget_bytes=budget_bytes,
    )
    kept = _kept(mass_cle, blind.owner)
    return Assignment(
        owner=blind.owner,
        mass_kept=kept,
        owned_bytes=blind.owned_bytes,
        value=float(weights @ kept.sum(axis=1)),
        value_bound=float("inf"),
    )


def _assign_each_layer(profit: FloatArray, count: int, num_groups: int) -> IntArray:
    """Solve one linear assignment per layer and group: rows are clusters, each `count` times."""
    num_clusters, num_layers, num_experts = profit.shape
    owner = np.full((num_layers, num_experts), NOBODY, dtype=np.int64)
    row_owner = np.repeat(np.arange(num_clusters), count // num_groups)
    width = num_experts // num_groups
    for layer in range(num_layers):
        for start in range(0, num_experts, width):
            block = profit[row_owner, layer, start : start + width]
            rows, columns = linear_sum_assignment(block, maximize=True)
            owner[layer, start + columns] = row_owner[rows]
    return owner


def _kept(mass: FloatArray, owner: IntArray) -> FloatArray:
    own = owner[None] == np.arange(mass.shape[0])[:, None, None]
    return np.asarray(np.where(own, mass, 0.0).sum(axis=2))


def _checked_mass(mass: ArrayLike) -> FloatArray:
    array = np.asarray(mass, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"mass must have shape [cluster, layer, expert], not {array.shape}")
    if not np.all(np.isfinite(array)) or array.min() < 0:
        raise DataError("mass must be finite and at least 0; score the clusters again")
    worst = float(np.abs(array.sum(axis=2) - 1.0).max())
    if worst > 1e-3:  # float32 scores summed over 10^5 tokens stay far within this
        raise DataError(f"mass must sum to 1 over experts; one layer is off by {worst:.3g}")
    return array


def _positive(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise DataError(f"{name} must have shape {shape}, not {array.shape}")
    if not np.all(np.isfinite(array)) or array.min() <= 0:
        raise DataError(f"{name} must be finite and above 0, not {array.min():g}")
    return array


def _sizes(bytes_per_expert: ArrayLike, num_layers: int, num_experts: int) -> FloatArray:
    array = np.asarray(bytes_per_expert, dtype=np.float64)
    if array.shape == (num_layers,):
        array = array[:, None]
    if array.shape not in {(), (num_layers, 1), (num_layers, num_experts)}:
        raise DataError(
            f"bytes_per_expert must be a number, [{num_layers}] or [{num_layers}, {num_experts}], "
            f"not of shape {array.shape}"
        )
    full = np.broadcast_to(array, (num_layers, num_experts))
    return _positive("bytes_per_expert", full, (num_layers, num_experts))


def _count_range(
    shape: tuple[int, ...], minimum: int, maximum: int | None, uniform: bool, num_groups: int
) -> tuple[int, int]:
    """Return the least and the most experts per cluster and layer, both multiples of groups."""
    num_clusters, _, num_experts = shape
    if minimum < 1:
        raise ConfigError(f"min_experts_per_layer = {minimum}: it must be at least 1")
    if maximum is not None and maximum < minimum:
        raise ConfigError(
            f"max_experts_per_layer = {maximum} is below min_experts_per_layer = {minimum}"
        )
    if num_groups < 1 or num_experts % num_groups:
        raise ConfigError(f"num_groups = {num_groups} must divide the {num_experts} experts")
    if num_groups > 1 and not uniform:
        raise ConfigError(f"num_groups = {num_groups} needs uniform = True")
    per_group = -(-minimum // num_groups)
    if num_groups > 1:
        per_group = max(per_group, 2)
    low = per_group * num_groups
    if num_clusters * low > num_experts:
        rule = f" (at least 2 in each of {num_groups} groups)" if num_groups > 1 else ""
        raise InfeasibleError(
            f"{num_clusters} clusters x {low} experts per layer{rule} exceed the {num_experts} "
            f"experts; use at most {num_experts // low} clusters or a smaller local top-k"
        )
    most = num_experts if maximum is None else min(maximum, num_experts)
    if uniform:
        most = min(most, num_experts // num_clusters)
    high = most // num_groups * num_groups
    if high < low:
        raise InfeasibleError(
            f"max_experts_per_layer = {maximum} is below the {low} that {num_groups} router "
            f"groups need; raise it to {low}"
        )
    return low, high


def _least_bytes(sizes: FloatArray, count: int, num_groups: int) -> float:
    """Return the bytes of the smallest `count` experts per layer, spread evenly over groups."""
    num_layers = sizes.shape[0]
    grouped = np.sort(sizes.reshape(num_layers, num_groups, -1), axis=2)
    return float(grouped[:, :, : count // num_groups].sum())


def _too_large(sizes: FloatArray, budget: FloatArray, count: int, num_groups: int) -> bool:
    return _least_bytes(sizes, count, num_groups) > float(budget.min()) * (1 + 1e-12)


def _fits_always(sizes: FloatArray, budget: FloatArray | None, count: int) -> bool:
    """Tell whether any `count` experts per layer fit into every budget."""
    if budget is None:
        return True
    most = float(np.sort(sizes, axis=1)[:, sizes.shape[1] - count :].sum())
    return most <= float(budget.min()) * (1 + 1e-12)


def _check_budgets(sizes: FloatArray, budget: FloatArray, low: int, num_groups: int) -> None:
    least = _least_bytes(sizes, low, num_groups)
    poorest = int(np.argmin(budget))
    if least > budget[poorest] * (1 + 1e-12):
        raise InfeasibleError(
            f"budget_bytes of cluster {poorest} is {budget[poorest]:.0f}, below the {least:.0f} "
            f"that {low} experts in every layer take; raise it or use a smaller local top-k"
        )
