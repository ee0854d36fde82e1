"""Cut sub-models out of a checkpoint on disk, byte range by byte range."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emsfl.errors import DataError
from emsfl.files import sha256_of, write_json, write_text
from emsfl.moe.checkpoint import (
    INDEX_NAME,
    SINGLE_NAME,
    Checkpoint,
    Role,
    StoredLayout,
    file_pool,
    open_checkpoint,
    stored_layout,
)
from emsfl.moe.families import routing_rules, with_num_experts
from emsfl.moe.manifests import (
    MANIFEST_NAME,
    AssignmentFile,
    BaseModelInfo,
    LayerInfo,
    Manifest,
    read_document,
    write_document,
)
from emsfl.moe.model_card import sub_model_card
from emsfl.moe.pretrained import carried_files, full_config, read_json, skeleton
from emsfl.moe.tensor_files import (
    ByteRange,
    NewTensor,
    Progress,
    StoredTensor,
    blake3_of_file,
    new_header,
    write_file,
)

PLAN_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class SplitPart:
    """One sub-model that was written, or found to be there already."""

    cluster: str
    folder: Path
    num_bytes: int
    was_there: bool


def split_checkpoint(
    folder: Path,
    assignment: AssignmentFile,
    out: Path,
    *,
    name: str,
    progress: Progress = lambda _count: None,
) -> list[SplitPart]:
    """Write one loadable checkpoint per cluster of `assignment` into `out`.

    A part that was finished before (by a run that was stopped) is kept; of an unfinished part its
    finished files are. A part's folder gets its name only when it is whole and on disk.

    Args:
        folder: the checkpoint.
        assignment: who owns which experts.
        out: folder for the parts.
        name: what to call the base model in manifests.
        progress: told of all bytes hashed or written; `split_bytes` says how many there will be.

    Raises:
        DataError: the assignment is for another model, or `out` holds another split's part.
    """
    checkpoint = open_checkpoint(folder)
    layout = stored_layout(checkpoint, skeleton(folder))
    check_assignment(assignment, checkpoint, layout, full_config(folder))
    base = BaseModelInfo.of(name, checkpoint.file_hashes(progress, once=False))
    plans = [_Plan(checkpoint, layout, assignment, name, base) for name in assignment.clusters]
    there = {plan.cluster: _is_there(plan, out / plan.cluster) for plan in plans}
    missing = [plan for plan in plans if not there[plan.cluster]]
    with file_pool() as pool:
        begun = [(plan, _begin_part(plan, out / plan.cluster, pool, progress)) for plan in missing]
        for plan, files in begun:
            _finish_part(plan, out / plan.cluster, {n: f.result() for n, f in files.items()})
    return [
        SplitPart(
            cluster=plan.cluster,
            folder=out / plan.cluster,
            num_bytes=plan.num_bytes,
            was_there=there[plan.cluster],
        )
        for plan in plans
    ]


def _is_there(plan: _Plan, target: Path) -> bool:
    """Tell whether a part was finished before; raise DataError if `target` is something else."""
    if not target.exists():
        return False
    if read_document(Manifest, target / MANIFEST_NAME).plan_sha256 != plan.sha256:
        raise DataError(f"{target} holds another sub-model; remove it or choose another out")
    return True


def split_bytes(folder: Path, assignment: AssignmentFile) -> int:
    """Return how many bytes `split_checkpoint` will report: all that it writes and hashes."""
    checkpoint = open_checkpoint(folder)
    layout = stored_layout(checkpoint, skeleton(folder))
    check_assignment(assignment, checkpoint, layout, full_config(folder))
    return checkpoint.num_bytes + sum(
        tensor.num_bytes
        for part in assignment.clusters.values()
        for name, role in layout.roles.items()
        if (tensor := cut(checkpoint.tensors[name], role, part.owned)) is not None
    )


def check_assignment(
    assignment: AssignmentFile,
    checkpoint: Checkpoint,
    layout: StoredLayout,
    config: Mapping[str, Any],
) -> None:
    """Raise DataError unless the assignment fits the model and its sub-models can be loaded."""
    names = tuple(layer.name for layer in layout.layers)
    counts = {layer.num_experts for layer in layout.layers}
    if assignment.layers != names or counts != {assignment.num_experts}:
        raise DataError(
            f"the assignment is for {len(assignment.layers)} layers of {assignment.num_experts} "
            f"experts, not for the {len(names)} layers of {sorted(counts)} in {checkpoint.folder}"
        )
    if assignment.structure_sha256 != checkpoint.structure_sha256:
        raise DataError(f"the assignment was made for another model than {checkpoint.folder}")
    rules = routing_rules(config)
    top_k = assignment.local_top_k or rules.top_k
    for cluster, part in assignment.clusters.items():
        sizes = {len(ids) for ids in part.owned}
        if len(sizes) > 1:
            raise DataError(
                f"cluster {cluster} owns {min(sizes)} to {max(sizes)} experts per layer: a "
                "configuration holds one number for all layers; assign with equal numbers"
            )
        if min(sizes) < top_k:
            raise DataError(
                f"cluster {cluster} owns {min(sizes)} experts per layer, but a token uses {top_k}: "
                "assign more, or a smaller local top-k"
            )
        if rules.num_groups > 1:
            _check_groups(cluster, part.owned, assignment.num_experts, rules.num_groups)


def _check_groups(
    cluster: str, owned: Sequence[Sequence[int]], num_experts: int, num_groups: int
) -> None:
    per_group = num_experts // num_groups
    for ids in owned:
        counts = {sum(e // per_group == g for e in ids) for g in range(num_groups)}
        if len(counts) > 1:
            raise DataError(
                f"cluster {cluster}: the router has {num_groups} groups of {per_group} experts, "
                "and a sub-model must own equally many of each"
            )


class _Plan:
    """What the files of one cluster's sub-model will hold."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        layout: StoredLayout,
        assignment: AssignmentFile,
        cluster: str,
        base: BaseModelInfo,
    ) -> None:
        part = assignment.clusters[cluster]
        self.checkpoint, self.base, self.cluster = checkpoint, base, cluster
        self.num_samples = part.num_samples
        self.local_top_k = assignment.local_top_k
        self.layers = tuple(
            LayerInfo(name=layer.name, num_experts=layer.num_experts, owned=ids)
            for layer, ids in zip(layout.layers, part.owned, strict=True)
        )
        files = [
            [
                tensor
                for stored in tensors
                if stored.name in layout.roles
                and (tensor := cut(stored, layout.roles[stored.name], part.owned)) is not None
            ]
            for tensors in checkpoint.files.values()
        ]
        self.files = [tensors for tensors in files if tensors]
        self.sha256 = sha256_of(
            base.sha256, [list(ids) for ids in part.owned], self.local_top_k, cluster
        )

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.num_bytes for tensors in self.files for tensor in tensors)

    @property
    def file_names(self) -> list[str]:
        """One name per entry of `files`."""
        return shard_names(len(self.files))


