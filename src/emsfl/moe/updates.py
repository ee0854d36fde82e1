"""Open and check the updates that a merge takes in, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from emsfl.errors import DataError, UpdateRefusedError
from emsfl.moe.checkpoint import Checkpoint, Role, StoredLayout, open_checkpoint
from emsfl.moe.gate_wrapper import STATISTICS_NAME
from emsfl.moe.manifests import MANIFEST_NAME, Manifest, read_document
from emsfl.moe.split_checkpoint import cut
from emsfl.moe.tensor_files import (
    DTYPES,
    Progress,
    StoredTensor,
    sha256_of_file,
)


@dataclass(frozen=True)
class Update:
    """One cluster's folder: a sub-model as cut, or what local training made of it."""

    manifest: Manifest
    checkpoint: Checkpoint

    def tensor(self, role: Role, name: str) -> StoredTensor | None:
        """Return what the update holds for a tensor of the base model, if it holds any of it."""
        if role.expert >= 0:
            ids = self.manifest.layers[role.layer].owned
            if role.expert not in ids:
                return None
            name = role.template.format(ids.index(role.expert))
        return self.checkpoint.tensors.get(name)


def open_updates(
    folders: Sequence[Path], base: Checkpoint, layout: StoredLayout
) -> tuple[Update, ...]:
    """Read the manifests and headers of all updates, and check them against each other.

    Raises:
        DataError: a folder is no update, the updates are of different base models, two claim an
            expert, or a tensor is none of the base model's or has another shape or dtype.
    """
    updates = tuple(
        Update(read_document(Manifest, folder / MANIFEST_NAME), open_checkpoint(folder))
        for folder in folders
    )
    first = updates[0]
    names = tuple((layer.name, layer.num_experts) for layer in layout.layers)
    for update in updates:
        manifest, folder = update.manifest, update.checkpoint.folder
        if manifest.base.sha256 != first.manifest.base.sha256:
            raise DataError(
                f"{folder} was cut from another base model ({manifest.base.sha256[:12]}) than "
                f"{first.checkpoint.folder} ({first.manifest.base.sha256[:12]})"
            )
        if tuple((layer.name, layer.num_experts) for layer in manifest.layers) != names:
            raise DataError(f"{folder / MANIFEST_NAME}: its layers are not those of {base.folder}")
        if set(manifest.files) != set(update.checkpoint.headers):
            raise DataError(f"{folder / MANIFEST_NAME} does not list the tensor files of {folder}")
        _check_tensors(update, base, layout)
    _check_claims(updates)
    return updates


def _check_claims(updates: Sequence[Update]) -> None:
    claims: dict[tuple[int, int], str] = {}
    clusters: set[str] = set()
    for update in updates:
        cluster = update.manifest.cluster
        if cluster in clusters:
            raise DataError(f"two updates are of cluster {cluster}; give one of them")
        clusters.add(cluster)
        for index, layer in enumerate(update.manifest.layers):
            for expert in layer.owned:
                other = claims.setdefault((index, expert), cluster)
                if other != cluster:
                    raise DataError(
                        f"expert {expert} of {layer.name} is claimed by the updates of both "
                        f"{other} and {cluster}; an expert has one owner"
                    )


def _check_tensors(update: Update, base: Checkpoint, layout: StoredLayout) -> None:
    """Raise DataError unless every tensor of the update has its place in the base model."""
    known = {}
    for name, role in layout.roles.items():
        part = cut(base.tensors[name], role, update.manifest.owned)
        if part is not None:
            known[part.name] = (part, role)
    for name, tensor in update.checkpoint.tensors.items():
        if name not in known:
            raise DataError(f"{tensor.path}: tensor {name} has no place in {base.folder}")
        part, _ = known[name]
        if (tensor.dtype, tensor.shape) != (part.dtype, part.shape):
            raise DataError(
                f"{tensor.path}: tensor {name} is {tensor.dtype} {list(tensor.shape)} where the "
                f"base model has {part.dtype} {list(part.shape)}"
            )
    experts = {name for name, (_, role) in known.items() if role.is_expert}
    for name in sorted(experts - update.checkpoint.tensors.keys()):
        raise DataError(f"{update.checkpoint.folder} lacks tensor {name} of an expert it owns")


def verify_update(update: Update, progress: Progress) -> None:
    """Read all bytes of an update once.

    Raises:
        DataError: a file is not the one that the manifest lists.
        UpdateRefusedError: a value is not finite.
    """
    checkpoint = update.checkpoint
    for file_name, tensors in checkpoint.files.items():
        header = checkpoint.headers[file_name]
        digest = hashlib.sha256(header)
        progress(len(header))
        for tensor in tensors:
            for chunk in tensor.bytes_range.read():
                digest.update(chunk)
                progress(len(chunk))
                if not _finite(chunk, tensor.dtype):
                    raise UpdateRefusedError(
                        f"update of cluster {update.manifest.cluster}: tensor {tensor.name} holds "
                        "a value that is not finite"
                    )
        if digest.hexdigest() != update.manifest.files[file_name]:
            raise DataError(
                f"{checkpoint.folder / file_name} is not the file that {MANIFEST_NAME} lists: it "
                "was changed or damaged after it was written"
            )
    expected = update.manifest.statistics_sha256
    if expected is not None:
        path = checkpoint.folder / STATISTICS_NAME
        if not path.is_file() or sha256_of_file(path) != expected:
            raise DataError(f"{path} is not the file that {MANIFEST_NAME} lists")


def _finite(chunk: memoryview, dtype: str) -> bool:
    kind = DTYPES[dtype]
    if not kind.is_floating_point or not len(chunk):
        return True
    values = torch.frombuffer(chunk, dtype=kind)
    if kind.itemsize == 1:
        values = values.float()
    # The greatest absolute value is infinite or NaN exactly if one of the values is.
    return bool(values.abs().max().isfinite())


def weights_of(updates: Sequence[Update]) -> Mapping[str, float]:
    """Return each cluster's share of all samples: its weight in the mean of shared changes."""
    total = sum(update.manifest.num_samples for update in updates)
    return {u.manifest.cluster: u.manifest.num_samples / total for u in updates}
