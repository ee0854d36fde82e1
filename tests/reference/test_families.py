"""The ten families, as their stock classes see them: nothing here is emsfl's own model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reference.tiny_models import (
    FAMILIES,
    NUM_EXPERTS,
    WORDS,
    ExactSoftmax,
    make_assignment,
    make_inputs,
    save_model,
)
from torch import Tensor, nn

from emsfl.data.files import Table
from emsfl.moe import ScoreKind, check_owned, find_moe_layers, scoring, split_state, write_experts
from emsfl.moe.checkpoint import open_checkpoint
from emsfl.moe.inspection import inspect_checkpoint
from emsfl.moe.merge_checkpoint import merge_checkpoint
from emsfl.moe.pretrained import load_model
from emsfl.moe.rerouting import excluding
from emsfl.moe.split_checkpoint import split_checkpoint
from emsfl.training.tune import TuneSettings, tune

EVEN, ODD = (0, 2, 4, 6), (1, 3, 5, 7)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: Any, tmp_path_factory: Any) -> Iterator[tuple[str, Path, nn.Module]]:
    folder = tmp_path_factory.mktemp(request.param) / "base"
    yield request.param, folder, save_model(request.param, folder)


def test_inspection(saved: tuple[str, Path, nn.Module]) -> None:
    family, folder, model = saved
    found = inspect_checkpoint(folder)
    stored = sum(t.num_bytes for t in open_checkpoint(folder).tensors.values())
    assert found.known_family and found.total_bytes == stored
    experts = sum(layer.bytes_per_expert * layer.num_experts for layer in found.layers)
    routers = sum(layer.router_bytes for layer in found.layers)
    assert found.shared_bytes + experts + routers == stored
    elements = sum(
        tensor.numel() for name, tensor in model.state_dict().items() if ".experts." in name
    )
    assert experts == 4 * elements
    groups = 2 if family.startswith("deepseek") else 1
    assert found.max_clusters == {1: 4, 2: 2}[groups] * (2 if family.startswith("switch") else 1)


@pytest.mark.parametrize("kind", ScoreKind)
def test_scores_count_what_the_experts_did(
    saved: tuple[str, Path, nn.Module], kind: ScoreKind
) -> None:
    """Against a dense oracle: each expert run alone on every token, weighted as the router says."""
    family, _, model = saved
    layout = find_moe_layers(model)
    inputs = make_inputs(family)
    seen: dict[int, tuple[Any, ...]] = {}
    for index, layer in enumerate(layout.layers):
        experts = model.get_submodule(layer.experts)
        experts.register_forward_pre_hook(
            lambda _m, args, index=index: seen.__setitem__(index, args)
        )
    with torch.no_grad(), scoring(model, layout, kind) as scores:
        model(**inputs)
    for index, layer in enumerate(layout.layers):
        tokens, first, second = seen[index]
        indices, weights = (first, second)
        if family == "switch_transformers":
            indices, weights = first.argmax(-1), second * first.any(-1)
        expected = torch.zeros(NUM_EXPERTS, dtype=torch.float64)
        for expert in range(NUM_EXPERTS):
            share = (weights * (indices == expert)).sum(-1).double()
            if kind is ScoreKind.ACTIVATION_FREQUENCY:
                expected[expert] = (share > 0).sum()
            elif kind is ScoreKind.MEAN_GATE:
                expected[expert] = share.sum()
            else:
                norm = (
                    dense_output(model, layer.experts, family, tokens, expert).double().norm(dim=-1)
                )
                expected[expert] = (share * norm).sum()
        torch.testing.assert_close(
            scores.totals[index] / scores.totals[index].sum(),
            expected / expected.sum(),
            rtol=1e-5,  # float32 products in another order
            atol=1e-7,
        )


def dense_output(
    model: nn.Module, experts_name: str, family: str, tokens: Tensor, expert: int
) -> Tensor:
    """Run one expert on all tokens, by the family's formula, from its weights alone."""
    experts: Any = model.get_submodule(experts_name)
    if family == "switch_transformers":
        return experts[f"expert_{expert}"](tokens)
    if family == "gpt_oss":
        both = tokens @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(-7.0, 7.0)
        inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        return inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]
    gate, up = (tokens @ experts.gate_up_proj[expert].T).chunk(2, -1)
    return (nn.functional.silu(gate) * up) @ experts.down_proj[expert].T