def shard_names(count: int) -> list[str]:
    """Return the names that a checkpoint of `count` files gives them."""
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def cut(stored: StoredTensor, role: Role, owned: Sequence[Sequence[int]]) -> NewTensor | None:
    """Return the part of a stored tensor that a sub-model holds; None if it holds none of it."""
    name, shape, pieces = stored.name, list(stored.shape), stored.whole
    if role.expert >= 0:
        if role.expert not in owned[role.layer]:
            return None
        name = role.template.format(list(owned[role.layer]).index(role.expert))
    elif role.layer >= 0:
        shape[role.axis] = len(owned[role.layer])
        pieces = partial(_rows, stored, role.axis, owned[role.layer])
    return NewTensor(name=name, dtype=stored.dtype, shape=tuple(shape), pieces=pieces)


def _rows(stored: StoredTensor, axis: int, ids: Sequence[int]) -> list[ByteRange]:
    """Return where the rows `ids` along `axis` are."""
    blocks, num_experts = math.prod(stored.shape[:axis]), stored.shape[axis]
    row = stored.num_bytes // blocks // num_experts
    return [
        stored.part((block * num_experts + expert) * row, row)
        for block in range(blocks)
        for expert in ids
    ]


def partial_of(target: Path) -> Path:
    """Return the folder in which `target` is made."""
    return target.with_name(f".{target.name}.partial")


