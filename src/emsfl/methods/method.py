"""What every federated method is: it hands out work, accepts updates, and shows its model.

A method knows no clock, no orbit and no transport. A driver asks it for a cluster's next work
whenever that cluster can receive something, and hands it every update that arrives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from emsfl.errors import UpdateRefusedError
from emsfl.moe import DomainGate, DomainStatistics, MoELayout, Owned, State, split_sizes
from emsfl.training import LocalSettings, is_trained, num_bytes


class Activity(StrEnum):
    """What a cluster's devices do with their work."""

    TRAIN = "train"
    SCORE = "score"
    """Score all experts of the pre-trained model on local data, and measure the domain."""


class Receive(StrEnum):
    """How devices take over what they receive."""

    RESET = "reset"
    """Start from the pre-trained sub-model, overwritten by the payload; forget what the optimiser
    remembers, unless the settings keep it."""
    REBASE = "rebase"
    """Go on from: cluster average, overwritten by the payload, plus the device's own progress
    since its snapshot."""


class Upload(StrEnum):
    """What an update holds."""

    MODEL = "model"
    """The values of everything that was trained."""
    SPLIT = "split"
    """The values of the experts, and the change of the shared parameters since the download."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a cluster gets to do: what it holds, how it trains and what it sends back."""

    owned: Owned
    """Experts in the model that its devices hold."""
    payload: State
    """Tensors sent to it; what it needs and is not here it has already."""
    payload_experts: Owned | None = None
    """Experts whose rows the payload's expert tensors hold; None: all that are `owned`."""
    settings: LocalSettings
    activity: Activity = Activity.TRAIN
    receive: Receive = Receive.RESET
    upload: Upload = Upload.MODEL
    num_steps: int | None = None
    """Local steps before the upload; None: as many as fit before the next contact."""
    trains_while_uploading: bool = False
    version: int = 0
    """The server's version that the payload was taken from."""

    @property
    def trained_experts(self) -> Owned:
        """Experts that an update holds: those that train."""
        chosen = self.settings.trained_experts
        return self.owned if chosen is None else chosen


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a cluster sends: the weighted average over its devices."""

    cluster: str
    version: int
    """Of the work that it answers."""
    values: State = field(default_factory=dict)
    shared_delta: State = field(default_factory=dict)
    statistics: DomainStatistics | None = None
    scores: Tensor | None = None
    """[L, E] float64, rows sum to 1."""

    def num_bytes(self) -> int:
        """Return the bytes that go over the link."""
        extras = {}
        if self.statistics is not None:
            extras = self.statistics.tensors()
        if self.scores is not None:
            extras["scores"] = self.scores
        return num_bytes(self.values) + num_bytes(self.shared_delta) + num_bytes(extras)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What a method knows from the start."""

    clusters: tuple[str, ...]
    weights: Mapping[str, float]
    """Share of all samples that each cluster holds; the shares sum to 1."""
    pretrained: State
    layout: MoELayout
    top_k: int
    seed: int
    scores: Mapping[str, Tensor] | None = None
    """Scores made before the epoch; None: they are to be uploaded in contacts."""
    statistics: Mapping[str, DomainStatistics] | None = None
    """Domain statistics of the pre-trained model, made before the epoch."""

    @property
    def preinstalled(self) -> bool:
        """Whether devices hold the pre-trained model at the epoch; else it goes over the air."""
        return self.scores is not None


@dataclass(frozen=True, kw_only=True)
class MergedModel:
    """The full model as the server would hand it out."""

    state: State
    gate: DomainGate | None = None
    by_cluster: Mapping[str, State] | None = None
    """Where there is no common model: every cluster's own, judged on the cluster's domain."""


