"""What to expect of an experiment before any training: sizes, times and what holds it up.

Every method is asked for its work twice, with untrained tensors, so that the bytes are those it
would really send; times follow the contact plan as the simulation does, without its events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean

import torch

from emsfl.methods import (
    METHODS,
    Cluster,
    CostModel,
    Device,
    Federation,
    Method,
    MethodSettings,
    Venue,
    Work,
    moments,
    num_trained_parameters,
)
from emsfl.methods.memory import BYTES_PER_PARAMETER
from emsfl.moe import DomainStatistics, ModelSpec, split_sizes
from emsfl.orbit import ContactPlan
from emsfl.simulate.config import SimulateConfig
from emsfl.training import TrainingConfig, num_bytes


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One method at one site; times are means over the plan."""

    method: str
    site: str
    contacts_per_day: float
    uplink_bytes_per_contact: float
    upload_bytes: int
    """Of one update."""
    download_bytes: int
    """Of what comes back once the federation is under way."""
    contacts_per_upload: float
    """Above 1: an update needs more than one contact."""
    step_s: float
    steps_per_gap: float
    """Optimiser steps that fit between two contacts."""
    round_s: float | None
    """Download, training, waiting and upload, for methods that wait for all sites with the slowest
    site; None where not one round fits into the plan."""
    waiting_share: float
    """Part of a round in which the site neither trains nor sends nor receives."""
    training_share: float
    link_share: float
    memory_bytes: int
    """Of one device: weights, gradients and optimiser state; activations are left out."""
    bottleneck: str
    """What most of a round goes into: "contacts" (waiting for one, or filling the time with
    training that a shorter gap would cut short), "training", "link" (also where an update needs
    more than one contact), or "no round fits"."""


@dataclass(frozen=True)
class _Demand:
    """What one cluster's round asks for."""

    work: Work
    upload_bytes: int
    download_bytes: int


def expectations(
    plan: ContactPlan,
    model: ModelSpec,
    training: TrainingConfig,
    config: SimulateConfig,
    settings: MethodSettings,
    methods: Sequence[str],
) -> list[Expectation]:
    """Return one row per method and site, without training anything.

    Args:
        plan: who is in contact when.
        model: what is trained.
        training: batch size and momentum.
        config: device speeds and the cap on local steps.
        settings: of every method.
        methods: names as in `METHODS`; those judged from another's training, those that do not
            train, and those without a network are left out.
    """
    federation = _federation(plan.sites, model)
    cost = CostModel(config.device_flops_per_s, model)
    rows: list[Expectation] = []
    for name in methods:
        entry = METHODS[name]
        if entry.training_of is not None or entry.venue is not Venue.CONTACTS:
            continue
        method = entry.build(federation, training, settings)
        if method.next_work(plan.sites[0]) is None:
            continue
        method = entry.build(federation, training, settings)
        demands, num_awaited = _demands(method, federation)
        rounds = _rounds(plan, demands, cost, config, num_awaited)
        rows += [
            _row(name, site, plan, demands[site], rounds[site], federation, cost)
            for site in plan.sites
        ]
    return rows


