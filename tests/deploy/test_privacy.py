"""What a cluster does before anything leaves it: robust averages, clipping and noise."""

import math

import pytest
import torch

from emsfl.deploy.config import DeployConfig, PrivacyConfig
from emsfl.deploy.privacy import combiner, epsilon_spent, finisher
from emsfl.methods import Update, Work
from emsfl.training import coordinate_median, trimmed_mean


def states(*values):
    return [{"w": torch.tensor(value)} for value in values]


def test_a_device_gone_mad_moves_the_mean_but_no_robust_average():
    honest = states([1.0, -1.0], [2.0, -2.0], [3.0, -3.0], [2.0, -2.0])
    mad = [*honest, {"w": torch.tensor([1e9, -1e9])}]
    weights = [0.2] * 5
    assert combiner(DeployConfig())(mad, weights)["w"][0] > 1e8
    for kind in ("median", "trimmed_mean"):
        robust = combiner(DeployConfig(aggregation=kind))(mad, weights)["w"]
        assert 1.0 <= robust[0] <= 3.0
        assert -3.0 <= robust[1] <= -1.0


def test_median_and_trimmed_mean_are_those_of_every_coordinate():
    three = states([1.0, 9.0], [2.0, 7.0], [6.0, 8.0])
    assert coordinate_median(three)["w"].tolist() == [2.0, 8.0]
    assert coordinate_median(three[:2])["w"].tolist() == [1.5, 8.0]
    assert trimmed_mean(three, 0)["w"].tolist() == [3.0, 8.0]
    assert trimmed_mean(three, 1)["w"].tolist() == [2.0, 8.0]
    with pytest.raises(ValueError, match="leave nothing"):
        trimmed_mean(three[:2], 1)


@pytest.fixture
def work(federation, settings):
    return Work(
        owned=federation.layout.all_experts(), payload=federation.pretrained, settings=settings
    )


def far_update(federation):
    values = {name: tensor + 5.0 for name, tensor in federation.pretrained.items()}
    return Update(cluster="north", version=0, values=values)


def change_of(update, federation):
    return torch.cat(
        [(t - federation.pretrained[n]).double().flatten() for n, t in update.values.items()]
    )


def test_a_change_is_cut_to_the_norm_and_noise_has_the_stated_deviation(federation, work):
    update = far_update(federation)
    quiet = PrivacyConfig(clip_norm=0.5, noise_multiplier=1e-6)
    clipped, _ = finisher(quiet, federation)(update, work, {})
    assert float(change_of(clipped, federation).norm()) == pytest.approx(0.5, rel=1e-3)
    loud = PrivacyConfig(clip_norm=0.5, noise_multiplier=4.0)
    finish = finisher(loud, federation)
    first, released = finish(update, work, {})
    second, _ = finish(update, work, {})
    noise = change_of(first, federation)
    count = len(noise)
    assert float(noise.std()) == pytest.approx(2.0, rel=6 / math.sqrt(2 * count))
    assert not torch.equal(noise, change_of(second, federation)), "never the same noise twice"
    assert all(torch.equal(released[name], first.values[name]) for name in first.values)


def test_without_privacy_an_update_leaves_as_it_is(federation, work):
    update = far_update(federation)
    assert finisher(None, federation)(update, work, {}) == (update, {})


def test_epsilon_is_that_of_the_gaussian_mechanism():
    """One release at sigma: the bound of Renyi differential privacy, in closed form."""
    pytest.importorskip("opacus", reason="the accountant of the extra privacy")
    config = PrivacyConfig(clip_norm=1.0, noise_multiplier=2.0, delta=1e-5)
    orders = [1 + x / 100 for x in range(1, 5000)]
    classic = min(a / 8 + math.log(1e5) / (a - 1) for a in orders)  # Mironov 2017
    found = epsilon_spent(config, 1)
    assert 0.7 * classic < found <= classic
    assert epsilon_spent(config, 1) < epsilon_spent(config, 10) < 10 * found


def test_a_private_federation_runs_to_its_end(federates):
    federates.privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=0.01)
    assert '"event":"finished"' in federates.serve()
    assert not [n for n in federates.notes if n["event"] in ("trouble", "bad_reply")]
