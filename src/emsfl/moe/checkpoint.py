"""A checkpoint folder as it lies on disk: its tensors, and which experts each of them holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from emsfl.errors import DataError
from emsfl.files import sha256_of
from emsfl.moe.adapter import MoELayerInfo, MoELayout, expert_axis, find_moe_layers
from emsfl.moe.file_hashes import known_blake3
from emsfl.moe.tensor_files import Progress, StoredTensor, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
NUM_THREADS = 4
"""Files that are read, hashed or written at a time: while one waits for the disk, others go on."""


@contextmanager
def file_pool() -> Iterator[ThreadPoolExecutor]:
    """Yield threads for work on files; what has not begun when the body raises is given up."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors, known from the headers of its files alone."""

    folder: Path
    headers: Mapping[str, bytes]
    """Raw header per file, in the order of the file names."""
    tensors: Mapping[str, StoredTensor]

    @cached_property
    def files(self) -> dict[str, list[StoredTensor]]:
        """File name -> its tensors in the order of their bytes."""
        files: dict[str, list[StoredTensor]] = {name: [] for name in self.headers}
        for tensor in self.tensors.values():
            files[tensor.path.name].append(tensor)
        return files

    @property
    def num_bytes(self) -> int:
        """Size of all tensor files."""
        return sum((self.folder / name).stat().st_size for name in self.headers)

    @property
    def structure_sha256(self) -> str:
        """Hash of all names, dtypes and shapes; cheap, and equal for fine-tuned copies."""
        return sha256_of(
            [[name, t.dtype, list(t.shape)] for name, t in sorted(self.tensors.items())]
        )

    def file_hashes(self, progress: Progress, *, once: bool) -> dict[str, str]:
        """Return the BLAKE3 hash of every tensor file; one that is known from before is not read.

        Args:
            progress: told of all bytes read.
            once: whether most of the bytes are not read again soon.
        """
        with file_pool() as pool:
            paths = [self.folder / name for name in self.headers]
            hashes = pool.map(lambda path: known_blake3(path, progress, once=once), paths)
            return dict(zip(self.headers, hashes, strict=True))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of all safetensors files of a checkpoint folder.

    Raises:
        DataError: no safetensors (pickle files are refused), a file that is missing or cut off, or
            a tensor that is stored twice or not where the index says.
    """
    if not folder.is_dir():
        raise DataError(f"checkpoint folder {folder} does not exist")
    names, index = _file_names(folder)
    headers: dict[str, bytes] = {}
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        headers[name], found = read_header(folder / name)
        for twice in found.keys() & tensors.keys():
            raise DataError(f"{folder}: tensor {twice} is stored twice")
        tensors.update(found)
    for tensor, name in index.items():
        if tensor not in tensors or tensors[tensor].path.name != name:
            raise DataError(f"{folder}: {INDEX_NAME} places {tensor} in {name}, which lacks it")
    return Checkpoint(folder, headers, tensors)


def _file_names(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the tensor files and what the index says, tensor -> file."""
    if (folder / INDEX_NAME).is_file():
        try:
            index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
            return sorted(set(index.values())), dict(index)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{folder / INDEX_NAME} is no index of tensor files") from None
    if (folder / SINGLE_NAME).is_file():
        return [SINGLE_NAME], {}
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise DataError(
            f"{folder} holds pickle files ({pickles[0]}), which can run code when read: "
            "convert the checkpoint to safetensors first"
        )
    raise DataError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a stored tensor is to the model."""

    layer: int
    """Index of the MoE layer; -1 for a shared tensor."""
    is_expert: bool = False
    """Whether it holds experts; else, inside a layer, router rows."""
    axis: int = 0
    """The axis that counts experts, where the tensor holds all of them."""
    expert: int = -1
    """Which expert it holds, where it holds one; else -1."""
    template: str = ""
    """Its name with `{}` for the expert's number, where it holds one."""


SHARED = Role(layer=-1)