class Method(ABC):
    """The server's side of one federated method."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.version = 0
        """How many times the model has changed."""
        self.state: State = dict(federation.pretrained)
        """The server's model."""
        self.scores: dict[str, Tensor] = dict(federation.scores or {})
        """What is known of how well experts fit each cluster's data."""
        self.statistics: dict[str, DomainStatistics] = dict(federation.statistics or {})
        self.reached: set[str] = set()
        """Clusters that have been given work, and so hold the pre-trained model."""
        self.outstanding: dict[str, Work] = {}
        """Work that a cluster has and has not answered."""

    def hand_out(self, cluster: str) -> Work | None:
        """Return the cluster's next work, or None where it has to wait."""
        work = self.next_work(cluster)
        if work is not None:
            self.outstanding[cluster] = work
            self.reached.add(cluster)
        return work

    def receive(self, update: Update) -> None:
        """Check an update and merge it.

        Raises:
            UpdateRefusedError: the update answers no work, or holds tensors that were not asked
                for, of a wrong shape or type, or not finite; then `refused` has been told. Or it
                comes too late for the method. Nothing has been merged.
        """
        work = self.outstanding.get(update.cluster)
        try:
            if work is None:
                raise UpdateRefusedError(f"{update.cluster} sent an update without being asked")
            check_update(update, work, self.federation)
            if work.activity is Activity.SCORE:
                check_scores(update, list(self.statistics.values()))
        except UpdateRefusedError:
            self.reject(update.cluster)
            raise
        del self.outstanding[update.cluster]
        if work.activity is Activity.TRAIN:
            self.accept(update, work)
        elif update.scores is not None and update.statistics is not None:
            self.scores[update.cluster] = update.scores
            self.statistics[update.cluster] = update.statistics
            self.scored()

    def scoring_work(self, cluster: str, settings: LocalSettings) -> Work | None:
        """Send the whole model once, to be scored on local data; None once that is done."""
        if cluster in self.scores:
            return None
        return Work(
            owned=self.federation.layout.all_experts(),
            payload=self.to_send(cluster, self.federation.pretrained, settings),
            settings=settings,
            activity=Activity.SCORE,
            num_steps=0,
        )

    def to_send(self, cluster: str, state: State, settings: LocalSettings) -> State:
        """Return what `cluster` lacks of `state`, a model or a sub-model with all its names.

        That is what training with `settings` changes. A cluster that does not hold the
        pre-trained model yet gets all of it, except for what is frozen, which never travels.
        """
        layout = self.federation.layout
        whole = not self.federation.preinstalled and cluster not in self.reached
        sent = {
            name: tensor
            for name, tensor in state.items()
            if (whole and name not in layout.frozen_names) or is_trained(name, layout, settings)
        }
        return state if len(sent) == len(state) else sent

    def reject(self, cluster: str) -> None:
        """Count the cluster's work as answered by something that must not be merged."""
        self.outstanding.pop(cluster, None)
        self.refused(cluster)

    @abstractmethod
    def next_work(self, cluster: str) -> Work | None:
        """Decide what the cluster does next; None: nothing for now."""

    @abstractmethod
    def accept(self, update: Update, work: Work) -> None:
        """Merge an update that has been checked; raise UpdateRefusedError where it is too late."""

    def scored(self) -> None:  # noqa: B027 - most methods need no scores
        """React to scores that have arrived."""

    def refused(self, cluster: str) -> None:  # noqa: B027 - most methods need not react
        """React to an update of `cluster` that was refused."""

    def merged(self) -> MergedModel:
        """Return the model that is judged; by default the server's, with its plain router."""
        return MergedModel(state=self.state)

    def submodel(self, cluster: str) -> tuple[State, Owned]:
        """Return the model that serves the cluster itself; by default the merged one."""
        del cluster
        return self.merged().state, self.federation.layout.all_experts()

    def save(self) -> dict[str, Any]:
        """Return all that `restore` needs: nested dicts and lists of tensors and plain values."""
        return {
            "version": self.version,
            "state": self.state,
            "scores": self.scores,
            "statistics": self.statistics,
            "reached": sorted(self.reached),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned (work that is outstanding is the driver's to restore)."""
        self.version, self.state = saved["version"], saved["state"]
        self.scores, self.statistics = saved["scores"], saved["statistics"]
        self.reached = set(saved["reached"])


def check_update(update: Update, work: Work, federation: Federation) -> None:
    """Refuse what must not be merged.

    Raises:
        UpdateRefusedError: names the first thing that is wrong.
    """
    if work.activity is Activity.SCORE:
        num_layers = len(federation.layout.layers)
        expected = (num_layers, federation.layout.layers[0].num_experts)
        _check_tensor(update.cluster, "scores", update.scores, expected)
        if update.statistics is None:
            raise UpdateRefusedError(f"{update.cluster}: domain statistics are missing")
        size = len(update.statistics.total)
        _check_tensor(update.cluster, "domain mean", update.statistics.total, (size,))
        _check_tensor(update.cluster, "domain spread", update.statistics.outer, (size, size))
    names = [
        name
        for name in federation.pretrained
        if work.activity is Activity.TRAIN and is_trained(name, federation.layout, work.settings)
    ]
    split = work.upload is Upload.SPLIT
    deltas = {n for n in names if split and federation.layout.is_shared(n)}
    for kind, tensors, wanted in (
        ("values", update.values, set(names) - deltas),
        ("shared delta", update.shared_delta, deltas),
    ):
        if set(tensors) != wanted:
            wrong = sorted(set(tensors) ^ wanted)
            raise UpdateRefusedError(
                f"{update.cluster}: {kind} of its update differ from what was asked for: {wrong}"
            )
        for name in sorted(tensors):
            shape = list(federation.pretrained[name].shape)
            for layer, ids, trained in zip(
                federation.layout.layers, work.owned, work.trained_experts, strict=True
            ):
                if name in layer.expert_axes:
                    shape[layer.expert_axes[name]] = len(trained)
                elif name in layer.router_axes:
                    shape[layer.router_axes[name]] = len(ids)
            _check_tensor(update.cluster, name, tensors[name], tuple(shape))


def check_scores(update: Update, known: Sequence[DomainStatistics]) -> None:
    """Refuse scores that are no shares, and statistics that no gate can be fitted to.

    Args:
        update: its scores and statistics have the right shapes.
        known: the statistics of other clusters.

    Raises:
        UpdateRefusedError: names the first thing that is wrong.
    """
    scores, statistics = update.scores, update.statistics
    assert scores is not None
    assert statistics is not None
    if float(scores.min()) < 0 or float((scores.sum(1) - 1).abs().max()) > 1e-3:
        raise UpdateRefusedError(f"{update.cluster}: scores are no shares that sum to 1 by layer")
    if not (math.isfinite(statistics.count) and statistics.count > 0):
        raise UpdateRefusedError(
            f"{update.cluster}: domain statistics of {statistics.count} inputs"
        )
    for name, tensor in statistics.tensors().items():
        _check_tensor(update.cluster, f"domain {name}", tensor, tuple(tensor.shape))
    owner = torch.zeros_like(scores, dtype=torch.int64)
    try:
        statistics.fit([statistics, *known], owner)
    except RuntimeError as error:
        raise UpdateRefusedError(
            f"{update.cluster}: no gate can be fitted to its domain statistics: {error}"
        ) from error


def _check_tensor(cluster: str, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None or tuple(tensor.shape) != shape:
        found = None if tensor is None else list(tensor.shape)
        raise UpdateRefusedError(f"{cluster}: {name} has shape {found}, not {list(shape)}")
    if not tensor.is_floating_point() or not math.isfinite(_spread(tensor)):
        raise UpdateRefusedError(f"{cluster}: {name} holds values that are not finite")


def _spread(tensor: Tensor) -> float:
    """Return largest minus smallest value: finite only where all values are (one fast pass)."""
    low, high = tensor.aminmax()
    return float(high.double() - low.double())


def num_trained_parameters(work: Work, federation: Federation) -> int:
    """Return how many parameters one device trains with this work."""
    sizes = split_sizes(federation.pretrained, federation.layout, work.trained_experts)
    return sum(n for k, n in sizes.items() if is_trained(k, federation.layout, work.settings))
