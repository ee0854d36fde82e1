"""The language model: equal to the stock class, sliced exactly, gated without looking ahead."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from emsfl.moe import CausalLm, CausalLmConfig, TextGateKind, split_state
from emsfl.moe.gate_running import Listening
from emsfl.moe.gate_text import TextGateConfig, TextStatistics
from emsfl.moe.rerouting import excluding
from emsfl.moe.text_gating import token_nats

ALL = tuple(TextGateKind)
OWNER = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]])


def small(**changes) -> CausalLm:
    settings = {
        "kind": "causal_lm",
        "vocabulary_size": 300,
        "max_tokens": 16,
        "hidden_size": 16,
        "expert_size": 24,
        "num_layers": 2,
        "num_heads": 2,
        "num_experts": 4,
        "gate": TextGateConfig(kinds=ALL),
    }
    return CausalLm(CausalLmConfig(**{**settings, **changes}))


def state_of(spec: CausalLm, seed: int = 0):
    return spec.initial_state(torch.Generator().manual_seed(seed))


def rows(num: int = 6, length: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 300, (num, length), generator=generator)
    tokens[:, 0] = 1
    tokens[0, 7:] = 0
    return tokens


@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_it_is_the_stock_class(family):
    import transformers

    spec = small(family=family)
    state = state_of(spec)
    model = spec.build(state).eval()
    config = model.model.config
    names = {"mixtral": "MixtralForCausalLM", "olmoe": "OlmoeForCausalLM"}
    stock = getattr(transformers, names[family])(config).eval()
    stock.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    tokens = rows()
    with torch.no_grad():
        assert torch.equal(model(tokens), stock(input_ids=tokens).logits)
    assert set(spec.layout().expert_names) < set(state)


def test_a_sub_model_equals_the_full_model_with_the_others_masked():
    spec = small()
    state, layout = state_of(spec), spec.layout()
    owned = ((0, 3), (1, 2))
    kept = torch.tensor([[True, False, False, True], [False, True, True, False]])
    part = spec.build(split_state(state, layout, owned), 2).eval()
    full = spec.build(state).eval()
    with torch.no_grad(), excluding(full, layout, kept):
        expected = full(rows())
    with torch.no_grad():
        torch.testing.assert_close(part(rows()), expected, rtol=0, atol=1e-6)


def test_loss_and_bits_leave_padding_out():
    spec = small()
    model = spec.build(state_of(spec)).eval()
    tokens = rows()
    with torch.no_grad():
        nats = token_nats(model, tokens)
        log_p = model(tokens[:, :-1]).log_softmax(-1)
        bits, num_bytes = spec.judge(model, tokens, torch.full((6,), 9))
        loss = spec.loss(model, tokens, torch.zeros(6))
    assert torch.equal(nats[0, 6:], torch.zeros(5))
    torch.testing.assert_close(nats[3, 4], -log_p[3, 4, tokens[3, 5]])
    assert num_bytes == 54
    assert bits == pytest.approx(float(nats.sum()) / math.log(2), rel=1e-6)
    assert float(loss) == pytest.approx(float(nats.sum()) / (5 * 11 + 6), rel=1e-5)


def test_a_spec_is_small_and_the_gate_changes_no_fingerprint():
    spec = small()
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(small())
    assert spec.fingerprint() == small(gate=TextGateConfig()).fingerprint()
    assert spec.fingerprint() != small(hidden_size=32).fingerprint()


def gate_of(spec: CausalLm, seed: int = 0):
    pretrained = spec.build(state_of(spec, seed)).eval()
    statistics = [spec.measure(pretrained, rows(12, seed=c + 1)) for c in range(2)]
    return statistics[0].fit(statistics, OWNER)


@pytest.mark.parametrize("kind", [k for k in ALL if k is not TextGateKind.PLAIN])
@pytest.mark.parametrize("every", [1, 3])
def test_no_gate_looks_ahead(kind, every):
    listening = Listening(every_tokens=every, first_tokens=9)
    spec = small(gate=TextGateConfig(kinds=(kind,), listening=listening))
    gate = spec.gates(gate_of(spec))[0]
    model = spec.build(state_of(spec, 1)).eval()
    pretrained = spec.build(state_of(spec)).eval()
    tokens = rows(3)[1:]

    def logits(changed):
        with torch.no_grad(), spec.gated(model, gate, pretrained, changed):
            return model(changed)

    before = logits(tokens)
    moved = False
    for place in range(1, 12):
        changed = tokens.clone()
        changed[:, place] = 2 + (changed[:, place] + 50) % 290
        after = logits(changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-6)
        moved |= not torch.allclose(after[:, place:], before[:, place:])
    assert moved


def test_the_mixture_of_bayes_costs_little_more_than_its_best_component():
    spec, gate, model, pretrained = mixture(temperature=1)
    tokens = rows()
    with torch.no_grad():
        with spec.gated(model, gate, pretrained, tokens):
            mixed = token_nats(model, tokens).sum(1)
            probabilities = model(tokens).exp().sum(-1)
        plain, untuned = (token_nats(m, tokens).sum(1) for m in (model, pretrained))
        parts = [token_nats(m, tokens).sum(1) for m in spec._submodels(model, OWNER)]
    torch.testing.assert_close(probabilities, torch.ones_like(probabilities), rtol=0, atol=1e-4)
    for component, share in ((plain, 0.1), (untuned, 0.1), (parts[0], 0.4), (parts[1], 0.4)):
        assert (mixed <= component - math.log(share) + 1e-3).all()


def test_a_tempered_mixture_weighs_its_components_token_by_token():
    spec, gate, model, pretrained = mixture(temperature=4)
    tokens = rows()
    with torch.no_grad():
        with spec.gated(model, gate, pretrained, tokens):
            found = model(tokens)[1].exp().double()
        components = [*spec._submodels(model, OWNER), model, pretrained]
        each = [m(tokens)[1].softmax(-1).double() for m in components]
    weights = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
    for place in range(tokens.shape[1]):
        if place > 0:
            token = tokens[1, place]
            weights *= torch.stack([p[place - 1, token] for p in each]) ** 0.25
        by_hand = sum(w * p[place] for w, p in zip(weights / weights.sum(), each, strict=True))
        torch.testing.assert_close(found[place], by_hand, rtol=1e-4, atol=1e-7)


def test_a_mixture_without_plain_share_is_of_sub_models_alone():
    spec, gate, model, pretrained = mixture(temperature=1, plain_share=0)
    tokens = rows()
    with torch.no_grad():
        with spec.gated(model, gate, pretrained, tokens):
            first = model(tokens)[:, 0].exp()
        parts = [m(tokens)[:, 0].softmax(-1) for m in spec._submodels(model, OWNER)]
    torch.testing.assert_close(first, sum(parts) / 2, rtol=1e-4, atol=1e-7)


def test_a_mixture_takes_one_module_for_the_merged_and_the_untuned_model():
    spec, gate, model, _ = mixture(temperature=4)
    same = spec.build(model.state_dict()).eval()
    tokens = rows()
    found = []
    for untuned in (model, same):
        with torch.no_grad(), spec.gated(model, gate, untuned, tokens):
            found.append(model(tokens))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def mixture(temperature: float, plain_share: float = 0.2):
    config = TextGateConfig(
        kinds=(TextGateKind.MIXTURE,),
        plain_share=plain_share,
        listening=Listening(temperature=temperature),
    )
    spec = small(gate=config)
    model, pretrained = (spec.build(state_of(spec, seed)).eval() for seed in (1, 0))
    return spec, spec.gates(gate_of(spec))[0], model, pretrained


def test_statistics_hold_only_what_the_kinds_need_and_add_up():
    spec = small(gate=TextGateConfig(kinds=(TextGateKind.LIKELIHOOD,)))
    model = spec.build(state_of(spec)).eval()
    nothing = spec.measure(model, rows())
    assert sum(t.numel() for t in nothing.tensors().values()) == 0
    full = small()
    a, b = full.measure(model, rows(seed=1)), full.measure(model, rows(seed=2))
    both = full.measure(model, torch.cat([rows(seed=1), rows(seed=2)]))
    added = a + b
    assert isinstance(added, TextStatistics)
    torch.testing.assert_close(added.counts, both.counts)
    torch.testing.assert_close(added.outer, both.outer)
    assert added.count == both.count == 2 * (5 * 12 + 7)
