"""Write a checkpoint of a real architecture with random bf16 weights, shard by shard.

Run: python benchmarks/make_checkpoint.py DIR [--layers 16]

The architecture is OLMoE-1B-7B (arXiv 2409.02060, table 10): 16 layers, 64 experts, top-8, hidden
size 2048, 13.8 GB. No more than one chunk of random numbers is in memory at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from emsfl.files import write_json
from emsfl.moe.checkpoint import INDEX_NAME
from emsfl.moe.pretrained import import_transformers, stored_state
from emsfl.moe.split_checkpoint import shard_names
from emsfl.moe.tensor_files import NewTensor, new_header, write_file

SHARD_BYTES = 5_000_000_000
CHUNK_VALUES = 1 << 23
STANDARD_DEVIATION = 0.02


def make_checkpoint(folder: Path, num_layers: int = 16, seed: int = 0) -> int:
    """Write the checkpoint into `folder`; return the bytes of its tensor files."""
    transformers = import_transformers()
    config = transformers.OlmoeConfig(
        vocab_size=50304,
        hidden_size=2048,
        intermediate_size=1024,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_experts=64,
        num_experts_per_tok=8,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    config.architectures = ["OlmoeForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.OlmoeForCausalLM(config)
    shapes = {n: tuple(t.shape) for n, t in stored_state(model, model.state_dict()).items()}
    generator = torch.Generator().manual_seed(seed)
    shards: list[list[NewTensor]] = [[]]
    for name, shape in sorted(shapes.items()):
        tensor = NewTensor(
            name=name,
            dtype="BF16",
            shape=shape,
            pieces=partial(random_chunks, shape, generator),
        )
        if sum(t.num_bytes for t in shards[-1]) + tensor.num_bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    names = shard_names(len(shards))
    total = 0
    for file_name, tensors in zip(names, shards, strict=True):
        write_file(folder / file_name, new_header(tensors), tensors, lambda _n: None)
        total += (folder / file_name).stat().st_size
    if len(shards) > 1:
        places = {t.name: n for n, tensors in zip(names, shards, strict=True) for t in tensors}
        write_json(folder / INDEX_NAME, {"metadata": {}, "weight_map": places})
    return total


def random_chunks(shape: tuple[int, ...], generator: torch.Generator) -> Iterator[memoryview]:
    """Yield the bytes of normally distributed bf16 values."""
    left = torch.Size(shape).numel()
    while left:
        values = torch.randn(min(left, CHUNK_VALUES), generator=generator)
        left -= len(values)
        yield (values * STANDARD_DEVIATION).bfloat16().view(torch.uint8).numpy().data


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    arguments = parser.parse_args()
    total = make_checkpoint(arguments.folder, arguments.layers)
    print(f"{arguments.folder}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
