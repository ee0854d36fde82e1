"""Turn contact times into ticks: who trains when, and whose steps each cluster holds.

A tick is the time of one local step. Shapes: C clusters, T ticks. The symbols are those of
docs/theory.md: `active` is a_ct, `held` is l_cj(t), `delivered` is l_c(t) at the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError

Transfer = Callable[[float], float]
"""When a transfer ends that begins at the given time, in seconds; infinite if it never does."""
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """One upload of a cluster and the download that follows it, in virtual seconds."""

    snapshot_s: float
    """When the cluster froze what it uploads."""
    arrival_s: float
    """When the upload reached the server and was merged."""
    read_s: float
    """When the server's shared parameters were read for the download, at or after the arrival."""
    reception_s: float
    """When the devices went on from what they received; infinite when the plan ends before."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """What the theorems need to know of a contact plan."""

    active: BoolArray
    """[C, T]: whether the cluster's devices take a step in the tick."""
    held: IntArray
    """[C, C, T]: held[c, j, t] = l means that at tick t cluster c holds exactly the steps of
    cluster j of ticks before l (for j = c: as merged by the server; later ones as its own)."""
    delivered: IntArray
    """[C, T + 1]: the server at the beginning of tick t has the steps of ticks before this."""
    time_s: FloatArray
    """[T + 1]: virtual time at which the tick begins."""

    def __post_init__(self) -> None:
        num_clusters, num_ticks = self.active.shape
        wanted = {
            "held": (num_clusters, num_clusters, num_ticks),
            "delivered": (num_clusters, num_ticks + 1),
            "time_s": (num_ticks + 1,),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"{name} must have shape {shape}, not {getattr(self, name).shape}")
        if num_clusters == 0 or num_ticks == 0:
            raise DataError("a schedule needs at least one cluster and one tick")
        ticks = np.arange(num_ticks)
        if self.held.min() < 0 or np.any(self.held > ticks):
            raise DataError("held must lie within 0..t: nobody holds steps of the future")

    @property
    def num_clusters(self) -> int:
        """C."""
        return int(self.active.shape[0])

    @property
    def num_ticks(self) -> int:
        """T."""
        return int(self.active.shape[1])

    def only(self, cluster: int) -> Schedule:
        """Return the schedule of one cluster alone, on the clock of its own active ticks.

        This is Theorem 1's: with frozen shared parameters nothing of the others matters.
        """
        own = np.flatnonzero(self.active[cluster])
        if own.size == 0:
            raise DataError(f"cluster {cluster} takes no step; its contacts or its cap forbid it")
        steps_before = np.append(0, np.cumsum(self.active[cluster]))
        return Schedule(
            active=np.ones((1, own.size), dtype=np.bool_),
            held=steps_before[self.held[cluster, cluster, own]][None, None],
            delivered=steps_before[self.delivered[cluster, np.append(own, self.num_ticks)]][None],
            time_s=np.append(self.time_s[own], self.time_s[-1]),
        )


def exchanges_in_contacts(
    contacts_s: Sequence[tuple[float, float]],
    *,
    upload: Transfer,
    download: Transfer,
    server_delay_s: float = 0.0,
) -> list[Exchange]:
    """Return the exchanges of one cluster: one begins at the first contact after the last ended.

    Args:
        contacts_s: (start, end) of each contact, in order, disjoint.
        upload: when an upload ends; see also `link_time`.
        download: when a download ends.
        server_delay_s: one way between the satellite in contact and the server, at least 0.

    Raises:
        DataError: contacts that overlap or end before they start.
    """
    ends_s = [-np.inf, *(end for _, end in contacts_s)]
    for (start_s, end_s), before_s in zip(contacts_s, ends_s, strict=False):
        if start_s < before_s or end_s < start_s:
            raise DataError(f"contact {start_s:g}..{end_s:g} s is out of order or overlaps another")
    exchanges: list[Exchange] = []
    free_s = -np.inf
    while (snapshot_s := _next_start(contacts_s, free_s)) < np.inf:
        arrival_s = upload(snapshot_s) + server_delay_s
        if arrival_s == np.inf:
            break
        read_s = _in_contact(contacts_s, arrival_s)
        free_s = download(read_s + server_delay_s) if read_s < np.inf else np.inf
        exchanges.append(
            Exchange(snapshot_s=snapshot_s, arrival_s=arrival_s, read_s=read_s, reception_s=free_s)
        )
    return exchanges


