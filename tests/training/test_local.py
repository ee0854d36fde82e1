"""Local training is a pure function, equal to a plain PyTorch loop, and moves only what it may."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from emsfl.moe import ImageClassifier, split_state
from emsfl.training import TrainTask, train_locally
from emsfl.training.local import batch_order, is_trained


@pytest.fixture
def task(spec, pretrained, shard, settings):
    return TrainTask(
        model=spec,
        num_experts=4,
        state=pretrained,
        momentum={},
        shard=shard,
        seed=(0, 1),
        first_step=0,
        num_steps=12,
        settings=settings,
    )


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_equals_a_plain_pytorch_loop_bit_for_bit(task, spec, pretrained, shard, settings):
    """With as many experts per token as there are, every expert sees every batch."""
    spec = ImageClassifier(spec.config.model_copy(update={"top_k": 4}), spec.num_classes)
    task = replace(task, model=spec)
    model = spec.build({name: tensor.clone() for name, tensor in pretrained.items()})
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)
    inputs, labels = torch.from_numpy(shard.inputs), torch.from_numpy(shard.labels)
    for batch in batch_order(len(shard), 8, task.seed, 0, task.num_steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        for name, parameter in model.named_parameters():
            if "experts" in name:
                assert (parameter.grad.flatten(1) != 0).any(1).all(), "an expert saw no token"
        optimizer.step()
    assert_same(train_locally(task).state, dict(model.state_dict()))


def test_same_task_gives_the_same_bits_and_leaves_its_input_alone(task):
    before = {name: tensor.clone() for name, tensor in task.state.items()}
    assert_same(train_locally(task).state, train_locally(task).state)
    assert_same(task.state, before)


def test_two_halves_equal_the_whole(task):
    whole = train_locally(task)
    first = train_locally(replace(task, num_steps=5))
    second = train_locally(
        replace(task, state=first.state, momentum=first.momentum, first_step=5, num_steps=7)
    )
    assert_same(second.state, whole.state)
    assert_same(second.momentum, whole.momentum)


@pytest.mark.parametrize("group", ["train_experts", "train_shared", "train_routers"])
def test_what_is_frozen_does_not_move(task, spec, settings, group):
    frozen = replace(settings, **{group: False})
    result = train_locally(replace(task, settings=frozen))
    layout = spec.layout()
    for name, tensor in result.state.items():
        kind = (
            "train_experts"
            if name in layout.expert_names
            else "train_routers"
            if name in layout.router_names
            else "train_shared"
        )
        assert torch.equal(tensor, task.state[name]) == (kind == group), name
        assert (name in result.momentum) == (kind != group)


def test_unused_expert_moves_neither_by_momentum_nor_otherwise(task, spec, pretrained):
    """Let the router never choose expert 0, after it has gathered momentum."""
    warm = train_locally(task)
    state = dict(warm.state)
    layer = spec.layout().layers[0]
    (router,) = layer.router_axes
    state[router] = state[router].clone()
    # A row of zeros among large positive logits: LayerNorm's output is made positive by its bias.
    state["blocks.0.moe_norm.weight"] = torch.zeros(8)
    state["blocks.0.moe_norm.bias"] = torch.ones(8)
    state[router][:] = 1.0
    state[router][0] = -1.0
    frozen = replace(task.settings, train_shared=False, train_routers=False)
    result = train_locally(
        replace(task, state=state, momentum=warm.momentum, settings=frozen, first_step=12)
    )
    for name in layer.expert_axes:
        assert torch.equal(result.state[name][0], state[name][0])
        assert torch.equal(result.momentum[name][0], warm.momentum[name][0])
        assert not torch.equal(result.state[name][1:], state[name][1:])


def test_submodel_training_leaves_foreign_experts_alone(task, spec, pretrained):
    owned = ((0, 2), (1, 3))
    sub = split_state(pretrained, spec.layout(), owned)
    result = train_locally(replace(task, state=sub, num_experts=2))
    assert result.state["blocks.0.moe.experts.up"].shape[0] == 2


@given(
    num_samples=st.integers(1, 50),
    batch=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
def test_batches_do_not_depend_on_interruptions(num_samples, batch, cuts):
    total = sum(cuts)
    whole = batch_order(num_samples, batch, (5,), 0, total)
    starts = list(itertools.accumulate(cuts, initial=0))
    parts = [
        batch_order(num_samples, batch, (5,), start, n)
        for start, n in zip(starts, cuts, strict=False)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    epochs = whole.reshape(-1)[: total * batch // num_samples * num_samples]
    for epoch in epochs.reshape(-1, num_samples):
        assert sorted(epoch) == list(range(num_samples))


def test_only_the_experts_that_are_named_train(task, spec, settings):
    """All experts run, in the forward pass too; the others keep weights and momentum."""
    chosen = ((0, 2), (1,))
    result = train_locally(replace(task, settings=replace(settings, trained_experts=chosen)))
    for layer, ids in zip(spec.layout().layers, chosen, strict=True):
        others = [e for e in range(4) if e not in ids]
        for name in layer.expert_axes:
            moved = (result.state[name] != task.state[name]).flatten(1).any(1)
            assert not moved[others].any(), name
            assert moved[list(ids)].all(), name
            assert not result.momentum[name][others].any(), name


def test_a_frozen_name_is_never_trained(spec, settings):
    layout = replace(spec.layout(), frozen_names=frozenset({"embed.weight"}))
    assert not is_trained("embed.weight", layout, settings)
    assert is_trained("embed.bias", layout, settings)


def test_proximal_term_is_the_gradient_of_the_objective(task, spec, pretrained, shard, settings):
    """FedProx, eq. 2: autograd on loss + mu / 2 |w - w0|^2 gives the same steps."""
    spec = ImageClassifier(spec.config.model_copy(update={"top_k": 4}), spec.num_classes)
    settings = replace(settings, proximal=0.5)
    task = replace(task, model=spec, settings=settings)
    model = spec.build({name: tensor.clone() for name, tensor in pretrained.items()})
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)
    inputs, labels = torch.from_numpy(shard.inputs), torch.from_numpy(shard.labels)
    for batch in batch_order(len(shard), 8, task.seed, 0, task.num_steps):
        optimizer.zero_grad()
        distance = sum(
            (p - pretrained[name]).square().sum() for name, p in model.named_parameters()
        )
        loss = functional.cross_entropy(model(inputs[batch]), labels[batch])
        (loss + settings.proximal / 2 * distance).backward()
        optimizer.step()
    found = train_locally(task).state
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
    free = train_locally(replace(task, settings=replace(settings, proximal=0.0))).state
    assert any(not torch.equal(found[name], free[name]) for name in found)
