"""The bounds on logistic regression with a frozen-router MoE head, sampled mini-batches, 64 seeds.

Logit of sub-model c: s.x + sum over own experts e of q_e(x) theta_e.x, with q the softmax of the
frozen router over own experts. The constants hold everywhere: curvature at most 1/4, residuals at
most 1.
"""

import numpy as np
import pytest

from emsfl.planning.bound import Scenario, gradient_bound
from emsfl.planning.deviation import Constants, rates
from tests.planning.quadratics import random_plan
from tests.planning.replay import replay

NUM_SEEDS, NUM_INPUTS, NUM_SAMPLES = 64, 3, 24


def features(rng, num_clusters, counts):
    """Per cluster and device [n, d]: x for the shared part, q_e(x) x for the two own experts."""
    router = rng.normal(size=(num_clusters, 2, NUM_INPUTS))
    out = []
    for c in range(num_clusters):
        shift = rng.normal(size=NUM_INPUTS) * 0.5
        devices = []
        for _ in range(counts[c]):
            x = rng.normal(size=(NUM_SAMPLES, NUM_INPUTS)) + shift
            logits = x @ router[c].T
            q = np.exp(logits - logits.max(axis=1, keepdims=True))
            q /= q.sum(axis=1, keepdims=True)
            devices.append(np.concatenate([x, q[:, :1] * x, q[:, 1:] * x], axis=1))
        out.append(devices)
    return out


def residual_gradient(phi, labels, x):
    """Mean gradient of log(1 + exp(-y phi.x)) over rows; phi [..., n, d], x [d, S]."""
    margin = labels[..., None] * (phi @ x)
    return np.einsum("nd,ns->ds", phi, -labels[:, None] / (1 + np.exp(margin))) / len(labels)


@pytest.mark.parametrize("seed", range(24))
def test_expected_gradient_never_exceeds_the_bound(seed):
    rng = np.random.default_rng(seed)
    num_clusters = int(rng.integers(1, 4))
    counts = [int(n) for n in rng.integers(1, 3, size=num_clusters)]
    phi = features(rng, num_clusters, counts)
    truth = rng.normal(size=(num_clusters, 3 * NUM_INPUTS))
    labels = [
        [np.where(f @ truth[c] + rng.logistic(size=len(f)) > 0, 1.0, -1.0) for f in phi[c]]
        for c in range(num_clusters)
    ]
    weights = rng.dirichlet(np.full(num_clusters, 3.0))
    shares = [rng.dirichlet(np.full(n, 3.0)) for n in counts]
    exchanges, schedule = random_plan(rng, num_clusters, cap=[None, 4][seed % 2])
    batch = int(rng.integers(1, 5))
    objective = rates(weights, schedule.active)

    def mean(c, values):
        return float(sum(p * v for p, v in zip(shares[c], values, strict=True)))

    def norms(c, block):
        return [np.linalg.norm(f[:, block], axis=1) for f in phi[c]]

    everything, shared, own = slice(None), slice(0, NUM_INPUTS), slice(NUM_INPUTS, None)
    clusters = range(num_clusters)
    reach = np.array([mean(c, [n.mean() for n in norms(c, shared)]) for c in clusters])
    q = objective.objective_weights
    constants = Constants(
        smoothness=max(
            np.linalg.eigvalsh(f.T @ f / len(f))[-1] / 4 for c in clusters for f in phi[c]
        ),
        weights=weights,
        concentration=np.array([np.sum(p**2) for p in shares]),
        shared_noise=np.array(
            [max(np.mean(n**2) for n in norms(c, shared)) / batch for c in clusters]
        ),
        expert_noise=np.array(
            [max(np.mean(n**2) for n in norms(c, own)) / batch for c in clusters]
        ),
        # A variance is at most the second moment, and a mean gradient at most the mean feature.
        device_gap=np.array(
            [
                np.sqrt(mean(c, [n.mean() ** 2 for n in norms(c, everything)])) * (counts[c] > 1)
                for c in clusters
            ]
        ),
        cluster_gap=np.array(
            [
                (1 - q[c]) * reach[c] + sum(q[j] * reach[j] for j in clusters if j != c)
                for c in clusters
            ]
        ),
        initial_gap=float(weights @ objective.rate) * np.log(2),  # the loss is at least 0
    )
    scenario = Scenario(constants, schedule)
    window = max(scenario.deviation.coupling_norm[-1], 2 * scenario.imbalance.max(), 1)
    step_size = rng.uniform(0.05, 0.25) / constants.smoothness / window
    bound = gradient_bound(scenario, step_size)
    draws = np.random.default_rng(seed + 1000)

    def gradient(t, c, k, x):
        chosen = draws.integers(0, NUM_SAMPLES, size=(NUM_SEEDS, batch))
        f, y = phi[c][k][chosen], labels[c][k][chosen]  # [S, b, d], [S, b]
        margin = y * np.einsum("sbd,ds->sb", f, x)
        return np.einsum("sbd,sb->ds", f, -y / (1 + np.exp(margin))) / batch

    squares = []

    def observe(t, z, server, local):
        grads = [
            sum(
                p * residual_gradient(f, y, z[c])
                for p, f, y in zip(shares[c], phi[c], labels[c], strict=True)
            )
            for c in clusters
        ]
        rate = objective.rate
        total = np.sum(sum(weights[c] * rate[c] * grads[c][shared] for c in clusters) ** 2, axis=0)
        total += sum(
            weights[c] * rate[c] ** 2 * np.sum(grads[c][own] ** 2, axis=0) for c in clusters
        )
        squares.append(total)

    replay(
        weights=weights,
        shares=shares,
        start_shared=np.zeros((NUM_INPUTS, NUM_SEEDS)),
        start_experts=[np.zeros((2 * NUM_INPUTS, NUM_SEEDS)) for _ in clusters],
        exchanges=exchanges,
        schedule=schedule,
        step_size=step_size,
        gradient=gradient,
        observe=observe,
    )
    per_seed = np.mean(squares[:-1], axis=0)
    # 99.9% upper confidence limit of the mean over 64 seeds (Student t, 63 degrees of freedom)
    upper = per_seed.mean() + 3.22 * per_seed.std(ddof=1) / np.sqrt(NUM_SEEDS)
    assert upper <= bound.value
