"""Score and judge the model of a checkpoint folder: what `emsfl score` and `evaluate` do."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from emsfl.data.files import ALL, Table
from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayout, find_moe_layers
from emsfl.moe.checkpoint import open_checkpoint
from emsfl.moe.domain_statistics import save_statistics, statistics_path
from emsfl.moe.gate_wrapper import StoredGate, gating, has_gate, read_gate
from emsfl.moe.manifests import (
    LayerScores,
    ScoresFile,
    StatisticsInfo,
    check_cluster_name,
    write_document,
)
from emsfl.moe.merge_checkpoint import owners_of
from emsfl.moe.pretrained import load_model
from emsfl.moe.pretrained_features import feature_tensors, sha256_of_tensors
from emsfl.moe.scoring import ScoreKind
from emsfl.training.device import one_thread
from emsfl.training.model_measures import (
    Evaluation,
    Progress,
    evaluate_table,
    score_table,
)
from emsfl.training.table_task import TableTask


def score_model(
    folder: Path,
    table: Table,
    out: Path,
    *,
    cluster: str,
    kind: str,
    with_statistics: bool,
    batch_size: int,
    max_length: int,
    progress: Progress,
) -> ScoresFile:
    """Score the experts of a checkpoint on a cluster's data and write what was found.

    Args:
        folder: the pre-trained checkpoint.
        table: the cluster's data.
        out: gets the scores, and its neighbour `statistics_path(out)` the domain statistics.
        cluster: whose data it is.
        kind: of `ScoreKind`.
        with_statistics: whether domain statistics, for the domain gate, are written too.
        batch_size: samples per forward pass.
        max_length: tokens per sample, at most.
        progress: told of samples done.

    Raises:
        DataError: no MoE, a table that does not fit the model's task, or a cluster's name that
            cannot be a folder's.
    """
    try:
        check_cluster_name(cluster)
    except ValueError as error:
        raise DataError(str(error)) from None
    checkpoint = open_checkpoint(folder)
    model = load_model(folder)
    layout = find_moe_layers(model)
    with one_thread():
        task = TableTask(model, folder, table, max_length)
        scores = score_table(model, layout, task, ScoreKind(kind), batch_size, progress)
        features: tuple[str, ...] = ()
        if with_statistics:
            features = feature_tensors(model, layout, checkpoint, task.batch([0]).inputs)
    statistics = None
    if with_statistics:
        statistics = StatisticsInfo(
            sha256=save_statistics(statistics_path(out), scores.statistics),
            pooling=task.pooling,
            features=features,
            features_sha256=sha256_of_tensors(checkpoint, features),
        )
    written = ScoresFile(
        cluster=cluster,
        kind=ScoreKind(kind),
        structure_sha256=checkpoint.structure_sha256,
        num_samples=len(table),
        num_tokens=scores.num_tokens,
        layers=tuple(
            LayerScores(name=layer.name, scores=tuple(values))
            for layer, values in zip(layout.layers, scores.values.tolist(), strict=True)
        ),
        statistics=statistics,
    )
    write_document(out, written)
    return written


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """A model judged on every domain of a table."""

    gated: bool
    """Whether the domain gate routed."""
    domains: dict[str, Evaluation]
    """Domain -> judgement; `all` for the union of several."""


def evaluate_model(
    folder: Path,
    table: Table,
    *,
    gate: bool | None,
    batch_size: int,
    max_length: int,
    progress: Progress,
) -> EvaluationReport:
    """Judge the model of a checkpoint folder.

    Args:
        folder: with or without a domain gate beside the weights.
        table: judged domain by domain. Where a domain bears the name of a cluster that the
            checkpoint was merged from, the mass kept on that cluster's experts is told too.
        gate: whether the domain gate routes; None: if it is there.
        batch_size: samples per forward pass.
        max_length: tokens per sample, at most.
        progress: told of samples done.

    Raises:
        DataError: a gate is asked for and not there, or a table that does not fit.
    """
    use_gate = has_gate(folder) if gate is None else gate
    stored = read_gate(folder) if use_gate else None
    model = load_model(folder)
    with one_thread():
        domains = evaluate_domains(
            model,
            folder,
            table,
            stored=stored,
            batch_size=batch_size,
            max_length=max_length,
            progress=progress,
        )
    return EvaluationReport(gated=use_gate, domains=domains)


def evaluate_domains(
    model: nn.Module,
    folder: Path,
    table: Table,
    *,
    stored: StoredGate | None,
    batch_size: int,
    max_length: int,
    progress: Progress = lambda _count: None,
) -> dict[str, Evaluation]:
    """Judge `model`, whose tokenizer is in `folder`, on every domain of `table` and on all."""
    layout = _layout_if_any(model)
    owners = owners_of(folder)
    domains = {}
    routing = gating(model, layout, stored) if stored and layout else nullcontext()
    with routing:
        for domain, rows in table.by_domain().items():
            task = TableTask(model, folder, rows, max_length)
            owned = (layout, owners[domain]) if layout and domain in owners else None
            domains[domain] = evaluate_table(model, task, batch_size, progress, owned)
    if len(domains) > 1 and ALL not in domains:
        domains[ALL] = _union(list(domains.values()))
    return domains


def _layout_if_any(model: nn.Module) -> MoELayout | None:
    try:
        return find_moe_layers(model)
    except DataError:  # a dense model can be judged too
        return None


def _union(parts: list[Evaluation]) -> Evaluation:
    """Return the judgement on all samples of several tables."""
    num_samples = sum(part.num_samples for part in parts)
    num_targets = sum(part.num_targets for part in parts)
    loss = sum(part.loss * part.num_targets for part in parts) / num_targets
    right = [part.accuracy * part.num_samples for part in parts if part.accuracy is not None]
    return replace(
        parts[0],
        num_samples=num_samples,
        num_targets=num_targets,
        loss=loss,
        perplexity=None if right else math.exp(min(loss, 700.0)),
        accuracy=sum(right) / num_samples if right else None,
        mass_kept=None,
    )
