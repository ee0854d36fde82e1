"""Stand-ins for missing experts, against the sums they stand for."""

from __future__ import annotations

import pytest
import torch

from emsfl.moe import split_state
from emsfl.moe.missing_experts import (
    StandIn,
    mean_outputs,
    recording_outputs,
    stand_in,
    standing_in,
)
from tests.moe.test_causal_lm import rows, small, state_of

OWNED = ((0, 3), (1, 2))


def logits_with(kind: StandIn, **given):
    spec = small()
    state, layout = state_of(spec), spec.layout()
    missing = stand_in(kind, state, layout, OWNED, **given)
    part = spec.build(split_state(state, layout, OWNED), 2).eval()
    with torch.no_grad(), standing_in(part, layout, missing):
        return part(rows())


def full_logits_with(answer):
    """Return logits of the full model in which `answer(layer, experts)` changes the experts."""
    spec = small()
    state = state_of(spec)
    for index, layer in enumerate(spec.layout().layers):
        answer(state, layer, [e for e in range(4) if e not in OWNED[index]])
    with torch.no_grad():
        return spec.build(state).eval()(rows())


def test_renormalise_is_the_sub_model_itself():
    spec = small()
    part = spec.build(split_state(state_of(spec), spec.layout(), OWNED), 2).eval()
    with torch.no_grad():
        assert torch.equal(logits_with(StandIn.RENORMALISE), part(rows()))


def test_drop_equals_the_full_model_with_the_missing_experts_at_zero():
    def zero(state, layer, missing):
        for name in layer.expert_axes:
            state[name][missing] = 0

    torch.testing.assert_close(logits_with(StandIn.DROP), full_logits_with(zero))


def test_a_proxy_equals_the_full_model_with_the_average_in_every_missing_place():
    scores = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)

    def average(state, layer, missing):
        index = 0 if missing == [1, 2] else 1
        weights = scores[index, missing] / scores[index, missing].sum()
        for name in layer.expert_axes:
            mean = sum(w.float() * state[name][e] for w, e in zip(weights, missing, strict=True))
            state[name][missing] = mean

    found = logits_with(StandIn.PROXY, scores=scores)
    torch.testing.assert_close(found, full_logits_with(average), rtol=1e-4, atol=1e-5)


def test_constants_are_mean_outputs_and_answer_for_the_missing():
    spec = small()
    layout = spec.layout()
    full = spec.build(state_of(spec)).eval()
    with torch.no_grad(), recording_outputs(full, layout) as sums:
        full(rows())
    constants = mean_outputs(sums)
    assert constants.shape == (2, 4, 16)
    dropped = logits_with(StandIn.DROP)
    assert torch.equal(
        logits_with(StandIn.CONSTANT, mean_outputs=torch.zeros_like(constants)), dropped
    )
    answered = logits_with(StandIn.CONSTANT, mean_outputs=constants)
    assert not torch.allclose(answered, dropped)


def test_the_mean_output_of_an_expert_is_the_mean_over_its_tokens():
    spec = small(top_k=1)
    layout = spec.layout()
    full = spec.build(state_of(spec)).eval()
    seen = []
    experts = full.get_submodule(layout.layers[0].experts)
    experts.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[1], output)))
    with torch.no_grad(), recording_outputs(full, layout) as sums:
        full(rows())
    ids, output = seen[0]
    expert = int(ids[0, 0])
    # with top-1 and renormalised weights, the output of the layer is that of the expert
    expected = output[ids[:, 0] == expert].mean(0)
    torch.testing.assert_close(mean_outputs(sums)[0, expert], expected, rtol=1e-4, atol=1e-6)


def test_nothing_of_a_stand_in_trains_and_all_is_put_back():
    spec = small()
    state, layout = state_of(spec), spec.layout()
    part = spec.build(split_state(state, layout, OWNED), 2)
    scores = torch.full((2, 4), 0.25, dtype=torch.float64)
    missing = stand_in(StandIn.PROXY, state, layout, OWNED, scores=scores)
    names = [name for name, _ in part.named_parameters()]
    with standing_in(part, layout, missing):
        spec.loss(part, rows(), torch.zeros(6)).backward()
        for layer in layout.layers:
            for name in layer.router_axes:
                assert not part.get_parameter(name).requires_grad
                assert part.get_parameter(name).shape[0] == 4
    assert [name for name, _ in part.named_parameters()] == names
    assert part.get_parameter(next(iter(layout.layers[0].router_axes))).shape[0] == 2
    assert missing is not None and missing.num_bytes() > 0


def test_what_a_kind_needs_must_be_given():
    for kind in (StandIn.PROXY, StandIn.CONSTANT):
        with pytest.raises(ValueError, match="needs"):
            logits_with(kind)