def _federation(sites: Sequence[str], model: ModelSpec) -> Federation:
    """Return a federation with drawn weights and scores: only sizes matter here."""
    generator = torch.Generator().manual_seed(0)
    layers = len(model.layout().layers)
    shape = (layers, model.config.num_experts)
    nothing = DomainStatistics(
        1.0, torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    scores = {site: torch.rand(shape, generator=generator, dtype=torch.float64) for site in sites}
    return Federation(
        clusters=tuple(sites),
        weights=dict.fromkeys(sites, 1 / len(sites)),
        pretrained=model.initial_state(generator),
        layout=model.layout(),
        top_k=model.config.top_k,
        seed=0,
        scores={site: table / table.sum(1, keepdim=True) for site, table in scores.items()},
        statistics=dict.fromkeys(sites, nothing),
    )


def _demands(method: Method, federation: Federation) -> tuple[dict[str, _Demand], int | None]:
    """Return what a round asks for once under way, and how many sites a round waits for.

    None: nobody ever waits for another.
    """
    clusters = {name: Cluster(name, [1.0], [Device()]) for name in federation.clusters}
    uploads = {}
    waits, num_reports = False, 0
    for name, cluster in clusters.items():
        work = method.hand_out(name)
        if work is None:
            raise AssertionError(f"{method} gave {name} nothing to begin with")
        cluster.take_over(work, federation)
        cluster.take_snapshot()
    for name, cluster in clusters.items():
        update = cluster.build_update(federation)
        uploads[name] = update.num_bytes()
        if waits and method.version > 0:
            continue  # The round has ended: this report would come too late.
        method.receive(update)
        num_reports += 1
        waits |= method.version == 0 and method.next_work(name) is None
    demands = {}
    for name in clusters:
        work = method.hand_out(name)
        if work is None:
            raise AssertionError(f"{method} gave {name} nothing after a round")
        demands[name] = _Demand(work, uploads[name], num_bytes(work.payload))
    return demands, num_reports if waits else None


@dataclass(frozen=True)
class _Round:
    """Mean times of a site's rounds."""

    total_s: float
    training_s: float


def _rounds(
    plan: ContactPlan,
    demands: Mapping[str, _Demand],
    cost: CostModel,
    config: SimulateConfig,
    num_awaited: int | None,
) -> dict[str, _Round]:
    """Follow the plan from its start, round after round, until one does not fit any more.

    A round ends when `num_awaited` sites have reported; None: every site has its own rounds.
    """
    totals: dict[str, list[float]] = {site: [] for site in demands}
    trained: dict[str, list[float]] = {site: [] for site in demands}
    groups = [[site] for site in demands] if num_awaited is None else [list(demands)]
    for group in groups:
        now = 0.0
        while True:
            ends = {site: _follow(plan, site, now, demands[site], cost, config) for site in group}
            done = sorted(end for end, _ in ends.values())[(num_awaited or 1) - 1]
            if not isfinite(done):
                break
            for site, (_, training_s) in ends.items():
                totals[site].append(done - now)
                trained[site].append(training_s)
            now = done
    return {
        site: _Round(fmean(totals[site]), fmean(trained[site])) if totals[site] else _Round(inf, 0)
        for site in demands
    }


def _follow(
    plan: ContactPlan,
    site: str,
    start_s: float,
    demand: _Demand,
    cost: CostModel,
    config: SimulateConfig,
) -> tuple[float, float]:
    """Return when a round that starts at `start_s` has arrived, and how long it trained."""
    received_s = plan.finish_time(site, "down", start_s, demand.download_bytes)
    if not isfinite(received_s):
        return inf, 0.0
    step_s = cost.seconds(site, cost.step_flops(demand.work))
    longest_s = config.max_local_steps_per_contact * step_s
    if demand.work.num_steps is not None:
        training_s = min(demand.work.num_steps * step_s, longest_s)
        begin_s = received_s + training_s
    else:
        later = [c.start_s for c in plan.contacts(site) if c.start_s > received_s]
        if not later:
            return inf, 0.0
        training_s, begin_s = min(later[0] - received_s, longest_s), later[0]
    return plan.finish_time(site, "up", begin_s, demand.upload_bytes), training_s


def _row(
    method: str,
    site: str,
    plan: ContactPlan,
    demand: _Demand,
    found: _Round,
    federation: Federation,
    cost: CostModel,
) -> Expectation:
    statistics = next(row for row in plan.statistics() if row.site == site)
    per_contact = statistics.uplink_bits_per_day / statistics.contacts_per_day / 8
    step_s = cost.seconds(site, cost.step_flops(demand.work))
    up_bps = 8 * per_contact / statistics.mean_duration_s
    down_bps = up_bps * statistics.downlink_bits_per_day / statistics.uplink_bits_per_day
    link_s = 8 * (demand.upload_bytes / up_bps + demand.download_bytes / down_bps)
    shares = {"waiting": 1.0, "training": 0.0, "link": 0.0}
    if isfinite(found.total_s):
        shares["training"] = found.training_s / found.total_s
        shares["link"] = link_s / found.total_s
        shares["waiting"] = max(0.0, 1 - shares["training"] - shares["link"])
    held = split_sizes(federation.pretrained, federation.layout, demand.work.owned)
    copies = 1 + moments(demand.work.settings)
    trained = num_trained_parameters(demand.work, federation)
    return Expectation(
        method=method,
        site=site,
        contacts_per_day=statistics.contacts_per_day,
        uplink_bytes_per_contact=per_contact,
        upload_bytes=demand.upload_bytes,
        download_bytes=demand.download_bytes,
        contacts_per_upload=demand.upload_bytes / per_contact,
        step_s=step_s,
        steps_per_gap=(statistics.mean_gap_s or statistics.longest_gap_s) / step_s,
        round_s=found.total_s if isfinite(found.total_s) else None,
        waiting_share=shares["waiting"],
        training_share=shares["training"],
        link_share=shares["link"],
        memory_bytes=federation.layout.frozen_bytes
        + BYTES_PER_PARAMETER * (sum(held.values()) + copies * trained),
        bottleneck=_bottleneck(shares, demand, demand.upload_bytes > per_contact)
        if isfinite(found.total_s)
        else "no round fits",
    )


def _bottleneck(shares: Mapping[str, float], demand: _Demand, resumes: bool) -> str:
    """Return what would shorten a round most; `resumes`: an update does not fit one contact."""
    if resumes:
        return "link"
    fills = demand.work.num_steps is None
    contacts = shares["waiting"] + (shares["training"] if fills else 0.0)
    parts = {
        "contacts": contacts,
        "training": 0.0 if fills else shares["training"],
        "link": shares["link"],
    }
    return max(parts, key=lambda part: parts[part])
