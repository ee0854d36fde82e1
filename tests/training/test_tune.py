"""Local tuning: the optimiser for experts, the modes, and what a tuned model may differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emsfl.data.files import Table
from emsfl.errors import DataError, UpdateRefusedError
from emsfl.moe import find_moe_layers, scoring
from emsfl.moe.manifests import Manifest, read_document
from emsfl.moe.pretrained import load_model
from emsfl.moe.scoring import ScoreKind
from emsfl.moe.split_checkpoint import split_checkpoint
from emsfl.moe.upcycling import UpcycleSettings, upcycle
from emsfl.training.adam import ExpertAdam
from emsfl.training.table_task import TableTask
from emsfl.training.tunable import Tunable
from emsfl.training.tune import TuneSettings, tune
from tests.reference.tiny_models import WORDS, make_assignment, make_table, save_dense, save_model


def test_expert_adam_is_adam_where_every_expert_is_used() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [mine], "shape": (3, 4, 5), "axis": 0}
    optimizers = [ExpertAdam([group], 1e-2), torch.optim.Adam([theirs], 1e-2)]
    for _ in range(5):
        gradient = torch.randn(3, 4, 5, generator=generator)
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), 0), ((6, 4), 1), ((2, 3, 4), 2)])
def test_an_unused_expert_stays_and_catches_up_later(shape: tuple[int, ...], axis: int) -> None:
    """An expert used in some steps only moves as if there had been no others."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(4)]
    used = [True, False, True, False]
    sparse, dense = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = ExpertAdam([{"params": [sparse], "shape": shape, "axis": axis}], 1e-2)
    reference = torch.optim.Adam([dense], 1e-2)
    for gradient, is_used in zip(gradients, used, strict=True):
        before = sparse.detach().clone()
        masked = gradient.clone()
        if not is_used:
            masked.select(axis, 1).zero_()
        sparse.grad = masked
        optimizer.step()
        if is_used:
            dense.grad = gradient.clone()
            reference.step()
        else:
            assert torch.equal(sparse.select(axis, 1), before.select(axis, 1))
            assert not torch.equal(sparse.select(axis, 0), before.select(axis, 0))
    torch.testing.assert_close(sparse.select(axis, 1), dense.select(axis, 1), rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def part(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("olmoe")
    save_model("olmoe", folder / "base")
    wanted = make_assignment(folder / "base", a=(0, 2, 4, 6))
    return split_checkpoint(folder / "base", wanted, folder / "parts", name="x")[0].folder


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "bf16": {"precision": "bf16"},
    "lora": {"mode": "lora", "lora_rank": 4},
    "lora bf16 checkpointed": {
        "mode": "lora",
        "precision": "bf16",
        "gradient_checkpointing": True,
    },
    "frozen": {"train_shared": False},
    "slow shared": {"shared_lr_factor": 1e-6},
}


@pytest.fixture(scope="module")
def tuned(part: Path) -> dict[str, dict[str, torch.Tensor]]:
    tensors = {}
    for name, changes in MODES.items():
        settings = TuneSettings(num_steps=12, batch_size=4, learning_rate=3e-3, **changes)
        losses: list[float] = []
        out = part.parent / name
        tune(part, make_table(0), out, settings, lambda _step, loss, to=losses: to.append(loss))
        assert losses[-1] < losses[0] - 0.02, name
        tensors[name] = load_file(out / "model.safetensors")
    return tensors


def test_modes_agree_where_they_must(tuned: dict[str, dict[str, torch.Tensor]], part: Path) -> None:
    names = {n for n in tuned["plain"] if ".experts." in n}
    assert set(tuned["frozen"]) == names
    assert all(torch.equal(t, tuned["checkpointed"][n]) for n, t in tuned["plain"].items())
    for name in names:
        step = (tuned["plain"][name] - tuned["bf16"][name]).abs().max()
        assert 0 < step < 1.2e-2, "a third of the way that 12 steps of Adam can go"
        assert not torch.equal(tuned["lora"][name], tuned["plain"][name])
    old: dict[str, torch.Tensor] = {}
    for path in part.glob("*.safetensors"):
        old.update(load_file(path))
    assert not any("gate." in name for update in tuned.values() for name in update)
    for name, tensor in tuned["slow shared"].items():
        moved = (tensor - old[name]).abs().max()
        assert (moved < 1e-6) == (name not in names), name
    rank = torch.linalg.matrix_rank(
        tuned["lora"][next(n for n in names if "down" in n)].double()
        - old[next(n for n in names if "down" in n)].double(),
        atol=1e-6,
    )
    assert rank <= 4


def test_experts_that_no_token_uses_keep_their_bits(part: Path, tmp_path: Path) -> None:
    """A table of one repeated word reaches few experts; LoRA and full weights alike."""
    table = Table(inputs=(f"{WORDS[3]} {WORDS[3]}",) * 4, labels=None, domains=("a",) * 4)
    model = load_model(part)
    layout = find_moe_layers(model)
    task = TableTask(model, part, table, 16)
    with scoring(model, layout, ScoreKind.ACTIVATION_FREQUENCY) as scores, torch.no_grad():
        model(**task.batch([0]).inputs)
    unused = [
        f"model.layers.{layer}.mlp.experts.{expert}."
        for layer, total in enumerate(scores.totals)
        for expert in range(4)
        if total[expert] == 0
    ]
    assert unused
    old: dict[str, torch.Tensor] = {}
    for path in part.glob("*.safetensors"):
        old.update(load_file(path))
    for mode in ("full", "lora"):
        settings = TuneSettings(
            num_steps=1, batch_size=4, learning_rate=1e-2, mode=mode, train_shared=False
        )
        tune(part, table, tmp_path / mode, settings)
        new = load_file(tmp_path / mode / "model.safetensors")
        still = {n for n in new if torch.equal(new[n].view(torch.int32), old[n].view(torch.int32))}
        assert {n for n in new if n.startswith(tuple(unused))} <= still
        assert len(still) < len(new)


def test_the_optimiser_holds_state_for_what_trains_only(part: Path) -> None:
    full = Tunable(part, train_shared=False, low_precision=False, lora=None)
    assert set(full.trained) == set(full.layout.expert_names)
    lora = Tunable(part, train_shared=False, low_precision=True, lora=(2, 4.0))
    assert all(".lora_" in name for name in lora.trained)
    assert all(p.dtype is torch.float32 for p in lora.trained.values())
    frozen = [p for p in lora.model.parameters() if not p.requires_grad]
    assert any(p.dtype is torch.bfloat16 for p in frozen)


def test_a_diverging_run_is_refused_and_bad_input_named(part: Path, tmp_path: Path) -> None:
    wild = TuneSettings(num_steps=20, batch_size=4, learning_rate=1e18)
    with pytest.raises(UpdateRefusedError, match="lower learning_rate"):
        tune(part, make_table(0), tmp_path / "out", wild)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"emsfl.json does not exist"):
        tune(tmp_path, make_table(0), tmp_path / "out", TuneSettings())
    tune(part, make_table(0), tmp_path / "out", TuneSettings(num_steps=0))
    with pytest.raises(DataError, match="exists and is not this update"):
        tune(part, make_table(1), tmp_path / "out", TuneSettings(num_steps=0))
    manifest = read_document(Manifest, tmp_path / "out" / "emsfl.json")
    assert manifest.training is not None and manifest.training.mean_loss is None