def _begin_part(
    plan: _Plan, target: Path, pool: Executor, progress: Progress
) -> dict[str, Future[str]]:
    """Let `pool` write the tensor files of a part; return their hashes to come."""
    prepare_partial(partial_of(target), plan.sha256)
    contents = {
        name: (new_header(tensors), tensors)
        for name, tensors in zip(plan.file_names, plan.files, strict=True)
    }
    return begin_files(partial_of(target), contents, pool, progress)


def _finish_part(plan: _Plan, target: Path, hashes: Mapping[str, str]) -> None:
    """Write all else that a part holds, and give it its name."""
    partial_folder, folder = partial_of(target), plan.checkpoint.folder
    if len(plan.files) > 1:
        files = zip(plan.file_names, plan.files, strict=True)
        places = {tensor.name: name for name, tensors in files for tensor in tensors}
        write_json(
            partial_folder / INDEX_NAME,
            {
                "metadata": {"total_size": plan.num_bytes},
                "weight_map": dict(sorted(places.items())),
            },
        )
    for path in carried_files(folder):
        if path.name != "config.json":
            shutil.copyfile(path, partial_folder / path.name)
    write_json(partial_folder / "config.json", _sub_config(plan, folder))
    manifest = Manifest(
        content="sub_model",
        cluster=plan.cluster,
        plan_sha256=plan.sha256,
        base=plan.base,
        layers=plan.layers,
        files=hashes,
        num_samples=plan.num_samples,
    )
    write_text(partial_folder / "README.md", sub_model_card(manifest))
    write_document(partial_folder / MANIFEST_NAME, manifest)
    finish_partial(partial_folder, target)


def _sub_config(plan: _Plan, folder: Path) -> dict[str, Any]:
    """Return the base's configuration with the sub-model's number of experts."""
    num_experts, kept = plan.layers[0].num_experts, len(plan.layers[0].owned)
    raw = read_json(folder / "config.json")
    try:
        return with_num_experts(raw, num_experts, kept, plan.local_top_k)
    except DataError:  # a configuration may leave out what is at its default
        return with_num_experts(full_config(folder), num_experts, kept, plan.local_top_k)


def begin_files(
    folder: Path,
    contents: Mapping[str, tuple[bytes, Sequence[NewTensor]]],
    pool: Executor,
    progress: Progress,
) -> dict[str, Future[str]]:
    """Let `pool` write tensor files that are not there yet.

    Args:
        folder: of an unfinished result; its files of these names are whole if they are there.
        contents: file name -> header and tensors.
        pool: its threads write.
        progress: told of all bytes written, or read of files that are there.

    Returns:
        File name -> BLAKE3 hash to come.
    """

    def write(name: str) -> str:
        path = folder / name
        if path.exists():
            return blake3_of_file(path, progress)
        return write_file(path, *contents[name], progress)

    return {name: pool.submit(write, name) for name in contents}


def prepare_partial(folder: Path, plan_sha256: str) -> None:
    """Make the folder of an unfinished result, keeping finished files of the same plan only."""
    plan = folder / PLAN_NAME
    if not (plan.is_file() and read_json(plan).get("plan_sha256") == plan_sha256):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(plan, {"plan_sha256": plan_sha256})
    for leftover in folder.glob(".*.part"):
        leftover.unlink()


def finish_partial(folder: Path, target: Path) -> None:
    """Give a finished result its name."""
    (folder / PLAN_NAME).unlink()
    folder.rename(target)