def test_a_sub_model_is_the_masked_full_model(
    saved: tuple[str, Path, nn.Module], tmp_path: Path
) -> None:
    family, folder, model = saved
    ids = (0, 1, 5, 6)
    part = split_checkpoint(folder, make_assignment(folder, own=ids), tmp_path, name="base")[0]
    sub_model = load_model(part.folder)
    assert type(sub_model) is type(model)
    layout = find_moe_layers(model)
    in_memory = split_state(
        model.state_dict(), layout, check_owned(layout, [ids] * len(layout.layers))
    )
    loaded = sub_model.state_dict()
    assert in_memory.keys() == loaded.keys()
    assert all(torch.equal(in_memory[name], loaded[name]) for name in loaded)
    kept = torch.zeros(len(layout.layers), NUM_EXPERTS, dtype=torch.bool)
    kept[:, list(ids)] = True
    inputs = make_inputs(family)
    with torch.no_grad(), ExactSoftmax():
        alone = sub_model(**inputs).logits
        unmasked = model(**inputs).logits
        with excluding(model, layout, kept):
            masked = model(**inputs).logits
        after = model(**inputs).logits
    assert (alone - masked).abs().max() == 0.0
    assert (alone - unmasked).abs().max() > 1e-3, "the mask must matter for this to mean anything"
    assert torch.equal(unmasked, after)


def test_split_then_merge_is_the_identity(
    saved: tuple[str, Path, nn.Module], tmp_path: Path
) -> None:
    _, folder, _ = saved
    parts = split_checkpoint(
        folder, make_assignment(folder, a=EVEN, b=ODD), tmp_path / "parts", name="base"
    )
    merged = merge_checkpoint(folder, [part.folder for part in parts], tmp_path / "merged")
    names = {p.name for p in folder.iterdir() if "safetensors" in p.name} | {"config.json"}
    assert names <= {p.name for p in merged.folder.iterdir()} and len(names) > 2
    for name in names:
        assert (merged.folder / name).read_bytes() == (folder / name).read_bytes(), name


def test_experts_in_memory_return_to_their_places(saved: tuple[str, Path, nn.Module]) -> None:
    _, _, model = saved
    layout = find_moe_layers(model)
    owned = check_owned(layout, [ODD] * len(layout.layers))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    part = split_state(state, layout, owned)
    experts = {name: t for name, t in part.items() if name in layout.expert_names}
    write_experts(state, layout, owned, {name: t + 1 for name, t in experts.items()})
    back = split_state(state, layout, owned)
    others = check_owned(layout, [EVEN] * len(layout.layers))
    before = split_state(model.state_dict(), layout, others)
    after = split_state(state, layout, others)
    assert all(torch.equal(back[name], tensor + 1) for name, tensor in experts.items())
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.fixture(scope="module")
def merged(saved: tuple[str, Path, nn.Module]) -> tuple[str, Path, Path]:
    """The experts of one cluster tuned, those of another and of nobody left alone."""
    family, folder, _ = saved
    out = folder.parent
    parts = split_checkpoint(
        folder, make_assignment(folder, a=EVEN, b=(1, 3, 5, 7)), out / "parts", name="base"
    )
    texts = tuple(" ".join(WORDS[i : i + 7]) for i in range(12))
    table = Table(inputs=texts, labels=tuple(t[:11] for t in texts), domains=("a",) * 12)
    settings = TuneSettings(num_steps=3, batch_size=4, learning_rate=1e-2, train_shared=False)
    tune(parts[0].folder, table, out / "update", settings)
    merge_checkpoint(folder, [out / "update"], out / "merged")
    return family, folder, out / "merged"


def test_tuning_moves_only_what_it_may(merged: tuple[str, Path, Path]) -> None:
    _, folder, tuned = merged
    before, after = load_model(folder), load_model(tuned)
    layout = find_moe_layers(before)
    old, new = before.state_dict(), after.state_dict()
    for name in old:
        if name not in layout.expert_names:
            assert torch.equal(old[name], new[name]), name
    num_layers = len(layout.layers)
    others = check_owned(layout, [ODD] * num_layers)
    kept = split_state(old, layout, others)
    assert all(torch.equal(t, split_state(new, layout, others)[n]) for n, t in kept.items())
    own = check_owned(layout, [EVEN] * num_layers)
    moved = split_state(old, layout, own)
    assert any(not torch.equal(t, split_state(new, layout, own)[n]) for n, t in moved.items())


LOADED: list[tuple[str, str]] = []


def test_a_merged_model_gives_the_same_logits_here(merged: tuple[str, Path, Path]) -> None:
    """Keep this model's logits for the clean process below."""
    family, _, folder = merged
    with torch.no_grad():
        logits = load_model(folder)(**make_inputs(family)).logits
    torch.save({"inputs": make_inputs(family), "logits": logits}, folder / "expected.pt")
    LOADED.append((type(load_model(folder)).__name__, str(folder)))
    assert logits.isfinite().all()


def test_merged_models_load_where_emsfl_is_not() -> None:
    assert len(LOADED) == len(FAMILIES)
    program = """
import sys
sys.modules["emsfl"] = None
import torch, transformers
for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    model = getattr(transformers, name).from_pretrained(folder).eval()
    kept = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        assert torch.equal(model(**kept["inputs"]).logits, kept["logits"]), name
print("loaded", len(sys.argv) // 2)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *[word for pair in LOADED for word in pair]],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    assert done.stdout.split() == ["loaded", str(len(FAMILIES))], done.stderr[-2000:]
