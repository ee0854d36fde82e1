"""The `training` section of a configuration, and what a method adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from emsfl.config import ConfigModel
from emsfl.moe import Owned, ScoreKind
from emsfl.training.device import Processor

OptimizerKind = Literal["sgd", "adam"]


class TrainingConfig(ConfigModel):
    """Local training as every method does it."""

    batch_size: int = Field(default=32, ge=1, le=65536)
    optimizer: OptimizerKind = "sgd"
    """`adam` (arXiv 1412.6980) is without weight decay."""
    optimizer_state: Literal["reset", "kept"] = "reset"
    """What becomes of the optimiser's state on a device whose model a method replaces by the
    server's. It never leaves the device. EMS-FL replaces a model at the start and after a refused
    update only; its devices keep theirs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of `sgd`."""
    device: Processor = "cpu"
    """Where the real work runs; `cuda`: on the first GPU, deterministic, with other last bits."""
    score_kind: ScoreKind = ScoreKind.MEAN_GATE
    """How the fit of an expert to local data is scored."""
    score_samples: int = Field(default=512, ge=1)
    """Samples per device that scoring looks at, at most."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How the devices of one cluster train."""

    batch_size: int
    momentum: float
    learning_rate: float
    optimizer: OptimizerKind = "sgd"
    device: Processor = "cpu"
    """Where the real work runs."""
    shared_lr_factor: float = 1.0
    """Step size of shared parameters, as a multiple of `learning_rate`."""
    train_experts: bool = True
    train_shared: bool = True
    train_routers: bool = True
    trained_experts: Owned | None = None
    """Of the experts that are held, those that train, by their place in the model; None: all."""
    proximal: float = 0.0
    """mu of FedProx: pulls every trained parameter back to where the task began."""
    keeps_optimizer_state: bool = False
    """Also when the server's model replaces the device's."""
