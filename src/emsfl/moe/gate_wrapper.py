"""The exact domain gate around a stock model: saved beside the checkpoint, loaded by one call.

The gate (`gate.py`) needs one posterior over clusters per token. `sequence` pooling takes the mean
of the hidden states at the first MoE layer over a whole sequence, padding excluded, and serves
classifiers and encoders. `prefix` pooling sums the Gaussian evidence of the tokens up to and
including each one, so that no token looks ahead: what a causal language model needs. Prefix sums
go on through cached generation (greedy or sampled; beam search reorders its cache unseen).

Shapes: B sequences, S tokens in each, D hidden size, C clusters, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from emsfl.errors import DataError
from emsfl.files import atomic_path
from emsfl.moe.adapter import MoELayout, find_moe_layers
from emsfl.moe.families import FAMILIES, Family
from emsfl.moe.gate import MIN_LOG_POSTERIOR, DomainGate, DomainStatistics
from emsfl.moe.manifests import Document, read_document, write_document
from emsfl.moe.pretrained import load_model
from emsfl.moe.rerouting import barring, rerouting
from emsfl.moe.tensor_files import sha256_of_file

GATE_NAME = "domain_gate"
STATISTICS_NAME = "domain_statistics.safetensors"
ROWS = 4096
"""Tokens whose posterior is computed at a time."""


class Pooling(StrEnum):
    """What a token's posterior is computed from."""

    SEQUENCE = "sequence"
    PREFIX = "prefix"


