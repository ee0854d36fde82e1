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


class FedAvgQuorumSettings(ConfigModel):
    """FedAvg whose rounds end when a share of the clusters has reported."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=None, ge=1)
    """Steps before an upload; null: until the next contact."""
    quorum: float = Field(default=0.75, gt=0, le=1)
    """Share of the clusters, rounded up, that ends a round; later reports are not used."""


class FedAvgExpertsSettings(ConfigModel):
    """FedAvg on the experts alone."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=60, ge=1)
    """Steps before an upload; null: until the next contact."""


class FedProxSettings(ConfigModel):
    """FedProx (arXiv 1812.06127)."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=60, ge=1)
    """Steps before an upload; null: until the next contact."""
    mu: float = Field(default=0.01, ge=0, le=100)
    """Weight of the proximal term; 0: FedAvg."""


class FedBuffSettings(ConfigModel):
    """FedBuff (arXiv 2106.06639)."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=None, ge=1)
    """Steps before an upload; null: until the next contact."""
    buffer_size: int = Field(default=2, ge=1, le=1000)
    """K: changes that the server waits for before it moves its model."""
    server_learning_rate: float = Field(default=1.0, gt=0, le=10)
    """Step along the mean of the buffered changes."""
    staleness_exponent: float = Field(default=0.5, ge=0, le=10)
    """a in (staleness + 1)^-a."""


class FedMoESettings(ConfigModel):
    """FedMoE-like: overlapping experts by activation (after arXiv 2408.11304)."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    local_steps: int | None = Field(default=60, ge=1)
    """Steps before an upload; null: until the next contact."""
    experts_per_cluster: int | None = Field(default=None, ge=1)
    """Experts per layer that each cluster holds; null: as many as EMS-FL's equal shares."""


class EsftSettings(ConfigModel):
    """ESFT-like: all experts run, the assigned ones train (after arXiv 2407.01906)."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    experts_per_cluster: int | None = Field(default=None, ge=1)
    """Experts per layer that each cluster trains; null: as many as there are for all."""


class AloneSettings(ConfigModel):
    """Training without a network: a cluster by itself, or one trainer on everybody's data."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)


class EmsFlSettings(ConfigModel):
    """EMS-FL and its ablations."""

    learning_rate: float = Field(default=0.05, gt=0, le=10)
    shared_lr_factor: float = Field(default=0.3, gt=0, le=10)
    """Step size of shared parameters as a multiple of the experts'."""
    experts_per_cluster: int | None = Field(default=None, ge=1)
    """Experts per layer that each cluster owns; null: as many as there are for all."""
    staleness_exponent: float = Field(default=0.0, ge=0, le=10)
    """a in (staleness + 1)^-a, which scales a cluster's shared delta; 0: no discount."""
    shared_warmup_uploads: int = Field(default=0, ge=0)
    """A cluster's step size of shared parameters grows to `shared_lr_factor` over so many of its
    uploads, linearly: the merged model is better at first; 0: full from the start."""


class MethodSettings(ConfigModel):
    """The `method_settings` section: one entry per method; EMS-FL's ablations use its own."""

    ems_fl: EmsFlSettings = EmsFlSettings()
    fedavg: FedAvgSettings = FedAvgSettings()
    fedavg_fill: FedAvgFillSettings = FedAvgFillSettings()
    fedavg_quorum: FedAvgQuorumSettings = FedAvgQuorumSettings()
    fedavg_experts: FedAvgExpertsSettings = FedAvgExpertsSettings()
    fedprox: FedProxSettings = FedProxSettings()
    fedasync: FedAsyncSettings = FedAsyncSettings()
    fedbuff: FedBuffSettings = FedBuffSettings()
    fedmoe: FedMoESettings = FedMoESettings()
    esft: EsftSettings = EsftSettings()
    local: AloneSettings = AloneSettings()
    central_same_steps: AloneSettings = AloneSettings()
    central_all_steps: AloneSettings = AloneSettings()
