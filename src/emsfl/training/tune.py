"""Tune a sub-model on local data, and write the update that `merge` takes in."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file

from emsfl.config import ConfigModel
from emsfl.data.files import Table
from emsfl.errors import DataError, EmsflError, UpdateRefusedError
from emsfl.files import atomic_path, sha256_of
from emsfl.moe.checkpoint import SINGLE_NAME, open_checkpoint
from emsfl.moe.manifests import (
    MANIFEST_NAME,
    Manifest,
    TrainingInfo,
    read_document,
    write_document,
)
from emsfl.moe.split_checkpoint import finish_partial, prepare_partial
from emsfl.moe.tensor_files import blake3_of_file
from emsfl.training.device import one_thread
from emsfl.training.local import batch_order
from emsfl.training.table_task import TableTask, logits_of
from emsfl.training.tunable import Tunable
from emsfl.training.tune_state import TuneState

Report = Callable[[int, float], None]
"""Called after every step with the number of steps done and the step's loss (nats)."""


class TuneSettings(ConfigModel):
    """How a sub-model is tuned."""

    num_steps: int = Field(default=100, ge=0, le=10_000_000)
    batch_size: int = Field(default=8, ge=1, le=65536)
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam (betas 0.9 and 0.999), constant."""
    shared_lr_factor: float = Field(default=1.0, gt=0)
    """Step size of shared parameters, as a multiple of `learning_rate`."""
    mode: Literal["full", "lora"] = "full"
    """What of the experts trains: all their weights, or low-rank terms that are added to the
    weights before the update is written."""
    lora_rank: int = Field(default=8, ge=1, le=1024)
    lora_alpha: float = Field(default=16.0, gt=0)
    train_shared: bool = True
    frozen: tuple[str, ...] = ()
    """Regular expressions: parameters in whose names one is found do not train."""
    precision: Literal["float32", "bf16"] = "float32"
    """`bf16`: what is frozen is held in bfloat16 and products are computed in it; what trains,
    and its optimiser state, stays in float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    max_length: int = Field(default=256, ge=2)
    """Tokens per sample, at most."""
    seed: int = Field(default=0, ge=0)
    save_every: int = Field(default=100, ge=1)
    """Steps between saves from which an interrupted run goes on."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a tuning run did."""

    folder: Path
    cluster: str
    num_steps: int
    resumed_at_step: int
    mean_loss: float | None
    """Nats, over the last tenth of the steps."""
    update_bytes: int
    was_there: bool


