"""Forward passes of a stock model over a table: expert scores, losses, domain statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from emsfl.moe.adapter import MoELayout, Owned
from emsfl.moe.domain_statistics import recording_statistics
from emsfl.moe.gate import DomainStatistics
from emsfl.moe.scoring import ExpertScores, ScoreKind, scoring
from emsfl.training.table_task import Batch, TableTask, TaskKind, logits_of

Progress = Callable[[int], None]
"""Called with the number of samples that have been handled since the last call."""


def _quiet(_count: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well each expert fits a table."""

    values: Tensor
    """[L, E] float64; rows sum to 1."""
    num_tokens: int
    """Tokens scored, padding left out."""
    statistics: DomainStatistics
    """Of the features that the domain gate reads."""


@torch.no_grad()
def score_table(
    model: nn.Module,
    layout: MoELayout,
    task: TableTask,
    kind: ScoreKind,
    batch_size: int,
    progress: Progress = _quiet,
) -> Scores:
    """Score the experts of `model` on a table, and take down the statistics of its features."""
    num_tokens = 0
    with (
        scoring(model, layout, kind) as scores,
        recording_statistics(model, layout, task.pooling) as recorded,
    ):
        for batch in _batches(task, batch_size, progress):
            _set_masks(scores, batch)
            mask = scores.token_mask
            num_tokens += len(batch.targets) if mask is None else int(mask.sum())
            logits_of(model, batch)
    return Scores(
        values=scores.normalised(), num_tokens=num_tokens, statistics=reduce(add, recorded)
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model predicts a table."""

    num_samples: int
    num_targets: int
    """Tokens, or samples, that were predicted."""
    loss: float
    """Nats per predicted token, or per sample for a classifier."""
    perplexity: float | None
    """exp(loss); None for a classifier."""
    accuracy: float | None
    """Share of samples classified right, 0..1; None for a language model."""
    mass_kept: float | None
    """Share of the routing weight on the experts asked about, 0..1, mean over layers."""


@torch.no_grad()
def evaluate_table(
    model: nn.Module,
    task: TableTask,
    batch_size: int,
    progress: Progress = _quiet,
    owned: tuple[MoELayout, Owned] | None = None,
) -> Evaluation:
    """Judge `model` on a table; `owned` are the experts whose share of routing is told."""
    loss, num_targets, num_right = 0.0, 0, 0
    counting = scoring(model, owned[0], ScoreKind.MEAN_GATE) if owned else nullcontext()
    with counting as scores:
        for batch in _batches(task, batch_size, progress):
            if scores is not None:
                _set_masks(scores, batch)
            logits = logits_of(model, batch)
            loss += float(batch.loss_sum(logits))
            num_targets += batch.num_targets
            if task.kind is TaskKind.CLASSIFICATION:
                num_right += int((logits.argmax(-1) == batch.targets).sum())
    kept = []
    if scores is not None and owned:
        kept = [
            float(r[list(ids)].sum()) for r, ids in zip(scores.normalised(), owned[1], strict=True)
        ]
    mean = loss / max(1, num_targets)
    classifies = task.kind is TaskKind.CLASSIFICATION
    return Evaluation(
        num_samples=len(task.table),
        num_targets=num_targets,
        loss=mean,
        perplexity=None if classifies else math.exp(min(mean, 700.0)),
        accuracy=num_right / len(task.table) if classifies else None,
        mass_kept=sum(kept) / len(kept) if kept else None,
    )


@torch.no_grad()
def run_through(model: nn.Module, task: TableTask, batch_size: int) -> None:
    """Run every sample through `model`, for hooks that watch it."""
    for batch in _batches(task, batch_size, _quiet):
        logits_of(model, batch)


def _set_masks(scores: ExpertScores, batch: Batch) -> None:
    """Leave the padding of a batch out of the scores."""
    masks = [batch.inputs.get(name) for name in ("attention_mask", "decoder_attention_mask")]
    scores.token_mask, scores.decoder_mask = (m if m is None else m.bool() for m in masks)


def _batches(task: TableTask, batch_size: int, progress: Progress) -> Iterator[Batch]:
    for start in range(0, len(task.table), batch_size):
        rows = range(start, min(start + batch_size, len(task.table)))
        yield task.batch(rows)
        progress(len(rows))
