"""The domain gate: a Gaussian posterior and hierarchical routing."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from emsfl.moe import (
    DomainStatistics,
    GateKind,
    ImageClassifier,
    PatchMoEConfig,
    fit_gate,
    gate_features,
    gated,
)
from emsfl.moe.gate import RIDGE, SHRINKAGE

OWNER = torch.tensor([[0, 0, 1, 1, 2, 2, -1, -1], [2, 2, 1, 1, 0, 0, -1, -1]])


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])
    scales = torch.tensor([1.0, 0.5, 2.0])
    return [
        m + s * torch.randn(400, 3, generator=generator) for m, s in zip(means, scales, strict=True)
    ]


def test_statistics_of_parts_add_up_to_those_of_the_whole(features):
    whole = DomainStatistics.of(torch.cat(features))
    parts = [DomainStatistics.of(f) for f in features]
    total = parts[0] + parts[1] + parts[2]
    assert total.count == whole.count
    torch.testing.assert_close(total.mean, whole.mean)
    expected = torch.cov(torch.cat(features).double().T, correction=0)
    torch.testing.assert_close(total.covariance, expected)


def test_posterior_matches_scipy(features):
    gate = fit_gate([DomainStatistics.of(f) for f in features], OWNER)
    covariances = [np.cov(f.double().numpy().T, bias=True) for f in features]
    pooled = sum(covariances) / 3
    points = torch.cat(features)[::37]
    joint = []
    for f, own in zip(features, covariances, strict=True):
        covariance = (1 - SHRINKAGE) * own + SHRINKAGE * pooled
        covariance += RIDGE * np.diag(covariance).mean() * np.eye(3)
        mean = f.double().mean(0).numpy()
        joint.append(multivariate_normal(mean, covariance).logpdf(points.numpy()))
    expected = torch.tensor(np.array(joint).T).log_softmax(-1).clamp_min(-30)
    torch.testing.assert_close(gate.log_posterior(points), expected, atol=1e-6, rtol=1e-6)


def test_a_linear_gate_has_the_clusters_mean_covariance(features):
    gate = fit_gate([DomainStatistics.of(f) for f in features], OWNER)
    plain, same, linear = gate.variants([GateKind.PLAIN, GateKind.QDA, GateKind.LDA])
    assert plain is None
    assert same is gate
    factors = torch.linalg.inv(gate.whiteners)
    shared = (factors @ factors.mT).mean(0)
    x = torch.cat(features)[::37]
    densities = np.stack([multivariate_normal(m, shared).logpdf(x) for m in gate.means], 1)
    expected = torch.from_numpy(densities).log_softmax(-1).clamp_min(-30)
    torch.testing.assert_close(linear.log_posterior(x), expected)
    # Linear: the log odds of a point half way are half way.
    ends = torch.tensor([[0.5, 0.0, 0.0], [1.5, 1.0, 0.0]])
    odds = linear.log_posterior(torch.cat([ends, ends.mean(0, keepdim=True)]))
    odds = odds[:, 0] - odds[:, 1]
    torch.testing.assert_close(odds[2], odds[:2].mean())


def test_gated_probabilities_are_hierarchical(features):
    """p(e | x) = p(c(e)) * softmax over the own experts of c(e); nobody's experts get nothing."""
    gate = fit_gate([DomainStatistics.of(f) for f in features], OWNER)
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    posterior = gate.log_posterior(torch.cat(features)[::300][:5])
    for layer in range(2):
        probabilities = gate.gated_logits(layer, logits[: len(posterior)], posterior).exp()
        for c in range(3):
            own = OWNER[layer] == c
            torch.testing.assert_close(
                probabilities[:, own].sum(-1), posterior[:, c].exp().float(), atol=1e-6, rtol=1e-5
            )
        assert (probabilities[:, OWNER[layer] == -1] == 0).all()


def test_a_certain_gate_equals_the_submodel():
    """Where the posterior is certain of one cluster, the merged model is that cluster's."""
    config = PatchMoEConfig(hidden_size=16, expert_size=24, num_experts=8, top_k=2)
    spec = ImageClassifier(config, num_classes=10)
    state = spec.initial_state(torch.Generator().manual_seed(7))
    images = torch.rand(16, 28, 28, generator=torch.Generator().manual_seed(8))
    far = [DomainStatistics.of(1e3 * c + torch.randn(50, 16)) for c in range(3)]
    gate = fit_gate(far, OWNER)
    layout = spec.layout()
    model = spec.build(state)
    owned = [(OWNER[layer] == 0).nonzero().flatten().tolist() for layer in range(2)]
    mask = torch.full((2, 8), -math.inf)
    for layer in range(2):
        mask[layer, owned[layer]] = 0.0
    alone = spec.build(state)
    for layer, info in enumerate(layout.layers):
        alone.get_submodule(info.router).register_forward_hook(
            lambda m, _i, out, layer=layer: m.select(out[0] + mask[layer])
        )
    posterior = gate.log_posterior(torch.zeros(len(images), 16))
    with torch.no_grad(), gated(model, layout, gate, posterior):
        torch.testing.assert_close(model(images), alone(images), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(images), spec.build(state)(images)), "hooks were left behind"


@pytest.mark.parametrize("patch_px", [28, 14])
def test_features_are_the_mean_input_of_the_first_expert_layer(patch_px):
    config = PatchMoEConfig(
        hidden_size=16, expert_size=24, num_experts=8, top_k=2, patch_px=patch_px
    )
    spec = ImageClassifier(config, num_classes=10)
    model = spec.build(spec.initial_state(torch.Generator().manual_seed(7)))
    images = torch.rand(6, 28, 28, generator=torch.Generator().manual_seed(8))
    seen = []
    model.get_submodule("blocks.0.moe").register_forward_pre_hook(
        lambda _m, arguments: seen.append(arguments[0])
    )
    with torch.no_grad():
        expected = model(images)
    features = gate_features(model, spec.layout(), images)
    assert features.shape == (6, 16)
    assert torch.equal(features, seen[0].mean(1))
    with torch.no_grad():
        assert torch.equal(model(images), expected), "a hook was left behind"


def test_every_token_of_an_image_gets_the_image_s_posterior():
    config = PatchMoEConfig(hidden_size=16, expert_size=24, num_experts=8, top_k=2, patch_px=14)
    spec = ImageClassifier(config, num_classes=10)
    model, layout = spec.build(spec.initial_state(torch.Generator().manual_seed(7))), spec.layout()
    gate = fit_gate([DomainStatistics.of(torch.randn(50, 16)) for _ in range(3)], OWNER)
    sure = torch.full((3, 3), -30.0).fill_diagonal_(0.0)
    chosen = []
    with gated(model, layout, gate, sure), torch.no_grad():
        for layer in layout.layers:
            model.get_submodule(layer.router).register_forward_hook(
                lambda _m, _i, routing: chosen.append(routing[2])
            )
        model(torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(8)))
    for layer, indices in enumerate(chosen):
        owners = OWNER[layer][indices].reshape(3, -1)
        assert owners.tolist() == [[image] * 8 for image in range(3)]
