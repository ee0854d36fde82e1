"""New plans from old ones: a stretch of time, two plans together, or links that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import UserError
from emsfl.orbit.plan import ContactPlan, Floats


def slice_plan(plan: ContactPlan, start_s: float, end_s: float) -> ContactPlan:
    """Return what happens between two times, with `start_s` as the new plan's second 0.

    Contacts that reach beyond are cut.
    """
    if not 0 <= start_s < end_s <= plan.duration_s:
        raise UserError(
            f"a slice from {start_s:g} s to {end_s:g} s does not fit a plan of "
            f"{plan.duration_s:g} s; give 0 <= start < end <= duration"
        )
    whole = np.arange(len(plan))
    edges = np.full(len(plan), start_s), np.full(len(plan), end_s)
    cut = _keep(plan, whole, *edges)
    return replace(
        cut,
        epoch_utc=plan.epoch_utc + timedelta(seconds=start_s),
        duration_s=end_s - start_s,
        start_s=cut.start_s - start_s,
        end_s=cut.end_s - start_s,
        segment_start_s=cut.segment_start_s - start_s,
    )


def merge_plans(first: ContactPlan, second: ContactPlan) -> ContactPlan:
    """Return the contacts of both plans; nodes of one name are one node.

    Times of `second` are moved to the epoch of `first`, which must not be the later one.

    Raises:
        UserError: `second` begins earlier, or a site of one is a satellite of the other.
    """
    shift_s = (second.epoch_utc - first.epoch_utc) / timedelta(seconds=1)
    if shift_s < 0:
        raise UserError("merge the plan that begins earlier with the later one, in this order")
    sites = tuple(dict.fromkeys(first.sites + second.sites))
    satellites = tuple(dict.fromkeys(first.satellites + second.satellites))
    for name in sorted(set(sites) & set(satellites)):
        raise UserError(f"{name!r} is a site in one plan and a satellite in the other; rename it")
    numbers = {name: number for number, name in enumerate(sites + satellites)}
    pair = (first, second)
    renumber = [np.array([numbers[name] for name in plan.nodes], dtype=np.int32) for plan in pair]
    both = ContactPlan(
        epoch_utc=first.epoch_utc,
        duration_s=max(first.duration_s, shift_s + second.duration_s),
        sites=sites,
        satellites=satellites,
        source=np.concatenate([new[p.source] for new, p in zip(renumber, pair, strict=True)]),
        destination=np.concatenate(
            [new[p.destination] for new, p in zip(renumber, pair, strict=True)]
        ),
        start_s=np.concatenate([first.start_s, second.start_s + shift_s]),
        end_s=np.concatenate([first.end_s, second.end_s + shift_s]),
        offset=np.concatenate([first.offset, second.offset[1:] + first.offset[-1]]),
        segment_start_s=np.concatenate([first.segment_start_s, second.segment_start_s + shift_s]),
        rate_bps=np.concatenate([first.rate_bps, second.rate_bps]),
        delay_s=np.concatenate([first.delay_s, second.delay_s]),
        settings={"merged": [dict(first.settings), dict(second.settings)]},
    )
    return _keep(both, np.arange(len(both)), both.start_s, both.end_s)


def with_outages(
    plan: ContactPlan,
    generator: np.random.Generator,
    mean_up_s: float,
    mean_down_s: float,
    nodes: Sequence[str] | None = None,
) -> ContactPlan:
    """Return the plan with nodes that fail and recover: contacts lose the time either end is down.

    Args:
        plan: the plan without failures.
        generator: source of the exponentially distributed times; equal seeds give equal plans.
        mean_up_s: mean time between a recovery and the next failure.
        mean_down_s: mean time until recovery.
        nodes: names of those that fail; None is all. All are up at second 0.
    """
    if not (mean_up_s > 0 and mean_down_s > 0):
        raise UserError(f"mean times {mean_up_s} s up and {mean_down_s} s down must be above 0")
    for name in plan.nodes if nodes is None else nodes:
        downs = _downs(generator, mean_up_s, mean_down_s, plan.duration_s)
        plan = _without(plan, plan.number_of(name), downs)
    return replace(
        plan,
        settings={**plan.settings, "outages": {"up_s": mean_up_s, "down_s": mean_down_s}},
    )


def _downs(
    generator: np.random.Generator, mean_up_s: float, mean_down_s: float, duration_s: float
) -> list[tuple[float, float]]:
    downs = []
    time_s = generator.exponential(mean_up_s)
    while time_s < duration_s:
        back_s = time_s + generator.exponential(mean_down_s)
        downs.append((time_s, back_s))
        time_s = back_s + generator.exponential(mean_up_s)
    return downs


def _without(plan: ContactPlan, node: int, downs: list[tuple[float, float]]) -> ContactPlan:
    """Return the plan less the contacts of one node while it is down."""
    rows: list[int] = []
    starts: list[float] = []
    ends: list[float] = []
    for row in range(len(plan)):
        start, end = float(plan.start_s[row]), float(plan.end_s[row])
        if node in (plan.source[row], plan.destination[row]):
            for down, back in downs:
                if back <= start or down >= end:
                    continue
                if down > start:
                    rows.append(row)
                    starts.append(start)
                    ends.append(down)
                start = back
        if start < end:
            rows.append(row)
            starts.append(start)
            ends.append(end)
    return _keep(plan, np.array(rows, dtype=np.intp), np.array(starts), np.array(ends))


def _keep(plan: ContactPlan, rows: NDArray[np.intp], start_s: Floats, end_s: Floats) -> ContactPlan:
    """Return new contacts, each the part of contact `rows[i]` in [start_s[i], end_s[i]].

    Parts without length are left out; the rest is put in order of start, source, destination.
    """
    start_s = np.maximum(start_s, plan.start_s[rows])
    end_s = np.minimum(end_s, plan.end_s[rows])
    order = np.lexsort((plan.destination[rows], plan.source[rows], start_s))
    order = order[start_s[order] < end_s[order]]
    rows, start_s, end_s = rows[order], start_s[order], end_s[order]
    segment_ends = plan.segment_end_s()
    segments: list[NDArray[np.intp]] = []
    for row, start, end in zip(rows, start_s, end_s, strict=True):
        own = np.arange(plan.offset[row], plan.offset[row + 1])
        overlap = (segment_ends[own] > start) & (plan.segment_start_s[own] < end)
        segments.append(own[overlap])
    lengths = [len(own) for own in segments]
    chosen = np.concatenate(segments) if segments else np.empty(0, dtype=np.intp)
    return replace(
        plan,
        source=plan.source[rows],
        destination=plan.destination[rows],
        start_s=start_s,
        end_s=end_s,
        offset=np.cumsum([0, *lengths], dtype=np.int32),
        segment_start_s=np.maximum(plan.segment_start_s[chosen], np.repeat(start_s, lengths)),
        rate_bps=plan.rate_bps[chosen],
        delay_s=plan.delay_s[chosen],
    )
