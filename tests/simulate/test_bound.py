"""A real federation against its bound: the replay is the run, bounds hold, bad input is refused."""

from dataclasses import replace

import numpy as np
import pytest

from emsfl.errors import DataError
from emsfl.methods import METHODS, MethodSettings
from emsfl.planning import Scenario as BoundScenario
from emsfl.simulate import (
    Simulation,
    bound_of,
    predict,
    starting_point,
    subject_of,
    untrained_events,
)
from emsfl.simulate.judge import Judge
from emsfl.training import InlineExecutor, TrainingConfig

SETTINGS = MethodSettings.model_validate(
    {
        "fedavg": {"local_steps": 3, "learning_rate": 0.02},
        "ems_fl": {"learning_rate": 0.02, "shared_lr_factor": 0.5},
        "fedavg_fill": {"learning_rate": 0.02},
    }
)


@pytest.fixture
def plain(scenario):
    """The scenario with the theorems' algorithm: no momentum, and all samples in every batch.

    120 is a multiple of every shard, so that shuffled epochs give exact gradients as well.
    """
    return replace(
        scenario,
        training=TrainingConfig(batch_size=120, momentum=0.0),
        config=scenario.config.model_copy(update={"device_flops_per_s": 1500.0}),
    )


def simulated(scenario, name):
    events = []
    method = METHODS[name].build(scenario.federation, scenario.training, SETTINGS)
    judge = Judge({}, scenario.model, {}, [], domain_of=scenario.data.domain_of)
    sim = Simulation(scenario, method, judge, InlineExecutor(), events.append)
    while not sim.finished:
        sim.step()
    return sim, events


@pytest.mark.parametrize("name", ["ems_fl", "ems_fl_frozen_shared", "fedavg", "fedavg_fill"])
def test_the_replay_is_the_run(plain, name):
    """Events without training are the run's, and the replay ends where the simulation does."""
    sim, events = simulated(plain, name)
    assert untrained_events(plain, name, SETTINGS) == events
    subject = subject_of(plain, name, SETTINGS, events)
    run = subject.run(0.02, InlineExecutor())
    ticks = subject.ticks_near(4)
    *_, last = subject.visits(run, ticks)
    for cluster in plain.federation.clusters:
        state, owned = sim.method.submodel(cluster)
        assert last.owned[cluster] == owned
        for tensor, expected in ((last.server[cluster][n], state[n]) for n in state):
            np.testing.assert_allclose(tensor, expected, atol=2e-6)  # float32 sums in other orders
    moved = max(
        float((state[n] - plain.federation.pretrained[n]).abs().max())
        for n in state
        if state[n].shape == plain.federation.pretrained[n].shape
    )
    assert moved > 1e-3 or name == "ems_fl_frozen_shared"


@pytest.mark.parametrize("name", ["ems_fl", "ems_fl_frozen_shared", "fedavg"])
def test_nothing_measured_exceeds_its_bound(scenario, name):
    # Small batches of their own draw, momentum in the run: differences are said.
    subject = subject_of(scenario, name, SETTINGS, untrained_events(scenario, name, SETTINGS))
    found = bound_of(subject, InlineExecutor(), num_points=3)
    assert any("momentum 0.9" in line for line in found.differences)
    kinds = {row.quantity for row in found.rows}
    assert {"squared_gradient_norm", "loss_gap"} <= kinds
    assert ("merged_loss" in kinds) == (name != "fedavg")
    if name == "ems_fl_frozen_shared":
        assert {r.cluster for r in found.rows if r.quantity == "loss_gap"} == {"north", "south"}
    for row in found.rows:
        assert row.bound is not None
        assert row.measured <= row.bound * (1 + 1e-5) + 1e-5, row  # states are float32
        if row.terms:
            assert sum(row.terms.values()) == pytest.approx(row.bound)
            assert min(row.terms.values()) >= -1e-9


def test_a_step_size_that_was_asked_for_must_be_in_range(scenario):
    subject = subject_of(
        scenario, "ems_fl", SETTINGS, untrained_events(scenario, "ems_fl", SETTINGS)
    )
    with pytest.raises(DataError, match=r"Lemma 3|Theorem 2\(a\)"):
        bound_of(subject, InlineExecutor(), num_points=2, step_size=50.0)


def test_prediction(plain):
    hours = {}
    for name in ("ems_fl", "fedavg"):
        subject = subject_of(plain, name, SETTINGS, untrained_events(plain, name, SETTINGS))
        point, constants = starting_point(subject, InlineExecutor())
        first, second = (predict(subject, point, constants, target) for target in (0.9, 0.6))
        assert 0 < first.hours < second.hours
        assert first.leading in first.terms
        # What is predicted is where the bound of Corollary 3 is at the target.
        assert sum(first.terms.values()) == pytest.approx(
            2 * constants.pl * 0.9 * subject.objective.total, rel=1e-3
        )
        assert first.initial_loss == pytest.approx(float(subject.weights @ point.loss))
        assert BoundScenario(constants, subject.schedule).curvature > 0
        hours[name] = first.hours
    assert hours["ems_fl"] < hours["fedavg"]  # two contacts a site: FedAvg manages one round


def change(scenario, **values):
    return replace(scenario, config=scenario.config.model_copy(update=values))


def test_what_the_theorems_do_not_cover_is_refused(scenario):
    events = untrained_events(scenario, "ems_fl", SETTINGS)

    def refused(words, scenario=scenario, name="ems_fl", events=events):
        with pytest.raises(DataError, match=words):
            subject_of(scenario, name, SETTINGS, events)

    refused("not covered by the theorems", name="fedasync")
    refused("preinstalled", change(scenario, bootstrap="over_the_air"))
    slow = {"north": 100.0, "south": 50.0}
    refused("equally fast", change(scenario, device_flops_per_s=slow))
    refused("Lemma 1", events=[{"event": "refused", "cluster": "north", "time_s": 1.0}])
    refused("south never delivers", events=[e for e in events if e["cluster"] == "north"])
    refused("no round of FedAvg", name="fedavg", events=[])


@pytest.mark.parametrize("name", ["ems_fl", "ems_fl_frozen_shared"])
def test_a_warm_up_is_left_out_and_said(scenario, name):
    warm = SETTINGS.ems_fl.model_copy(update={"shared_warmup_uploads": 4})
    settings = SETTINGS.model_copy(update={"ems_fl": warm})
    subject = subject_of(scenario, name, settings, untrained_events(scenario, name, settings))
    told = any("small steps" in line for line in subject.differences())
    assert told == (name == "ems_fl")
    assert subject.method().shared_warmup_uploads == 0
