"""Running posteriors: Bayes' rule by hand, and that no token looks ahead."""

from __future__ import annotations

import math

import pytest
import torch

from emsfl.moe.gate import DomainStatistics, fit_gate
from emsfl.moe.gate_causal import blended_logits
from emsfl.moe.gate_counts import CountPrivacy, bucket_of, count_tokens, fit_counts
from emsfl.moe.gate_running import Listening, gaussian_evidence, running_posterior
from emsfl.moe.gate_text import with_plain


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_running_posterior_is_bayes_rule():
    evidence = torch.tensor([[[0.9, 0.2], [0.5, 0.6], [0.1, 0.8]]]).log()
    prior = torch.tensor([0.25, 0.75])
    found = running_posterior(evidence, Listening(temperature=1), prior.log()).exp()
    joint = prior * torch.tensor([0.9 * 0.5 * 0.1, 0.2 * 0.6 * 0.8])
    torch.testing.assert_close(found[0, 2], (joint / joint.sum()).double())
    after_one = prior * torch.tensor([0.9, 0.2])
    torch.testing.assert_close(found[0, 0], (after_one / after_one.sum()).double())


@pytest.mark.parametrize("listening", [Listening(), Listening(every_tokens=3, first_tokens=8)])
def test_a_later_token_changes_nothing_before_it(listening):
    evidence = draw(2, 12, 3)
    before = running_posterior(evidence, listening, torch.zeros(3))
    for token in range(12):
        changed = evidence.clone()
        changed[:, token] += 5 * draw(2, 3, seed=token)
        after = running_posterior(changed, listening, torch.zeros(3))
        assert torch.equal(before[:, :token], after[:, :token])


def test_every_and_first_tokens():
    evidence = draw(1, 11, 2)
    free = running_posterior(evidence, Listening(), torch.zeros(2))
    held = running_posterior(evidence, Listening(every_tokens=4), torch.zeros(2))
    uniform = torch.full((3, 2), math.log(0.5), dtype=torch.float64)
    torch.testing.assert_close(held[0, :3], uniform)
    for token in (3, 4, 5, 6):
        torch.testing.assert_close(held[0, token], free[0, 3])
    torch.testing.assert_close(held[0, 10], free[0, 7])
    early = running_posterior(evidence, Listening(first_tokens=5), torch.zeros(2))
    torch.testing.assert_close(early[0, 10], free[0, 4])


def test_temperature_divides_the_evidence():
    evidence = draw(1, 4, 3)
    found = running_posterior(evidence, Listening(temperature=4), torch.zeros(3))
    bayes = running_posterior(evidence / 4, Listening(temperature=1), torch.zeros(3))
    torch.testing.assert_close(found, bayes)


def test_lda_has_one_covariance_and_is_linear():
    data = [draw(200, 3, seed=c) * (c + 1) + c for c in range(3)]
    statistics = [DomainStatistics.of(x) for x in data]
    owner = torch.zeros(1, 3, dtype=torch.int64)
    lda = fit_gate(statistics, owner, shrinkage=1.0)
    assert torch.equal(lda.whiteners[0], lda.whiteners[2])
    pooled = sum(s.covariance for s in statistics) / 3
    pooled = pooled + 1e-3 * pooled.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    weights = torch.linalg.solve(pooled, torch.stack([s.mean for s in statistics]).T)
    x = draw(5, 3, seed=9)
    offsets = torch.stack([0.5 * s.mean @ torch.linalg.solve(pooled, s.mean) for s in statistics])
    torch.testing.assert_close(lda.log_posterior(x), (x @ weights - offsets).log_softmax(-1))


def test_gaussian_evidence_tells_clusters_apart_up_to_a_common_term():
    gate = fit_gate(
        [DomainStatistics.of(draw(300, 2, seed=c) + 2 * c) for c in range(2)],
        torch.zeros(1, 2, dtype=torch.int64),
    )
    hidden = draw(1, 3, 2, seed=5) + 2
    evidence = gaussian_evidence(gate, hidden)
    assert evidence.shape == (1, 3, 2)
    assert evidence[0, :, 1].sum() > evidence[0, :, 0].sum()


