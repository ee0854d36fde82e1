"""The upcycled text classifier: the stock model's outputs, with its lower part computed once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from emsfl.data import Samples
from emsfl.errors import ConfigError, DataError
from emsfl.moe import (
    DomainStatistics,
    TextClassifierConfig,
    encoders,
    fit_gate,
    make_spec,
    split_state,
    tokenise_for,
)
from emsfl.moe.config import EncoderGateConfig, GateConfig, PatchMoEConfig
from emsfl.moe.gate import GateKind
from emsfl.moe.gate_text import TextStatistics
from emsfl.moe.text_classifier import _logits, _settings
from emsfl.moe.upcycling import upcycle_encoder
from emsfl.training import (
    EvaluateTask,
    LocalSettings,
    MeasureTask,
    TrainTask,
    evaluate,
    measure_domain,
    score_experts,
    train_locally,
)
from tests.reference.tiny_models import WORDS, save_dense

FIELDS = {"num_hidden_layers": 3, "pad_token_id": 0}
FAMILIES = {
    "BertModel": {},
    "RobertaModel": {},
    "ElectraModel": {"embedding_size": 8},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, fields in FAMILIES.items():
        found[name] = tmp_path_factory.mktemp(name)
        save_dense(name, found[name], **FIELDS, **fields)
    return found


def spec_of(folder, **fields):
    config = TextClassifierConfig(
        kind="text_classifier",
        encoder=str(folder),
        **{"max_tokens": 12, "frozen_layers": 1, "num_experts": 4, **fields},
    )
    return make_spec(config, 3)


@pytest.fixture
def spec(folders):
    return spec_of(folders["BertModel"])


@pytest.fixture
def state(spec):
    return spec.initial_state(torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def ids():
    """Forty texts of 2 to 12 tokens."""
    generator = np.random.default_rng(5)
    found = generator.integers(4, 30, (40, 12))
    found[np.arange(12) >= generator.integers(2, 13, (40, 1))] = 0
    return torch.from_numpy(found)


def stock(spec, state):
    """Return the stock class with everything in it, frozen parts included."""
    dense = encoders.dense_encoder(spec.config.encoder)
    full = upcycle_encoder(dense, _settings(spec, spec.config.num_experts, 0)).eval()
    full.load_state_dict({**full.state_dict(), **state})
    return full


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen_layers", [0, 1])
def test_outputs_are_those_of_the_stock_model(folders, family, frozen_layers, ids):
    spec = spec_of(folders[family], frozen_layers=frozen_layers)
    state = spec.initial_state(torch.Generator().manual_seed(4))
    full = stock(spec, state)
    with torch.no_grad():
        expected = full(ids, (ids != 0).long()).logits
        found = _logits(spec.build(state), spec.prepare(ids))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    layout = spec.layout()
    assert layout.frozen_names == set(full.state_dict()) - set(state)
    assert layout.frozen_bytes == sum(
        tensor.nbytes for name, tensor in full.state_dict().items() if name not in state
    )
    assert len(layout.layers) == 2


def test_one_expert_is_the_dense_model(folders, ids):
    spec = spec_of(folders["BertModel"], num_experts=1, top_k=1)
    state = spec.initial_state(torch.Generator().manual_seed(4))
    dense = encoders.dense_encoder(spec.config.encoder)
    mask = (ids != 0).long()
    with torch.no_grad():
        hidden = dense(ids, mask).last_hidden_state * mask.unsqueeze(-1)
        pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
        expected = functional.linear(pooled, state["classifier.weight"], state["classifier.bias"])
        found = _logits(spec.build(state), spec.prepare(ids))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_sub_model_is_the_full_model_with_the_others_out_of_reach(spec, state, ids):
    owned = ((0, 2), (1, 3))
    layout = spec.layout()
    bare = dict(state)
    generator = torch.Generator().manual_seed(7)
    for name in layout.expert_names:
        bare[name] = bare[name] + torch.randn(bare[name].shape, generator=generator) * 0.1
    sub = split_state(bare, layout, owned)
    inputs = spec.prepare(ids)
    statistics = DomainStatistics.of(spec.features(spec.build(state), inputs))
    owner = torch.full((2, 4), -1)
    for number, kept in enumerate(owned):
        owner[number, list(kept)] = 0
    gate = fit_gate([statistics], owner)
    with torch.no_grad():
        small = _logits(spec.build(sub, 2), inputs)
        full = spec.build(bare)
        with spec.gated(full, gate, spec.build(state), inputs):
            large = _logits(full, inputs)
    torch.testing.assert_close(small, large, atol=1e-6, rtol=1e-5)


def test_the_cache_changes_no_bit_and_keeps_within_its_size(spec, ids, monkeypatch):
    first = spec.prepare(ids)
    assert spec.prepare(ids) is first
    encoders._cache.clear()
    again = spec.prepare(ids)
    assert again is not first
    assert torch.equal(again.flat, first.flat)
    monkeypatch.setattr(encoders, "CACHE_BYTES", 1)
    spec.prepare(ids[:20])
    assert len(encoders._cache) == 1
    batch = first[torch.tensor([7, 3])]
    hidden, mask = batch.padded()
    assert mask.sum(1).tolist() == [(ids[7] != 0).sum(), (ids[3] != 0).sum()]
    assert not hidden[~mask].any()
    assert torch.allclose(batch.means()[0], hidden[0][mask[0]].mean(0))


def test_gate_features_are_the_input_of_the_first_layer_that_is_not_frozen(spec, state, ids):
    seen = []
    full = stock(spec, state)
    layer = full.encoder.dense.encoder.layer[1]
    handle = layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        full(ids, (ids != 0).long())
    handle.remove()
    mask = (ids != 0).unsqueeze(-1)
    expected = (seen[0] * mask).sum(1) / mask.sum(1)
    found = spec.features(spec.build(state), spec.prepare(ids))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.fixture
def shard(ids):
    return Samples(inputs=ids.numpy(), labels=np.random.default_rng(6).integers(0, 3, 40))


def test_naive_bayes_counts_tokens_whatever_their_order(folders, state):
    gate_config = EncoderGateConfig(kinds=tuple(GateKind))
    spec = spec_of(folders["BertModel"], gate=gate_config)
    # Cluster a uses tokens 4 to 11, cluster b 10 to 19; texts of 2 to 4 tokens.
    generator = np.random.default_rng(3)
    texts = [torch.from_numpy(generator.integers(*ids, (30, 4))) for ids in ((4, 12), (10, 20))]
    for rows in texts:
        rows[::3, 2:] = 0
    statistics = [spec.measure(spec.build(state), spec.prepare(rows)) for rows in texts]
    counts = [[int((rows == token).sum()) for token in range(1, 64)] for rows in texts]
    assert [s.counts.tolist() for s in statistics] == [[0, *row] for row in counts]
    gate = TextStatistics.fit(statistics, torch.tensor([[0, 0, 1, 1]] * 2))
    plain, qda, lda, bayes = spec.gates(gate)
    assert plain is None
    # By hand: every cluster's frequencies are smoothed by 0.5 and by 100 tokens of the mean.
    smoothed = np.array([[0.0, *row] for row in counts]) + 0.5
    pooled = (smoothed / smoothed.sum(1, keepdims=True)).mean(0)
    log_frequencies = smoothed + 100 * pooled
    log_frequencies = np.log(log_frequencies / log_frequencies.sum(1, keepdims=True))
    text = torch.tensor([[11, 5, 0, 0], [18, 11, 10, 5]])
    sums = np.array([log_frequencies[:, [i for i in row if i]].sum(1) for row in text.tolist()])
    expected = sums - np.log(np.exp(sums).sum(1, keepdims=True))
    inputs, model = spec.prepare(text), spec.build(state)
    found = spec.log_posterior(bayes, model, inputs)
    torch.testing.assert_close(found, torch.from_numpy(expected))
    turned = spec.log_posterior(bayes, model, spec.prepare(text[:, [1, 0, 2, 3]]))
    torch.testing.assert_close(turned[0], found[0])
    for gaussian in (qda, lda):
        assert not torch.allclose(spec.log_posterior(gaussian, model, inputs), found)
    with spec.gated(model, bayes, model, inputs), torch.no_grad():
        assert spec.judge(model, inputs, torch.zeros(2, dtype=torch.int64))[1] == 2
    only_gaussian = spec_of(folders["BertModel"]).measure(model, inputs)
    assert type(only_gaussian) is DomainStatistics
    with pytest.raises(ValidationError, match="images have none"):
        PatchMoEConfig(gate=GateConfig(kinds=(GateKind.NAIVE_BAYES,)))


def test_training_evaluation_and_measures(spec, state, shard):
    settings = LocalSettings(
        batch_size=8, momentum=0.9, learning_rate=1e-2, optimizer="adam", train_routers=False
    )
    task = TrainTask(
        model=spec,
        num_experts=4,
        state=state,
        momentum={},
        shard=shard,
        seed=(0,),
        first_step=0,
        num_steps=40,
        settings=settings,
    )
    result = train_locally(task)
    assert result.state.keys() == state.keys()
    again = train_locally(task)
    assert all(torch.equal(result.state[n], again.state[n]) for n in state)
    assert torch.equal(result.state["classifier.bias"], state["classifier.bias"]) is False
    test = {"a": shard.take(np.arange(20)), "b": shard.take(np.arange(20, 40))}
    before, after = (
        evaluate(EvaluateTask(model=spec, num_experts=4, state=s, samples=test))
        for s in (state, result.state)
    )
    assert all(count == 20 for _, count in after.values())
    assert sum(hits for hits, _ in after.values()) > 5 + sum(hits for hits, _ in before.values())
    measure = MeasureTask(model=spec, num_experts=4, state=state, shard=shard)
    assert measure_domain(measure).count == 40
    more = replace(shard, inputs=np.pad(shard.inputs, ((0, 0), (0, 9))))
    scores = score_experts(measure)
    assert torch.allclose(scores.sum(1), torch.ones(2, dtype=torch.float64))
    assert torch.equal(score_experts(replace(measure, shard=more)), scores), "padding counted"


def test_pretraining_trains_the_classifier_alone(spec, state):
    assert {name for name in state if spec.pretrains(name)} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_texts_are_read_by_the_encoders_own_tokenizer(spec):
    encode = tokenise_for(spec.config)([])
    ids, labels = encode([" ".join(WORDS[:3]), " ".join(WORDS)], np.array([1, 0]))
    assert ids.shape == (2, 12)
    assert ids.dtype == np.int64
    assert ids[0].tolist() == [4, 5, 6, *[0] * 9]
    assert labels.tolist() == [1, 0]


def test_what_does_not_fit_is_an_error(folders, tmp_path):
    with pytest.raises(ConfigError, match="more than the 3 layers"):
        spec_of(folders["BertModel"], frozen_layers=2, num_moe_layers=2)
    save_dense("ViTModel", tmp_path / "vit", image_size=8, patch_size=4, num_hidden_layers=3)
    with pytest.raises(DataError, match="'vit'"):
        spec_of(tmp_path / "vit").layout()
