"""Put the experts and shared parameters of clusters back into a checkpoint on disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emsfl.errors import DataError, EmsflError
from emsfl.files import sha256_of, write_json, write_text
from emsfl.moe.adapter import Owned
from emsfl.moe.checkpoint import (
    Checkpoint,
    Role,
    StoredLayout,
    file_pool,
    open_checkpoint,
    stored_layout,
)
from emsfl.moe.gate_wrapper import has_gate
from emsfl.moe.manifests import FORMAT_VERSION, MANIFEST_NAME, BaseModelInfo
from emsfl.moe.merge_gate import read_gate_statistics, write_gate
from emsfl.moe.model_card import merged_card
from emsfl.moe.pretrained import carried_files, full_config, read_json, skeleton
from emsfl.moe.split_checkpoint import begin_files, finish_partial, partial_of, prepare_partial
from emsfl.moe.tensor_files import (
    DTYPES,
    ByteRange,
    NewTensor,
    Progress,
    StoredTensor,
)
from emsfl.moe.updates import Update, open_updates, weights_of

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged checkpoint that was written, or found to be there already."""

    folder: Path
    num_bytes: int
    files: Mapping[str, str]
    """Tensor file -> BLAKE3 hash."""
    clusters: tuple[str, ...]
    has_gate: bool
    """Whether a domain gate lies beside the weights."""
    was_there: bool


def merge_checkpoint(
    folder: Path,
    update_folders: Sequence[Path],
    out: Path,
    *,
    score_files: Sequence[Path] = (),
    progress: Progress = lambda _count: None,
) -> Merged:
    """Write `folder` with the updates' experts and shared parameters in place, into `out`.

    Experts of a cluster become its update's; experts of nobody and routers stay. Shared
    parameters become s + sum_c w_c (s_c - s), where w_c is the cluster's share of the samples of
    all updates given. Files, their names and their tensors' order are the base's, so that a merge
    of untrained sub-models is byte for byte the base. `out` gets its name only when everything is
    checked, whole and on disk; the updates' bytes are checked while they are copied. Of a merge
    that is refused nothing is left. Run again after a stop, finished files of the same merge are
    kept.

    Args:
        folder: the base checkpoint.
        update_folders: one per cluster, from `split` or `tune`.
        out: the new checkpoint; must not exist, unless it is this very merge.
        score_files: of the same clusters, with domain statistics beside them, if a domain gate is
            to be written beside the weights.
        progress: told of all bytes checked and written; `merge_bytes` says how many there are.

    Raises:
        DataError: updates that do not fit the base model or each other, or damaged files.
        UpdateRefusedError: an update with a value that is not finite.
    """
    base = open_checkpoint(folder)
    layout = stored_layout(base, skeleton(folder))
    updates = open_updates(update_folders, base, layout)
    manifests = [update.manifest for update in updates]
    statistics = read_gate_statistics(score_files, manifests, base) if score_files else None
    plan_sha256 = sha256_of(
        updates[0].manifest.base.sha256,
        [m.model_dump(mode="json") for m in manifests],
        list(statistics.hashes) if statistics else None,
    )
    if out.exists():
        return _existing(out, plan_sha256, updates)
    actual = BaseModelInfo.of(folder.name, base.file_hashes(progress, once=True))
    expected = updates[0].manifest.base
    if actual.sha256 != expected.sha256:
        raise DataError(
            f"the updates are for base model {expected.name} ({expected.sha256[:12]}), which is "
            f"not {folder} ({actual.sha256[:12]})"
        )
    partial_folder = partial_of(out)
    prepare_partial(partial_folder, sha256_of(plan_sha256, _signatures(updates)))
    try:
        hashes = _write_tensors(base, layout, updates, partial_folder, progress)
    except EmsflError:
        shutil.rmtree(partial_folder)
        raise
    for path in carried_files(folder, with_index=True):
        shutil.copyfile(path, partial_folder / path.name)
    if statistics:
        write_gate(partial_folder, statistics, manifests, base, full_config(folder))
    card = merged_card(manifests, has_gate=statistics is not None)
    write_text(partial_folder / "README.md", card)
    write_json(
        partial_folder / MANIFEST_NAME,
        {
            "format_version": FORMAT_VERSION,
            "content": "merged",
            "plan_sha256": plan_sha256,
            "base": expected.model_dump(mode="json"),
            "files": hashes,
            "updates": [_provenance(update, weights_of(updates)) for update in updates],
        },
    )
    finish_partial(partial_folder, out)
    return Merged(
        folder=out,
        num_bytes=base.num_bytes,
        files=hashes,
        clusters=tuple(m.cluster for m in manifests),
        has_gate=statistics is not None,
        was_there=False,
    )


def _existing(out: Path, plan_sha256: str, updates: Sequence[Update]) -> Merged:
    manifest = read_json(out / MANIFEST_NAME) if (out / MANIFEST_NAME).is_file() else {}
    if manifest.get("plan_sha256") != plan_sha256:
        raise DataError(f"{out} exists and is not this merge; remove it or choose another out")
    return Merged(
        folder=out,
        num_bytes=open_checkpoint(out).num_bytes,
        files=manifest["files"],
        clusters=tuple(u.manifest.cluster for u in updates),
        has_gate=has_gate(out),
        was_there=True,
    )


