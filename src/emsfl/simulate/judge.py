"""Evaluate the merged model on a grid of virtual times, and every sub-model at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from emsfl.data import FederatedData, Samples
from emsfl.methods import MergedModel, Method
from emsfl.moe import ModelSpec, State, experts_per_layer
from emsfl.simulate.ledger import Ledger
from emsfl.training import EvaluateTask, Executor, Pending, Processor, evaluate

Found = dict[str, tuple[float, float]]
"""Per domain, numerator and denominator of the metric."""


@dataclass(frozen=True)
class _Together:
    """Evaluations that make one; a domain that several look at counts by their mean."""

    parts: list[Pending]

    def result(self) -> Found:
        found: dict[str, list[tuple[float, float]]] = {}
        for part in self.parts:
            for domain, ratio in part.result().items():
                found.setdefault(domain, []).append(ratio)
        return {
            domain: ratios[0]
            if len(ratios) == 1
            else (fmean(n for n, _ in ratios), fmean(d for _, d in ratios))
            for domain, ratios in found.items()
        }

    def done(self) -> bool:
        return all(part.done() for part in self.parts)


@dataclass
class _Point:
    time_s: float
    uploaded_bytes: int
    found: Pending | Found


class Judge:
    """Keeps one curve per name under which the method's training is reported."""

    def __init__(
        self,
        names: Mapping[str, bool],
        model: ModelSpec,
        samples: Mapping[str, Samples],
        times_s: Sequence[float],
        device: Processor = "cpu",
        *,
        domain_of: Mapping[str, str],
        choose_on: Mapping[str, Samples] | None = None,
    ) -> None:
        """Judge the method under each of `names` (name -> whether its domain gate is on).

        Args:
            names: what to report.
            model: how to build the model.
            samples: per domain.
            times_s: the grid, ascending; the last one is the end.
            device: where to compute.
            domain_of: the domain of every cluster, on which its own model is judged where there
                is no common one.
            choose_on: per domain; where a gate can be used in several ways, the best on these
                samples is used.
        """
        self.choose_on = dict(choose_on or {})
        self.device = device
        self.domain_of = dict(domain_of)
        self.names = dict(names)
        self.model = model
        self.samples = dict(samples)
        self.times_s = list(times_s)
        self.curves: dict[str, list[_Point]] = {name: [] for name in names}
        self._judged: tuple[int, int] | None = None

    def evaluate(self, time_s: float, method: Method, ledger: Ledger, executor: Executor) -> None:
        """Add a point to every curve; a model that has not changed is not evaluated again."""
        seen = (method.version, len(ledger.update_bytes))
        merged = None if seen == self._judged else method.merged()
        self._judged = seen
        for name, gated in self.names.items():
            curve = self.curves[name]
            if merged is None:
                found = curve[-1].found
            else:
                shown = merged if gated else MergedModel(state=merged.state)
                tasks = self._tasks(shown, method.federation.pretrained)
                found = _Together([executor.submit(evaluate, task) for task in tasks])
            curve.append(_Point(time_s, ledger.uploaded_bytes, found))

    def accuracy_by_domain(self, name: str, index: int = -1) -> dict[str, float]:
        """Return the accuracy per domain at one point of the curve."""
        found = _resolve(self.curves[name][index])
        return {domain: _ratio({domain: found[domain]}) for domain in self.samples}

    def accuracy(self, name: str, index: int = -1) -> float:
        """Return the accuracy on the union of all domains at one point of the curve."""
        return _ratio(_resolve(self.curves[name][index]))

    def latest_accuracy(self) -> float | None:
        """Return the newest accuracy that is known without waiting, under the first name."""
        name = next(iter(self.names))
        for index in range(len(self.curves[name]) - 1, -1, -1):
            found = self.curves[name][index].found
            if isinstance(found, dict) or found.done():
                return self.accuracy(name, index)
        return None

    def submodel_accuracy(
        self, method: Method, data: FederatedData, executor: Executor
    ) -> dict[str, float]:
        """Return every cluster's own model's accuracy on its own domain."""
        pending = {}
        for cluster, domain in data.domain_of.items():
            state, owned = method.submodel(cluster)
            task = EvaluateTask(
                model=self.model,
                num_experts=experts_per_layer(owned),
                state=state,
                samples={domain: self.samples[domain]},
                device=self.device,
            )
            pending[cluster] = executor.submit(evaluate, task)
        return {cluster: _ratio(result.result()) for cluster, result in pending.items()}

    def save(self) -> dict[str, Any]:
        """Return all curves, as numbers."""
        return {
            "judged": None if self._judged is None else list(self._judged),
            "curves": {
                name: [[p.time_s, p.uploaded_bytes, _resolve(p)] for p in curve]
                for name, curve in self.curves.items()
            },
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        self._judged = None if saved["judged"] is None else tuple(saved["judged"])
        self.curves = {
            name: [_Point(*point) for point in curve] for name, curve in saved["curves"].items()
        }

    def _tasks(self, merged: MergedModel, pretrained: State) -> list[EvaluateTask]:
        """Return one task for a common model, else one per cluster, on its own domain."""
        task = EvaluateTask(
            model=self.model,
            num_experts=self.model.config.num_experts,
            state=merged.state,
            gate=merged.gate,
            pretrained=pretrained if merged.gate is not None else None,
            samples=self.samples,
            choose_on=self.choose_on if merged.gate is not None else {},
            device=self.device,
        )
        if merged.by_cluster is None:
            return [task]
        return [
            replace(
                task,
                state=merged.by_cluster[cluster],
                samples={domain: self.samples[domain]},
            )
            for cluster, domain in self.domain_of.items()
        ]


def evaluation_times(duration_s: float, num_points: int) -> list[float]:
    """Return 0 and the ends of `num_points` equal intervals."""
    return [float(t) for t in np.linspace(0.0, duration_s, num_points + 1)]


def _ratio(found: Found) -> float:
    """Return the metric over the domains in `found`."""
    return sum(part for part, _ in found.values()) / sum(count for _, count in found.values())


def _resolve(point: _Point) -> Found:
    if not isinstance(point.found, dict):
        found: Found = point.found.result()
        point.found = found
    return point.found
