"""Turn the state of a driver, a method or a cluster into named arrays plus JSON, and back.

A state is a tree of dicts, lists, tuples, tensors, the dataclasses and enums listed here, and
plain values. A tensor that occurs in several places is stored once.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emsfl.methods.cluster import Device
from emsfl.methods.method import Activity, Receive, Update, Upload, Work
from emsfl.moe import DomainStatistics, TextStatistics
from emsfl.training import LocalSettings

DATACLASSES = {
    c.__name__: c for c in (Device, DomainStatistics, LocalSettings, TextStatistics, Update, Work)
}
ENUMS = {c.__name__: c for c in (Activity, Receive, Upload)}


def pack(tree: Any) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return (arrays by key, JSON-able tree that refers to them).

    Raises:
        TypeError: the tree holds something that cannot be stored.
    """
    arrays: dict[str, NDArray[Any]] = {}
    keys: dict[int, str] = {}
    kept: list[Tensor] = []

    def encode(node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in keys:
                keys[id(node)] = f"t{len(keys)}"
                kept.append(node)
                arrays[keys[id(node)]] = np.ascontiguousarray(node.detach().cpu().numpy())
            return {"$tensor": keys[id(node)]}
        name = type(node).__name__
        if name in ENUMS:
            return {"$enum": [name, node.value]}
        if name in DATACLASSES:
            members = {f.name: encode(getattr(node, f.name)) for f in fields(node)}
            return {"$class": name, "$fields": members}
        if isinstance(node, dict):
            return {"$items": [[encode(k), encode(v)] for k, v in node.items()]}
        if isinstance(node, tuple):
            return {"$tuple": [encode(v) for v in node]}
        if isinstance(node, list):
            return [encode(v) for v in node]
        if node is None or isinstance(node, str | int | float | bool):
            return node
        raise TypeError(f"a checkpoint cannot hold {type(node).__name__}")

    return arrays, encode(tree)


def unpack(arrays: dict[str, NDArray[Any]], tree: Any) -> Any:
    """Return what `pack` was given."""
    tensors = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}

    def decode(node: Any) -> Any:
        if isinstance(node, list):
            return [decode(v) for v in node]
        if not isinstance(node, dict):
            return node
        if "$tensor" in node:
            return tensors[node["$tensor"]]
        if "$enum" in node:
            name, value = node["$enum"]
            return ENUMS[name](value)
        if "$class" in node:
            members = {k: decode(v) for k, v in node["$fields"].items()}
            return DATACLASSES[node["$class"]](**members)
        if "$tuple" in node:
            return tuple(decode(v) for v in node["$tuple"])
        return {decode(k): decode(v) for k, v in node["$items"]}

    return decode(tree)