def _provenance(update: Update, weights: Mapping[str, float]) -> dict[str, Any]:
    manifest = update.manifest
    training = manifest.training.model_dump(mode="json") if manifest.training else None
    return {
        "cluster": manifest.cluster,
        "content": manifest.content,
        "owned": [list(ids) for ids in manifest.owned],
        "num_samples": manifest.num_samples,
        "weight": weights[manifest.cluster],
        "files": dict(manifest.files),
        "training": training,
    }


def _write_tensors(
    base: Checkpoint,
    layout: StoredLayout,
    updates: Sequence[Update],
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """Write all tensor files, check all of the updates, and return the files' hashes."""
    weights = weights_of(updates)
    contents = {
        file_name: (
            base.headers[file_name],
            [_merged(t, layout.roles.get(t.name), updates, weights) for t in tensors],
        )
        for file_name, tensors in base.files.items()
    }
    checks = [check for update in updates for check in update.checks]
    for check in checks:
        check.progress = progress
    with file_pool() as pool:
        begun = begin_files(folder, contents, pool, progress)
        hashes = {name: file.result() for name, file in begun.items()}
        list(pool.map(lambda check: check.finish(), checks))
    return hashes


def _signatures(updates: Sequence[Update]) -> list[list[int]]:
    """Return size and time of change of the updates' files: one fetched anew is written anew."""
    stats = [(u.checkpoint.folder / name).stat() for u in updates for name in u.checkpoint.headers]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _merged(
    stored: StoredTensor,
    role: Role | None,
    updates: Sequence[Update],
    weights: Mapping[str, float],
) -> NewTensor:
    """Return what becomes of one tensor of the base model."""
    pieces: Callable[[], Iterable[ByteRange | Buffer]] = stored.whole
    if role is not None and (role.is_expert or role.layer < 0):
        held = [
            (update, tensor)
            for update in updates
            if (tensor := update.tensor(role, stored.name)) is not None
        ]
        if held and not role.is_expert:
            changed = [(weights[u.manifest.cluster], tensor) for u, tensor in held]
            pieces = partial(_mean, stored, changed)
        elif held and role.expert >= 0:
            pieces = held[0][1].whole
        elif held:
            owned = [(u.manifest.layers[role.layer].owned, tensor) for u, tensor in held]
            pieces = partial(_rows_of_owners, stored, role.axis, owned)
    return NewTensor(name=stored.name, dtype=stored.dtype, shape=stored.shape, pieces=pieces)


def _rows_of_owners(
    stored: StoredTensor, axis: int, held: Sequence[tuple[tuple[int, ...], StoredTensor]]
) -> Iterator[ByteRange]:
    """Yield where the rows of a stacked tensor are, each with its expert's owner."""
    source = {
        expert: (tensor, position, len(ids))
        for ids, tensor in held
        for position, expert in enumerate(ids)
    }
    num_experts = stored.shape[axis]
    blocks = math.prod(stored.shape[:axis])
    row = stored.num_bytes // blocks // num_experts
    for block in range(blocks):
        for expert in range(num_experts):
            tensor, position, count = source.get(expert, (stored, expert, num_experts))
            yield tensor.part((block * count + position) * row, row)


def _mean(stored: StoredTensor, changed: Sequence[tuple[float, StoredTensor]]) -> Iterator[Buffer]:
    """Yield s + sum_c w_c (s_c - s); the very bytes of s where no cluster changed them."""
    dtype = DTYPES[stored.dtype]
    exact = torch.float64 if dtype.itemsize >= 4 else torch.float32
    streams = [tensor.bytes_range.read() for _, tensor in changed]
    for chunk in stored.bytes_range.read():
        parts = [next(stream) for stream in streams]
        if all(np.array_equal(part, chunk) for part in parts):
            yield chunk
            continue
        if not dtype.is_floating_point:
            raise DataError(f"tensor {stored.name} of {stored.dtype} differs between updates")
        value = torch.frombuffer(chunk, dtype=dtype).to(exact)
        delta = torch.zeros_like(value)
        for (weight, _), part in zip(changed, parts, strict=True):
            delta += weight * (torch.frombuffer(part, dtype=dtype).to(exact) - value)
        yield (value + delta).to(dtype).view(torch.uint8).numpy().data


def owners_of(folder: Path) -> dict[str, Owned]:
    """Return, per cluster that a merged checkpoint was merged from, the experts it owned."""
    if not (folder / MANIFEST_NAME).is_file():
        return {}
    updates = read_json(folder / MANIFEST_NAME).get("updates", [])
    return {u["cluster"]: tuple(tuple(ids) for ids in u["owned"]) for u in updates}


def merge_bytes(folder: Path, update_folders: Sequence[Path]) -> int:
    """Return how many bytes `merge_checkpoint` will report: all that it checks and writes."""
    base = open_checkpoint(folder).num_bytes
    return 2 * base + sum(open_checkpoint(update).num_bytes for update in update_folders)
