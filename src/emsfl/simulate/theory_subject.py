"""A method on a scenario as the theorems see it, and how far its settings are from theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError
from emsfl.methods import METHODS, EmsFl, FedAvg, Method, MethodSettings
from emsfl.moe import experts_per_layer
from emsfl.planning import Rates, Schedule, rates
from emsfl.simulate.contact_log import COVERED, Event, schedule_of, step_s_of
from emsfl.simulate.plain_run import PlainRun, Visit, visit_rounds, visit_ticks
from emsfl.simulate.simulate import Scenario
from emsfl.training import Executor, LocalSettings

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One method, its events, and what follows from them; make it with `subject_of`."""

    name: str
    scenario: Scenario
    method_settings: MethodSettings
    events: Sequence[Event]
    settings: LocalSettings
    """As the run has them."""
    step_s: float
    schedule: Schedule
    weights: FloatArray
    """[C] w_c."""
    objective: Rates

    @property
    def is_fedavg(self) -> bool:
        """Whether all clusters train the full model, in rounds."""
        return self.name.startswith("fedavg")

    @property
    def own_step_size(self) -> float:
        """The run's learning rate, divided by 1 - momentum: to leading order its step size."""
        momentum = self.settings.momentum if self.settings.optimizer == "sgd" else 0.0
        return self.settings.learning_rate / (1 - momentum)

    def method(self) -> Method:
        """Return the server, as at the epoch."""
        return _build(self.name, self.scenario, self.method_settings)

    def run(self, step_size: float, executor: Executor) -> PlainRun:
        """Return a plain run of the method."""
        settings = replace(self.settings, learning_rate=step_size, momentum=0.0)
        return PlainRun(self.scenario, settings, self.step_s, executor)

    def visits(self, run: PlainRun, ticks: Sequence[int]) -> Iterator[Visit]:
        """Train plainly and yield what everybody holds at `ticks`, from `ticks_near`."""
        if self.is_fedavg:
            return visit_rounds(run, self.schedule, ticks)
        method = self.method()
        if not isinstance(method, EmsFl):
            raise DataError(f"{self.name} is not covered by the theorems")
        return visit_ticks(run, method, self.schedule, self.events, ticks)

    def ticks_near(self, num_points: int) -> list[int]:
        """Return ticks that can be visited, evenly over the plan, the first and last included."""
        wanted = np.linspace(0, self.schedule.num_ticks, num_points + 1)
        if not self.is_fedavg:
            return sorted({round(tick) for tick in wanted})
        ends = np.unique(self.schedule.delivered[0])
        return sorted({int(ends[np.argmin(np.abs(ends - tick))]) for tick in wanted})

    def differences(self) -> list[str]:
        """Return in which ways the run's algorithm is not the theorems', and how far."""
        s, found = self.settings, []
        discount = self.method_settings.ems_fl.staleness_exponent
        if discount > 0 and s.train_shared and not self.is_fedavg:
            found.append(
                f"stale deltas discounted by exponent {discount:g}: Lemma 1 has no discount"
            )
        warmup = self.method_settings.ems_fl.shared_warmup_uploads
        if warmup > 0 and s.train_shared and not self.is_fedavg:
            found.append(
                f"small steps of shared parameters for {warmup} uploads: the theorems' step size "
                "is the same throughout"
            )
        if s.optimizer != "sgd":
            found.append(f"optimiser {s.optimizer}: the theorems' is plain SGD; no rate compares")
        elif s.momentum > 0:
            found.append(
                f"momentum {s.momentum:g}: the theorems' is 0; the run moves as with a step size "
                f"of {self.own_step_size:.3g} (learning rate {s.learning_rate:g} / (1 - momentum))"
            )
        found.append("batches of shuffled epochs: the theorems' are drawn independently (A2)")
        own = self._experts()
        top_k = self.scenario.model.config.top_k
        if top_k < own:
            found.append(
                f"top-{top_k} routing over {own} experts: it jumps where two experts change places "
                f"(A1); smooth with model.top_k: {own}"
            )
        return found

    def _experts(self) -> int:
        method = self.method()
        cluster = self.scenario.federation.clusters[0]
        work = method.next_work(cluster)
        if work is None:
            raise DataError(f"{self.name} trains nothing: there is nothing to bound")
        return experts_per_layer(work.owned)


def subject_of(
    scenario: Scenario, name: str, method_settings: MethodSettings, events: Sequence[Event]
) -> Subject:
    """Return the method as the theorems see it.

    Args:
        scenario: what all methods share.
        name: one of `COVERED`.
        method_settings: of all methods.
        events: this method's, from a run or from `untrained_events`.

    Raises:
        DataError: the theorems do not speak of it; names the assumption.
    """
    if name not in COVERED:
        raise DataError(f"{name} is not covered by the theorems; choose from {', '.join(COVERED)}")
    method = _build(name, scenario, method_settings)
    if not isinstance(method, EmsFl | FedAvg):
        raise DataError(f"{name} is not covered by the theorems")
    step_s = step_s_of(scenario, _build(name, scenario, method_settings))
    schedule = schedule_of(scenario, method, events, step_s)
    federation = scenario.federation
    weights = np.array([federation.weights[cluster] for cluster in federation.clusters])
    return Subject(
        name=name,
        scenario=scenario,
        method_settings=method_settings,
        events=events,
        settings=method.settings,
        step_s=step_s,
        schedule=schedule,
        weights=weights,
        objective=rates(weights, schedule.active),
    )


def _build(name: str, scenario: Scenario, settings: MethodSettings) -> Method:
    """Return the method without a discount of stale deltas and without a warm-up.

    Lemma 1 knows nothing of either.
    """
    update = {"staleness_exponent": 0.0, "shared_warmup_uploads": 0}
    plain = settings.ems_fl.model_copy(update=update)
    chosen = settings.model_copy(update={"ems_fl": plain})
    return METHODS[name].build(scenario.federation, scenario.training, chosen)
