"""Every method by name: how it is built, and from whose training it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emsfl.methods.config import MethodSettings
from emsfl.methods.ems_fl import EmsFl
from emsfl.methods.fedasync import FedAsync
from emsfl.methods.fedavg import FedAvg
from emsfl.methods.method import Federation, Method
from emsfl.training import LocalSettings, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One row of the catalogue."""

    label: str
    """For people."""
    build: Callable[[Federation, TrainingConfig, MethodSettings], Method]
    training_of: str | None = None
    """Judged from this method's training, because it differs in evaluation only."""
    gated: bool = True
    """False: judged with the plain router even where the method has a domain gate."""


def _local(training: TrainingConfig, learning_rate: float) -> LocalSettings:
    return LocalSettings(
        batch_size=training.batch_size,
        momentum=training.momentum,
        learning_rate=learning_rate,
        optimizer=training.optimizer,
        device=training.device,
    )


def _fedavg(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedavg
    return FedAvg(federation, _local(training, s.learning_rate), s.local_steps)


def _fedavg_fill(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    return FedAvg(federation, _local(training, settings.fedavg_fill.learning_rate), None)


def _fedasync(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedasync
    return FedAsync(
        federation,
        _local(training, s.learning_rate),
        local_steps=s.local_steps,
        mixing=s.mixing,
        staleness_exponent=s.staleness_exponent,
    )


def _ems_fl(
    *, train_shared: bool = True, random_experts: bool = False, tunes: bool = True
) -> Callable[[Federation, TrainingConfig, MethodSettings], Method]:
    def build(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
        s = settings.ems_fl
        local = LocalSettings(
            batch_size=training.batch_size,
            momentum=training.momentum,
            learning_rate=s.learning_rate,
            optimizer=training.optimizer,
            device=training.device,
            shared_lr_factor=s.shared_lr_factor,
            train_shared=train_shared,
            train_routers=False,
        )
        return EmsFl(
            federation,
            local,
            experts_per_cluster=s.experts_per_cluster,
            random_experts=random_experts,
            tunes=tunes,
        )

    return build


METHODS: dict[str, MethodEntry] = {
    "ems_fl": MethodEntry(label="EMS-FL", build=_ems_fl()),
    "fedavg": MethodEntry(label="FedAvg, fixed local steps", build=_fedavg),
    "fedavg_fill": MethodEntry(label="FedAvg, training until its upload", build=_fedavg_fill),
    "fedasync": MethodEntry(label="FedAsync", build=_fedasync),
    "ems_fl_no_gate": MethodEntry(
        label="EMS-FL without domain gate", build=_ems_fl(), training_of="ems_fl", gated=False
    ),
    "ems_fl_gate_only": MethodEntry(
        label="EMS-FL, gate only (no tuning)", build=_ems_fl(tunes=False)
    ),
    "ems_fl_frozen_shared": MethodEntry(
        label="EMS-FL, shared parameters frozen", build=_ems_fl(train_shared=False)
    ),
    "ems_fl_random": MethodEntry(
        label="EMS-FL, random assignment", build=_ems_fl(random_experts=True)
    ),
}
