"""Stamped modules equal built ones, and live independently of each other."""

import pytest
import torch

from emsfl.moe.patch_moe import PatchMoE
from emsfl.moe.skeleton import stamp


def test_two_models_of_one_spec_live_side_by_side(spec):
    first, second = (spec.initial_state(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    images = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(3))
    built = []
    for state in (first, second):
        model = PatchMoE(spec.config, spec.num_classes, spec.config.num_experts)
        model.load_state_dict(state)
        built.append(model(images))
    one, two = spec.build(first), spec.build(second)
    seen = []
    one.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(two(images), built[1])
    assert not seen, "a hook on one model must not run in another"
    assert torch.equal(one(images), built[0])
    assert seen
    assert one.head.weight.data_ptr() == first["head.weight"].data_ptr()
    assert not torch.equal(spec.build(first, None)(images), built[1])


def test_training_mode_and_gradients_are_a_models_own(spec, pretrained):
    one, two = spec.build(pretrained), spec.build(pretrained)
    one.eval()
    one.head.weight.requires_grad_(False)
    assert two.training
    assert two.blocks[0].training
    assert two.head.weight.requires_grad


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_state_that_does_not_fit_is_refused(spec, pretrained, change):
    state = dict(pretrained)
    if change == "missing":
        del state["embed.bias"]
    elif change == "unknown":
        state["embed.more"] = torch.zeros(1)
    else:
        state["embed.bias"] = torch.zeros(9)
    with torch.device("meta"):
        template = PatchMoE(spec.config, spec.num_classes, spec.config.num_experts)
    with pytest.raises(ValueError, match="embed"):
        stamp(template, state)
