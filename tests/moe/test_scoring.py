"""Scores of the built-in model, through the same hooks as every stock class."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from emsfl.errors import DataError
from emsfl.moe import ImageClassifier, PatchMoEConfig, ScoreKind, find_moe_layers, scoring

SPEC = ImageClassifier(
    PatchMoEConfig(image_px=8, patch_px=4, hidden_size=8, expert_size=16, num_experts=4, top_k=2),
    num_classes=3,
)


@pytest.mark.parametrize("kind", ScoreKind)
def test_against_every_expert_run_alone(kind: ScoreKind) -> None:
    model = SPEC.build(SPEC.initial_state(torch.Generator().manual_seed(0))).eval()
    layout = find_moe_layers(model)
    images = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = {}
    for index, layer in enumerate(layout.layers):
        model.get_submodule(layer.experts).register_forward_pre_hook(
            lambda _module, inputs, index=index: seen.__setitem__(index, inputs)
        )
    with torch.no_grad(), scoring(model, layout, kind) as scores:
        model(images)
    for index, layer in enumerate(layout.layers):
        tokens, weights, indices = seen[index]
        experts = model.get_submodule(layer.experts)
        expected = torch.zeros(4, dtype=torch.float64)
        for expert in range(4):
            share = (weights * (indices == expert)).sum(1).double()
            output = functional.gelu(tokens @ experts.up[expert]) @ experts.down[expert]
            expected[expert] = {
                ScoreKind.MEAN_GATE: share.sum(),
                ScoreKind.ACTIVATION_FREQUENCY: (share > 0).sum(),
                ScoreKind.GATE_TIMES_OUTPUT_NORM: (share * output.norm(dim=1)).sum(),
            }[kind]
        torch.testing.assert_close(
            scores.normalised()[index], expected / expected.sum(), rtol=1e-5, atol=1e-7
        )
        assert len(set(scores.normalised()[index].tolist())) == 4


def test_a_masked_token_counts_for_nothing() -> None:
    model = SPEC.build(SPEC.initial_state(torch.Generator().manual_seed(0))).eval()
    layout = find_moe_layers(model)
    images = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with scoring(model, layout, ScoreKind.MEAN_GATE) as few:
            model(images[:2])
        with scoring(model, layout, ScoreKind.MEAN_GATE) as masked:
            masked.token_mask = (torch.arange(6) < 2)[:, None].expand(6, 4)
            model(images)
    torch.testing.assert_close(masked.totals, few.totals)


def test_nothing_scored_is_no_score() -> None:
    model = SPEC.build(SPEC.initial_state(torch.Generator().manual_seed(0)))
    with scoring(model, find_moe_layers(model), ScoreKind.MEAN_GATE) as scores:
        pass
    with pytest.raises(DataError, match="routed no token"):
        scores.normalised()


def test_experts_called_otherwise_are_named() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Linear(4, 4)
            self.gate = nn.Linear(4, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.experts(tokens) * self.gate(tokens)

    model = Dense()
    expected = r"experts was not called with \(tokens, expert indices, weights\)"
    with (
        scoring(model, find_moe_layers(model), ScoreKind.MEAN_GATE),
        pytest.raises(DataError, match=expected),
    ):
        model(torch.ones(2, 4))
