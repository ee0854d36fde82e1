"""A language model tuned from end to end on a table of texts: gates, metric, determinism."""

import json
from pathlib import Path

import numpy as np
import pytest

import emsfl
from emsfl.experiment import load

CONFIG = Path(__file__).parents[2] / "configs/evidence/language_model.yaml"
METHODS = ["ems_fl", "ems_fl_no_gate", "fedasync"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """Texts of four domains, each with words of its own."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    draw = np.random.default_rng(1)
    with path.open("w") as file:
        for number in range(400):
            words = [f"{'abcd'[number % 4]}{w}" for w in draw.integers(0, 9, 6)]
            row = {"text": " ".join(words), "domain": "wxyz"[number % 4]}
            file.write(json.dumps(row) + "\n")
    return [
        f"data={{dataset: table, source: {path}, num_public: 80, "
        "num_validation: 20, num_test: 40}",
        "model.vocabulary_size=280",
        "model.max_tokens=16",
        "model.hidden_size=16",
        "model.expert_size=16",
        "model.num_layers=2",
        "model.num_heads=2",
        "model.pretrain.num_steps=20",
        "model.gate.kinds=[plain, prefix_counts, own_likelihood, mixture]",
        "orbit.hours=9",
        "simulate.device_flops_per_s=4.0e+4",
        "simulate.evaluation_points=2",
    ]


def test_a_language_model_runs_from_end_to_end(overrides, tmp_path):
    config = load(CONFIG, overrides, METHODS)
    emsfl.run(config, out=tmp_path / "run", progress=False)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metric"] == "bits_per_byte"
    final = {name: result["methods"][name]["final_accuracy"]["mean"] for name in METHODS}
    before = result["initial_accuracy"][0]
    assert 0.5 < final["ems_fl"] < before < 8.1, "tuning lowers bits per byte"
    assert final["ems_fl"] < final["ems_fl_no_gate"], "every domain has words of its own"
    emsfl.run(config, out=tmp_path / "again", progress=False)
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["methods"] == result["methods"]
