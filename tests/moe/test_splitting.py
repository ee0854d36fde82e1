"""Splitting, masking and merging experts: exact where the method needs it to be exact."""

import math

import pytest
import torch
from torch import nn

from emsfl.errors import DataError
from emsfl.moe import (
    ImageClassifier,
    PatchMoEConfig,
    check_owned,
    find_moe_layers,
    split_sizes,
    split_state,
    write_experts,
)

CONFIGS = [
    PatchMoEConfig(hidden_size=16, expert_size=24, num_experts=8, top_k=2),
    PatchMoEConfig(hidden_size=16, expert_size=24, num_experts=8, top_k=2, patch_px=14),
]
OWNED = ((1, 4, 6), (0, 2, 7))


@pytest.fixture(params=CONFIGS, ids=["one patch", "four patches"])
def spec(request) -> ImageClassifier:
    return ImageClassifier(request.param, num_classes=10)


@pytest.fixture
def state(spec):
    return spec.initial_state(torch.Generator().manual_seed(7))


@pytest.fixture
def images():
    return torch.rand(32, 28, 28, generator=torch.Generator().manual_seed(8))


def masked_logits(spec, state, images, owned):
    """Run the full model with the logits of all other experts at minus infinity."""
    model, layout = spec.build(state), spec.layout()
    for layer, ids in zip(layout.layers, owned, strict=True):
        mask = torch.full((layer.num_experts,), -math.inf)
        mask[list(ids)] = 0.0
        router = model.get_submodule(layer.router)
        router.register_forward_hook(lambda m, _i, out, mask=mask: m.select(out[0] + mask))
    with torch.no_grad():
        return model(images)


def test_submodel_equals_the_masked_full_model(spec, state, images):
    layout = spec.layout()
    sub = spec.build(split_state(state, layout, OWNED), num_experts=3)
    with torch.no_grad():
        difference = (sub(images) - masked_logits(spec, state, images, OWNED)).abs().max()
    # The same products of the same numbers; only their grouping may round differently.
    assert difference <= 1e-6


def test_split_then_merge_without_training_is_the_identity(spec, state):
    layout = spec.layout()
    parts = [((0, 1, 2), (5, 6, 7)), ((3, 4, 5), (0, 1, 2)), ((6, 7), (3, 4))]
    merged = {name: tensor.clone() for name, tensor in state.items()}
    for name in layout.expert_names:
        merged[name].zero_()
    for owned in parts:
        sub = split_state(state, layout, owned)
        write_experts(merged, layout, owned, {n: sub[n] for n in layout.expert_names})
    assert all(torch.equal(merged[name], state[name]) for name in state)


def test_writing_experts_touches_no_other_expert(spec, state):
    layout = spec.layout()
    changed = {
        name: tensor + 1 if name in layout.expert_names else tensor
        for name, tensor in split_state(state, layout, OWNED).items()
    }
    merged = {name: tensor.clone() for name, tensor in state.items()}
    write_experts(merged, layout, OWNED, {n: changed[n] for n in layout.expert_names})
    for layer, ids in zip(layout.layers, OWNED, strict=True):
        for name in layer.expert_axes:
            same = (merged[name] == state[name]).flatten(1).all(1)
            assert same.tolist() == [e not in ids for e in range(8)]


def test_sizes_without_cutting_equal_the_sizes_of_the_cut(spec, state):
    layout = spec.layout()
    cut = split_state(state, layout, OWNED)
    assert split_sizes(state, layout, OWNED) == {n: t.numel() for n, t in cut.items()}


def test_adapter_finds_layers_in_order(spec):
    layout = spec.layout()
    assert [layer.name for layer in layout.layers] == ["blocks.0.moe", "blocks.1.moe"]
    assert layout.is_shared("embed.weight")
    assert not layout.is_shared("blocks.0.moe.experts.up")
    assert not layout.is_shared("blocks.1.moe.router.weight")


def test_model_without_experts_is_refused():
    with pytest.raises(DataError, match="'experts' and a sibling 'router' or 'gate'"):
        find_moe_layers(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize("owned", [((0, 1),), ((0, 0), (1, 2)), ((0, 8), (1, 2))])
def test_owned_that_cannot_be_is_refused(spec, owned):
    with pytest.raises(ValueError, match="expert ids"):
        check_owned(spec.layout(), owned)


def test_unused_experts_are_not_computed(spec, state, images):
    """Poison the experts that no token uses: the output must not notice."""
    model, layout = spec.build(state), spec.layout()
    used = [set() for _ in layout.layers]
    for index, layer in enumerate(layout.layers):
        router = model.get_submodule(layer.router)
        router.register_forward_hook(
            lambda _m, _i, out, index=index: used[index].update(out[2].flatten().tolist())
        )
    with torch.no_grad():
        expected = model(images[:1])
        assert any(len(u) < 8 for u in used)
        for layer, ids in zip(layout.layers, used, strict=True):
            for name in layer.expert_axes:
                for expert in set(range(8)) - ids:
                    state[name][expert] = math.nan
        assert torch.equal(spec.build(state)(images[:1]), expected)
