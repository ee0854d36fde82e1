"""The gate of a merged checkpoint reads features of the pre-trained model, whatever moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emsfl.errors import DataError
from emsfl.files import sha256_of_file
from emsfl.moe import find_moe_layers
from emsfl.moe.checkpoint import open_checkpoint
from emsfl.moe.domain_statistics import Call, read_statistics, statistics_path, watching
from emsfl.moe.gate_wrapper import load_gated, read_gate
from emsfl.moe.manifests import ScoresFile, read_document
from emsfl.moe.merge_checkpoint import merge_checkpoint
from emsfl.moe.pretrained import load_model
from emsfl.moe.pretrained_features import PretrainedFeatures, feature_tensors
from emsfl.moe.split_checkpoint import split_checkpoint
from emsfl.training.model_scores import score_model
from emsfl.training.tune import TuneSettings, tune
from tests.reference.tiny_models import (
    FAMILIES,
    make_assignment,
    make_inputs,
    make_table,
    save_model,
)

EVEN, ODD = (0, 2, 4, 6), (1, 3, 5, 7)


def score(base: Path, out: Path, cluster: str, seed: int, **changes: Any) -> Path:
    score_model(
        base,
        make_table(seed),
        out,
        **{
            "cluster": cluster,
            "kind": "mean_gate",
            "with_statistics": True,
            "batch_size": 4,
            "max_length": 16,
            "progress": lambda _count: None,
            **changes,
        },
    )
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: Any) -> Path:
    """A base, two scores files and two updates; `frozen-*` left the shared parameters alone."""
    folder = tmp_path_factory.mktemp("gate")
    save_model("olmoe", folder / "base")
    wanted = make_assignment(folder / "base", a=EVEN, b=ODD)
    split_checkpoint(folder / "base", wanted, folder, name="x")
    for seed, cluster in enumerate("ab"):
        score(folder / "base", folder / f"{cluster}.json", cluster, seed)
        for name, train_shared in (("tuned", True), ("frozen", False)):
            settings = TuneSettings(
                num_steps=4, batch_size=4, learning_rate=1e-2, train_shared=train_shared
            )
            tune(folder / cluster, make_table(seed), folder / f"{name}-{cluster}", settings)
    return folder


def merge(work: Path, kind: str, out: Path, scores: tuple[str, ...] = ("a", "b")) -> Path:
    updates = [work / f"{kind}-{cluster}" for cluster in "ab"]
    files = [work / f"{cluster}.json" for cluster in scores]
    return merge_checkpoint(work / "base", updates, out, score_files=files).folder


def features_of(model: Any, source: PretrainedFeatures, **inputs: Any) -> torch.Tensor:
    """What the gate's hook would see in one forward pass."""
    seen = []

    def see(index: int, hidden: torch.Tensor, _mask: Any, call: Call) -> None:
        if index == 0:
            seen.append(source.of(call, hidden.detach()))

    with watching(model, find_moe_layers(model), see), torch.no_grad():
        model(**inputs)
    return seen[0]


def plain_features(model: Any, **inputs: Any) -> torch.Tensor:
    return features_of(
        model, PretrainedFeatures(model, find_moe_layers(model), {}, is_causal=False), **inputs
    )


def test_features_are_the_pretrained_models_bit_for_bit(work: Path, tmp_path: Path) -> None:
    folder = merge(work, "tuned", tmp_path / "merged")
    stored = read_gate(folder)
    assert "model.embed_tokens.weight" in stored.moved and len(stored.moved) > 3
    assert not any("layers.1." in name or "expert" in name for name in stored.moved)
    base, tuned = load_model(work / "base"), load_model(folder)
    inputs = make_inputs("olmoe")
    expected = plain_features(base, **inputs)
    source = PretrainedFeatures(tuned, find_moe_layers(tuned), stored.moved, is_causal=True)
    assert torch.equal(features_of(tuned, source, **inputs), expected)
    assert (plain_features(tuned, **inputs) - expected).abs().max() > 1e-3
    gated = load_gated(folder)
    before = {name: tensor.clone() for name, tensor in gated.state_dict().items()}
    with torch.no_grad():
        gated(**inputs)
    assert all(torch.equal(t, before[name]) for name, t in gated.state_dict().items())


def test_frozen_layers_need_nothing_more(work: Path, tmp_path: Path) -> None:
    folder = merge(work, "frozen", tmp_path / "merged")
    assert not read_gate(folder).moved
    assert not (folder / "domain_gate_layers.safetensors").exists()


