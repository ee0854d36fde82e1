"""What a cluster tells of its inputs for the domain gate, and the hooks that take it down.

The features are hidden states at the first MoE layer of the pre-trained model, measured once, with
the scores (`docs/decisions/0006-gate-features.md`).

Shapes: B sequences, S tokens in each, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.files import atomic_path, sha256_of_file
from emsfl.moe.adapter import MoELayout
from emsfl.moe.gate import DomainStatistics


class Pooling(StrEnum):
    """What a token's posterior is computed from."""

    SEQUENCE = "sequence"
    PREFIX = "prefix"


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean [B, D] of hidden states [B, S, D] over the tokens in `mask` [B, S]."""
    if mask is None:
        return hidden.mean(1)
    kept = mask.to(hidden).unsqueeze(-1)
    return (hidden * kept).sum(1) / kept.sum(1).clamp_min(1)


@contextmanager
def recording_statistics(
    model: nn.Module, layout: MoELayout, pooling: Pooling
) -> Iterator[list[DomainStatistics]]:
    """While active, every forward pass appends the statistics of its features to the list.

    One feature per sequence, or one per token with prefix pooling; padding excluded.
    """
    statistics: list[DomainStatistics] = []

    def see(index: int, hidden: Tensor, mask: Tensor | None, _call: Call) -> None:
        if index == 0:
            hidden = hidden.detach()
            if pooling is Pooling.SEQUENCE:
                features = pooled(hidden, mask)
            else:
                features = hidden[mask.bool()] if mask is not None else hidden.flatten(0, 1)
            statistics.append(DomainStatistics.of(features.cpu()))

    with watching(model, layout, see):
        yield statistics


def statistics_path(scores: Path) -> Path:
    """Return where the domain statistics of a scores file lie: beside it."""
    return scores.with_name(f"{scores.stem}.statistics.safetensors")


def save_statistics(path: Path, statistics: DomainStatistics) -> str:
    """Write a cluster's statistics for the domain gate; return the file's SHA-256."""
    tensors = {
        "count": torch.tensor([statistics.count], dtype=torch.float64),
        "total": statistics.total.contiguous(),
        "outer": statistics.outer.contiguous(),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return sha256_of_file(path)


def read_statistics(path: Path, sha256: str) -> DomainStatistics:
    """Read a cluster's statistics for the domain gate.

    Raises:
        DataError: missing, not the file with this hash, damaged, or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: keep it beside the scores file, as score wrote it")
    if sha256_of_file(path) != sha256:
        raise DataError(f"{path} is not the file that was written with the scores")
    try:
        tensors = load_file(path)
        count, total, outer = (tensors[name] for name in ("count", "total", "outer"))
    except (OSError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} holds no domain statistics: {reason}") from None
    size = len(total)
    if outer.shape != (size, size) or not count > 0 or not outer.isfinite().all():
        raise DataError(f"{path}: the domain statistics are of no set of features")
    return DomainStatistics(float(count), total, outer)


@dataclass
class Call:
    """The forward pass under way."""

    module: nn.Module
    """The model, or its encoder if it has a decoder too."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    goes_on: bool = False
    """Whether its tokens follow those that were in a cache when it began."""

    def mask_of(self, layer: str) -> Tensor | None:
        """Return the mask [B, S] of a layer's tokens, 0 for padding; None: there is none."""
        in_decoder = "decoder" in layer.split(".") and "decoder_input_ids" in self.kwargs
        mask = self.kwargs.get("decoder_attention_mask" if in_decoder else "attention_mask")
        return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


See = Callable[[int, Tensor, Tensor | None, Call], None]
"""Told the index of an MoE layer, its input [B, S, D], its mask [B, S], and the pass under way."""


@contextmanager
def watching(model: nn.Module, layout: MoELayout, see: See) -> Iterator[None]:
    """While active, `see` is told the input of every MoE layer.

    Forward passes that `see` itself asks for are not told.
    """
    starts = [model]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        starts.append(model.get_submodule("encoder"))  # which `generate` calls by itself
    calls = {start: Call(start, (), {}) for start in starts}
    busy = False

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not busy:
            cache = kwargs.get("past_key_values")
            goes_on = cache is not None and _cached_length(cache) > 0
            calls[module] = Call(module, args, kwargs, goes_on)

    handles = [m.register_forward_pre_hook(begin, with_kwargs=True) for m in starts]
    for index, layer in enumerate(layout.layers):

        def enter(
            _module: nn.Module,
            inputs: tuple[Any, ...],
            index: int = index,
            name: str = layer.name,
        ) -> None:
            nonlocal busy
            if busy:
                return
            call = calls[starts[-1] if name.startswith("encoder.") else model]
            hidden, mask = inputs[0], call.mask_of(name)
            busy = True
            try:
                see(index, hidden, None if mask is None else mask[:, -hidden.shape[1] :], call)
            finally:
                busy = False

        handles.append(model.get_submodule(layer.name).register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cached_length(cache: Any) -> int:
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else len(cache)
