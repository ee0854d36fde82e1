"""The baselines: traces computed by hand, and methods that must be equal where theory says so."""

import math
from dataclasses import replace

import pytest
import torch

from emsfl.errors import InfeasibleError, UpdateRefusedError
from emsfl.methods import (
    METHODS,
    Central,
    Cluster,
    Device,
    Esft,
    FedAvg,
    FedAvgExperts,
    FedBuff,
    FedMoE,
    FedProx,
    Local,
    MethodSettings,
    Receive,
    Update,
    Venue,
)
from emsfl.methods.devices import take_results, training_tasks
from emsfl.moe import split_state
from emsfl.training import TrainingConfig, train_locally
from emsfl.training.local import batch_order
from tests.methods.test_methods import assert_states_close, assert_states_equal, shifted


def train_cluster(cluster, method, spec, shards, steps, seed=(0,)):
    """Hand out, train and upload once."""
    cluster.take_over(method.hand_out(cluster.name), method.federation)
    tasks = training_tasks(cluster, shards, spec, seed, steps)
    take_results(cluster, [train_locally(task) for task in tasks], steps)
    cluster.take_snapshot()
    method.receive(cluster.build_update(method.federation))


def rounds(method, spec, shard, num_rounds=2, steps=3):
    """Run synchronous rounds in which every cluster has one device with its own seed."""
    clusters = [Cluster(name, [1.0], [Device()]) for name in method.federation.clusters]
    for _ in range(num_rounds):
        for index, cluster in enumerate(clusters):
            train_cluster(cluster, method, spec, [shard], steps, (index,))
    return method.merged().state


# FedAvg


