"""The schema of `result.json`: what a run reports, field by field.

Per-seed lists are in the order of `RunResult.seeds`. Times are virtual seconds since the plan's
epoch unless the name says `wall`.
"""

from __future__ import annotations

from typing import Any, Literal

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
    """Over the seeds."""
    std: float
    """Sample standard deviation (n - 1); 0 for one seed."""
    per_seed: list[float]
    """One value per seed."""


class TimeToTarget(_Section):
    """The first time on the common grid at which each seed's merged model reached its target."""

    mean: float | None
    """Mean over the seeds; None when a seed never reached its target."""
    per_seed: list[float | None]
    """One time per seed; None where the seed never reached its target."""


class CurvePoint(_Section):
    """The merged model at one point of the common grid of virtual times."""

    time_s: float
    """Virtual time."""
    accuracy: float
    """The run's metric on the union of the domains' test sets."""
    uploaded_bytes: int
    """Bytes that had reached the satellites by then, all clusters together."""


class MethodResult(_Section):
    """What one method did, over all seeds."""

    label: str
    """For people: 'EMS-FL (no gate)'."""
    final_accuracy: Spread
    """Merged model on the union of the domains' test sets, at the end."""
    accuracy_by_domain: dict[str, Spread]
    """Merged model on each domain's test set, at the end."""
    submodel_accuracy: dict[str, Spread]
    """Every cluster's own model on its own domain; keys are cluster names."""
    time_to_target_s: TimeToTarget
    """Against `RunResult.target_accuracy`."""
    uploaded_bytes: Spread
    """Bytes that reached the satellites in the whole run, all clusters together."""
    downloaded_bytes: Spread
    """Bytes that reached the sites in the whole run, all clusters together."""
    upload_bytes_per_contact: Spread
    """Uploaded bytes of one update: the mean over all that were merged; 0 without any."""
    num_updates: Spread
    """Updates that arrived and were merged."""
    num_refused: Spread
    """Updates that the server refused (not finite, wrong shape, not this cluster's experts)."""
    device_flops: Spread
    """Floating-point operations of training on all devices together."""
    energy_J: Spread
    """Energy of all devices together, computing and transmitting."""
    peak_trainable_parameters: int
    """Largest number of parameters that one device trains at once."""
    peak_optimizer_bytes: int | None = None
    """Largest optimiser state of one device; None where it was not counted."""
    peak_memory_bytes: int | None = None
    """Most memory that one device trains in: parameters held, gradients, optimiser state and the
    activations of one batch; None where it was not counted."""
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
    """Name of the site, which is the cluster's name."""
    contacts_per_day: float
    """Usable contacts over the days of the plan."""
    mean_duration_s: float
    """Mean length of a contact."""
    mean_gap_s: float | None
    """Mean time between the end of a contact and the next start; None below two contacts."""
    longest_gap_s: float
    """Longest time without contact; the ends of the plan count."""
    uplink_bits_per_day: float
    """What the contacts can carry from site to satellite."""
    downlink_bits_per_day: float
    """What the contacts can carry from satellite to site."""


class Assignment(_Section):
    """Which expert belongs to which cluster, and how much routing weight each cluster keeps."""

    clusters: list[str]
    """Names of all clusters."""
    owner: list[list[str | None]]
    """[layer][expert]: the owning cluster's name, or None where nobody owns the expert."""
    mass_kept: dict[str, list[float]]
    """Per cluster, per layer: share (0 to 1) of its routing weight on its own experts."""


class Provenance(_Section):
    """What made the result. Timestamps and wall time are the only fields that differ on a rerun."""

    created_utc: str
    """When the result was written, ISO 8601."""
    wall_time_s: float
    """Real seconds since the run was started, or last resumed."""
    emsfl_version: str
    """Version of emsfl."""
    packages: dict[str, str]
    """Versions of the installed packages that can change a number."""
    python: str
    """Version of Python."""
    platform: str
    """Operating system and machine type."""
    git_hash: str | None
    """Commit of the checkout, with `-dirty` if changed; None when emsfl ran from none."""
    config_hash: str
    """Hash of the resolved config."""
    plan_hash: str
    """Hash of the contact plan."""
    data_hash: str
    """Hash of the data set and its division over clusters and devices."""
    model_hash: dict[str, str]
    """Hash of the pre-trained model, per seed (as text)."""


class RunResult(_Section):
    """Everything a run reports."""

    schema_version: int
    """Version of this schema; readers refuse newer ones."""
    name: str
    """Name of the run, from its config."""
    seeds: list[int]
    """Seeds that ran; every per-seed list follows them."""
    metric: Literal["accuracy", "bits_per_byte"] = "accuracy"
    """What every field whose name says `accuracy` holds: shares from 0 to 1, or, for a language
    model, bits per byte of text (lower is better)."""
    target_accuracy: list[float] | None
    """Per seed, the final accuracy of the best FedAvg form; None when no FedAvg form ran.

    Best is the form with the best mean over the seeds; per seed its own final value counts.
    """
    initial_accuracy: list[float]
    """Per seed, the pre-trained model before any tuning, on the union of test sets."""
    methods: dict[str, MethodResult]
    """Per method name."""
    assignment: dict[str, Assignment]
    """Per EMS-FL arm (method name), for the first seed."""
    timeline: dict[str, ClusterTimeline]
    """Per cluster name."""
    contact_statistics: list[ContactStatistics]
    """One entry per site."""
    config: dict[str, Any]
    """The resolved config with every field."""
    provenance: Provenance
    """What made the result."""