def tune(
    folder: Path,
    table: Table,
    out: Path,
    settings: TuneSettings,
    report: Report = lambda _step, _loss: None,
) -> TuneResult:
    """Train the sub-model in `folder` on `table` and write the update into `out`.

    Routers never train, and experts that a batch does not use do not move. The same sub-model,
    table and settings give the same bits, also when the run was stopped on the way and started
    again. The update holds the cluster's experts, and the shared parameters if they train.

    Raises:
        DataError: a folder that is no sub-model, or a table that does not fit its task.
        ConfigError: settings that do not fit the model.
        UpdateRefusedError: the loss is no longer finite.
    """
    manifest = read_document(Manifest, folder / MANIFEST_NAME)
    checkpoint = open_checkpoint(folder)
    plan_sha256 = sha256_of(
        manifest.plan_sha256,
        dict(manifest.files),
        settings.model_dump(mode="json"),
        [list(table.domains), list(table.labels or ()), [_content(x) for x in table.inputs]],
    )
    if out.exists():
        return _existing(out, plan_sha256)
    partial_folder = out.with_name(f".{out.name}.partial")
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # draws the low-rank terms
        lora = (settings.lora_rank, settings.lora_alpha) if settings.mode == "lora" else None
        tunable = Tunable(
            folder,
            train_shared=settings.train_shared,
            frozen=settings.frozen,
            low_precision=settings.precision == "bf16",
            lora=lora,
        )
        _check_layers(folder, manifest, tunable)
        task = TableTask(tunable.model, folder, table, settings.max_length)
        state = TuneState(
            tunable.trained,
            tunable.groups,
            settings.learning_rate,
            settings.learning_rate * settings.shared_lr_factor,
        )
        prepare_partial(partial_folder, plan_sha256)
        first_step = state.load(partial_folder)
        try:
            _train(tunable, task, state, settings, partial_folder, report)
        except EmsflError:
            shutil.rmtree(partial_folder)
            raise
        tunable.finish()
        with atomic_path(partial_folder / SINGLE_NAME) as temporary:
            save_file(tunable.update_tensors(checkpoint), temporary, metadata={"format": "pt"})
    files = {SINGLE_NAME: blake3_of_file(partial_folder / SINGLE_NAME)}
    last = state.losses[-max(1, len(state.losses) // 10) :]
    training = TrainingInfo(
        num_steps=settings.num_steps,
        num_samples=len(table),
        mode=settings.mode,
        train_shared=settings.train_shared,
        settings=settings.model_dump(mode="json"),
        mean_loss=sum(last) / len(last) if last else None,
    )
    updated = Manifest(
        content="update",
        cluster=manifest.cluster,
        plan_sha256=plan_sha256,
        base=manifest.base,
        layers=manifest.layers,
        files=files,
        num_samples=len(table),
        training=training,
    )
    write_document(partial_folder / MANIFEST_NAME, updated)
    state.remove(partial_folder)
    finish_partial(partial_folder, out)
    return _result(out, updated, first_step, was_there=False)


def _train(
    tunable: Tunable,
    task: TableTask,
    state: TuneState,
    settings: TuneSettings,
    folder: Path,
    report: Report,
) -> None:
    """Take the steps that are left, saving on the way."""
    if settings.gradient_checkpointing:
        enable: Any = tunable.model.activation_checkpointing_enable
        enable()
    tunable.train_mode()
    first = len(state.losses)
    batches = batch_order(
        len(task.table), settings.batch_size, (settings.seed,), first, settings.num_steps - first
    )
    for done, rows in enumerate(batches.tolist(), first + 1):
        batch = task.batch(rows)
        torch.manual_seed(settings.seed * 1_000_003 + done)  # draws dropout
        with _autocast(settings):
            logits = logits_of(tunable.model, batch)
        loss = batch.loss_sum(logits) / max(1, batch.num_targets)
        if not math.isfinite(loss.item()):
            raise UpdateRefusedError(
                f"the loss is {loss.item()} at step {done}; lower learning_rate, "
                f"{settings.learning_rate}"
            )
        state.step(loss)
        state.losses.append(loss.item())
        if done % settings.save_every == 0 and done < settings.num_steps:
            state.save(folder)
        report(done, loss.item())
    if settings.gradient_checkpointing:
        disable: Any = tunable.model.activation_checkpointing_disable
        disable()


def _check_layers(folder: Path, manifest: Manifest, tunable: Tunable) -> None:
    """Raise DataError unless the manifest lists the experts that the sub-model has."""
    listed = [(layer.name, len(layer.owned)) for layer in manifest.layers]
    if listed != [(layer.name, layer.num_experts) for layer in tunable.layout.layers]:
        raise DataError(f"{folder / MANIFEST_NAME}: its experts are not those of the sub-model")


def _autocast(settings: TuneSettings) -> AbstractContextManager[Any]:
    low = settings.precision == "bf16"
    return torch.autocast("cpu", torch.bfloat16) if low else nullcontext()


def _content(value: Any) -> str:
    return value if isinstance(value, str) else sha256_of(value.tobytes())


def _existing(out: Path, plan_sha256: str) -> TuneResult:
    there = read_document(Manifest, out / MANIFEST_NAME)
    if there.plan_sha256 != plan_sha256 or there.training is None:
        raise DataError(f"{out} exists and is not this update; remove it or choose another out")
    return _result(out, there, there.training.num_steps, was_there=True)


def _result(out: Path, manifest: Manifest, resumed_at_step: int, *, was_there: bool) -> TuneResult:
    assert manifest.training is not None
    return TuneResult(
        folder=out,
        cluster=manifest.cluster,
        num_steps=manifest.training.num_steps,
        resumed_at_step=resumed_at_step,
        mean_loss=manifest.training.mean_loss,
        update_bytes=sum((out / name).stat().st_size for name in manifest.files),
        was_there=was_there,
    )