def test_fedavg_with_one_cluster_and_one_device_is_plain_sgd(federation, spec, shard, settings):
    """Bit for bit over several rounds; without momentum, which a round starts anew."""
    settings = replace(settings, momentum=0.0)
    alone = replace(federation, clusters=("north",), weights={"north": 1.0})
    found = rounds(FedAvg(alone, settings, 4), spec, shard, num_rounds=3, steps=4)
    model = spec.build({name: t.clone() for name, t in federation.pretrained.items()})
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate)
    inputs, labels = torch.from_numpy(shard.inputs), torch.from_numpy(shard.labels)
    for batch in torch.from_numpy(batch_order(len(shard), 8, (0, 0), 0, 12)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    assert_states_equal(found, dict(model.state_dict()))


def test_kept_optimizer_state_makes_rounds_of_one_cluster_one_long_training(
    federation, spec, shard, settings
):
    """Bit for bit, with momentum; begun anew every round it ends elsewhere."""
    alone = replace(federation, clusters=("north",), weights={"north": 1.0})
    kept = replace(settings, keeps_optimizer_state=True)
    found = rounds(FedAvg(alone, kept, 4), spec, shard, num_rounds=3, steps=4)
    cluster = Cluster("north", [1.0], [Device()])
    cluster.take_over(FedAvg(alone, settings, 12).hand_out("north"), alone)
    (task,) = training_tasks(cluster, [shard], spec, (0,), 12)
    assert_states_equal(found, train_locally(task).state)
    anew = rounds(FedAvg(alone, settings, 4), spec, shard, num_rounds=3, steps=4)
    assert any(not torch.equal(found[name], anew[name]) for name in found)


def test_optimizer_state_that_has_diverged_is_not_kept(federation, settings):
    kept = replace(settings, keeps_optimizer_state=True)
    method = FedAvg(federation, kept, 4)
    cluster = Cluster("north", [1.0], [Device()])
    work = method.hand_out("north")
    cluster.take_over(work, federation)
    (device,) = cluster.devices
    healthy, diverged = torch.ones(2), torch.tensor([1.0, math.nan])
    for momentum, extra, remembered in (
        (healthy, healthy, {"a"}),
        (diverged, healthy, set()),
        (healthy, diverged, set()),
    ):
        device.momentum = {"a": momentum}
        device.state = {**device.state, "b": extra}
        cluster.take_over(work, federation)
        assert device.momentum.keys() == remembered


def test_quorum_ends_a_round_and_late_reports_are_refused(federation, settings):
    third = dict.fromkeys(("north", "south", "west"), 1 / 3)
    three = replace(federation, clusters=tuple(third), weights={**third, "south": 1 / 6})
    start = federation.pretrained
    method = FedAvg(three, settings, 5, quorum=0.6)
    for cluster in three.clusters:
        method.hand_out(cluster)
    method.receive(Update(cluster="north", version=0, values=shifted(start, 1.0)))
    assert method.version == 0
    method.receive(Update(cluster="south", version=0, values=shifted(start, 4.0)))
    # Weights 1/3 and 1/6 of those that reported: 2/3 * 1 + 1/3 * 4 = 2.
    assert method.version == 1
    assert_states_close(method.merged().state, shifted(start, 2.0))
    with pytest.raises(UpdateRefusedError, match="west reported on version 0 after"):
        method.receive(Update(cluster="west", version=0, values=shifted(start, 9.0)))
    assert_states_close(method.merged().state, shifted(start, 2.0))
    assert method.hand_out("west").version == 1, "it goes on with the newer version"


def test_fedavg_on_experts_sends_nothing_else(federation, settings, spec, shard):
    method = FedAvgExperts(federation, settings, 3)
    names = federation.layout.expert_names
    assert set(method.next_work("north").payload) == names
    found = rounds(method, spec, shard, num_rounds=1)
    for name, tensor in found.items():
        assert torch.equal(tensor, federation.pretrained[name]) == (name not in names), name


def test_first_download_over_the_air_is_the_whole_model(federation, settings):
    """Except for what is frozen, which never travels."""
    frozen = replace(federation.layout, frozen_names=frozenset({"embed.weight"}))
    air = replace(federation, scores=None, statistics=None, layout=frozen)
    method = FedAvgExperts(air, settings, 3)
    assert set(method.hand_out("north").payload) == set(air.pretrained) - {"embed.weight"}
    assert set(method.hand_out("north").payload) == air.layout.expert_names


@pytest.mark.parametrize("name", [n for n, e in METHODS.items() if e.venue is Venue.CONTACTS])
def test_frozen_names_never_travel(federation, name, spec, shard):
    frozen = frozenset({"embed.weight", "embed.bias", "position"})
    federation = replace(federation, layout=replace(federation.layout, frozen_names=frozen))
    method = METHODS[name].build(federation, TrainingConfig(batch_size=8), MethodSettings())
    cluster = Cluster("north", [1.0], [Device()])
    for _ in range(2):
        work = method.hand_out("north")
        if work is None:
            continue
        assert not frozen & work.payload.keys()
        cluster.take_over(work, federation)
        assert set(cluster.devices[0].state) == set(federation.pretrained)
        cluster.take_snapshot()
        update = cluster.build_update(federation)
        assert not frozen & (update.values.keys() | update.shared_delta.keys())
        method.receive(update)


# FedProx


def test_fedprox_without_its_term_is_fedavg_bit_for_bit(federation, spec, shard, settings):
    average = rounds(FedAvg(federation, settings, 3), spec, shard)
    assert_states_equal(rounds(FedProx(federation, settings, 3, 0.0), spec, shard), average)
    pulled = rounds(FedProx(federation, settings, 3, 10.0), spec, shard)
    start = federation.pretrained

    def distance(state):
        return sum(float((state[n] - start[n]).square().sum()) for n in start)

    assert distance(pulled) < 0.5 * distance(average)


# FedBuff


def test_fedbuff_reproduces_a_trace_computed_by_hand(federation, settings):
    """K = 2, server step 0.5, exponent 1; weights 0.75 and 0.25 of two clusters: 1.5 and 0.5."""
    method = FedBuff(
        federation,
        settings,
        local_steps=None,
        buffer_size=2,
        server_learning_rate=0.5,
        staleness_exponent=1.0,
    )
    start = federation.pretrained
    method.hand_out("north")
    method.hand_out("south")
    method.receive(Update(cluster="north", version=0, values=shifted(start, 2.0)))
    assert_states_equal(method.merged().state, start)
    assert method.version == 0, "one change does not fill the buffer"
    method.hand_out("north")
    # 1.5 * 2 (fresh) + 1.5 * 4 (fresh) = 9; x1 = x0 + 0.5 * 9 / 2 = x0 + 2.25
    method.receive(Update(cluster="north", version=0, values=shifted(start, 4.0)))
    assert method.version == 1
    assert_states_close(method.merged().state, shifted(start, 2.25))
    # The south started from x0 and is one version late: 0.5 * 8 / 2 = 2 ...
    method.receive(Update(cluster="south", version=0, values=shifted(start, 8.0)))
    assert method.version == 1
    assert method.hand_out("south").version == 1
    # ... then 0.5 * 1 fresh: x2 = x1 + 0.5 * (2 + 0.5) / 2 = x1 + 0.625
    method.receive(Update(cluster="south", version=1, values=shifted(method.state, 1.0)))
    assert_states_close(method.merged().state, shifted(start, 2.875))


# FedMoE-like


def test_fedmoe_with_full_overlap_is_fedavg_bit_for_bit(federation, spec, shard, settings):
    average = rounds(FedAvg(federation, settings, 3), spec, shard)
    assert_states_equal(rounds(FedMoE(federation, settings, 3, 4), spec, shard), average)


def test_fedmoe_averages_each_expert_over_those_that_hold_it(federation, settings):
    scores = {
        "north": torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 2, dtype=torch.float64),
        "south": torch.tensor([[0.1, 0.4, 0.3, 0.2]] * 2, dtype=torch.float64),
    }
    method = FedMoE(replace(federation, scores=scores), settings, 3, 2)
    assert method.owned("north") == ((0, 1), (0, 1))
    assert method.owned("south") == ((1, 2), (1, 2))
    layout, start = federation.layout, federation.pretrained
    for cluster, amount in (("north", 1.0), ("south", -1.0)):
        work = method.hand_out(cluster)
        values = shifted(split_state(start, layout, work.owned), amount)
        method.receive(Update(cluster=cluster, version=0, values=values))
    expected = torch.tensor([1.0, 0.5, -1.0, 0.0])
    for name, tensor in method.merged().state.items():
        moved = tensor - start[name]
        if layout.is_shared(name):
            torch.testing.assert_close(moved, torch.full_like(moved, 0.5), atol=1e-6, rtol=0)
        else:
            wanted = expected.view(-1, *[1] * (moved.dim() - 1)).expand_as(moved)
            torch.testing.assert_close(moved, wanted, atol=1e-6, rtol=0)
    state, owned = method.submodel("south")
    assert owned == ((1, 2), (1, 2))
    assert state["blocks.0.moe.experts.up"].shape[0] == 2


