"""Settings of each method: what the `method_settings` section of a configuration holds."""

from __future__ import annotations

from pydantic import Field

from emsfl.config import ConfigModel


class FedAvgSettings(ConfigModel):
    """FedAvg with a fixed number of local steps."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int = Field(default=60, ge=1)
    """Steps that every device trains in a round, before its cluster uploads."""


class FedAvgFillSettings(ConfigModel):
    """FedAvg that trains until its upload contact."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)


class FedAsyncSettings(ConfigModel):
    """FedAsync (arXiv 1903.03934)."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=None, ge=1)
    """Steps before an upload; null: until the next contact."""
    mixing: float = Field(default=0.5, gt=0, le=1)
    """alpha: share of an update without staleness in the new model."""
    staleness_exponent: float = Field(default=0.5, ge=0, le=10)
    """a in alpha * (staleness + 1)^-a."""


class EmsFlSettings(ConfigModel):
    """EMS-FL and its ablations."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    shared_lr_factor: float = Field(default=0.3, gt=0, le=10)
    """Step size of shared parameters as a multiple of the experts'."""
    experts_per_cluster: int | None = Field(default=None, ge=1)
    """Experts per layer that each cluster owns; null: as many as there are for all."""


class MethodSettings(ConfigModel):
    """The `method_settings` section: one entry per method; EMS-FL's ablations use its own."""

    ems_fl: EmsFlSettings = EmsFlSettings()
    fedavg: FedAvgSettings = FedAvgSettings()
    fedavg_fill: FedAvgFillSettings = FedAvgFillSettings()
    fedasync: FedAsyncSettings = FedAsyncSettings()
