"""The `deploy` section of a configuration: guard times, checks and what leaves a cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from emsfl.config import ConfigModel


class PrivacyConfig(ConfigModel):
    """Clipping and Gaussian noise on every update before it leaves its cluster."""

    clip_norm: float = Field(gt=0, le=1e9)
    """Largest L2 norm of a cluster's change of all that it uploads."""
    noise_multiplier: float = Field(gt=0, le=1e6)
    """Standard deviation of the noise as a multiple of `clip_norm`."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Of the (epsilon, delta) that is reported for each cluster's uploads so far."""


class DeployConfig(ConfigModel):
    """A deployment between real machines."""

    guard_s: float = Field(default=2.0, ge=0)
    """Seconds at both ends of a contact in which nothing is sent."""
    part_bytes: int = Field(default=512 * 1024, ge=1024, le=4 * 1024**2)
    """Of one message. What a cut link loses is the part that was under way."""
    aggregation: Literal["mean", "median", "trimmed_mean"] = "mean"
    """How a cluster's devices are averaged: by data weight, or robustly and without weights."""
    trim_fraction: float = Field(default=0.2, ge=0, lt=0.5)
    """Of the devices, cut off at each end by `trimmed_mean`, coordinate by coordinate."""
    max_change_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of an update's change that the server accepts; null: any that is finite."""
    privacy: PrivacyConfig | None = None
