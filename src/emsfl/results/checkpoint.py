"""Checkpoints: named arrays and a JSON-able note in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from emsfl.errors import RunFolderError
from emsfl.files import atomic_path

_META_KEY = "emsfl"


def write_checkpoint(
    path: Path | str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> None:
    """Write `arrays` and `meta` to `path`; the file is either whole or not there.

    Args:
        path: the file; its folder is made when missing.
        arrays: named arrays of any shape, zero-dimensional and empty ones too.
        meta: what JSON can hold, unbounded integers, NaN and infinity included; it comes back
            with tuples as lists and every key as text.
    """
    # safetensors writes an array's memory as it lies, so views must be laid out in C order first.
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_META_KEY: json.dumps(meta)})


def read_checkpoint(path: Path | str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the note that `write_checkpoint` wrote, bit for bit.

    Raises:
        RunFolderError: the file is missing, damaged, or not a checkpoint of emsfl.
    """
    try:
        with safe_open(path, framework="np") as file:
            note = (file.metadata() or {}).get(_META_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunFolderError(f"checkpoint {path} does not exist") from None
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"checkpoint {path} cannot be read: {error}; delete it") from None
    if note is None:
        raise RunFolderError(f"{path} is not a checkpoint of emsfl: its header has no note")
    meta: dict[str, Any] = json.loads(note)
    return arrays, meta
