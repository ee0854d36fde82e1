"""Scores, losses and assignments of stock models over tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from emsfl.data.files import Table
from emsfl.errors import DataError, InfeasibleError
from emsfl.moe import ScoreKind, check_owned, find_moe_layers
from emsfl.moe.domain_statistics import Pooling
from emsfl.moe.manifests import ScoresFile
from emsfl.training.assign_scores import Demand, assign_for_model, parse_budgets
from emsfl.training.model_measures import evaluate_table, score_table
from emsfl.training.model_scores import evaluate_model, score_model
from emsfl.training.table_task import TableTask
from tests.reference.tiny_models import WORDS, save_dense, save_model

TEXTS = tuple(" ".join(WORDS[i : i + 3 + i % 5]) for i in range(10))
LABELS = tuple(" ".join(WORDS[i + 4 : i + 6 + i % 3]) for i in range(10))
TABLE = Table(inputs=TEXTS, labels=LABELS, domains=("a",) * 6 + ("b",) * 4)
DEMAND = Demand(budget_bytes={}, experts_per_layer=None, local_top_k=None, fair=False)


def quiet(_count: int) -> None:
    pass


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "switch_transformers"])
@pytest.mark.parametrize("kind", ScoreKind)
def test_padding_counts_for_nothing(family: str, kind: ScoreKind, tmp_path: Path) -> None:
    """Samples alone need no padding; together they do."""
    model = save_model(family, tmp_path)
    layout = find_moe_layers(model)
    task = TableTask(model, tmp_path, TABLE, 16)
    together = score_table(model, layout, task, kind, 10)
    alone = score_table(model, layout, task, kind, 1)
    assert together.num_tokens == alone.num_tokens == sum(len(t.split()) for t in TEXTS)
    torch.testing.assert_close(together.values, alone.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["olmoe", "switch_transformers"])
def test_losses_are_those_of_the_stock_class(family: str, tmp_path: Path) -> None:
    """Against the loss that transformers itself computes, sample by sample."""
    model: Any = save_model(family, tmp_path)
    task = TableTask(model, tmp_path, TABLE, 16)
    total, count = 0.0, 0
    for row in range(len(TABLE)):
        ids = task.encode(TEXTS[row], return_tensors="pt").input_ids
        answer = task.encode(LABELS[row], return_tensors="pt").input_ids
        labels = answer if family == "switch_transformers" else ids
        targets = labels.shape[1] - (0 if family == "switch_transformers" else 1)
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * targets
        count += targets
    for batch_size in (1, 4, 10):
        judged = evaluate_table(model, task, batch_size)
        assert judged.num_targets == count
        assert judged.loss == pytest.approx(total / count, rel=1e-5)
        assert judged.perplexity == pytest.approx(math.exp(judged.loss))
        assert judged.accuracy is None


def test_a_model_is_judged_by_domain_and_on_all(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path)
    report = evaluate_model(tmp_path, TABLE, gate=None, batch_size=4, max_length=16, progress=quiet)
    assert not report.gated and list(report.domains) == ["a", "b", "all"]
    parts = [report.domains[name] for name in ("a", "b")]
    weighted = sum(p.loss * p.num_targets for p in parts) / sum(p.num_targets for p in parts)
    assert report.domains["all"].loss == pytest.approx(weighted)
    assert report.domains["all"].num_samples == 10
    with pytest.raises(DataError, match=r"domain_gate.json does not exist"):
        evaluate_model(tmp_path, TABLE, gate=True, batch_size=4, max_length=16, progress=quiet)


def test_mass_kept_is_the_score_of_the_owned(tmp_path: Path) -> None:
    model = save_model("mixtral", tmp_path)
    layout = find_moe_layers(model)
    task = TableTask(model, tmp_path, TABLE, 16)
    owned = check_owned(layout, [(0, 3), (1, 2, 7)])
    judged = evaluate_table(model, task, 4, owned=(layout, owned))
    scores = score_table(model, layout, task, ScoreKind.MEAN_GATE, 4).values
    expected = (scores[0][[0, 3]].sum() + scores[1][[1, 2, 7]].sum()) / 2
    assert judged.mass_kept == pytest.approx(float(expected))


def test_statistics_are_of_sequences_or_tokens(tmp_path: Path) -> None:
    model = save_model("mixtral", tmp_path)
    layout = find_moe_layers(model)
    task = TableTask(model, tmp_path, TABLE, 16)
    assert task.pooling is Pooling.PREFIX
    scores = score_table(model, layout, task, ScoreKind.GATE_TIMES_OUTPUT_NORM, 3)
    assert scores.statistics.count == sum(len(text.split()) for text in TEXTS)


def test_a_dense_classifier_can_be_judged(tmp_path: Path) -> None:
    model = save_dense("BertForSequenceClassification", tmp_path, num_labels=2)
    table = Table(inputs=TEXTS, labels=("0", "1") * 5, domains=("all",) * 10)
    judged = evaluate_table(model, TableTask(model, tmp_path, table, 16), 4)
    with torch.no_grad():
        task = TableTask(model, tmp_path, table, 16)
        logits = torch.cat([model(**task.batch([i]).inputs).logits for i in range(10)])
    targets = torch.tensor([0, 1] * 5)
    assert judged.accuracy == (logits.argmax(-1) == targets).float().mean()
    assert judged.loss == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-5)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: Any) -> tuple[Path, list[ScoresFile]]:
    folder = tmp_path_factory.mktemp("scored")
    save_model("deepseek_v3", folder)
    tables = {name: TABLE.only([name]) for name in ("a", "b")}
    scores = [
        score_model(
            folder,
            rows,
            folder / f"scores-{name}.json",
            cluster=name,
            kind="mean_gate",
            with_statistics=False,
            batch_size=4,
            max_length=16,
            progress=quiet,
        )
        for name, rows in tables.items()
    ]
    return folder, scores


def test_groups_and_budgets_are_respected(scored: tuple[Path, list[ScoresFile]]) -> None:
    folder, scores = scored
    assignment, owned_bytes = assign_for_model(scores, folder, DEMAND)
    for part in assignment.clusters.values():
        for ids in part.owned:
            assert sum(e < 4 for e in ids) == sum(e >= 4 for e in ids) == 2
    for name, part in assignment.clusters.items():
        table = next(s for s in scores if s.cluster == name)
        for ids, layer, kept in zip(part.owned, table.layers, part.mass_kept, strict=True):
            assert kept == pytest.approx(sum(layer.scores[e] for e in ids))
    tight = Demand(**{**vars(DEMAND), "budget_bytes": {"a": owned_bytes["a"] - 1}})
    with pytest.raises(InfeasibleError, match="budget"):
        assign_for_model(scores, folder, tight)
    more = [s.model_copy(update={"cluster": f"c{i}"}) for i, s in enumerate(scores * 2)]
    with pytest.raises(InfeasibleError, match="at most 2 clusters or a smaller local top-k"):
        assign_for_model(more, folder, DEMAND)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"structure_sha256": "0" * 64}, "the scores of a are of another model"),
        ({"kind": ScoreKind.ACTIVATION_FREQUENCY}, "score all alike"),
        ({"cluster": "b"}, "two scores are of cluster b"),
        ({"layers": ()}, "not of the model's layers"),
    ],
)
def test_scores_that_do_not_fit(
    scored: tuple[Path, list[ScoresFile]], change: dict[str, Any], words: str
) -> None:
    folder, (first, second) = scored
    with pytest.raises(DataError, match=words):
        assign_for_model([first.model_copy(update=change), second], folder, DEMAND)


def test_budgets_as_typed() -> None:
    clusters = ("polar", "sea")
    assert parse_budgets(["2e9"], clusters) == {"polar": 2_000_000_000, "sea": 2_000_000_000}
    assert parse_budgets(["5e9", "sea=1000"], clusters) == {"polar": 5_000_000_000, "sea": 1000}
    for text, words in (
        ("moon=1", "the clusters are polar, sea"),
        ("x", "must be a positive number"),
        ("0", "must be a positive number"),
        ("inf", "must be a positive number"),
    ):
        with pytest.raises(DataError, match=words):
            parse_budgets([text], clusters)