def test_cached_generation_sees_the_same_features(work: Path, tmp_path: Path) -> None:
    model: Any = load_gated(merge(work, "tuned", tmp_path / "merged"))
    ids = make_inputs("olmoe")["input_ids"]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :5], use_cache=True, past_key_values=None)
        rest, cache = [first.logits], first.past_key_values
        for position in range(5, ids.shape[1]):
            step = model(
                input_ids=ids[:, position : position + 1],
                attention_mask=torch.ones(3, position + 1),
                past_key_values=cache,
                use_cache=True,
            )
            rest.append(step.logits)
        torch.testing.assert_close(torch.cat(rest, 1), whole, rtol=1e-4, atol=1e-5)
        longer = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=99)
        for position in range(ids.shape[1], longer.shape[1]):
            again = model(input_ids=longer[:, :position]).logits[:, -1].argmax(-1)
            assert torch.equal(again, longer[:, position])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_names_what_its_features_depend_on(family: str, tmp_path: Path) -> None:
    """Scaling what is not named changes nothing; scaling what is named does."""
    model = save_model(family, tmp_path)
    layout = find_moe_layers(model)
    inputs = make_inputs(family)
    names = feature_tensors(model, layout, open_checkpoint(tmp_path), inputs)
    tensors: dict[str, torch.Tensor] = {}
    for path in tmp_path.glob("*.safetensors"):
        tensors.update(load_file(path))
    expected = plain_features(model, **inputs)
    state = model.state_dict()
    named = {state[name].data_ptr() for name in names}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.data_ptr() not in named:
                parameter.mul_(1.5).add_(0.1)
        assert torch.equal(plain_features(model, **inputs), expected)
        for name in names:
            state[name].mul_(1.5).add_(0.1)
    assert not torch.equal(plain_features(model, **inputs), expected)
    moved = {name: tensors[name] for name in names}
    source = PretrainedFeatures(model, layout, moved, is_causal=family != "switch_transformers")
    assert torch.equal(features_of(model, source, **inputs), expected)


def test_an_encoder_that_generate_calls_alone_is_gated(tmp_path: Path) -> None:
    save_model("switch_transformers", tmp_path / "base")
    model: Any = load_model(tmp_path / "base")
    layout = find_moe_layers(model)
    ids = make_inputs("switch_transformers")["input_ids"]
    seen = []

    def see(index: int, hidden: torch.Tensor, _mask: Any, call: Call) -> None:
        if index == 0:
            seen.append(source.of(call, hidden.detach()))

    moved = {"shared.weight": load_all(tmp_path / "base")["shared.weight"] * 2}
    source = PretrainedFeatures(model, layout, moved, is_causal=False)
    with watching(model, layout, see):
        model.generate(ids, max_new_tokens=3)
    model.shared.weight.data.mul_(2)
    assert len(seen) == 1
    assert torch.equal(seen[0], plain_features(model, input_ids=ids, decoder_input_ids=ids[:, :2]))


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors.update(load_file(path))
    return tensors


def test_scores_that_do_not_fit_are_refused(work: Path, tmp_path: Path) -> None:
    def refused(words: str, *files: Path) -> None:
        updates = [work / "tuned-a", work / "tuned-b"]
        with pytest.raises(DataError, match=words):
            merge_checkpoint(work / "base", updates, tmp_path / "out", score_files=files)
        assert not list(tmp_path.glob("*out*"))

    a, b = work / "a.json", work / "b.json"
    refused("cluster b has no scores", a)
    refused("two scores are of cluster a", a, a)
    refused("cluster c has no update", a, b, score(work / "base", tmp_path / "c.json", "c", 0))
    bare = score(work / "base", tmp_path / "bare.json", "b", 0, with_statistics=False)
    refused("without domain statistics: score without --no-statistics", a, bare)
    other = load_all(work / "base")
    other["model.embed_tokens.weight"][3] += 0.01
    (tmp_path / "other").mkdir()
    save_file(other, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    for path in (work / "base").iterdir():
        if path.suffix == ".json" and "index" not in path.name:
            (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    refused(
        "of another pre-trained model", a, score(tmp_path / "other", tmp_path / "b2.json", "b", 1)
    )
    statistics = statistics_path(bare)
    bare.write_text(b.read_text())
    refused("bare.statistics.safetensors does not exist", a, bare)
    statistics.write_bytes(statistics_path(a).read_bytes())
    refused("is not the file that was written with the scores", a, bare)
    statistics.write_bytes(b"\0" * 64)
    tree = json.loads(b.read_text())
    tree["statistics"]["sha256"] = sha256_of_file(statistics)
    bare.write_text(json.dumps(tree))
    refused("holds no domain statistics", a, bare)


def test_statistics_are_of_all_that_was_scored(work: Path) -> None:
    path = work / "a.json"
    info = read_document(ScoresFile, path).statistics
    assert info is not None
    assert read_statistics(statistics_path(path), info.sha256).count == 12 * 8
