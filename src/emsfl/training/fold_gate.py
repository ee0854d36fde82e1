"""Fold the domain gate into a merged checkpoint's routers if held-out loss improves by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from emsfl.data.files import ALL, Table
from emsfl.errors import DataError
from emsfl.moe.adapter import MoELayout, find_moe_layers
from emsfl.moe.gate_folding import RouterInputs, folded_routers, recording_router_inputs
from emsfl.moe.gate_wrapper import StoredGate, read_gate
from emsfl.moe.pretrained import load_model, stored_state
from emsfl.moe.rewriting import rewrite_checkpoint
from emsfl.training.device import one_thread
from emsfl.training.model_measures import Evaluation, run_through
from emsfl.training.model_scores import evaluate_domains
from emsfl.training.table_task import TableTask

STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Factors on the discriminant's scores that are tried."""


@dataclass(frozen=True, kw_only=True)
class FoldReport:
    """What folding the gate does, on held-out data; domain -> judgement, `all` for the union."""

    strength: float
    """The factor that does best on the data it was fitted to."""
    plain: dict[str, Evaluation]
    """Before: the merged model's own router."""
    folded: dict[str, Evaluation]
    exact: dict[str, Evaluation]
    """With the exact gate, for comparison."""
    improved: bool
    """Whether the held-out loss over all domains is lower than before."""
    folder: Path | None
    """The new checkpoint; None: nothing was written, for nothing improved."""


def fold_gate(
    folder: Path, table: Table, held_out: Table, out: Path, *, batch_size: int, max_length: int
) -> FoldReport:
    """Fit the folded gate to `table`, judge it on `held_out`, write it to `out` if it helps.

    Args:
        folder: a merged checkpoint with a domain gate beside it.
        table: fits the discriminants and chooses the strength; its domains are the clusters.
        held_out: other samples of the same domains.
        out: the new checkpoint; must not exist.
        batch_size: samples per forward pass.
        max_length: tokens per sample, at most.

    Raises:
        DataError: no gate, a cluster without samples in `table`, or `out` is there already.
    """
    if out.exists():
        raise DataError(f"{out} exists; remove it or choose another out")
    stored = read_gate(folder)
    model = load_model(folder)
    layout = find_moe_layers(model)

    def judge(rows: Table, gate: StoredGate | None) -> dict[str, Evaluation]:
        return evaluate_domains(
            model, folder, rows, stored=gate, batch_size=batch_size, max_length=max_length
        )

    with one_thread():
        inputs = _router_inputs(model, layout, folder, table, stored, batch_size, max_length)
        before = {name: model.state_dict()[name].clone() for name in layout.router_names}
        plain, exact = judge(held_out, None), judge(held_out, stored)
        losses = {}
        for strength in STRENGTHS:
            _load(model, folded_routers(model, layout, inputs, stored.gate.owner, strength))
            losses[strength] = _total(judge(table, None)).loss
            _load(model, before)
        best = min(STRENGTHS, key=lambda strength: losses[strength])
        new = folded_routers(model, layout, inputs, stored.gate.owner, best)
        _load(model, new)
        folded = judge(held_out, None)
    improved = _total(folded).loss < _total(plain).loss
    if improved:
        rewrite_checkpoint(folder, stored_state(model, new), out, f"domain gate folded in, {best}")
    return FoldReport(
        strength=best,
        plain=plain,
        folded=folded,
        exact=exact,
        improved=improved,
        folder=out if improved else None,
    )


@torch.no_grad()
def _router_inputs(
    model: nn.Module,
    layout: MoELayout,
    folder: Path,
    table: Table,
    stored: StoredGate,
    batch_size: int,
    max_length: int,
) -> list[RouterInputs]:
    domains = table.by_domain()
    inputs = [RouterInputs() for _ in layout.layers]
    for cluster in stored.info.clusters:
        if cluster not in domains:
            raise DataError(
                f"no sample is of cluster {cluster!r}; the domains are: {', '.join(domains)}"
            )
        task = TableTask(model, folder, domains[cluster], max_length)
        with recording_router_inputs(model, layout, inputs):
            run_through(model, task, batch_size)
    return inputs


def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _total(domains: dict[str, Evaluation]) -> Evaluation:
    """Return the judgement on all samples."""
    return domains[ALL] if ALL in domains else next(iter(domains.values()))