def test_counts_are_those_of_the_predicted_tokens_and_add_up():
    tokens = torch.tensor([[1, 5, 5, 0], [1, 7, 0, 0]])
    predicted = torch.tensor([[False, True, True, False], [False, True, False, False]])
    generator = torch.Generator().manual_seed(0)
    counts = count_tokens(tokens, predicted, 10, CountPrivacy(), generator)
    expected = torch.zeros(10, dtype=torch.float64)
    expected[5], expected[7] = 2, 1
    assert torch.equal(counts, expected)
    evidence = fit_counts([counts, expected.flip(0)], 10).evidence(torch.tensor([[5, 4]]))
    assert evidence[0, 0, 0] > evidence[0, 0, 1]
    assert evidence[0, 1, 0] < evidence[0, 1, 1]
    torch.testing.assert_close(
        fit_counts([counts, expected], 10).log_frequencies.exp().sum(1),
        torch.ones(2, dtype=torch.float64),
    )


def test_what_privacy_hides():
    tokens = torch.tensor([[1, 2, 2, 2, 3, 3, 4]])
    predicted = torch.ones_like(tokens, dtype=torch.bool)

    def counts(**privacy):
        generator = torch.Generator().manual_seed(1)
        return count_tokens(tokens, predicted, 300, CountPrivacy(**privacy), generator)

    top = counts(most_frequent=2)
    assert top[2] == 3 and top[3] == 2 and top.sum() == 5
    hashed = counts(buckets=16)
    assert hashed.shape == (16,) and hashed.sum() == 7
    bucket = bucket_of(300, 16)
    assert bucket.min() == 0 and bucket.max() == 15
    assert torch.bincount(bucket, minlength=16).min() > 5
    assert fit_counts([hashed], 300).evidence(tokens).shape == (1, 7, 1)
    noisy = counts(laplace_scale=2.0)
    assert not torch.equal(noisy, counts()) and noisy.min() >= 0
    assert torch.equal(noisy, counts(laplace_scale=2.0))


def test_noise_is_laplace_of_the_scale_that_was_asked_for():
    tokens = torch.arange(4000).repeat(1, 100).sort().values
    generator = torch.Generator().manual_seed(3)
    predicted = torch.ones_like(tokens, dtype=torch.bool)
    noisy = count_tokens(tokens, predicted, 4000, CountPrivacy(laplace_scale=3.0), generator)
    # the mean absolute deviation of Laplace noise is its scale; 4,000 draws: standard error 0.05
    assert abs(float((noisy - 100).abs().mean()) - 3.0) < 0.2


def test_blended_logits_are_the_mixture_of_routers():
    logits = draw(6, 5)
    owner = torch.tensor([0, 1, 0, -1, 1])
    posterior = torch.tensor([0.2, 0.5, 0.3]).double().log().expand(6, 3)
    mixed = blended_logits(owner, logits, posterior).softmax(-1)
    expected = 0.3 * logits.softmax(-1)
    for cluster, weight in ((0, 0.2), (1, 0.5)):
        own = owner == cluster
        expected[:, own] += weight * logits[:, own].softmax(-1)
    torch.testing.assert_close(mixed, expected)
    without = blended_logits(owner, logits, posterior[:, :2])
    assert torch.isinf(without[:, 3]).all()


def test_the_plain_router_takes_its_share():
    log_posterior = torch.tensor([[[0.25, 0.75]]]).log()
    torch.testing.assert_close(
        with_plain(log_posterior, 0.2).exp(), torch.tensor([[[0.2, 0.6, 0.2]]])
    )
    assert with_plain(log_posterior, 0.0) is log_posterior
