"""Every method by name: how it is built, where it trains, and whose training it is judged from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from emsfl.methods.central import Central
from emsfl.methods.config import MethodSettings
from emsfl.methods.ems_fl import EmsFl
from emsfl.methods.esft import Esft
from emsfl.methods.fedasync import FedAsync
from emsfl.methods.fedavg import FedAvg
from emsfl.methods.fedavg_experts import FedAvgExperts
from emsfl.methods.fedbuff import FedBuff
from emsfl.methods.fedmoe import FedMoE
from emsfl.methods.fedprox import FedProx
from emsfl.methods.local import Local
from emsfl.methods.method import Federation, Method
from emsfl.moe import ScoreKind
from emsfl.training import LocalSettings, TrainingConfig

Build = Callable[[Federation, TrainingConfig, MethodSettings], Method]


class Venue(StrEnum):
    """Where training happens, and who exchanges what."""

    CONTACTS = "contacts"
    """At the sites; updates go over the contacts of the plan."""
    SITES = "sites"
    """At the sites, each by itself; nothing goes over the network."""
    POOL = "pool"
    """In one place with all data, with the mean of the clusters' numbers of steps."""
    POOL_OF_ALL = "pool_of_all"
    """In one place with all data, with the sum of the clusters' numbers of steps."""


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One row of the catalogue."""

    label: str
    """For people."""
    build: Build
    training_of: str | None = None
    """Judged from this method's training, because it differs in evaluation only."""
    gated: bool = True
    """False: judged with the plain router even where the method has a domain gate."""
    venue: Venue = Venue.CONTACTS
    score_kind: ScoreKind | None = None
    """How experts are scored for this method; None: as `training.score_kind` says."""


def local_settings(training: TrainingConfig, learning_rate: float) -> LocalSettings:
    """Return local training as all methods do it, with a method's own learning rate."""
    return LocalSettings(
        batch_size=training.batch_size,
        momentum=training.momentum,
        learning_rate=learning_rate,
        optimizer=training.optimizer,
        device=training.device,
        keeps_optimizer_state=training.optimizer_state == "kept",
    )


def _fedavg(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedavg
    return FedAvg(federation, local_settings(training, s.learning_rate), s.local_steps)


def _fedavg_fill(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    rate = settings.fedavg_fill.learning_rate
    return FedAvg(federation, local_settings(training, rate), None)


def _fedavg_quorum(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    s = settings.fedavg_quorum
    local = local_settings(training, s.learning_rate)
    return FedAvg(federation, local, s.local_steps, quorum=s.quorum)


def _fedavg_experts(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    s = settings.fedavg_experts
    return FedAvgExperts(federation, local_settings(training, s.learning_rate), s.local_steps)


def _fedprox(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedprox
    return FedProx(federation, local_settings(training, s.learning_rate), s.local_steps, s.mu)


def _fedasync(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedasync
    return FedAsync(
        federation,
        local_settings(training, s.learning_rate),
        local_steps=s.local_steps,
        mixing=s.mixing,
        staleness_exponent=s.staleness_exponent,
    )


def _fedbuff(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedbuff
    return FedBuff(
        federation,
        local_settings(training, s.learning_rate),
        local_steps=s.local_steps,
        buffer_size=s.buffer_size,
        server_learning_rate=s.server_learning_rate,
        staleness_exponent=s.staleness_exponent,
    )


def _fedmoe(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.fedmoe
    local = local_settings(training, s.learning_rate)
    return FedMoE(federation, local, s.local_steps, s.experts_per_cluster)


def _esft(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    s = settings.esft
    return Esft(federation, local_settings(training, s.learning_rate), s.experts_per_cluster)


def _local(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
    return Local(federation, local_settings(training, settings.local.learning_rate))


def _central_same(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    rate = settings.central_same_steps.learning_rate
    return Central(federation, local_settings(training, rate))


def _central_all(
    federation: Federation, training: TrainingConfig, settings: MethodSettings
) -> Method:
    rate = settings.central_all_steps.learning_rate
    return Central(federation, local_settings(training, rate))


def _ems_fl(
    *, train_shared: bool = True, random_experts: bool = False, tunes: bool = True
) -> Build:
    def build(federation: Federation, training: TrainingConfig, settings: MethodSettings) -> Method:
        s = settings.ems_fl
        local = replace(
            local_settings(training, s.learning_rate),
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
            staleness_exponent=s.staleness_exponent,
            shared_warmup_uploads=s.shared_warmup_uploads,
        )

    return build


METHODS: dict[str, MethodEntry] = {
    "ems_fl": MethodEntry(label="EMS-FL", build=_ems_fl()),
    "fedavg": MethodEntry(label="FedAvg, fixed local steps", build=_fedavg),
    "fedavg_fill": MethodEntry(label="FedAvg, training until its upload", build=_fedavg_fill),
    "fedavg_quorum": MethodEntry(label="FedAvg with a quorum", build=_fedavg_quorum),
    "fedavg_experts": MethodEntry(label="FedAvg on experts only", build=_fedavg_experts),
    "fedprox": MethodEntry(label="FedProx", build=_fedprox),
    "fedasync": MethodEntry(label="FedAsync", build=_fedasync),
    "fedbuff": MethodEntry(label="FedBuff", build=_fedbuff),
    "fedmoe": MethodEntry(label="FedMoE-like, overlapping experts", build=_fedmoe),
    "esft": MethodEntry(label="ESFT-like, all experts run, own ones trained", build=_esft),
    "local": MethodEntry(label="local only, no aggregation", build=_local, venue=Venue.SITES),
    "central_same_steps": MethodEntry(
        label="central, one cluster's steps", build=_central_same, venue=Venue.POOL
    ),
    "central_all_steps": MethodEntry(
        label="central, all clusters' steps", build=_central_all, venue=Venue.POOL_OF_ALL
    ),
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
    "ems_fl_random_no_gate": MethodEntry(
        label="EMS-FL, random assignment, without domain gate",
        build=_ems_fl(random_experts=True),
        training_of="ems_fl_random",
        gated=False,
    ),
    "ems_fl_frequency": MethodEntry(
        label="EMS-FL, experts scored by activation frequency",
        build=_ems_fl(),
        score_kind=ScoreKind.ACTIVATION_FREQUENCY,
    ),
    "ems_fl_gate_norm": MethodEntry(
        label="EMS-FL, experts scored by gate times output norm",
        build=_ems_fl(),
        score_kind=ScoreKind.GATE_TIMES_OUTPUT_NORM,
    ),
}
