"""Gradient, noise and curvature of one device against dense differentiation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from emsfl.training import ConstantsTask, PlainTask, local_constants, train_plainly
from emsfl.training.local import choose_parameters


@pytest.fixture
def task(spec, pretrained, shard, settings):
    plain = replace(settings, train_routers=False, shared_lr_factor=0.25)
    return ConstantsTask(
        model=spec, num_experts=4, state=pretrained, shard=shard, settings=plain, seed=(1,)
    )


def dense(task):
    """The loss as a function of all trained parameters in one vector, and where experts are."""
    model = task.model.build({n: t.clone() for n, t in task.state.items()}, task.num_experts)
    layout = task.model.layout()
    trained = choose_parameters(model, layout, task.settings)
    root = task.settings.shared_lr_factor**0.5
    own = torch.cat(
        [torch.full((p.numel(),), n in layout.expert_names) for n, p in trained.items()]
    )
    scale = torch.where(own, 1.0, root).double()
    start = torch.cat([p.detach().reshape(-1) for p in trained.values()]).double()
    inputs, labels = torch.from_numpy(task.shard.inputs), torch.from_numpy(task.shard.labels)

    def loss(offset):
        values, at = {}, 0
        moved = (start + scale * offset).float()
        for name, parameter in trained.items():
            values[name] = moved[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        logits = functional_call(model, values, (inputs,))
        return torch.nn.functional.cross_entropy(logits, labels)

    return loss, torch.zeros_like(start), own.numpy()


def test_gradient_is_that_of_scaled_coordinates(task):
    loss, zero, own = dense(task)
    zero.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(zero), zero)
    found = local_constants(replace(task, num_batches=0, num_iterations=0))
    assert found.loss == pytest.approx(float(loss(zero).detach()), rel=1e-6)
    np.testing.assert_allclose(found.shared_gradient, gradient.numpy()[~own], atol=1e-6)
    np.testing.assert_allclose(found.expert_gradient, gradient.numpy()[own], atol=1e-6)
    together = local_constants(
        replace(task, num_batches=0, num_iterations=0, experts_are_shared=True)
    )
    assert together.expert_gradient.size == 0
    assert together.shared_gradient.size == own.size


def test_smoothness_is_the_largest_eigenvalue(task):
    """Against differences of gradients along the found direction's whole space: a dense Hessian."""
    loss, zero, _ = dense(task)
    zero.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(zero), zero, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    # Lanczos with full reorthogonalisation: an account of its own of the top of the spectrum.
    basis, products = [], []
    vector = torch.randn(zero.numel(), generator=generator, dtype=torch.float64)
    for _ in range(40):
        for known in basis:
            vector = vector - (vector @ known) * known
        vector = vector / vector.norm()
        (product,) = torch.autograd.grad(gradient, zero, grad_outputs=vector, retain_graph=True)
        basis.append(vector)
        products.append(product)
        vector = product
    small = torch.stack(basis) @ torch.stack(products).T
    largest = float(torch.linalg.eigvalsh((small + small.T) / 2).abs().max())
    found = local_constants(replace(task, num_batches=0, num_iterations=60)).smoothness
    assert found == pytest.approx(largest, rel=1e-2)
    assert found <= largest * (1 + 1e-4)


def test_noise_is_that_of_batches_without_replacement(task):
    """Variance of a mean of B of n: (1 - B / n) / B times the variance over single samples."""
    each = [
        local_constants(
            replace(task, shard=task.shard.take(np.array([i])), num_batches=0, num_iterations=0)
        ).expert_gradient
        for i in range(len(task.shard))
    ]
    n, size = len(task.shard), task.settings.batch_size
    single = np.sum(np.var(each, axis=0, ddof=1))
    expected = single / size * (1 - size / n)
    found = local_constants(replace(task, num_batches=400, num_iterations=0))
    assert found.expert_noise == pytest.approx(expected, rel=0.15)  # 400 draws
    whole = replace(task, settings=replace(task.settings, batch_size=n), num_iterations=0)
    assert local_constants(whole).expert_noise < 1e-10


def test_plain_sgd_is_one_gradient_step_and_can_be_cut(spec, pretrained, shard, settings):
    plain = replace(settings, train_routers=False, shared_lr_factor=0.25, batch_size=len(shard))
    base = {
        "model": spec, "num_experts": 4, "shard": shard, "seed": (3, 1), "settings": plain,
    }  # fmt: skip
    before = {name: tensor.clone() for name, tensor in pretrained.items()}
    after = train_plainly(PlainTask(state=pretrained, first_step=0, num_steps=1, **base))
    gradient = local_constants(
        ConstantsTask(
            model=spec,
            num_experts=4,
            state=pretrained,
            shard=shard,
            settings=plain,
            seed=(0,),
            num_batches=0,
            num_iterations=0,
        )
    )
    layout = spec.layout()
    moved = sum(
        float((after[n] - before[n]).square().sum()) for n in before if n in layout.expert_names
    )
    assert moved == pytest.approx(0.1**2 * np.sum(gradient.expert_gradient**2), rel=1e-4)
    # The theorems' coordinates: a shared step is sqrt(factor) of the scaled gradient, eta long.
    shared = sum(
        float((after[n] - before[n]).square().sum()) for n in before if layout.is_shared(n)
    )
    assert shared == pytest.approx(0.1**2 * 0.25 * np.sum(gradient.shared_gradient**2), rel=1e-4)
    for name in layout.router_names:
        assert torch.equal(after[name], before[name])
    small = replace(plain, batch_size=8)
    base["settings"] = small
    whole = train_plainly(PlainTask(state=pretrained, first_step=0, num_steps=4, **base))
    half = train_plainly(PlainTask(state=pretrained, first_step=0, num_steps=2, **base))
    rest = train_plainly(PlainTask(state=half, first_step=2, num_steps=2, **base))
    for name in whole:
        assert torch.equal(whole[name], rest[name])
        assert torch.equal(pretrained[name], before[name])
