"""Memory of a training device: counted activations, and the formula over them."""

from dataclasses import replace

import pytest
import torch

from emsfl.methods import FedAvg, FedAvgExperts, device_memory
from emsfl.training import activation_bytes


def test_activations_are_those_that_autograd_keeps(spec, pretrained, shard, settings):
    """Twice the batch, twice the memory, but for a few bytes of indices; nothing trains, nothing
    is kept."""
    small = activation_bytes(spec, 4, pretrained, shard, settings)
    large = activation_bytes(spec, 4, pretrained, shard, replace(settings, batch_size=16))
    # The least there must be: the batch of 8 normalised [8, 8] twice, hidden values of 2 experts
    # per token [16, 16] in two layers, float32.
    assert small > 4 * (2 * 8 * 8 + 2 * 16 * 16)
    assert large == pytest.approx(2 * small, rel=0.1)
    idle = replace(settings, train_experts=False, train_shared=False, train_routers=False)
    assert activation_bytes(spec, 4, pretrained, shard, idle) == 0


def test_memory_is_the_sum_of_its_parts(federation, spec, shard, settings):
    parameters = sum(t.numel() for t in federation.pretrained.values())
    full = FedAvg(federation, settings, 3).next_work("north")
    found = device_memory(full, federation, spec, shard)
    assert (
        found.parameters_bytes == found.gradients_bytes == found.optimizer_bytes == 4 * parameters
    )
    assert found.peak_bytes == 12 * parameters + found.activations_bytes
    plain = replace(full, settings=replace(settings, momentum=0.0))
    assert device_memory(plain, federation, spec, shard).optimizer_bytes == 0
    adam = replace(full, settings=replace(settings, optimizer="adam"))
    found = device_memory(adam, federation, spec, shard)
    assert found.optimizer_bytes == 8 * parameters
    experts = FedAvgExperts(federation, settings, 3).next_work("north")
    found = device_memory(experts, federation, spec, shard)
    held = sum(federation.pretrained[n].numel() for n in federation.layout.expert_names)
    assert found.gradients_bytes == 4 * held
    assert found.parameters_bytes == 4 * parameters


def test_counting_leaves_the_state_alone(spec, pretrained, shard, settings):
    before = {name: tensor.clone() for name, tensor in pretrained.items()}
    activation_bytes(spec, 4, pretrained, shard, settings)
    for name, tensor in pretrained.items():
        assert torch.equal(tensor, before[name])
        assert not tensor.requires_grad
