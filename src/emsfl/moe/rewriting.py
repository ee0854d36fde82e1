"""Copy a checkpoint with a few of its tensors replaced."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emsfl.files import sha256_of, write_json
from emsfl.moe.checkpoint import file_pool, open_checkpoint
from emsfl.moe.manifests import MANIFEST_NAME
from emsfl.moe.pretrained import carried_files, read_json
from emsfl.moe.split_checkpoint import begin_files, finish_partial, partial_of, prepare_partial
from emsfl.moe.tensor_files import DTYPES, NewTensor, StoredTensor

if TYPE_CHECKING:
    from typing_extensions import Buffer


def rewrite_checkpoint(
    folder: Path, replaced: Mapping[str, Tensor], out: Path, remark: str
) -> None:
    """Write `folder` with some tensors replaced into `out`, atomically; its gate stays behind.

    Args:
        folder: a checkpoint.
        replaced: stored name -> new values of the same shape.
        out: must not exist.
        remark: what was done, for the provenance in `emsfl.json`.
    """
    checkpoint = open_checkpoint(folder)
    partial_folder = partial_of(out)
    prepare_partial(partial_folder, sha256_of("rewrite", str(folder), remark))
    contents = {
        name: (
            checkpoint.headers[name],
            [_new(tensor, replaced.get(tensor.name)) for tensor in tensors],
        )
        for name, tensors in checkpoint.files.items()
    }
    with file_pool() as pool:
        begun = begin_files(partial_folder, contents, pool, lambda _count: None)
        hashes = {name: file.result() for name, file in begun.items()}
    for path in [*carried_files(folder, with_index=True), folder / "README.md"]:
        if path.is_file():
            shutil.copyfile(path, partial_folder / path.name)
    manifest = read_json(folder / MANIFEST_NAME) if (folder / MANIFEST_NAME).is_file() else {}
    remarks = [*manifest.get("remarks", []), remark]
    write_json(
        partial_folder / MANIFEST_NAME,
        {**manifest, "plan_sha256": sha256_of(hashes), "files": hashes, "remarks": remarks},
    )
    finish_partial(partial_folder, out)


def _new(stored: StoredTensor, value: Tensor | None) -> NewTensor:
    if value is None:
        pieces: partial[list[Buffer]] | None = None
    else:
        assert tuple(value.shape) == stored.shape
        flat = value.detach().to(DTYPES[stored.dtype]).contiguous().view(torch.uint8)
        pieces = partial(list, [flat.reshape(-1).numpy().data])
    return NewTensor(
        name=stored.name,
        dtype=stored.dtype,
        shape=stored.shape,
        pieces=pieces or stored.whole,
    )