def test_fedmoe_needs_enough_experts_for_a_token(federation, settings):
    with pytest.raises(InfeasibleError, match=r"fedmoe\.experts_per_cluster is 1"):
        FedMoE(federation, settings, 3, 1)


# ESFT-like


def test_esft_changes_and_sends_its_own_experts_only(federation, spec, shard, settings):
    method = Esft(federation, settings, None)
    layout = federation.layout
    clusters = {name: Cluster(name, [1.0], [Device()]) for name in federation.clusters}
    for name, cluster in clusters.items():
        before = method.state
        train_cluster(cluster, method, spec, [shard], 6)
        for key, tensor in method.state.items():
            moved = (tensor != before[key]).flatten(1).any(1) if tensor.dim() > 1 else None
            if key in layout.expert_names:
                layer = next(i for i, x in enumerate(layout.layers) if key in x.expert_axes)
                assert set(moved.nonzero().flatten().tolist()) <= set(method.owned(name)[layer])
                assert moved.any()
            else:
                assert torch.equal(tensor, before[key])
    # The north's next download holds the south's experts, and only those.
    work = method.hand_out("north")
    assert work.receive is Receive.REBASE
    assert work.payload_experts == method.owned("south")
    assert set(work.payload) == layout.expert_names
    clusters["north"].take_over(work, federation)
    assert_states_equal(clusters["north"].devices[0].state, method.merged().state)
    assert method.merged().gate is None


# Without a network


def test_local_keeps_a_model_per_cluster(federation, spec, shard, settings):
    method = Local(federation, settings)
    cluster = Cluster("north", [1.0], [Device()])
    train_cluster(cluster, method, spec, [shard], 2)
    train_cluster(cluster, method, spec, [shard], 3)
    models = method.merged().by_cluster
    assert_states_equal(models["south"], federation.pretrained)
    alone = Central(replace(federation, clusters=("north",), weights={"north": 1.0}), settings)
    train_cluster(Cluster("north", [1.0], [Device()]), alone, spec, [shard], 5)
    assert_states_equal(models["north"], alone.merged().state)


# All of them


@pytest.mark.parametrize("name", [n for n, e in METHODS.items() if e.venue is Venue.CONTACTS])
def test_over_the_air_nobody_trains_before_fedavg_could(federation, name):
    """Over the air the first thing that any cluster gets is the whole model, and it gets no work
    to train with before that has been sent."""
    air = replace(federation, scores=None, statistics=None)
    method = METHODS[name].build(air, TrainingConfig(), MethodSettings())
    work = method.hand_out("north")
    assert set(work.payload) == set(federation.pretrained)
