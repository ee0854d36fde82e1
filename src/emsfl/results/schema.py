"""The schema of `result.json`: what a run reports, field by field.

Per-seed lists are in the order of `RunResult.seeds`. Times are virtual seconds since the plan's
epoch unless the name says `wall`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1
"""Raised by one when a field changes its meaning or goes; readers refuse newer numbers."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Spread(_Section):
    """One quantity over the seeds."""

    mean: float
    std: float
    """Sample standard deviation (n - 1); 0 for one seed."""
    per_seed: list[float]


class TimeToTarget(_Section):
    """The first time on the common grid at which each seed's merged model reached its target."""

    mean: float | None
    """Mean over the seeds; None when a seed never reached its target."""
    per_seed: list[float | None]


class CurvePoint(_Section):
    """The merged model at one point of the common grid of virtual times."""

    time_s: float
    accuracy: float
    uploaded_bytes: int
    """Bytes that had reached the satellites by then, all clusters together."""


class MethodResult(_Section):
    """What one method did, over all seeds."""

    label: str
    """For people: 'EMS-FL (no gate)'."""
    final_accuracy: Spread
    """Merged model on the union of the domains' test sets, at the end."""
    accuracy_by_domain: dict[str, Spread]
    submodel_accuracy: dict[str, Spread]
    """Every cluster's own model on its own domain; keys are cluster names."""
    time_to_target_s: TimeToTarget
    uploaded_bytes: Spread
    downloaded_bytes: Spread
    upload_bytes_per_contact: Spread
    """Uploaded bytes of one update: the mean over all updates that arrived."""
    num_updates: Spread
    num_refused: Spread
    """Updates that the server refused (not finite, wrong shape, not this cluster's experts)."""
    device_flops: Spread
    energy_J: Spread
    peak_trainable_parameters: int
    """Largest number of parameters that one device trains at once."""
    curve: list[list[CurvePoint]]
    """One list per seed, on one grid of times common to all methods."""


class ClusterTimeline(_Section):
    """One cluster's contacts, and when each method uploaded in them (first seed)."""

    contacts: list[tuple[float, float]]
    """(start, end) of each usable contact."""
    uploads: dict[str, list[tuple[float, float]]]
    """Per method: (start, arrival) of each update."""


class ContactStatistics(_Section):
    """How often one site is in contact."""

    site: str
    contacts_per_day: float
    mean_duration_s: float
    mean_gap_s: float | None
    """Mean time between the end of a contact and the next start; None below two contacts."""
    longest_gap_s: float
    """The ends of the plan count."""
    uplink_bits_per_day: float
    downlink_bits_per_day: float


class Assignment(_Section):
    """Which expert belongs to which cluster, and how much routing weight each cluster keeps."""

    clusters: list[str]
    owner: list[list[str | None]]
    """[layer][expert]: the owning cluster's name, or None where nobody owns the expert."""
    mass_kept: dict[str, list[float]]
    """Per cluster, per layer: share (0 to 1) of its routing weight on its own experts."""


class Provenance(_Section):
    """What made the result. Timestamps and wall time are the only fields that differ on a rerun."""

    created_utc: str
    wall_time_s: float
    emsfl_version: str
    packages: dict[str, str]
    python: str
    platform: str
    git_hash: str | None
    config_hash: str
    plan_hash: str
    data_hash: str
    model_hash: dict[str, str]
    """Hash of the pre-trained model, per seed (as text)."""


class RunResult(_Section):
    """Everything a run reports."""

    schema_version: int
    name: str
    seeds: list[int]
    target_accuracy: list[float] | None
    """Per seed, the final accuracy of the better FedAvg form; None when no FedAvg form ran."""
    initial_accuracy: list[float]
    """Per seed, the pre-trained model before any tuning, on the union of test sets."""
    methods: dict[str, MethodResult]
    assignment: dict[str, Assignment]
    """Per EMS-FL arm (method name), for the first seed."""
    timeline: dict[str, ClusterTimeline]
    contact_statistics: list[ContactStatistics]
    config: dict[str, Any]
    provenance: Provenance
