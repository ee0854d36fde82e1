"""The exact gate around stock models, and its approximation in router weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emsfl.errors import DataError
from emsfl.moe import DomainGate, DomainStatistics, find_moe_layers, fit_gate
from emsfl.moe.checkpoint import open_checkpoint
from emsfl.moe.domain_statistics import Pooling, recording_statistics
from emsfl.moe.gate_folding import RouterInputs, folded_routers, recording_router_inputs
from emsfl.moe.gate_wrapper import (
    GateFile,
    StoredGate,
    gate_info,
    gating,
    load_gated,
    read_gate,
    save_gate,
)
from emsfl.moe.rerouting import excluding
from tests.reference.tiny_models import FAMILIES, NUM_EXPERTS, make_inputs, make_model, save_model

EVEN = torch.arange(NUM_EXPERTS) % 2 == 0
SIZE = 16


def certain_gate(num_layers: int, cluster: int, *, nobody: bool = False) -> DomainGate:
    """A gate that is sure of one cluster, whatever the input; it owns the even experts."""
    owner = torch.where(EVEN, cluster, -1 if nobody else 1 - cluster).repeat(num_layers, 1)
    return DomainGate(
        means=torch.zeros(2, SIZE, dtype=torch.float64),
        whiteners=torch.zeros(2, SIZE, SIZE, dtype=torch.float64),
        log_scale=torch.tensor([0.0, -1e4] if cluster == 0 else [-1e4, 0.0], dtype=torch.float64),
        owner=owner,
    )


def stored(model: nn.Module, gate: DomainGate, pooling: Pooling) -> StoredGate:
    config: Any = model.config
    return StoredGate(gate=gate, info=gate_info(config.to_dict(), ("a", "b"), pooling), moved={})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cluster", [0, 1])
def test_a_sure_gate_is_the_sub_model(family: str, cluster: int) -> None:
    """Where the posterior is 1 for one cluster, only its experts are left to choose from."""
    model = make_model(family)
    layout = find_moe_layers(model)
    gate = certain_gate(len(layout.layers), cluster, nobody=True)
    pooling = Pooling.SEQUENCE if family == "switch_transformers" else Pooling.PREFIX
    inputs = make_inputs(family)
    with torch.no_grad():
        before = model(**inputs).logits
        with excluding(model, layout, gate.owner >= 0):
            masked = model(**inputs).logits
        with gating(model, layout, stored(model, gate, pooling)):
            gated = model(**inputs).logits
        after = model(**inputs).logits
    # The gate takes a logarithm of a softmax and the family a softmax of that: a few roundings.
    torch.testing.assert_close(gated, masked, rtol=1e-4, atol=1e-5)
    assert (gated - before).abs().max() > 1e-3
    assert torch.equal(before, after)


def random_gate(num_layers: int) -> DomainGate:
    generator = torch.Generator().manual_seed(5)
    samples = [torch.randn(80, SIZE, generator=generator) + shift for shift in (-0.3, 0.3)]
    owner = torch.where(EVEN, 0, 1).repeat(num_layers, 1)
    return fit_gate([DomainStatistics.of(s) for s in samples], owner)


def test_no_token_looks_ahead_and_cached_generation_agrees() -> None:
    model: Any = make_model("mixtral")
    layout = find_moe_layers(model)
    ids = make_inputs("mixtral")["input_ids"]
    other = ids.clone()
    other[:, 8:] = (other[:, 8:] + 7) % 64
    with gating(model, layout, stored(model, random_gate(2), Pooling.PREFIX)), torch.no_grad():
        whole = model(input_ids=ids).logits
        changed = model(input_ids=other).logits
        first = model(input_ids=ids[:, :5], use_cache=True)
        rest = [first.logits]
        cache = first.past_key_values
        for position in range(5, ids.shape[1]):
            step = model(
                input_ids=ids[:, position : position + 1],
                attention_mask=torch.ones(3, position + 1),
                past_key_values=cache,
                use_cache=True,
            )
            rest.append(step.logits)
    torch.testing.assert_close(whole[:, :8], changed[:, :8], rtol=1e-4, atol=1e-5)
    assert (whole[:, 8:] - changed[:, 8:]).abs().max() > 1e-3
    torch.testing.assert_close(torch.cat(rest, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", Pooling)
def test_padding_changes_nothing(pooling: Pooling) -> None:
    model: Any = make_model("olmoe")
    layout = find_moe_layers(model)
    ids = make_inputs("olmoe")["input_ids"]
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=ids.dtype)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(3, 4, dtype=ids.dtype)], 1)
    with torch.no_grad():
        with recording_statistics(model, layout, pooling) as bare:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        with recording_statistics(model, layout, pooling) as with_padding:
            model(input_ids=padded, attention_mask=mask)
        with gating(model, layout, stored(model, random_gate(2), pooling)):
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            together = model(input_ids=padded, attention_mask=mask).logits[:, : ids.shape[1]]
    assert (
        bare[0].count
        == with_padding[0].count
        == (3 if pooling is Pooling.SEQUENCE else ids.numel())
    )
    torch.testing.assert_close(bare[0].outer, with_padding[0].outer, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_saved_beside_a_checkpoint_and_loaded_by_one_call(tmp_path: Path) -> None:
    plain = save_model("mixtral", tmp_path)
    with pytest.raises(DataError, match=r"domain_gate.json does not exist"):
        load_gated(tmp_path)
    gate = stored(plain, random_gate(2), Pooling.PREFIX)
    save_gate(tmp_path, gate.gate, gate.info, open_checkpoint(tmp_path))
    read = read_gate(tmp_path)
    assert read.info == GateFile(
        pooling=Pooling.PREFIX, clusters=("a", "b"), score_function="softmax", moved=()
    )
    assert torch.equal(read.gate.whiteners, gate.gate.whiteners)
    model: Any = load_gated(tmp_path)
    ids = make_inputs("mixtral")["input_ids"]
    with torch.no_grad():
        with gating(plain, find_moe_layers(plain), gate):
            expected = plain(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, expected)
        continued = model.generate(ids[:1], max_new_tokens=3, do_sample=False, eos_token_id=99)
        assert torch.equal(model(continued[:, :-1]).logits[:, -1].argmax(-1), continued[:, -1])
        model.domain_gate.close()
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    (tmp_path / "domain_gate.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="is no domain gate"):
        read_gate(tmp_path)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "switch_transformers"])
def test_folding_leads_separable_domains_to_their_owners(family: str) -> None:
    """Two domains of disjoint vocabularies: the folded router sends each to its own experts."""
    model: Any = make_model(family)
    layout = find_moe_layers(model)
    generator = torch.Generator().manual_seed(2)
    domains = [torch.randint(low, low + 4, (24, 10), generator=generator) for low in (4, 34)]
    owner = torch.where(EVEN, 0, 1).repeat(len(layout.layers), 1)
    inputs = [RouterInputs() for _ in layout.layers]

    def run(ids: Tensor) -> None:
        extra = {"decoder_input_ids": ids[:, :6]} if family == "switch_transformers" else {}
        model(input_ids=ids, **extra)

    with torch.no_grad():
        for ids in domains:
            with recording_router_inputs(model, layout, inputs):
                run(ids)
        state = model.state_dict()
        before = [
            mass_on_owner(model, layout, lambda ids=ids: run(ids), owner, c)
            for c, ids in enumerate(domains)
        ]
        for name, tensor in folded_routers(model, layout, inputs, owner, 1.0).items():
            assert name in layout.router_names and tensor.shape == state[name].shape
            state[name].copy_(tensor)
        after = [
            mass_on_owner(model, layout, lambda ids=ids: run(ids), owner, c)
            for c, ids in enumerate(domains)
        ]
    assert max(before) < 0.8 and min(after) > 0.95, (before, after)


def mass_on_owner(model: nn.Module, layout: Any, run: Any, owner: Tensor, cluster: int) -> float:
    from emsfl.moe import ScoreKind, scoring

    with scoring(model, layout, ScoreKind.MEAN_GATE) as scores:
        run()
    return float((scores.normalised() * (owner == cluster)).sum(1).mean())


def test_an_offset_without_bias_lies_on_the_constant_direction() -> None:
    """m . x is nearest to 1 in the mean of squares, by numpy's least squares."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(500, 6, generator=generator, dtype=torch.float64) + 2.0
    inputs = RouterInputs(
        [300.0, 200.0], [tokens[:300].sum(0), tokens[300:].sum(0)], tokens.T @ tokens
    )
    slopes, offsets, constant = inputs.discriminant()
    expected = torch.linalg.lstsq(tokens, torch.ones(500, 1, dtype=torch.float64)).solution[:, 0]
    torch.testing.assert_close(constant, expected, rtol=0.05, atol=0.01)  # the ridge
    assert abs(float(offsets.sum())) < 1e-9 and slopes.sum(0).abs().max() < 1e-9
    assert math.isclose(float((tokens @ constant).mean()), 1.0, abs_tol=0.05)


def test_a_decoders_layers_have_the_decoders_mask() -> None:
    """Five tokens go in, eight come out, two of them padding."""
    model: Any = make_model("switch_transformers")
    layout = find_moe_layers(model)
    ids = make_inputs("switch_transformers")["input_ids"]
    mask = torch.ones(3, 8, dtype=torch.int64)
    mask[:, 6:] = 0
    inputs = [RouterInputs() for _ in layout.layers]
    with torch.no_grad(), recording_router_inputs(model, layout, inputs):
        model(
            input_ids=ids[:, :5],
            attention_mask=torch.ones(3, 5),
            decoder_input_ids=ids[:, :8],
            decoder_attention_mask=mask,
        )
    assert [one.counts for one in inputs] == [[15.0], [18.0]]
