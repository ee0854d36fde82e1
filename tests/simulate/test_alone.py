"""Without a network: plain SGD on the pooled data, with the steps that the cost model gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from emsfl.data import Samples
from emsfl.methods import METHODS, CostModel, Venue, pack, unpack
from emsfl.simulate.alone import AloneSimulation, pooled
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.training import InlineExecutor, TrainTask, train_locally
from tests.simulate.test_simulate import SETTINGS, finish

ALONE = [name for name, entry in METHODS.items() if entry.venue is not Venue.CONTACTS]


def alone(scenario, name, settings=SETTINGS):
    entry = METHODS[name]
    federation = scenario.federation
    if entry.venue is not Venue.SITES:
        federation = pooled(federation)
    method = entry.build(federation, scenario.training, settings)
    times_s = evaluation_times(scenario.plan.duration_s, 6)
    judge = Judge(
        {name: True},
        scenario.model,
        scenario.data.test,
        times_s,
        domain_of=scenario.data.domain_of,
    )
    return AloneSimulation(scenario, entry.venue, method, judge, InlineExecutor())


@pytest.fixture
def uneven(scenario):
    """The south's devices are half as fast."""
    speeds = {"north": 100.0, "south": 50.0}
    config = scenario.config.model_copy(update={"device_flops_per_s": speeds})
    return replace(scenario, config=config)


def steps_of(scenario, sim):
    """What the cost model gives each cluster by the end."""
    cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
    flops = cost.step_flops(sim.trainers[0].cluster.work)
    return [
        int(scenario.plan.duration_s / cost.seconds(name, flops) + 1e-9)
        for name in scenario.federation.clusters
    ]


@pytest.mark.parametrize(("name", "share"), [("central_same_steps", 2), ("central_all_steps", 1)])
def test_central_is_plain_sgd_on_the_pooled_order_bit_for_bit(uneven, name, share):
    sim = finish(alone(uneven, name))
    num_steps = sum(steps_of(uneven, sim)) // share
    shards = [shard for cluster in uneven.data.shards.values() for shard in cluster]
    everything = Samples(
        inputs=np.concatenate([s.inputs for s in shards]),
        labels=np.concatenate([s.labels for s in shards]),
    )
    whole = train_locally(
        TrainTask(
            model=uneven.model,
            num_experts=4,
            state=uneven.federation.pretrained,
            momentum={},
            shard=everything,
            seed=(0, 4, 0, 0),
            first_step=0,
            num_steps=num_steps,
            settings=sim.method.settings,
        )
    )
    assert num_steps >= 20
    for key, tensor in sim.method.merged().state.items():
        assert torch.equal(tensor, whole.state[key]), key


def test_every_domain_is_judged_by_its_own_clusters_model(uneven):
    sim = finish(alone(uneven, "local"))
    accuracy = sim.judge.accuracy_by_domain("local")
    own = sim.judge.submodel_accuracy(sim.method, uneven.data, InlineExecutor())
    assert accuracy == {"a": own["north"], "b": own["south"]}
    assert sim.judge.accuracy("local") == pytest.approx((own["north"] + own["south"]) / 2)
    assert [c.cluster.devices[0].num_steps for c in sim.trainers] == steps_of(uneven, sim)
    start = sim.judge.accuracy("local", 0)
    untuned = finish(alone(uneven, "central_same_steps")).judge.accuracy("central_same_steps", 0)
    assert start == untuned, "at the epoch everybody holds the pre-trained model"


def test_cap_between_contacts_holds_without_a_network_too(scenario):
    config = scenario.config.model_copy(update={"max_local_steps_per_contact": 2})
    sim = finish(alone(replace(scenario, config=config), "local"))
    # Two contacts each: three gaps of two steps.
    assert [c.cluster.devices[0].num_steps for c in sim.trainers] == [6, 6]


@pytest.mark.parametrize("name", ALONE)
def test_training_that_diverges_leaves_the_last_good_state(uneven, name):
    own = getattr(SETTINGS, name).model_copy(update={"learning_rate": 1e30})
    too_fast = SETTINGS.model_copy(update={name: own})
    sim = finish(alone(uneven, name, too_fast))
    assert sim.ledger.num_refused > 0
    kept = sim.method.submodel(sim.trainers[0].cluster.name)[0]
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


def test_nothing_is_sent_and_computing_is_charged(uneven):
    same, everyone = (
        finish(alone(uneven, n)).ledger for n in ("central_same_steps", "central_all_steps")
    )
    assert same.uploaded_bytes == same.downloaded_bytes == 0
    assert everyone.device_flops == pytest.approx(2 * same.device_flops)
    # Busy all the time but for the last step: two clusters of one device each.
    assert everyone.energy_J == pytest.approx(2 * uneven.plan.duration_s * 10.0, rel=0.05)


@pytest.mark.parametrize("name", ALONE)
def test_checkpoint_anywhere_changes_nothing(uneven, name):
    whole = finish(alone(uneven, name))
    sim = alone(uneven, name)
    while not sim.finished:
        sim.step()
        arrays, tree = pack(sim.save())
        sim = alone(uneven, name)
        sim.restore(unpack(arrays, json.loads(json.dumps(tree))))
    assert sim.ledger.save() == whole.ledger.save()
    assert sim.judge.save() == whole.judge.save()
    for key, tensor in whole.method.merged().state.items():
        assert torch.equal(sim.method.merged().state[key], tensor)
