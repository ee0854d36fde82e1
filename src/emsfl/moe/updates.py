"""Open and check the updates that a merge takes in, before anything is written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from emsfl.errors import DataError, UpdateRefusedError
from emsfl.moe.checkpoint import Checkpoint, Role, StoredLayout, open_checkpoint
from emsfl.moe.manifests import MANIFEST_NAME, Manifest, read_document
from emsfl.moe.split_checkpoint import cut
from emsfl.moe.tensor_files import (
    DTYPES,
    ByteRange,
    Progress,
    StoredTensor,
)

INFINITY_BITS = {
    "F64": 0x7FF0 << 48,
    "F32": 0x7F80 << 16,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F8_E5M2": 0x7C,
    "F8_E4M3": 0x7F,
}
"""Dtype -> the least bits of a positive value that is not finite."""
GAP_BYTES = 1 << 24
"""Bytes that a check skips over by reading them itself."""


@dataclass(frozen=True)
class Update:
    """One cluster's folder: a sub-model as cut, or what local training made of it."""

    manifest: Manifest
    checkpoint: Checkpoint
    checks: tuple[FileCheck, ...]
    """One per tensor file; they watch what is read of it."""

    def tensor(self, role: Role, name: str) -> StoredTensor | None:
        """Return what the update holds for a tensor of the base model, if it holds any of it."""
        if role.expert >= 0:
            ids = self.manifest.layers[role.layer].owned
            if role.expert not in ids:
                return None
            name = role.template.format(ids.index(role.expert))
        return self.checkpoint.tensors.get(name)


def _open(folder: Path) -> Update:
    manifest = read_document(Manifest, folder / MANIFEST_NAME)
    bare = open_checkpoint(folder)
    if set(manifest.files) != set(bare.headers):
        raise DataError(f"{folder / MANIFEST_NAME} does not list the tensor files of {folder}")
    checks = {
        name: FileCheck(folder / name, bare.headers[name], tensors, manifest)
        for name, tensors in bare.files.items()
    }
    watched = {
        name: replace(tensor, watcher=checks[tensor.path.name].see)
        for name, tensor in bare.tensors.items()
    }
    return Update(manifest, replace(bare, tensors=watched), tuple(checks.values()))


def open_updates(
    folders: Sequence[Path], base: Checkpoint, layout: StoredLayout
) -> tuple[Update, ...]:
    """Read the manifests and headers of all updates, and check them against each other.

    Raises:
        DataError: a folder is no update, the updates are of different base models, two claim an
            expert, or a tensor is none of the base model's or has another shape or dtype.
    """
    updates = tuple(_open(folder) for folder in folders)
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


class FileCheck:
    """Checks the content of an update's tensor file: its hash, and that every value is finite.

    While tensors are read in the order of their bytes, by whoever needs them, they are checked on
    the way; short gaps, such as a router's rows, are read here. `finish` reads what is left.
    Threads may read at the same time.
    """

    def __init__(
        self, path: Path, header: bytes, tensors: Sequence[StoredTensor], manifest: Manifest
    ) -> None:
        self.progress: Progress = lambda _count: None
        """Told of the bytes checked."""
        self._path, self._manifest, self._left = path, manifest, deque(tensors)
        self._digest = blake3(header)
        self._position = len(header)
        self._end = self._position + sum(tensor.num_bytes for tensor in tensors)
        self._lock = threading.Lock()

    def see(self, start: int, chunk: memoryview) -> None:
        """Take in the bytes at `start`, unless others come first.

        Raises:
            UpdateRefusedError: a value is not finite.
        """
        if self._lock.acquire(blocking=False):
            try:
                if 0 <= start - self._position <= GAP_BYTES:
                    self._read_up_to(start)
                    self._take(chunk)
            finally:
                self._lock.release()

    def _take(self, chunk: memoryview) -> None:
        self._digest.update(chunk)
        self._position += len(chunk)
        while self._left[0].start + self._left[0].num_bytes < self._position:
            self._left.popleft()
        tensor = self._left[0]
        if not _finite(chunk, tensor.dtype):
            raise UpdateRefusedError(
                f"update of cluster {self._manifest.cluster}: tensor {tensor.name} holds a value "
                "that is not finite"
            )
        self.progress(len(chunk))

    def _read_up_to(self, end: int) -> None:
        for tensor in list(self._left):
            start = max(tensor.start, self._position)
            num_bytes = min(tensor.start + tensor.num_bytes, end) - start
            if num_bytes > 0:
                for chunk in ByteRange(self._path, start, num_bytes).read():
                    self._take(chunk)

    def finish(self) -> None:
        """Read what is left, and compare the file's hash with the manifest's.

        Raises:
            DataError: the file is not the one that the manifest lists.
            UpdateRefusedError: a value is not finite.
        """
        with self._lock:
            self._read_up_to(self._end)
        if self._digest.hexdigest() != self._manifest.files[self._path.name]:
            raise DataError(
                f"{self._path} is not the file that {MANIFEST_NAME} lists: it was changed or "
                "damaged after it was written"
            )


def _finite(chunk: memoryview, dtype: str) -> bool:
    infinity = INFINITY_BITS.get(dtype)
    if infinity is None or not len(chunk):
        return True
    # Ordered as integers, values that are not finite come last: the positive ones among signed
    # integers, the negative ones among unsigned. Neither look makes a copy.
    itemsize = DTYPES[dtype].itemsize
    sign = 1 << (8 * itemsize - 1)
    signed, unsigned = (np.frombuffer(chunk, f"<{kind}{itemsize}") for kind in "iu")
    return int(signed.max()) < infinity and int(unsigned.max()) < sign + infinity


def weights_of(updates: Sequence[Update]) -> Mapping[str, float]:
    """Return each cluster's share of all samples: its weight in the mean of shared changes."""
    total = sum(update.manifest.num_samples for update in updates)
    return {u.manifest.cluster: u.manifest.num_samples / total for u in updates}
