"""Tiny random models of every family, made from the stock configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emsfl.data.files import Table
from emsfl.moe import ScoreKind
from emsfl.moe.inspection import inspect_checkpoint
from emsfl.moe.manifests import AssignmentFile

transformers = pytest.importorskip("transformers")
"""Tests that need the `hf` extra are skipped without it."""

TEXT = (
    "north south east west sun moon star sky rain wind snow cloud red green blue gold small great "
    "one two three four five six seven eight good bad old new the a of and in on is was runs sees"
)
WORDS = TEXT.split()
VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", *WORDS]
NUM_EXPERTS = 8
COMMON = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 24,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
DEEPSEEK = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 24,
    "n_routed_experts": NUM_EXPERTS,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_hidden_layers": 3,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": NUM_EXPERTS}),
    "olmoe": ("Olmoe", {"num_experts": NUM_EXPERTS}),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            "num_experts": NUM_EXPERTS,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": NUM_EXPERTS, "moe_intermediate_size": 24, "head_dim": 8},
    ),
    "deepseek_v2": ("DeepseekV2", {**DEEPSEEK, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("DeepseekV3", DEEPSEEK),
    "gpt_oss": ("GptOss", {"num_local_experts": NUM_EXPERTS, "head_dim": 8}),
    "granitemoe": ("GraniteMoe", {"num_local_experts": NUM_EXPERTS}),
    "phimoe": ("Phimoe", {"num_local_experts": NUM_EXPERTS}),
    "switch_transformers": (
        "SwitchTransformers",
        {
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_heads": 2,
            "num_experts": NUM_EXPERTS,
            "expert_capacity": 64,
            "vocab_size": 64,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "decoder_start_token_id": 0,
        },
    ),
}


def make_model(family: str, seed: int = 0) -> nn.Module:
    """Return a random model of a family, its routers random enough to choose differently."""
    name, settings = FAMILIES[family]
    is_switch = family == "switch_transformers"
    suffix = "ForConditionalGeneration" if is_switch else "ForCausalLM"
    fields = settings if is_switch else {**COMMON, **settings}
    config = getattr(transformers, f"{name}Config")(**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}{suffix}")(config).eval()
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if "correction_bias" in key:
                    tensor.normal_(std=0.3)
                elif ("gate." in key or "router." in key) and "shared" not in key:
                    tensor.normal_()
    return model


def save_model(family: str, folder: Path, shard_size: str = "20KB") -> nn.Module:
    """Save a random model in shards, with a word tokenizer, and return it."""
    model = make_model(family)
    model.save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)


def make_inputs(family: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return token ids for a forward pass."""
    ids = torch.randint(0, 64, (3, 12), generator=torch.Generator().manual_seed(seed))
    if family == "switch_transformers":
        return {"input_ids": ids, "decoder_input_ids": ids[:, :7]}
    return {"input_ids": ids}


TINY_DENSE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def save_dense(name: str, folder: Path, **fields: Any) -> Any:
    """Save a random dense model of a stock class in shards, with a tokenizer, and return it."""
    config = getattr(transformers, f"{name.partition('For')[0].removesuffix('Model')}Config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = getattr(transformers, name)(config(**{**TINY_DENSE, **fields})).eval()
    model.save_pretrained(folder, max_shard_size="10KB")
    save_tokenizer(folder)
    return model


def make_assignment(folder: Path, **owned: tuple[int, ...]) -> AssignmentFile:
    """Give every cluster the same experts in all layers, and 1, 2, ... samples."""
    found = inspect_checkpoint(folder)
    return AssignmentFile(
        structure_sha256=found.structure_sha256,
        kind=ScoreKind.MEAN_GATE,
        layers=tuple(layer.name for layer in found.layers),
        num_experts=found.layers[0].num_experts,
        clusters={
            name: {
                "owned": (ids,) * len(found.layers),
                "mass_kept": (0.5,) * len(found.layers),
                "num_samples": 1 + index,
            }
            for index, (name, ids) in enumerate(owned.items())
        },
    )


def make_table(seed: int) -> Table:
    """Return twelve random texts of eight words."""
    draw = np.random.default_rng(seed)
    texts = tuple(" ".join(draw.choice(WORDS, 8)) for _ in range(12))
    return Table(inputs=texts, labels=None, domains=("a",) * 12)


class ExactSoftmax(TorchFunctionMode):
    """Softmax summed in double and rounded once.

    In float32 the last bit of a softmax depends on the order in which E terms are added, which
    differs for 8 terms of which 4 are zero and for the 4 alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settings = dict(kwargs or {})
        if func in (torch.softmax, nn.functional.softmax, Tensor.softmax):
            dtype = settings.pop("dtype", None) or args[0].dtype
            return func(args[0].double(), *args[1:], **settings).to(dtype)
        return func(*args, **settings)
