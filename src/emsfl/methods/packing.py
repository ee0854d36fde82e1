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
    found = _Found()
    return found.arrays, found.encode(tree)


class _Found:
    """The tensors of one tree, each once.

    No function refers to itself here: a cycle would keep a whole state in memory, long after the
    next one has taken its place, until the garbage collector comes by.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.keys: dict[int, str] = {}
        self.kept: list[Tensor] = []
        """Lest another tensor gets the id of one that is gone."""

    def encode(self, node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in self.keys:
                self.keys[id(node)] = f"t{len(self.keys)}"
                self.kept.append(node)
                array = np.ascontiguousarray(node.detach().cpu().numpy())
                self.arrays[self.keys[id(node)]] = array
            return {"$tensor": self.keys[id(node)]}
        name = type(node).__name__
        if name in ENUMS:
            return {"$enum": [name, node.value]}
        if name in DATACLASSES:
            members = {f.name: self.encode(getattr(node, f.name)) for f in fields(node)}
            return {"$class": name, "$fields": members}
        if isinstance(node, dict):
            return {"$items": [[self.encode(k), self.encode(v)] for k, v in node.items()]}
        if isinstance(node, tuple):
            return {"$tuple": [self.encode(v) for v in node]}
        if isinstance(node, list):
            return [self.encode(v) for v in node]
        if node is None or isinstance(node, str | int | float | bool):
            return node
        raise TypeError(f"a checkpoint cannot hold {type(node).__name__}")


def unpack(arrays: dict[str, NDArray[Any]], tree: Any) -> Any:
    """Return what `pack` was given; `arrays` is emptied on the way, so that nothing is held twice.

    Tensors are copies, for what is computed may depend on how memory is aligned.
    """
    tensors = {key: torch.from_numpy(arrays.pop(key).copy()) for key in list(arrays)}
    return _decode(tree, tensors)


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(v, tensors) for v in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return tensors[node["$tensor"]]
    if "$enum" in node:
        name, value = node["$enum"]
        return ENUMS[name](value)
    if "$class" in node:
        members = {k: _decode(v, tensors) for k, v in node["$fields"].items()}
        return DATACLASSES[node["$class"]](**members)
    if "$tuple" in node:
        return tuple(_decode(v, tensors) for v in node["$tuple"])
    return {_decode(k, tensors): _decode(v, tensors) for k, v in node["$items"]}
