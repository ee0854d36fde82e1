"""Families that `families.py` says little or nothing about obey the structural rule as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reference.tiny_models import (
    COMMON,
    NUM_EXPERTS,
    ExactSoftmax,
    make_assignment,
    make_inputs,
    transformers,
)
from torch import nn

from emsfl.errors import DataError
from emsfl.moe import find_moe_layers
from emsfl.moe.merge_checkpoint import merge_checkpoint
from emsfl.moe.pretrained import load_model
from emsfl.moe.rerouting import excluding
from emsfl.moe.split_checkpoint import split_checkpoint

DENSE_FIRST = {"n_group": 1, "topk_group": 1, "moe_intermediate_size": 24}
OTHERS: dict[str, dict[str, Any]] = {
    # The correction bias is [1, E], and a parameter.
    "Ernie4_5_Moe": {
        "moe_num_experts": NUM_EXPERTS,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 0,
    },
    "Glm4Moe": {**DENSE_FIRST, "n_routed_experts": NUM_EXPERTS, "head_dim": 8},
    # The layer itself holds the correction bias.
    "MiniMaxM2": {"num_local_experts": NUM_EXPERTS, "head_dim": 8},
    "Lfm2Moe": {
        "num_experts": NUM_EXPERTS,
        "moe_intermediate_size": 24,
        "num_dense_layers": 0,
        "layer_types": ["full_attention", "full_attention"],
    },
    "FlexOlmo": {"num_experts": NUM_EXPERTS},
    "Jamba": {
        "num_experts": NUM_EXPERTS,
        "attn_layer_period": 1,
        "attn_layer_offset": 0,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    },
}
EVEN, ODD = (0, 2, 4, 6), (1, 3, 5, 7)


@pytest.mark.parametrize("name", OTHERS)
def test_the_rule_is_enough(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **OTHERS[name]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if ("gate." in key or "router." in key) and "shared" not in key:
                    tensor.normal_()
                elif key.endswith("_bias"):
                    tensor.normal_(std=0.3)
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    wanted = make_assignment(tmp_path / "base", a=EVEN, b=ODD)
    parts = split_checkpoint(tmp_path / "base", wanted, tmp_path / "parts", name="x")
    merged = merge_checkpoint(tmp_path / "base", [p.folder for p in parts], tmp_path / "merged")
    for file_name in merged.files:
        before = (tmp_path / "base" / file_name).read_bytes()
        assert (merged.folder / file_name).read_bytes() == before
    layout = find_moe_layers(model)
    kept = torch.zeros(len(layout.layers), NUM_EXPERTS, dtype=torch.bool)
    kept[:, list(EVEN)] = True
    inputs = make_inputs(name)
    with torch.no_grad(), ExactSoftmax():
        alone = load_model(parts[0].folder)(**inputs).logits
        unmasked = model(**inputs).logits
        with excluding(model, layout, kept):
            masked = model(**inputs).logits
    assert (alone - masked).abs().max() == 0.0
    assert (alone - unmasked).abs().max() > 1e-3


def test_what_does_not_obey_the_rule_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Linear(4, 5)
            self.gate = nn.Linear(4, 7)

    with pytest.raises(
        DataError, match=r"tensor gate.weight \[7, 4\] has no single axis of length 5"
    ):
        find_moe_layers(Odd())
    with pytest.raises(DataError, match="looked for a module with a child 'experts' and a sibling"):
        find_moe_layers(nn.Linear(2, 2))
