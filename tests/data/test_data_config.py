"""Which data set and which model a config means, and what it says where that is wrong."""

import re
from pathlib import Path

import pytest

from emsfl.errors import ConfigError
from emsfl.experiment import load

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
SENTIMENT = DEMO.parent / "evidence/sentiment.yaml"


def test_sections_without_a_name_are_the_default_family():
    config = load(DEMO, ["data={num_test: 20}", "model={hidden_size: 16}"])
    assert (config.data.dataset, config.model.kind) == ("mnist_rotated", "patch_moe")
    assert (config.data.num_test, config.model.hidden_size) == (20, 16)


def test_the_sentiment_config_is_the_documented_regime():
    config = load(SENTIMENT)
    assert (config.data.dataset, config.model.kind) == ("sentiment", "text_classifier")
    assert (config.model.frozen_layers, config.model.num_moe_layers) == (4, 2)
    assert config.training.optimizer == "adam"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.dataset=foo", "data.dataset = 'foo': must be one of 'mnist_rotated'"),
        ("data.dataset=3", "data.dataset = '3': must be one of"),
        ("model.kind=foo", "model.kind = 'foo': must be one of 'patch_moe'"),
        ("data.num_publik=3", "did you mean 'data.num_public'?"),
        ("data.num_public=3", "data.num_public = 3: must be from 8 to 2000"),
        ("data.split.by=label", "split.by must be domain here"),
        ("data={dataset: mnist_labels, split: {by: domain}}", "split.by must be label here"),
        ("data={dataset: table}", "data.source is missing"),
        ("model={kind: text_classifier, num_experts: 1}", "top_k must be at most num_experts"),
    ],
)
def test_what_is_wrong_is_said(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(DEMO, [override])
