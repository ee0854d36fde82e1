"""Theorem 3 on small random mixtures of experts: bounds hold, and equality where it is attained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsfl.errors import DataError
from emsfl.planning.gate_bound import gate_bound, leak_floor, merged_loss, soft_gate_bound

SEEDS = st.integers(0, 2**32 - 1)


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


class Tower:
    """Residual layers of dense mixtures of tanh experts, and a logistic loss on the last state.

    With tanh experts, |output| <= R = norm of the output matrix; states pass on unchanged but for
    the residual, so Lipschitz constants are products of (1 + those of the layers above).
    """

    def __init__(self, rng, num_clusters=3, per_cluster=2, num_layers=3, width=4):
        self.owner = np.repeat(np.arange(num_clusters), per_cluster)
        num_experts = self.owner.size
        self.router = rng.normal(size=(num_layers, num_experts, width))
        self.inner = rng.normal(size=(num_layers, num_experts, width, width)) * 0.5
        self.outer = rng.normal(size=(num_layers, num_experts, width, width)) * 0.3
        self.head = rng.normal(size=width)

    def weights(self, layer, h, posterior):
        """Routing weights: the posterior of the owner times the softmax over its own experts."""
        logits = self.router[layer] @ h
        own = np.zeros(self.owner.size)
        for c in np.unique(self.owner):
            own[self.owner == c] = softmax(logits[self.owner == c])
        return posterior[self.owner] * own

    def experts(self, layer, h):
        return np.einsum("eij,ej->ei", self.outer[layer], np.tanh(self.inner[layer] @ h))

    def loss(self, x, label, posterior):
        h = x
        for layer in range(len(self.router)):
            h = h + self.weights(layer, h, posterior) @ self.experts(layer, h)
        return np.log1p(np.exp(-label * (self.head @ h)))


def one_hot(index, size):
    return np.eye(size)[index]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_hard_gate_identity_and_bound(seed):
    rng = np.random.default_rng(seed)
    num_clusters, num_inputs = 3, 12
    tower = Tower(rng)
    weights = rng.dirichlet(np.ones(num_clusters)) * 0.9 + 0.1 / num_clusters
    x = rng.normal(size=(num_clusters, num_inputs, 4))
    labels = rng.choice([-1, 1], size=(num_clusters, num_inputs))
    chosen = np.where(
        rng.random((num_clusters, num_inputs)) < rng.random(),
        np.arange(num_clusters)[:, None],
        rng.integers(0, num_clusters, size=(num_clusters, num_inputs)),
    )
    losses = np.array(
        [
            [
                [tower.loss(x[c, i], labels[c, i], one_hot(j, 3)) for j in range(3)]
                for i in range(num_inputs)
            ]
            for c in range(3)
        ]
    )
    merged = sum(weights[c] * losses[c, np.arange(num_inputs), chosen[c]].mean() for c in range(3))
    sent = np.array([[(chosen[c] == j).mean() for j in range(3)] for c in range(3)])
    cross = np.array(
        [
            [losses[c, chosen[c] == j, j].mean() if sent[c, j] else np.nan for j in range(3)]
            for c in range(3)
        ]
    )
    assert merged_loss(weights, sent, cross) == pytest.approx(merged, rel=1e-12)
    own = np.array([losses[c, :, c].mean() for c in range(3)])
    spread = max(float((losses[c] - losses[c][:, [c]]).max()) for c in range(3))
    bound = gate_bound(weights, own, 1 - np.diag(sent), spread)
    assert merged <= bound.value + 1e-12


def test_hard_gate_bound_is_attained_by_zero_one_loss():
    # Sub-models that are right on their own domain and wrong on every other one.
    weights, error = np.array([0.3, 0.7]), np.array([0.1, 0.2])
    merged = merged_loss(weights, [[0.9, 0.1], [0.2, 0.8]], [[0.0, 1.0], [1.0, 0.0]])
    assert gate_bound(weights, [0.0, 0.0], error, 1.0).value == pytest.approx(merged, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_soft_gate_of_one_layer_and_convex_loss(seed):
    rng = np.random.default_rng(seed)
    tower = Tower(rng, num_layers=1)
    x = rng.normal(size=4)
    label = rng.choice([-1, 1])
    posterior = rng.dirichlet(np.ones(3))
    losses = np.array([tower.loss(x, label, one_hot(j, 3)) for j in range(3)])
    soft = tower.loss(x, label, posterior)
    bound = gate_bound([1.0], [losses[0]], [1 - posterior[0]], max(losses.max() - losses[0], 0))
    assert soft <= bound.value + 1e-12


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_soft_gate_through_all_layers(seed):
    rng = np.random.default_rng(seed)
    tower = Tower(rng)
    num_layers, num_experts, width = tower.router.shape
    posterior = rng.dirichlet(np.array([10.0, 0.3, 0.3]))
    x, label = rng.normal(size=width), 1
    # One expert's output is at most |outer| |tanh| <= |outer| sqrt(width); a layer's Lipschitz
    # constant: experts at most |outer| |inner|, plus the router's softmax, whose Jacobian has
    # norm at most 1/2 over own experts, times the outputs it weighs.
    norm = np.linalg.norm
    norms = [[norm(m, 2) for m in layer] for layer in tower.outer]
    output = np.array([max(row) for row in norms]) * np.sqrt(width)
    lipschitz = np.array(
        [
            max(norms[layer][e] * norm(tower.inner[layer, e], 2) for e in range(num_experts))
            + 0.5 * norm(tower.router[layer], 2) * output[layer] * np.sqrt(num_experts)
            for layer in range(num_layers)
        ]
    )
    above = np.append(np.cumprod((1 + lipschitz)[::-1])[::-1][1:], 1.0)
    sensitivity = norm(tower.head) * above
    foreign = np.full(num_layers, 1 - posterior[0])
    gap = abs(tower.loss(x, label, posterior) - tower.loss(x, label, one_hot(0, 3)))
    assert gap <= soft_gate_bound(foreign, output, sensitivity) + 1e-12


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, top_k=st.integers(1, 3))
def test_a_confident_soft_gate_with_top_k_is_exactly_the_sub_model(seed, top_k):
    rng = np.random.default_rng(seed)
    own = softmax(rng.normal(size=4))
    others = softmax(rng.normal(size=(2, 4)))
    smallest = np.sort(own)[-top_k]
    posterior = np.zeros(3)
    posterior[0] = rng.uniform(1 / (1 + smallest), 1) + 1e-9
    posterior[1:] = (1 - posterior[0]) * rng.dirichlet([0.2, 0.2])
    scores = np.concatenate([posterior[0] * own, *(posterior[1:, None] * others)])
    chosen = np.argsort(-scores, kind="stable")[:top_k]
    alone = np.argsort(-own, kind="stable")[:top_k]
    np.testing.assert_array_equal(chosen, alone)
    np.testing.assert_allclose(
        scores[chosen] / scores[chosen].sum(), own[alone] / own[alone].sum(), rtol=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_leaked_mass_costs_at_least_the_floor_and_exactly_it_for_squared_loss(seed):
    rng = np.random.default_rng(seed)
    num_inputs = 30
    own, foreign = rng.normal(size=(2, num_inputs, 3))
    mass = rng.random(num_inputs)
    leaked = own + mass[:, None] * (foreign - own)
    separation = np.linalg.norm(foreign - own, axis=1)
    # Labels own +- noise: the sub-model is calibrated, E[gradient | x] = 0.
    noise = rng.normal(size=(num_inputs, 3))

    def squared(output):
        return np.mean([0.5 * np.sum((output - own - s * noise) ** 2, axis=1) for s in (-1, 1)])

    floor = leak_floor(mass, separation, 1.0)
    assert squared(leaked) - squared(own) == pytest.approx(floor, rel=1e-9)

    def quartic(output):  # 1-strongly convex, gradient odd: calibrated for the same labels
        return np.mean(
            [
                0.5 * np.sum(d**2, axis=1) + 0.25 * np.sum(d**2, axis=1) ** 2
                for d in (output - own - noise, output - own + noise)
            ]
        )

    assert quartic(leaked) - quartic(own) >= floor - 1e-12


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("sum to 1", lambda: gate_bound([0.5, 0.6], [0, 0], [0, 0], 1)),
        ("shape", lambda: gate_bound([0.5, 0.5], [0], [0, 0], 1)),
        ("0..1", lambda: gate_bound([0.5, 0.5], [0, 0], [0, 1.1], 1)),
        ("A7", lambda: gate_bound([0.5, 0.5], [0, 0], [0, 0], -1)),
        ("row", lambda: merged_loss([0.5, 0.5], [[0.5, 0.4], [0, 1]], np.zeros((2, 2)))),
        ("shape", lambda: merged_loss([0.5, 0.5], [[1.0]], [[1.0]])),
        ("layer", lambda: soft_gate_bound([0.1], [1.0, 1.0], [1.0])),
        ("0..1", lambda: soft_gate_bound([1.1], [1.0], [1.0])),
        ("shape", lambda: leak_floor([0.1], [1.0, 2.0], 1.0)),
        ("convexity", lambda: leak_floor([0.1], [1.0], 0.0)),
    ],
)
def test_bad_input(words, call):
    with pytest.raises(DataError, match=words):
        call()
