"""A text classifier tuned from end to end: a tiny encoder, a table of texts, both from files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import emsfl
from emsfl.data import Holdings
from emsfl.experiment import load
from emsfl.moe import make_spec
from tests.reference.tiny_models import WORDS, save_dense

SENTIMENT = Path(__file__).parents[2] / "configs/evidence/sentiment.yaml"
METHODS = ["ems_fl", "fedavg_fill"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """Texts of four domains, each with words of its own; the class is told by one word."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("text")
    save_dense("BertModel", folder / "encoder", num_hidden_layers=3)
    draw = np.random.default_rng(1)
    words = np.array(WORDS[:24]).reshape(4, 6)
    with (folder / "texts.jsonl").open("w") as file:
        for number in range(400):
            label = int(draw.integers(3))
            text = [*draw.choice(words[number % 4], draw.integers(3, 9)), WORDS[24 + label]]
            row = {"text": " ".join(text), "label": str(label), "domain": "abcd"[number % 4]}
            file.write(json.dumps(row) + "\n")
    table = f"{{dataset: table, source: {folder / 'texts.jsonl'}, num_public: 40, "
    return [
        "data=" + table + "num_validation: 20, num_test: 80, devices_per_cluster: 2}",
        f"model.encoder={folder / 'encoder'}",
        "model.frozen_layers=1",
        "model.max_tokens=12",
        "model.pretrain.num_steps=20",
        "orbit.hours=8",
        "simulate.device_flops_per_s=2.0e+3",
        "simulate.evaluation_points=2",
    ]


def test_text_runs_from_end_to_end(overrides, tmp_path):
    emsfl.run(load(SENTIMENT, overrides, METHODS), out=tmp_path / "run", progress=False)
    methods = json.loads((tmp_path / "run" / "result.json").read_text())["methods"]
    ems, fedavg = (methods[name]["upload_bytes_per_contact"]["mean"] for name in METHODS)
    state = make_spec(load(SENTIMENT, overrides).model, 3).initial_state(torch.Generator())
    assert fedavg == sum(tensor.nbytes for tensor in state.values()), "what is frozen stays"
    assert ems < 0.6 * fedavg
    holdings = Holdings.load(tmp_path / "run" / "split" / "seed0.npz")
    assert holdings.domains == ("a", "b", "c", "d")
    assert holdings.counts.sum() == 400 - 40 - 20 - 80
