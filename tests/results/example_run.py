"""A run as a real one might have ended, for the tests of this room: its numbers are made up."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from emsfl.results import (
    Assignment,
    ClusterTimeline,
    ContactStatistics,
    CurvePoint,
    Provenance,
    RunResult,
    SeedRecord,
    build_result,
)

SITES = ("Svalbard", "Inuvik", "Punta Arenas", "Hartebeesthoek")
DOMAINS = ("0°", "90°", "180°", "270°")
HOURS = 72
START_ACCURACY = 0.56
METHODS = {
    # final accuracy, hours to two thirds of the way, upload of one update, updates, TFLOP
    "ems_fl": (0.812, 7.0, 412_000, 190, 31.0),
    "fedavg": (0.702, 24.0, 1_050_000, 44, 12.5),
    "fedavg_fill": (0.731, 22.0, 1_050_000, 44, 30.0),
    "fedasync": (0.724, 15.0, 1_050_000, 96, 30.5),
    "ems_fl_no_gate": (0.668, 9.0, 412_000, 190, 31.0),
    "ems_fl_gate_only": (0.655, 1.0, 0, 0, 0.0),
    "ems_fl_frozen_shared": (0.778, 5.0, 301_000, 190, 24.0),
    "ems_fl_random": (0.808, 7.5, 412_000, 190, 31.0),
}


def example_result(
    *,
    name: str = "rotated digits over four sites",
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = tuple(METHODS),
    shift: float = 0.0,
) -> RunResult:
    """Return a finished run; `shift` is added to the final accuracy of EMS-FL alone."""
    arms = [method for method in methods if method.startswith("ems_fl")]
    timeline = _timeline(methods)
    return build_result(
        name=name,
        seeds=seeds,
        records={
            method: [_record(method, seed, shift if method == "ems_fl" else 0.0) for seed in seeds]
            for method in methods
        },
        initial_accuracy=[START_ACCURACY + 0.004 * seed for seed in seeds],
        assignment={method: _assignment(method == "ems_fl_random") for method in arms},
        timeline=timeline,
        contact_statistics=[_statistics(site, timeline[site].contacts) for site in SITES],
        config={
            "name": name,
            "seeds": list(seeds),
            "methods": list(methods),
            "orbit": {
                "hours": HOURS,
                "min_elevation_deg": 10,
                "sites": [{"name": site, "latitude_deg": 60.0 + i} for i, site in enumerate(SITES)],
            },
            "training": {"batch_size": 32, "momentum": 0.9},
            "tuned": {method: {"lr": 0.05} for method in methods},
        },
        provenance=example_provenance(seeds),
    )


def example_provenance(seeds: Sequence[int] = (0, 1, 2)) -> Provenance:
    return Provenance(
        created_utc="2026-06-24T12:00:00+00:00",
        wall_time_s=347.2,
        emsfl_version="0.1.0",
        packages={"numpy": "2.4.6", "sgp4": "2.27", "torch": "2.13.0"},
        python="3.11.9",
        platform="Linux x86_64",
        git_hash="0123456789abcdef0123456789abcdef01234567",
        config_hash="c" * 64,
        plan_hash="d" * 64,
        data_hash="e" * 64,
        model_hash={str(seed): f"{seed:064x}" for seed in seeds},
    )


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def as_bits_per_byte(result: RunResult) -> RunResult:
    """Return the same run as if a language model had been judged: 3 bits less the accuracy."""

    def flip(value: object) -> object:
        if isinstance(value, float):
            return 3.0 - value
        if isinstance(value, list):
            return [flip(item) for item in value]
        if isinstance(value, dict):
            return {k: v if k in _NOT_JUDGED else flip(v) for k, v in value.items()}
        return value

    plain = result.model_dump()
    judged = {"final_accuracy", "accuracy_by_domain", "submodel_accuracy", "curve"}
    for method in plain["methods"].values():
        method |= {key: flip(method[key]) for key in judged}
    for key in ("target_accuracy", "initial_accuracy"):
        plain[key] = flip(plain[key])
    return RunResult.model_validate(plain | {"metric": "bits_per_byte"})


_NOT_JUDGED = ("std", "time_s", "uploaded_bytes")


def _record(method: str, seed: int, shift: float) -> SeedRecord:
    final, scale_h, upload_bytes, num_updates, tflop = METHODS[method]
    random = _generator(method, seed)
    start = START_ACCURACY + 0.004 * seed
    end = final + shift - 0.012 * seed + float(random.normal(0, 0.004))
    curve = []
    for hour in range(0, HOURS + 1, 3):
        share = 1 - math.exp(-hour / scale_h)
        noise = float(random.normal(0, 0.004)) if 0 < hour < HOURS else 0.0
        accuracy = start + (end - start) * share + noise if hour < HOURS else end
        uploaded = upload_bytes * int(num_updates * hour / HOURS)
        curve.append(CurvePoint(time_s=hour * 3600.0, accuracy=accuracy, uploaded_bytes=uploaded))
    own = method.startswith("ems_fl")
    return SeedRecord(
        curve=curve,
        accuracy_by_domain={d: end + 0.03 * (1.5 - i) for i, d in enumerate(DOMAINS)},
        submodel_accuracy={s: end + 0.08 - 0.01 * i for i, s in enumerate(SITES)} if own else {},
        uploaded_bytes=upload_bytes * num_updates,
        downloaded_bytes=upload_bytes * num_updates // 2,
        update_bytes=[upload_bytes] * num_updates,
        num_refused=0,
        device_flops=tflop * 1e12,
        energy_J=tflop * 450.0,
        peak_trainable_parameters=104_000 if own else 262_000,
    )


def _timeline(methods: Sequence[str]) -> dict[str, ClusterTimeline]:
    timeline = {}
    for position, site in enumerate(SITES):
        random = _generator(site)
        contacts = []
        start = float(random.uniform(600, 6000))
        while start < HOURS * 3600 - 900:
            contacts.append((start, start + float(random.uniform(240, 840))))
            start += float(random.exponential(2700.0 * (1 + position))) + 1800.0
        uploads = {}
        for method in methods:
            every = {0: 0, 44: 5, 96: 2}.get(METHODS[method][3], 1)
            used = contacts[::every] if every else []
            uploads[method] = [
                (start, start + METHODS[method][2] * 8 / 352_000) for start, _ in used
            ]
        timeline[site] = ClusterTimeline(contacts=contacts, uploads=uploads)
    return timeline


def _statistics(site: str, contacts: Sequence[tuple[float, float]]) -> ContactStatistics:
    lengths = [end - start for start, end in contacts]
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(contacts)]
    days = HOURS / 24
    return ContactStatistics(
        site=site,
        contacts_per_day=len(contacts) / days,
        mean_duration_s=sum(lengths) / len(lengths),
        mean_gap_s=sum(gaps) / len(gaps),
        longest_gap_s=max(gaps),
        uplink_bits_per_day=sum(lengths) * 352_000 / days,
        downlink_bits_per_day=sum(lengths) * 704_000 / days,
    )


def _assignment(random: bool) -> Assignment:
    generator = _generator("assignment", random)
    owner: list[list[str | None]] = []
    for _ in range(2):
        order = generator.permutation(16)
        layer: list[str | None] = [None] * 16
        for position, expert in enumerate(order[:15]):
            layer[int(expert)] = SITES[position % 4]
        owner.append(layer)
    base = 0.25 if random else 0.46
    mass = {s: [base + 0.03 * i, base - 0.02 * i] for i, s in enumerate(SITES)}
    return Assignment(clusters=list(SITES), owner=owner, mass_kept=mass)