def test_an_upcycled_classifier_learns(tmp_path: Path) -> None:
    save_dense("BertModel", tmp_path / "dense")
    settings = UpcycleSettings(num_experts=4, top_k=2, layers=None, labels=("bad", "good"), seed=0)
    upcycle(tmp_path / "dense", tmp_path / "moe", settings)
    wanted = make_assignment(tmp_path / "moe", a=(0, 2))
    folder = split_checkpoint(tmp_path / "moe", wanted, tmp_path, name="x")[0].folder
    draw = np.random.default_rng(0)
    labels = draw.choice(["bad", "good"], 40)
    texts = tuple(" ".join([*draw.choice(WORDS[:20], 5), label]) for label in labels)
    table = Table(inputs=texts, labels=tuple(labels.tolist()), domains=("a",) * 40)
    losses: list[float] = []
    quick = TuneSettings(num_steps=40, batch_size=8, learning_rate=1e-2)
    tune(folder, table, tmp_path / "out", quick, lambda _step, loss: losses.append(loss))
    assert sum(losses[-5:]) / 5 < 0.3 < 0.6 < losses[0]
    broken = Table(inputs=texts, labels=("ugly",) * 40, domains=("a",) * 40)
    with pytest.raises(DataError, match="label 'ugly' is none of the model's: 0, 1, bad, good"):
        tune(folder, broken, tmp_path / "other", quick)
    unlabelled = Table(inputs=texts, labels=None, domains=("a",) * 40)
    with pytest.raises(DataError, match="needs a column of labels"):
        tune(folder, unlabelled, tmp_path / "other", quick)
