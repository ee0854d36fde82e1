"""The compiled search for visibility windows: one satellite against all sites.

f(t) = d.u - sin(mask) |d|, with d from site to satellite and u the site's vertical, is positive
while the satellite stands above the mask. Its roots are the edges of windows. Between two nodes
of the grid (a small part of a revolution) f has at most one extremum: where f is negative at both
nodes, rising at the first and falling at the second, its maximum is searched for, so that no pass
is too short to be found; likewise the minimum of an interruption.

Most of a day is discarded by one product per node: a satellite at p can only be above the mask
where p.u exceeds a threshold that follows from its lowest radius.

The functions here release the interpreter's lock, start no threads, and are compiled once per
machine (numba's cache).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EDGE_TOLERANCE_S = 1e-6
"""Newton step below which an edge counts as found."""
EXTREMUM_TOLERANCE_S = 1e-4
"""Bracket below which an extremum counts as found; shorter windows can be missed."""
EARTH_RATE_RAD_S = 7.292115e-5


NODES = 10
"""Nodes through which each polynomial passes, half of them on either side."""


def _lagrange_matrix() -> Floats:
    """Return the (10, 10) matrix from values at x = -4, ..., 5 to the powers of x."""
    x = np.arange(NODES) - (NODES // 2 - 1.0)
    return np.linalg.inv(x[:, None] ** np.arange(NODES))


LAGRANGE = _lagrange_matrix()


@njit(cache=True, nogil=True)
def interpolate(position: Floats, lagrange: Floats) -> Floats:
    """Return the polynomials between the nodes of one satellite.

    Args:
        position: (K + 9, 3) km at the nodes, four nodes before the first interval and four behind
            the last included.
        lagrange: `LAGRANGE`.

    Returns:
        (K, 3, 10): the powers of x, from 0 to 1 in interval k, of each coordinate.
    """
    count = position.shape[0] - NODES + 1
    out = np.empty((count, 3, NODES))
    for k in range(count):
        for axis in range(3):
            for power in range(NODES):
                total = 0.0
                for node in range(NODES):
                    total += lagrange[power, node] * position[k + node, axis]
                out[k, axis, power] = total
    return out


@njit(cache=True, nogil=True, inline="always")
def _look(
    piece: Floats, step_s: float, x: float, site: Floats, up: Floats
) -> tuple[float, float, float, float]:
    """Return d.u (km), its rate (km/s), |d| (km) and its rate at x of one interval."""
    height = 0.0
    height_rate = 0.0
    square = 0.0
    product = 0.0
    for axis in range(3):
        value = piece[axis, NODES - 1]
        slope = 0.0
        for power in range(NODES - 2, -1, -1):
            slope = slope * x + value
            value = value * x + piece[axis, power]
        value -= site[axis]
        slope /= step_s
        height += value * up[axis]
        height_rate += slope * up[axis]
        square += value * value
        product += value * slope
    distance = np.sqrt(square)
    return height, height_rate, distance, product / distance


@njit(cache=True, nogil=True)
def _clearance(
    piece: Floats, step_s: float, x: float, site: Floats, up: Floats, sin_mask: float
) -> tuple[float, float]:
    """Return f (km) and its rate (km/s)."""
    height, height_rate, distance, distance_rate = _look(piece, step_s, x, site, up)
    return height - sin_mask * distance, height_rate - sin_mask * distance_rate


@njit(cache=True, nogil=True)
def _climb(piece: Floats, step_s: float, x: float, site: Floats, up: Floats) -> tuple[float, float]:
    """Return the sine of the elevation, and a number with the sign of its rate."""
    height, height_rate, distance, distance_rate = _look(piece, step_s, x, site, up)
    return height / distance, height_rate * distance - height * distance_rate


@njit(cache=True, nogil=True)
def _edge(
    piece: Floats,
    step_s: float,
    low: float,
    high: float,
    rising: bool,
    site: Floats,
    up: Floats,
    sin_mask: float,
) -> float:
    """Return x of the one root of f in [low, high]: Newton, kept inside the bracket."""
    x = 0.5 * (low + high)
    for _ in range(60):
        value, rate = _clearance(piece, step_s, x, site, up, sin_mask)
        if (value > 0.0) == rising:
            high = x
        else:
            low = x
        better = x - value / (rate * step_s) if rate != 0.0 else low
        if not low < better < high:
            better = 0.5 * (low + high)
        if abs(better - x) * step_s < EDGE_TOLERANCE_S:
            return better
        x = better
    return x


@njit(cache=True, nogil=True)
def _extremum(
    piece: Floats,
    step_s: float,
    high: float,
    sign: float,
    slack: float,
    site: Floats,
    up: Floats,
    sin_mask: float,
) -> tuple[float, bool]:
    """Search in [0, high] the maximum (sign 1) or minimum (sign -1) of f that lies inside.

    A maximum is given up as soon as the tangents at both ends of its bracket, with `slack` km for
    a bracket of one step, show that it lies below 0.

    Returns:
        x, and whether sign * f is positive there; the search ends at the first such x.
    """
    low = 0.0
    low_value, low_rate = _clearance(piece, step_s, low, site, up, sin_mask)
    high_value, high_rate = _clearance(piece, step_s, high, site, up, sin_mask)
    low_rate *= sign * step_s
    high_rate *= sign * step_s
    x = low
    for turn in range(60):
        if sign > 0.0:
            drop = high_value - high_rate * (high - low) - low_value
            top = low_value + low_rate * drop / (low_rate - high_rate)
            if top + slack * (high - low) ** 2 < 0.0:
                return x, False
        # False position, and a bisection every third time so that the bracket always shrinks.
        x = low + (high - low) * low_rate / (low_rate - high_rate)
        if turn % 3 == 2 or not low < x < high:
            x = 0.5 * (low + high)
        value, rate = _clearance(piece, step_s, x, site, up, sin_mask)
        if sign * value > 0.0:
            return x, True
        rate *= sign * step_s
        if rate > 0.0:
            low, low_value, low_rate = x, value, rate
        else:
            high, high_value, high_rate = x, value, rate
        if (high - low) * step_s < EXTREMUM_TOLERANCE_S:
            break
    return x, False


@njit(cache=True, nogil=True)
def _culmination(
    pieces: Floats,
    step_s: float,
    start: float,
    end: float,
    site: Floats,
    up: Floats,
) -> tuple[float, float]:
    """Return the highest sine of elevation in [start, end] (in steps) and when it is reached."""
    first = min(int(start), pieces.shape[0] - 1)
    best, rate = _climb(pieces[first], step_s, start - first, site, up)
    when = start
    k = first
    low = start - first
    while True:
        high = min(1.0, end - k)
        sine, high_rate = _climb(pieces[k], step_s, high, site, up)
        if sine > best:
            best, when = sine, k + high
        if rate > 0.0 >= high_rate:
            a, b, a_rate, b_rate = low, high, rate, high_rate
            for turn in range(60):
                x = a + (b - a) * a_rate / (a_rate - b_rate)
                if turn % 3 == 2 or not a < x < b:
                    x = 0.5 * (a + b)
                sine, middle_rate = _climb(pieces[k], step_s, x, site, up)
                if sine > best:
                    best, when = sine, k + x
                if middle_rate > 0.0:
                    a, a_rate = x, middle_rate
                else:
                    b, b_rate = x, middle_rate
                if (b - a) * step_s < 1e-2 or abs(middle_rate) < 1e-9 * abs(a_rate - b_rate):
                    break
        rate = high_rate
        k += 1
        low = 0.0
        if k >= end or k >= pieces.shape[0]:
            return best, when


@njit(cache=True, nogil=True)
def search_sites(
    position: Floats,
    step_s: float,
    duration_s: float,
    lowest_km: float,
    sites: Floats,
    ups: Floats,
    sin_mask: float,
    lagrange: Floats,
) -> Floats:
    """Find the windows of one satellite over all sites in [0, duration_s].

    Args:
        position: (K + 10, 3) km, Earth-fixed, at the nodes -4, -3, ..., K + 5 times `step_s`, with
            K * step_s >= duration_s.
        step_s: distance of the nodes.
        duration_s: end of the search.
        lowest_km: a lower bound of the satellite's distance from the Earth's centre.
        sites: (S, 3) km.
        ups: (S, 3) verticals.
        sin_mask: sine of the elevation mask, 0 or above.
        lagrange: `LAGRANGE`.

    Returns:
        (W, 6): site, start (s), end (s), highest elevation (rad), its time (s), and 1 where the
        window is cut by the search's start or end; by site, then by time.
    """
    pieces = interpolate(position, lagrange)
    num_intervals = pieces.shape[0] - 1  # the last one only serves the rate at its first node
    nodes = np.ascontiguousarray(pieces[:, :, 0].T)
    rates = np.ascontiguousarray(pieces[:, :, 1].T) / step_s
    fastest = np.sqrt(np.max(rates[0] ** 2 + rates[1] ** 2 + rates[2] ** 2))
    farthest = np.sqrt(np.max(nodes[0] ** 2 + nodes[1] ** 2 + nodes[2] ** 2))
    # Gravity bends p.u downwards where it is positive; Coriolis and centrifugal terms may not.
    bend = EARTH_RATE_RAD_S * (2 * fastest + EARTH_RATE_RAD_S * farthest)
    slack = 0.5 * bend * step_s * step_s
    cos_mask = np.sqrt(1 - sin_mask * sin_mask)
    rows = np.empty((64, 6))
    count = 0
    products = np.empty(num_intervals + 1)
    starts = np.empty(2)
    ends = np.empty(2)
    for s in range(sites.shape[0]):
        site = sites[s]
        up = ups[s]
        radius = np.sqrt(site[0] * site[0] + site[1] * site[1] + site[2] * site[2])
        level = site[0] * up[0] + site[1] * up[1] + site[2] * up[2]
        # The vertical and the radius differ by up to 0.2 degrees; lift the mask by as much.
        tilt = np.sqrt(max(0.0, 1 - (level / radius) ** 2))
        lifted = min(1.0, sin_mask + tilt * cos_mask)
        reach = lowest_km**2 - radius**2 * (1 - lifted * lifted)
        slant = max(0.0, np.sqrt(max(0.0, reach)) - radius * lifted)
        threshold = level + sin_mask * slant
        x, y, z = up[0], up[1], up[2]  # scalars: the loop below must not fear aliasing
        for k in range(num_intervals + 1):
            products[k] = nodes[0, k] * x + nodes[1, k] * y + nodes[2, k] * z
        hopeless = threshold - slack - 0.5 * fastest * step_s
        inside = False
        start = 0.0
        known = False
        value = 0.0
        rate = 0.0
        for k in range(num_intervals):
            a = products[k]
            b = products[k + 1]
            if a < threshold and b < threshold:
                known_before = known
                known = False
                if a < hopeless and b < hopeless:
                    continue
                a_rate = rates[0, k] * x + rates[1, k] * y + rates[2, k] * z
                b_rate = rates[0, k + 1] * x + rates[1, k + 1] * y + rates[2, k + 1] * z
                if not a_rate > 0.0 > b_rate:
                    continue
                # Tangents of a concave curve bound it from above.
                top = (b - b_rate * step_s - a) / (a_rate - b_rate)
                if a + a_rate * top + slack < threshold:
                    continue
                known = known_before
            last = min(1.0, duration_s / step_s - k)
            if not known:
                value, rate = _clearance(pieces[k], step_s, 0.0, site, up, sin_mask)
                if value > 0.0:
                    inside = True
                    start = float(k)
            next_value, next_rate = _clearance(pieces[k], step_s, last, site, up, sin_mask)
            num_ends = 0
            if not inside and next_value > 0.0:
                start = k + _edge(pieces[k], step_s, 0.0, last, True, site, up, sin_mask)
                inside = True
            elif inside and next_value <= 0.0:
                starts[0] = start
                ends[0] = k + _edge(pieces[k], step_s, 0.0, last, False, site, up, sin_mask)
                num_ends = 1
                inside = False
            elif not inside and rate > 0.0 > next_rate:
                at, found = _extremum(pieces[k], step_s, last, 1.0, 2 * slack, site, up, sin_mask)
                if found:
                    starts[0] = k + _edge(pieces[k], step_s, 0.0, at, True, site, up, sin_mask)
                    ends[0] = k + _edge(pieces[k], step_s, at, last, False, site, up, sin_mask)
                    num_ends = 1
            elif inside and rate < 0.0 < next_rate:
                at, found = _extremum(pieces[k], step_s, last, -1.0, 0.0, site, up, sin_mask)
                if found:
                    starts[0] = start
                    ends[0] = k + _edge(pieces[k], step_s, 0.0, at, False, site, up, sin_mask)
                    num_ends = 1
                    start = k + _edge(pieces[k], step_s, at, last, True, site, up, sin_mask)
            value, rate, known = next_value, next_rate, True
            cut = inside and k == num_intervals - 1
            if cut:
                starts[num_ends] = start
                ends[num_ends] = duration_s / step_s
                num_ends += 1
            for e in range(num_ends):
                if count == rows.shape[0]:
                    more = np.empty((2 * count, 6))
                    more[:count] = rows
                    rows = more
                sine, when = _culmination(pieces, step_s, starts[e], ends[e], site, up)
                rows[count, 0] = s
                rows[count, 1] = starts[e] * step_s
                last_one = cut and e == num_ends - 1
                rows[count, 2] = duration_s if last_one else ends[e] * step_s
                rows[count, 3] = np.arcsin(min(1.0, sine))
                rows[count, 4] = when * step_s
                rows[count, 5] = starts[e] == 0.0 or last_one
                count += 1
    return rows[:count].copy()
