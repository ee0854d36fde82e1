"""The assignment of experts as an integer program, solved exactly by HiGHS through scipy.

Shapes: C clusters, L layers, E experts per layer, G groups of contiguous experts. Variables are
x_cle in cluster-major order; with max-min fairness one more, the smallest mean mass kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from emsfl.errors import InfeasibleError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MOST_FREE = 5000
"""Most variables that branch and bound may leave free once it has a solution; a limit on work
that, unlike a limit on time, keeps results the same on every machine."""
_LARGE_GAP = 1e-2
"""Relative gap at which branch and bound stops on a problem with more variables than that; the
solution's own bound is then reported, and is usually closer."""
_MOST_NODES = 10_000
"""Most nodes of one branch and bound, for the same reason as `_MOST_FREE`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """One assignment problem; all arrays are validated by the caller."""

    profit: FloatArray
    """[C, L, E], what x_cle = 1 earns."""
    low: int
    """Fewest experts per cluster, layer and group."""
    high: int
    """Most experts per cluster, layer and group."""
    num_groups: int
    sizes: FloatArray
    """[L, E], bytes."""
    budget: FloatArray | None
    """[C], bytes."""
    fair_mass: FloatArray | None
    """[C, L, E]: maximise the smallest mean over layers of this mass first; None for totals."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A feasible assignment and what is proven about it."""

    owner: IntArray
    value: float
    value_bound: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """`lower <= matrix @ x <= upper`, and `upper_x` for the variables."""

    matrix: sparse.csr_array
    lower: FloatArray
    upper: FloatArray


def solve(program: Program) -> Solution | None:
    """Return the best assignment, or None when there is none."""
    shape = program.profit.shape
    rows = _constraints(program)
    profit = program.profit.ravel()
    if program.fair_mass is None:
        found = _maximise(profit, rows)
        if found is None:
            return None
        x, bound = found
        value = float(profit @ x)
        return Solution(owner=_owner(x, shape), value=value, value_bound=max(value, bound))
    fair_rows = _with_floor(rows, program.fair_mass)
    floor_profit = np.append(np.zeros(profit.size), 1.0)
    found = _maximise(floor_profit, fair_rows, num_continuous=1)
    if found is None:
        return None
    x, bound = found
    means = (program.fair_mass.reshape(shape[0], -1) * x[:-1].reshape(shape[0], -1)).sum(axis=1)
    floor = float(means.min()) / shape[1]
    # Second stage: among the fairest assignments, the largest weighted total.
    keep = _Rows(
        matrix=sparse.vstack([rows.matrix, _mean_rows(program.fair_mass)]).tocsr(),
        lower=np.append(rows.lower, np.full(shape[0], floor - 1e-9)),
        upper=np.append(rows.upper, np.full(shape[0], np.inf)),
    )
    best = _maximise(profit, keep)
    x_best = x[:-1] if best is None else best[0]
    return Solution(owner=_owner(x_best, shape), value=floor, value_bound=max(floor, bound))


def _constraints(program: Program) -> _Rows:
    num_clusters, num_layers, num_experts = program.profit.shape
    groups = program.num_groups
    size = program.profit.size
    column = np.arange(size)
    c, layer, e = np.unravel_index(column, program.profit.shape)
    group = e // (num_experts // groups)
    ones = np.ones(size)
    blocks = [
        sparse.csr_array((ones, (layer * num_experts + e, column))),
        sparse.csr_array((ones, ((c * num_layers + layer) * groups + group, column))),
    ]
    num_expert_rows = num_layers * num_experts
    num_count_rows = num_clusters * num_layers * groups
    lower = [np.full(num_expert_rows, -np.inf), np.full(num_count_rows, float(program.low))]
    upper = [np.ones(num_expert_rows), np.full(num_count_rows, float(program.high))]
    if program.budget is not None:
        # In units of the mean expert, and rounded down where all experts are equal: the matrix is
        # then totally unimodular with an integral right-hand side, so vertices are integral.
        unit = float(program.sizes.mean())
        limit = program.budget / unit * (1 + 1e-12)
        relative = program.sizes / unit
        if np.ptp(relative) < 1e-12:
            relative = np.ones_like(relative)
            limit = np.floor(limit + 1e-9)
        blocks.append(sparse.csr_array((relative[layer, e], (c, column))))
        lower.append(np.full(num_clusters, -np.inf))
        upper.append(limit)
    return _Rows(
        matrix=sparse.vstack(blocks).tocsr(),
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
    )


