"""The compiled search for windows between two satellites.

f(t) = min(range limit, tangent lengths) - distance. The line of sight clears the limb (a sphere of
radius b) while the distance is below sqrt(r1^2 - b^2) + sqrt(r2^2 - b^2), the lengths of both
tangents to it. As for sites (`emsfl.orbit.search`), f has at most one extremum between two nodes;
it may have a kink where the two limits cross, so that edges and extrema are bisected.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from emsfl.orbit.search import NODES

Floats = NDArray[np.float64]

EDGE_TOLERANCE_S = 1e-5
EXTREMUM_TOLERANCE_S = 1e-3


@njit(cache=True, nogil=True)
def _margin(
    first: Floats, second: Floats, first_rate: Floats, second_rate: Floats, limits: Floats
) -> tuple[float, float]:
    """Return f (km) and its rate (km/s) from positions and velocities; limits: range, limb."""
    square = 0.0
    closing = 0.0
    first_square = -(limits[1] ** 2)
    second_square = first_square
    first_product = 0.0
    second_product = 0.0
    for axis in range(3):
        gap = first[axis] - second[axis]
        square += gap * gap
        closing += gap * (first_rate[axis] - second_rate[axis])
        first_square += first[axis] * first[axis]
        second_square += second[axis] * second[axis]
        first_product += first[axis] * first_rate[axis]
        second_product += second[axis] * second_rate[axis]
    distance = np.sqrt(square)
    distance_rate = closing / distance if distance > 0.0 else 0.0
    if first_square <= 0.0 or second_square <= 0.0:
        return -distance, -distance_rate
    reach = np.sqrt(first_square) + np.sqrt(second_square)
    reach_rate = first_product / np.sqrt(first_square) + second_product / np.sqrt(second_square)
    if limits[0] < reach:
        return limits[0] - distance, -distance_rate
    return reach - distance, reach_rate - distance_rate


@njit(cache=True, nogil=True)
def _at(piece: Floats, step_s: float, x: float) -> tuple[Floats, Floats]:
    """Return position and velocity at x in [0, 1] of one interval."""
    place = np.empty(3)
    rate = np.empty(3)
    for axis in range(3):
        value = piece[axis, NODES - 1]
        slope = 0.0
        for power in range(NODES - 2, -1, -1):
            slope = slope * x + value
            value = value * x + piece[axis, power]
        place[axis] = value
        rate[axis] = slope / step_s
    return place, rate


@njit(cache=True, nogil=True)
def _evaluate(
    first: Floats, second: Floats, step_s: float, x: float, limits: Floats
) -> tuple[float, float]:
    a, a_rate = _at(first, step_s, x)
    b, b_rate = _at(second, step_s, x)
    return _margin(a, b, a_rate, b_rate, limits)


@njit(cache=True, nogil=True)
def _edge(
    first: Floats,
    second: Floats,
    step_s: float,
    low: float,
    high: float,
    rising: bool,
    limits: Floats,
) -> float:
    while (high - low) * step_s > EDGE_TOLERANCE_S:
        middle = 0.5 * (low + high)
        if (_evaluate(first, second, step_s, middle, limits)[0] > 0.0) == rising:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


@njit(cache=True, nogil=True)
def _extremum(
    first: Floats, second: Floats, step_s: float, high: float, sign: float, limits: Floats
) -> tuple[float, bool]:
    """Search x where sign * f is positive, between a rise and a fall of sign * f."""
    low = 0.0
    while (high - low) * step_s > EXTREMUM_TOLERANCE_S:
        middle = 0.5 * (low + high)
        value, rate = _evaluate(first, second, step_s, middle, limits)
        if sign * value > 0.0:
            return middle, True
        if sign * rate > 0.0:
            low = middle
        else:
            high = middle
    return low, False


@njit(cache=True, nogil=True)
def search_pair(
    first: Floats, second: Floats, step_s: float, duration_s: float, limits: Floats
) -> Floats:
    """Find the windows between two satellites in [0, duration_s].

    Args:
        first: (K + 1, 3, 10) polynomials of one, from `emsfl.orbit.search.interpolate`.
        second: (K + 1, 3, 10) of the other, on the same grid.
        step_s: distance of the nodes.
        duration_s: at most K * step_s.
        limits: largest distance in km, and radius in km that the line of sight stays above.

    Returns:
        (W, 2): start and end in seconds.
    """
    count = first.shape[0] - 1
    edges = np.empty(4 * count + 4)
    found = 0
    value, rate = _evaluate(first[0], second[0], step_s, 0.0, limits)
    inside = value > 0.0
    if inside:
        edges[0] = 0.0
        found = 1
    for k in range(count):
        a = first[k]
        b = second[k]
        last = min(1.0, duration_s / step_s - k)
        if last < 1.0:
            next_value, next_rate = _evaluate(a, b, step_s, last, limits)
        else:
            next_value, next_rate = _evaluate(first[k + 1], second[k + 1], step_s, 0.0, limits)
        if (next_value > 0.0) != inside:
            edges[found] = k + _edge(a, b, step_s, 0.0, last, not inside, limits)
            found += 1
            inside = not inside
        elif rate * next_rate < 0.0 and (rate > 0.0) != inside:
            x, hit = _extremum(a, b, step_s, last, -1.0 if inside else 1.0, limits)
            if hit:
                edges[found] = k + _edge(a, b, step_s, 0.0, x, not inside, limits)
                edges[found + 1] = k + _edge(a, b, step_s, x, last, inside, limits)
                found += 2
        value, rate = next_value, next_rate
    if inside:
        edges[found] = duration_s / step_s
        found += 1
    windows = edges[:found].copy().reshape(-1, 2) * step_s
    if inside:
        windows[-1, 1] = duration_s
    return windows
