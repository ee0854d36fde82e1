"""The exact domain gate around a stock model: saved beside the checkpoint, loaded by one call.

The gate (`gate.py`) needs one posterior over clusters per token. `sequence` pooling takes the mean
of the hidden states at the first MoE layer over a whole sequence, padding excluded, and serves
classifiers and encoders. `prefix` pooling sums the Gaussian evidence of the tokens up to and
including each one, so that no token looks ahead: what a causal language model needs. Prefix sums
go on through cached generation (greedy or sampled; beam search reorders its cache unseen).

Hidden states are those of the pre-trained model, whose statistics the gate was fitted to. Where
merging changed tensors that they depend on, the pre-trained ones lie beside the checkpoint too,
and every forward pass begins with one more through the layers below the first MoE layer.

Shapes: B sequences, S tokens in each, D hidden size, C clusters, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from emsfl.errors import DataError
from emsfl.files import atomic_path
from emsfl.moe.adapter import MoELayout, find_moe_layers
from emsfl.moe.checkpoint import Checkpoint
from emsfl.moe.domain_statistics import Call, Pooling, pooled, watching
from emsfl.moe.families import FAMILIES, Family
from emsfl.moe.gate import MIN_LOG_POSTERIOR, DomainGate
from emsfl.moe.manifests import Document, read_document, write_document
from emsfl.moe.pretrained import load_model
from emsfl.moe.pretrained_features import PretrainedFeatures
from emsfl.moe.rerouting import barring, rerouting
from emsfl.moe.tensor_files import new_header, write_file

GATE_NAME = "domain_gate"
LAYERS_NAME = f"{GATE_NAME}_layers.safetensors"
ROWS = 4096
"""Tokens whose posterior is computed at a time."""


class GateFile(Document):
    """What `domain_gate.json` says about `domain_gate.safetensors`."""

    pooling: Pooling
    clusters: tuple[str, ...]
    score_function: Literal["softmax", "sigmoid"]
    moved: tuple[str, ...]
    """Stored names of the tensors below the first MoE layer that merging changed; their
    pre-trained values lie in `domain_gate_layers.safetensors`."""


@dataclass(frozen=True, kw_only=True)
class StoredGate:
    """A domain gate and how to apply it."""

    gate: DomainGate
    info: GateFile
    moved: Mapping[str, Tensor]
    """Stored name -> pre-trained value."""


def save_gate(folder: Path, gate: DomainGate, info: GateFile, base: Checkpoint) -> None:
    """Write a gate beside a checkpoint: `domain_gate.json` and safetensors of the same name.

    Args:
        folder: of the checkpoint.
        gate: what to write.
        info: what to say about it.
        base: the pre-trained model; its `info.moved` are copied.
    """
    tensors = {
        "means": gate.means,
        "whiteners": gate.whiteners,
        "log_scale": gate.log_scale,
        "owner": gate.owner,
    }
    with atomic_path(folder / f"{GATE_NAME}.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    if info.moved:
        kept = [base.tensors[name].unchanged() for name in info.moved]
        write_file(folder / LAYERS_NAME, new_header(kept), kept, lambda _count: None)
    write_document(folder / f"{GATE_NAME}.json", info)


def read_gate(folder: Path) -> StoredGate:
    """Read the gate beside a checkpoint.

    Raises:
        DataError: there is none, or it is damaged.
    """
    info = read_document(GateFile, folder / f"{GATE_NAME}.json")
    path = folder / f"{GATE_NAME}.safetensors"
    try:
        gate = DomainGate(**load_file(path))
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} is no domain gate: {' '.join(str(error).split())}") from None
    path = folder / LAYERS_NAME
    try:
        moved = load_file(path) if info.moved else {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if set(moved) != set(info.moved):
        raise DataError(f"{path} does not hold the tensors that {GATE_NAME}.json lists")
    return StoredGate(gate=gate, info=info, moved=moved)


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
    is_causal = stored.info.pooling is Pooling.PREFIX
    features = PretrainedFeatures(model, layout, stored.moved, is_causal=is_causal)
    state = _Posterior(stored, features)
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

    def __init__(self, stored: StoredGate, features: PretrainedFeatures) -> None:
        self.stored, self.features = stored, features
        self.current = torch.empty(0)
        """[B, S, C], or [B, 1, C] where it is the same for all tokens."""
        self.evidence: Tensor | None = None
        """[B, C]: log evidence of the tokens before the ones under way (prefix pooling)."""
        self.num_tokens: dict[int, int] = {}

    def see(self, index: int, hidden: Tensor, mask: Tensor | None, call: Call) -> None:
        """Take in the input [B, S, D] of a layer; the first layer's decides."""
        self.num_tokens[index] = hidden.shape[1]
        if index:
            return
        hidden = self.features.of(call, hidden.detach())
        if self.stored.info.pooling is Pooling.SEQUENCE:
            self.current = self._log_posterior(pooled(hidden, mask)).unsqueeze(1)
            return
        batch, length, size = hidden.shape
        tokens = self._log_posterior(hidden.reshape(-1, size)).reshape(batch, length, -1)
        if mask is not None:
            tokens = tokens * mask.unsqueeze(-1).to(tokens.device)
        running = tokens.cumsum(1)
        if call.goes_on and self.evidence is not None:
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


def gate_info(
    config: Mapping[str, Any], clusters: Sequence[str], pooling: Pooling, moved: Sequence[str] = ()
) -> GateFile:
    """Describe the gate of a model with this configuration."""
    family = FAMILIES.get(str(config.get("model_type")), Family())
    return GateFile(
        pooling=pooling,
        clusters=tuple(clusters),
        score_function=family.score_function,
        moved=tuple(moved),
    )