def _mean_rows(mass: FloatArray) -> sparse.csr_array:
    num_clusters, num_layers, _ = mass.shape
    per_cluster = mass.size // num_clusters
    row = np.repeat(np.arange(num_clusters), per_cluster)
    return sparse.csr_array((mass.ravel() / num_layers, (row, np.arange(mass.size))))


def _with_floor(rows: _Rows, mass: FloatArray) -> _Rows:
    """Add the variable t and the rows t <= mean mass kept of every cluster."""
    num_clusters = mass.shape[0]
    top = sparse.hstack([rows.matrix, sparse.csr_array((rows.matrix.shape[0], 1))])
    bottom = sparse.hstack([_mean_rows(mass), sparse.csr_array(-np.ones((num_clusters, 1)))])
    return _Rows(
        matrix=sparse.vstack([top, bottom]).tocsr(),
        lower=np.append(rows.lower, np.zeros(num_clusters)),
        upper=np.append(rows.upper, np.full(num_clusters, np.inf)),
    )


def _maximise(
    profit: FloatArray, rows: _Rows, num_continuous: int = 0
) -> tuple[FloatArray, float] | None:
    """Maximise over x in {0, 1}; return x (rounded) and a proven upper bound, or None.

    First the linear relaxation. A variable at a bound whose reduced cost exceeds `slack` loses
    more than `slack` against the linear optimum when it moves, so fixing it there is exact once a
    solution within `slack` is at hand; the slack grows until that holds or `_MOST_FREE` ends it.
    """
    scale = float(np.abs(profit).max())
    cost = -profit / scale
    num_binary = profit.size - num_continuous
    finite_up, finite_low = np.isfinite(rows.upper), np.isfinite(rows.lower)
    relaxed = linprog(  # type: ignore[call-overload]  # the stubs do not know sparse matrices
        cost,
        A_ub=sparse.vstack([rows.matrix[finite_up], -rows.matrix[finite_low]]).tocsr(),
        b_ub=np.concatenate([rows.upper[finite_up], -rows.lower[finite_low]]),
        bounds=(0, 1),
        method="highs-ds",
    )
    if relaxed.status == 2:
        return None
    if relaxed.status != 0:
        raise RuntimeError(f"HiGHS failed on the linear relaxation: {relaxed.message}")
    x = np.asarray(relaxed.x)
    linear_best = -float(relaxed.fun)
    rounded = np.append(np.round(x[:num_binary]), x[num_binary:])
    if np.abs(x - rounded).max() < 1e-6:
        return rounded, linear_best * scale
    reduced = np.abs(relaxed.lower.marginals) + np.abs(relaxed.upper.marginals)
    slack = 1e-6 * max(linear_best, 1e-12)
    gap = 1e-9 if num_binary <= _MOST_FREE else _LARGE_GAP
    best: tuple[FloatArray, float] | None = None
    while True:
        free = reduced <= slack
        free[num_binary:] = True
        if best is not None and free.sum() > _MOST_FREE:
            return best
        at_bound = rows.matrix[:, ~free] @ rounded[~free]
        result = milp(
            cost[free],
            integrality=(np.flatnonzero(free) < num_binary).astype(np.float64),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(
                rows.matrix[:, free], rows.lower - at_bound, rows.upper - at_bound
            ),
            options={"mip_rel_gap": gap, "node_limit": _MOST_NODES},
        )
        if result.x is not None:
            found = rounded.copy()
            found[free] = result.x
            found[:num_binary] = np.round(found[:num_binary])
            value = -float(cost @ found)
            closed = free.all() or linear_best - value <= slack
            bound = linear_best
            if closed:
                rest = -float(cost[~free] @ rounded[~free])
                bound = min(bound, max(value, rest - float(result.mip_dual_bound)))
            if best is not None and float(profit @ best[0]) >= value * scale:
                found = best[0]
            best = found, bound * scale
            if closed:
                return best
        elif result.status not in {1, 2}:
            raise RuntimeError(f"HiGHS failed on the integer program: {result.message}")
        elif free.all() and result.status == 1:
            raise InfeasibleError(
                f"no assignment found within {_MOST_NODES} nodes of branch and bound; the budgets "
                "are too tight to tell: raise the smallest ones"
            )
        elif free.all():
            return None
        slack *= 8


def _owner(x: FloatArray, shape: tuple[int, ...]) -> IntArray:
    taken = x.reshape(shape) > 0.5
    return np.where(taken.any(axis=0), taken.argmax(axis=0), -1).astype(np.int64)
