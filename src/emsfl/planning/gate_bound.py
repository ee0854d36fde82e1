"""What the domain gate costs: Theorem 3 of docs/theory.md, merged model against sub-models.

Shapes: C clusters. Losses are expectations over each cluster's own data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsfl.errors import DataError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MergedBound:
    """Bounds on the expected loss of the merged model over the mixture of clusters."""

    submodels: float
    """sum_c w_c f_c: what the merged model reaches with a perfect gate."""
    excess: float
    """The most that the gate's errors add."""

    @property
    def value(self) -> float:
        """The bound: sub-models plus excess."""
        return self.submodels + self.excess


def gate_bound(
    weights: ArrayLike, submodel_loss: ArrayLike, gate_error: ArrayLike, loss_range: float
) -> MergedBound:
    """Bound the merged model's loss by the gate's error (Theorem 3(a) and (b)).

    Args:
        weights: [C] w_c, summing to 1.
        submodel_loss: [C] f_c, every sub-model on its own cluster's data.
        gate_error: [C]; for a hard gate the probability that an input of the cluster is sent to
            another cluster's experts, for a soft one the mean of 1 - posterior of the cluster.
        loss_range: most by which another sub-model's loss can exceed the own one's on one input.

    Raises:
        DataError: probabilities outside 0..1, a negative range, or shapes that do not agree.
    """
    w, loss, error = _weights(weights), np.asarray(submodel_loss), np.asarray(gate_error)
    if loss.shape != w.shape or error.shape != w.shape:
        raise DataError(
            f"submodel_loss and gate_error must have shape {w.shape}, "
            f"not {loss.shape} and {error.shape}"
        )
    if not (np.all(error >= 0) and np.all(error <= 1)):
        raise DataError("gate_error must lie within 0..1: it is a probability (Theorem 3)")
    if not (np.isfinite(loss_range) and loss_range >= 0):
        raise DataError(f"loss_range = {loss_range:g} must be finite and at least 0 (A7)")
    return MergedBound(submodels=float(w @ loss), excess=float(w @ error) * loss_range)


def merged_loss(weights: ArrayLike, sent: ArrayLike, loss: ArrayLike) -> float:
    """Return the expected loss of a hard-gated merged model, exactly (identity (11)).

    Args:
        weights: [C] w_c.
        sent: [C, C], probability that the gate sends an input of cluster c to sub-model j; rows
            sum to 1.
        loss: [C, C], mean loss of sub-model j on the inputs of cluster c that are sent to it (any
            number where none is).

    Raises:
        DataError: rows that do not sum to 1, or shapes that do not agree.
    """
    w, q, losses = _weights(weights), np.asarray(sent), np.asarray(loss)
    if q.shape != (w.size, w.size) or losses.shape != q.shape:
        raise DataError(f"sent and loss must have shape {(w.size, w.size)}")
    if q.min() < 0 or np.abs(q.sum(axis=1) - 1).max() > 1e-6:
        raise DataError("sent must hold probabilities, every row summing to 1")
    return float(w @ np.where(q > 0, q * losses, 0.0).sum(axis=1))


def soft_gate_bound(
    foreign_mass: ArrayLike, output_norm: ArrayLike, sensitivity: ArrayLike
) -> float:
    """Bound |merged loss - sub-model loss| on one input through all layers (Theorem 3(c)).

    Args:
        foreign_mass: [L], routing mass on other clusters' experts per layer, 0..1.
        output_norm: [L] R_l, the largest norm of one expert's output.
        sensitivity: [L], Lipschitz constant of the loss in the layer's MoE output.

    Raises:
        DataError: negative numbers, mass above 1, or shapes that do not agree.
    """
    arrays = [np.asarray(a, dtype=np.float64) for a in (foreign_mass, output_norm, sensitivity)]
    if len({a.shape for a in arrays}) != 1 or arrays[0].ndim != 1:
        raise DataError("foreign_mass, output_norm and sensitivity must all have shape [layer]")
    if any(a.min() < 0 for a in arrays) or arrays[0].max() > 1:
        raise DataError("foreign_mass must lie within 0..1, norms and sensitivities be at least 0")
    return float(2 * np.prod(arrays, axis=0).sum())


def leak_floor(foreign_mass: ArrayLike, separation: ArrayLike, convexity: float) -> float:
    """Return the least loss that leaked routing mass adds without a gate (Theorem 3(e)).

    Args:
        foreign_mass: [N], per input, the mass on other clusters' experts in one dense MoE layer.
        separation: [N], norm of the difference of foreign and own expert mixtures.
        convexity: m, the loss is m-strongly convex in the layer's output; above 0.

    Raises:
        DataError: negative numbers, mass above 1, or shapes that do not agree.
    """
    mass, distance = np.asarray(foreign_mass), np.asarray(separation)
    if mass.shape != distance.shape or mass.ndim != 1:
        raise DataError("foreign_mass and separation must have the same shape [input]")
    if mass.min() < 0 or mass.max() > 1 or distance.min() < 0 or not convexity > 0:
        raise DataError("foreign_mass must lie within 0..1, separation >= 0 and convexity > 0")
    return float(convexity / 2 * np.mean((mass * distance) ** 2))


def _weights(weights: ArrayLike) -> FloatArray:
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or w.size == 0 or w.min() <= 0 or abs(float(w.sum()) - 1) > 1e-6:
        raise DataError("weights must be positive and sum to 1")
    return w