def link_time(contacts_s: Sequence[tuple[float, float]], link_s: float) -> Transfer:
    """Return transfers that take `link_s` seconds of contact; the rest resumes in the next one."""

    def end_s(from_s: float) -> float:
        left_s = link_s
        for start_s, stop_s in contacts_s:
            begin_s = max(start_s, from_s)
            if begin_s > stop_s:
                continue
            if begin_s + left_s <= stop_s:
                return begin_s + left_s
            left_s -= stop_s - begin_s
        return float("inf")

    return end_s


def asynchronous(
    exchanges: Sequence[Sequence[Exchange]],
    *,
    step_s: float,
    horizon_s: float,
    max_steps_per_contact: int | None = None,
) -> Schedule:
    """Return the schedule of EMS-FL: everybody trains all the time, up to a cap per exchange.

    Args:
        exchanges: per cluster, in time order.
        step_s: time of one local step, above 0; a snapshot holds the steps completed by then, and
            what is received takes effect at the next step.
        horizon_s: end of the schedule, at least one step.
        max_steps_per_contact: most steps between two snapshots; the devices rest after them.

    Raises:
        DataError: no cluster, a cluster without any exchange, or times that do not make sense.
    """
    if not step_s > 0 or horizon_s < step_s:
        raise DataError(f"step_s = {step_s:g} must be above 0 and within horizon_s = {horizon_s:g}")
    num_clusters, num_ticks = len(exchanges), int(horizon_s / step_s * (1 + 1e-12))
    if num_clusters == 0:
        raise DataError("a plan needs at least one cluster")
    ticks = np.arange(num_ticks)
    boundaries = np.arange(num_ticks + 1)
    active = np.ones((num_clusters, num_ticks), dtype=np.bool_)
    held = np.zeros((num_clusters, num_clusters, num_ticks), dtype=np.int64)
    delivered = np.zeros((num_clusters, num_ticks + 1), dtype=np.int64)
    snapshots, arrivals = [], []
    for c, own in enumerate(exchanges):
        if not own:
            raise DataError(
                f"cluster {c} has no contact that completes an upload: the theorem needs every "
                "cluster to deliver; drop it or lengthen the plan"
            )
        snapshot = _completed([e.snapshot_s for e in own], step_s)
        arrival = np.array([e.arrival_s for e in own])
        snapshots.append(snapshot)
        arrivals.append(arrival)
        count = np.searchsorted(_first(arrival, step_s), boundaries, side="right")
        delivered[c] = np.append(0, snapshot)[count]
        if max_steps_per_contact is not None:
            begin = np.append(0, snapshot)[np.searchsorted(snapshot, ticks, side="right")]
            active[c] = ticks - begin < max_steps_per_contact
    for c, own in enumerate(exchanges):
        reads = np.array([e.read_s for e in own])
        effect = _first(np.array([e.reception_s for e in own]), step_s)
        last = np.searchsorted(effect, ticks, side="right") - 1
        for j in range(num_clusters):
            known = np.searchsorted(arrivals[j], reads, side="right")
            of_j = np.append(0, snapshots[j])[known]
            held[c, j] = np.where(last >= 0, of_j[np.maximum(last, 0)], 0)
    return Schedule(
        active=active,
        held=held,
        delivered=delivered,
        time_s=np.asarray(boundaries * step_s, dtype=np.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """The rounds of synchronous FedAvg that end within a plan."""

    end_s: FloatArray
    """[R], when the server has all updates of the round."""
    steps: IntArray
    """[R, C], local steps of each cluster's devices in the round."""


def fedavg_rounds(
    contacts_s: Sequence[Sequence[tuple[float, float]]],
    *,
    step_s: float,
    steps_per_round: int | None,
    uploads: Sequence[Transfer],
    downloads: Sequence[Transfer],
    server_delay_s: float = 0.0,
    max_steps: int | None = None,
) -> Rounds:
    """Return the rounds of synchronous FedAvg over the given contacts.

    Each cluster downloads the version in the first contact that is open or begins once the version
    exists, trains, and uploads when a contact is open after that; the round ends when the last
    upload has arrived.

    Args:
        contacts_s: per cluster, (start, end) of each contact, in order.
        step_s: time of one local step, above 0.
        steps_per_round: local steps, or None to train until the next contact begins ("fill").
        uploads: per cluster, when an upload ends.
        downloads: per cluster, when a download ends.
        server_delay_s: one way between the satellite in contact and the server.
        max_steps: most steps in a round; None for no limit.

    Raises:
        DataError: a cluster without any contact, or a step that takes no time.
    """
    if not step_s > 0:
        raise DataError(f"step_s = {step_s:g} must be above 0")
    for c, own in enumerate(contacts_s):
        if len(own) == 0:
            raise DataError(f"cluster {c} has no contact: FedAvg would wait for it for ever")
    most = np.inf if max_steps is None else max_steps
    ends_s: list[float] = []
    steps: list[list[int]] = []
    version_s = 0.0
    while True:
        arrivals_s, taken = [], []
        for own, upload, download in zip(contacts_s, uploads, downloads, strict=True):
            got_s = download(_in_contact(own, version_s) + server_delay_s)
            if steps_per_round is None:
                ready_s = _next_start(own, got_s)
                count = (ready_s - got_s) / step_s if ready_s < np.inf else 0.0
            else:
                count = min(steps_per_round, most)
                ready_s = _in_contact(own, got_s + count * step_s)
            taken.append(int(min(count, most)))
            arrivals_s.append(upload(ready_s) + server_delay_s if ready_s < np.inf else np.inf)
        if max(arrivals_s) == np.inf:
            break
        version_s = max(arrivals_s)
        ends_s.append(version_s)
        steps.append(taken)
    return Rounds(
        end_s=np.array(ends_s, dtype=np.float64),
        steps=np.array(steps, dtype=np.int64).reshape(-1, len(contacts_s)),
    )


def synchronous(rounds: Rounds) -> Schedule:
    """Return the schedule of synchronous FedAvg, on the clock of its own steps.

    A round has as many ticks as its busiest cluster takes steps; all clusters start it from the
    same version, and its last tick ends when the round ends.

    Raises:
        DataError: no round within the plan.
    """
    if rounds.end_s.size == 0:
        raise DataError("no round of FedAvg ends within the plan; lengthen it or take fewer steps")
    length = rounds.steps.max(axis=1)
    begin = np.repeat(np.cumsum(length) - length, length)
    ticks = np.arange(begin.size)
    num_clusters = rounds.steps.shape[1]
    active = (ticks - begin)[None] < np.repeat(rounds.steps, length, axis=0).T
    delivered = np.append(begin, begin.size)
    return Schedule(
        active=active,
        held=np.broadcast_to(begin, (num_clusters, num_clusters, begin.size)).copy(),
        delivered=np.broadcast_to(delivered, (num_clusters, delivered.size)).copy(),
        time_s=np.append(0.0, np.repeat(rounds.end_s, length)),
    )


def _next_start(contacts_s: Sequence[tuple[float, float]], after_s: float) -> float:
    """Return the start of the first contact that begins after `after_s`; inf if there is none."""
    return min((start for start, _ in contacts_s if start > after_s), default=float("inf"))


def _in_contact(contacts_s: Sequence[tuple[float, float]], from_s: float) -> float:
    """Return `from_s` if a contact is open then, else the start of the next one, else inf."""
    inside = any(start <= from_s < end for start, end in contacts_s)
    return from_s if inside else _next_start(contacts_s, from_s)


def _completed(times_s: Sequence[float], step_s: float) -> IntArray:
    """Return the number of steps completed by each time (1e-9 steps of rounding forgiven)."""
    return np.floor(np.asarray(times_s) / step_s + 1e-9).astype(np.int64)


def _first(times_s: FloatArray, step_s: float) -> FloatArray:
    """Return the first tick that begins at or after each time."""
    return np.asarray(np.ceil(times_s / step_s - 1e-9))