@dataclass(frozen=True)
class StoredLayout:
    """The roles of a checkpoint's tensors under the layers of the model they belong to."""

    layers: tuple[MoELayerInfo, ...]
    roles: Mapping[str, Role]
    """Stored name -> role, for the tensors that the model class loads."""
    unused: tuple[str, ...]
    """Stored names that the model class does not load."""


def stored_layout(checkpoint: Checkpoint, skeleton: nn.Module) -> StoredLayout:
    """Find the role of every stored tensor.

    Args:
        checkpoint: whose tensors.
        skeleton: the model that loads them; its tensors may be on the meta device.

    Raises:
        DataError: no MoE layer, or experts that the checkpoint lacks.
    """
    layout = find_moe_layers(skeleton)
    where = _places(layout)
    roles: dict[str, Role] = {}
    unused = []
    for stored, name in loaded_names(skeleton, checkpoint.tensors).items():
        if name is None:
            unused.append(stored)
        elif name in where:
            index, is_expert = where[name]
            roles[stored] = _role(
                stored, checkpoint.tensors[stored].shape, layout.layers[index], index, is_expert
            )
        else:
            roles[stored] = SHARED
    _check_complete(checkpoint.folder, layout, roles)
    return StoredLayout(layout.layers, roles, tuple(unused))


def _places(layout: MoELayout) -> dict[str, tuple[int, bool]]:
    """Return, per tensor of a layer in memory, the layer's index and whether it holds experts."""
    places = {}
    for index, layer in enumerate(layout.layers):
        places.update(dict.fromkeys(layer.router_axes, (index, False)))
        places.update(dict.fromkeys(layer.expert_axes, (index, True)))
        places.update(dict.fromkeys(layer.member_names, (index, True)))
    return places


def _role(
    stored: str, shape: tuple[int, ...], layer: MoELayerInfo, index: int, is_expert: bool
) -> Role:
    numbered = re.fullmatch(r"(.*\bexperts\.(?:[a-z]\w*_)?)(\d+)(\..*)", stored)
    if is_expert and numbered:
        before, number, after = numbered.groups()
        return Role(
            layer=index, is_expert=True, expert=int(number), template=f"{before}{{}}{after}"
        )
    axis = expert_axis(stored, shape, layer.num_experts)
    return Role(layer=index, is_expert=is_expert, axis=axis)


def _check_complete(folder: Path, layout: MoELayout, roles: Mapping[str, Role]) -> None:
    """Raise DataError unless every layer's experts and router are all there."""
    single: dict[tuple[int, str], set[int]] = {}
    whole: dict[int, set[bool]] = {}
    for role in roles.values():
        if role.expert >= 0:
            single.setdefault((role.layer, role.template), set()).add(role.expert)
        elif role.layer >= 0:
            whole.setdefault(role.layer, set()).add(role.is_expert)
    for (index, template), experts in single.items():
        missing = set(range(layout.layers[index].num_experts)) ^ experts
        if missing:
            raise DataError(f"{folder}: {template.format(min(missing))} is missing or unexpected")
    for index, layer in enumerate(layout.layers):
        has_experts = any(i == index for i, _ in single) or True in whole.get(index, ())
        if not has_experts or False not in whole.get(index, ()):
            raise DataError(f"{folder} stores no experts or no router for layer {layer.name}")


def loaded_names(skeleton: nn.Module, stored: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return, per stored name, the name of the tensor in memory that it goes to, or None."""
    names = skeleton.state_dict().keys()
    if not hasattr(skeleton, "base_model_prefix"):
        return {name: name if name in names else None for name in stored}
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    transforms = get_model_conversion_mapping(skeleton)  # type: ignore[arg-type]
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    present = dict.fromkeys(names, True)
    loaded: dict[str, str | None] = {}
    for name in stored:
        for rules in ((renamings, converters), ([], [])):
            new_name, _ = rename_source_key(name, *rules, str(skeleton.base_model_prefix), present)
            if new_name in present:
                break
        loaded[name] = new_name if new_name in present else None
    return loaded