class GateFile(Document):
    """What `domain_gate.json` says about `domain_gate.safetensors`."""

    pooling: Pooling
    clusters: tuple[str, ...]
    score_function: Literal["softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class StoredGate:
    """A domain gate and how to apply it."""

    gate: DomainGate
    info: GateFile


def save_gate(folder: Path, stored: StoredGate) -> None:
    """Write a gate beside a checkpoint: `domain_gate.safetensors` and `domain_gate.json`."""
    gate = stored.gate
    tensors = {
        "means": gate.means,
        "whiteners": gate.whiteners,
        "log_scale": gate.log_scale,
        "owner": gate.owner,
    }
    with atomic_path(folder / f"{GATE_NAME}.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    write_document(folder / f"{GATE_NAME}.json", stored.info)


def read_gate(folder: Path) -> StoredGate:
    """Read the gate beside a checkpoint.

    Raises:
        DataError: there is none, or it is damaged.
    """
    info = read_document(GateFile, folder / f"{GATE_NAME}.json")
    path = folder / f"{GATE_NAME}.safetensors"
    try:
        tensors = load_file(path)
        gate = DomainGate(**tensors)
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} is no domain gate: {' '.join(str(error).split())}") from None
    return StoredGate(gate=gate, info=info)


def has_gate(folder: Path) -> bool:
    """Tell whether a checkpoint folder holds a domain gate."""
    return (folder / f"{GATE_NAME}.json").is_file()


def load_gated(folder: Path | str, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the stock model of a checkpoint folder, routed by the domain gate beside it.

    It is used like any model of its class; `generate` works. `model.domain_gate.close()` takes the
    gate off again.

    Args:
        folder: as `emsfl merge` wrote it.
        dtype: floating-point type to hold the weights in; default: as stored.

    Raises:
        DataError: no checkpoint, or no gate beside it.
    """
    stored = read_gate(Path(folder))
    model: Any = load_model(Path(folder), dtype)
    model.domain_gate = ExitStack()
    model.domain_gate.enter_context(gating(model, find_moe_layers(model), stored))
    gated: nn.Module = model
    return gated


@contextmanager
def gating(model: nn.Module, layout: MoELayout, stored: StoredGate) -> Iterator[None]:
    """While active, `model` routes by the gate in every MoE layer."""
    state = _Posterior(stored)
    gate = stored.gate

    def transform(index: int, logits: Tensor) -> Tensor:
        posterior = state.of_layer(index).to(logits.device)
        flat = logits.reshape(-1, logits.shape[-1])
        if stored.info.score_function == "sigmoid":
            gated = _gated_sigmoid(gate, index, flat, posterior)
        else:
            gated = gate.gated_logits(index, flat, posterior)
            gated = gated + _scale(gate, index, flat, posterior)
        return gated.reshape(logits.shape)

    with ExitStack() as stack:
        stack.enter_context(rerouting(model, layout, transform))
        stack.enter_context(barring(model, layout, gate.owner >= 0))
        stack.enter_context(watching(model, layout, state.see))
        yield


def _scale(gate: DomainGate, index: int, logits: Tensor, log_posterior: Tensor) -> Tensor:
    """Return [T, 1] that brings gated logits back to the scale of the router's own.

    A softmax does not see it; PhiMoE's sparse mixer compares logits relative to their size.
    """
    owner = gate.owner[index].to(logits.device)
    own = owner == log_posterior.argmax(-1, keepdim=True)
    return logits.masked_fill(~own, -math.inf).logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)


def _gated_sigmoid(gate: DomainGate, index: int, logits: Tensor, log_posterior: Tensor) -> Tensor:
    """Return logits whose sigmoid is p(c(e) | input) times that of the router's own."""
    owner = gate.owner[index].to(logits.device)
    share = log_posterior[:, owner.clamp_min(0)].to(logits.dtype) + functional.logsigmoid(logits)
    odds = share - torch.log1p(-share.exp())
    return odds.masked_fill(owner < 0, -math.inf)


class _Posterior:
    """The posterior of the forward pass under way."""

    def __init__(self, stored: StoredGate) -> None:
        self.stored = stored
        self.current = torch.empty(0)
        """[B, S, C], or [B, 1, C] where it is the same for all tokens."""
        self.evidence: Tensor | None = None
        """[B, C]: log evidence of the tokens before the ones under way (prefix pooling)."""
        self.num_tokens: dict[int, int] = {}

    def see(self, index: int, hidden: Tensor, mask: Tensor | None, *, goes_on: bool) -> None:
        """Take in the input [B, S, D] of a layer; the first layer's decides."""
        self.num_tokens[index] = hidden.shape[1]
        if index:
            return
        hidden = hidden.detach()
        if self.stored.info.pooling is Pooling.SEQUENCE:
            self.current = self._log_posterior(pooled(hidden, mask)).unsqueeze(1)
            return
        batch, length, size = hidden.shape
        tokens = self._log_posterior(hidden.reshape(-1, size)).reshape(batch, length, -1)
        if mask is not None:
            tokens = tokens * mask.unsqueeze(-1).to(tokens.device)
        running = tokens.cumsum(1)
        if goes_on and self.evidence is not None:
            running = running + self.evidence.unsqueeze(1)
        self.evidence = running[:, -1]
        self.current = running.log_softmax(-1).clamp_min(MIN_LOG_POSTERIOR)

    def of_layer(self, index: int) -> Tensor:
        """Return the posterior [B * S, C] of a layer's tokens."""
        batch, _, clusters = self.current.shape
        return self.current.expand(batch, self.num_tokens[index], clusters).reshape(-1, clusters)

    def _log_posterior(self, features: Tensor) -> Tensor:
        features = features.cpu()
        starts = range(0, len(features), ROWS)
        log_posterior = self.stored.gate.log_posterior
        return torch.cat([log_posterior(features[start : start + ROWS]) for start in starts])


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

    def see(index: int, hidden: Tensor, mask: Tensor | None, *, goes_on: bool) -> None:
        del goes_on
        if index == 0:
            hidden = hidden.detach()
            if pooling is Pooling.SEQUENCE:
                features = pooled(hidden, mask)
            else:
                features = hidden[mask.bool()] if mask is not None else hidden.flatten(0, 1)
            statistics.append(DomainStatistics.of(features.cpu()))

    with watching(model, layout, see):
        yield statistics


def save_statistics(folder: Path, statistics: DomainStatistics, pooling: Pooling) -> str:
    """Write an update's statistics for the domain gate; return the file's SHA-256."""
    path = folder / STATISTICS_NAME
    tensors = {
        "count": torch.tensor([statistics.count], dtype=torch.float64),
        "total": statistics.total.contiguous(),
        "outer": statistics.outer.contiguous(),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"pooling": pooling.value})
    return sha256_of_file(path)


def read_statistics(folder: Path) -> tuple[DomainStatistics, Pooling]:
    """Read an update's statistics for the domain gate.

    Raises:
        DataError: damaged, or not finite.
    """
    path = folder / STATISTICS_NAME
    try:
        with safe_open(path, "pt") as file:
            pooling = Pooling(file.metadata()["pooling"])
            count, total, outer = (file.get_tensor(n) for n in ("count", "total", "outer"))
    except (OSError, TypeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} holds no domain statistics: {reason}") from None
    size = len(total)
    if outer.shape != (size, size) or not count > 0 or not outer.isfinite().all():
        raise DataError(f"{path}: the domain statistics are of no set of features")
    return DomainStatistics(float(count), total, outer), pooling


@contextmanager
def watching(model: nn.Module, layout: MoELayout, see: Any) -> Iterator[None]:
    """While active, `see(index, hidden, mask, goes_on)` is told the input of every MoE layer."""
    call: dict[str, Any] = {}

    def begin(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        call["goes_on"] = cache is not None and _cached_length(cache) > 0
        call["mask"] = kwargs.get("attention_mask")

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True)]
    for index, layer in enumerate(layout.layers):

        def enter(_module: nn.Module, inputs: tuple[Any, ...], index: int = index) -> None:
            hidden, mask = inputs[0], call["mask"]
            if mask is not None:
                mask = mask[:, -hidden.shape[1] :] if mask.dim() == 2 else None
            see(index, hidden, mask, goes_on=call["goes_on"])

        handles.append(model.get_submodule(layer.name).register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cached_length(cache: Any) -> int:
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else len(cache)


def gate_info(config: Mapping[str, Any], clusters: Sequence[str], pooling: Pooling) -> GateFile:
    """Describe the gate of a model with this configuration."""
    family = FAMILIES.get(str(config.get("model_type")), Family())
    return GateFile(pooling=pooling, clusters=tuple(clusters), score_function=family.score_function)
