"""The methods, without any driver: hand-computed traces and the rules that must never break."""

import json
from dataclasses import replace

import pytest
import torch

from emsfl.errors import InfeasibleError, UpdateRefusedError
from emsfl.methods import (
    Cluster,
    Device,
    EmsFl,
    FedAsync,
    FedAvg,
    Receive,
    Update,
    pack,
    unpack,
)
from emsfl.moe import split_state
from emsfl.training import difference


def shifted(state, amount):
    return {name: tensor + amount for name, tensor in state.items()}


def assert_states_equal(left, right):
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_states_close(left, right):
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-6, rtol=1e-6)


@pytest.fixture
def ems(federation, settings):
    return EmsFl(federation, replace(settings, train_routers=False))


def ems_update(ems, cluster, amount):
    """An update that moves everything that the cluster trains by `amount`."""
    layout, owned = ems.federation.layout, ems.owned(cluster)
    sub = split_state(ems.state, layout, owned)
    return Update(
        cluster=cluster,
        version=0,
        values={n: t + amount for n, t in sub.items() if n in layout.expert_names},
        shared_delta={n: torch.full_like(t, amount) for n, t in sub.items() if layout.is_shared(n)},
    )


# FedAvg


def test_fedavg_averages_by_data_when_all_have_reported(federation, settings):
    method = FedAvg(federation, settings, local_steps=5)
    start = federation.pretrained
    for cluster in federation.clusters:
        assert method.hand_out(cluster).payload is method.state
    method.receive(Update(cluster="north", version=0, values=shifted(start, 1.0)))
    assert method.hand_out("north") is None, "a cluster that has reported waits"
    assert_states_equal(method.merged().state, start)
    method.receive(Update(cluster="south", version=0, values=shifted(start, -1.0)))
    assert method.version == 1
    # 0.75 * (x + 1) + 0.25 * (x - 1) = x + 0.5
    assert_states_close(method.merged().state, shifted(start, 0.5))
    assert method.hand_out("north").version == 1


# FedAsync


def test_fedasync_reproduces_a_trace_computed_by_hand(federation, settings):
    method = FedAsync(federation, settings, local_steps=None, mixing=0.5, staleness_exponent=1.0)
    start = federation.pretrained
    method.hand_out("north")
    method.hand_out("south")
    # staleness 0: x1 = 0.5 x0 + 0.5 (x0 + 1) = x0 + 0.5
    method.receive(Update(cluster="north", version=0, values=shifted(start, 1.0)))
    assert_states_close(method.merged().state, shifted(start, 0.5))
    # staleness 1: share 0.5 / 2 = 0.25: x2 = 0.75 (x0 + 0.5) + 0.25 (x0 + 2.5) = x0 + 1
    method.receive(Update(cluster="south", version=0, values=shifted(start, 2.5)))
    assert_states_close(method.merged().state, shifted(start, 1.0))
    # fresh again: x3 = 0.5 (x0 + 1) + 0.5 (x0 + 2) = x0 + 1.5
    assert method.hand_out("north").version == 2
    method.receive(Update(cluster="north", version=2, values=shifted(start, 2.0)))
    assert_states_close(method.merged().state, shifted(start, 1.5))


# EMS-FL


def test_each_cluster_owns_the_experts_that_fit_it(ems):
    assert ems.owned("north") == ((0, 1), (0, 1))
    assert ems.owned("south") == ((2, 3), (2, 3))


def test_no_expert_is_handed_to_two_clusters(federation, settings):
    for random_experts in (False, True):
        method = EmsFl(federation, settings, random_experts=random_experts)
        for layer in range(2):
            held = [e for c in federation.clusters for e in method.owned(c)[layer]]
            assert len(held) == len(set(held)) == 4


def test_update_writes_own_experts_and_adds_the_weighted_shared_delta(ems, federation):
    before = ems.state
    ems.hand_out("north")
    ems.receive(ems_update(ems, "north", 1.0))
    for name, tensor in ems.state.items():
        if name in federation.layout.expert_names:
            assert torch.equal(tensor[2:], before[name][2:]), "foreign experts changed"
            assert torch.equal(tensor[:2], before[name][:2] + 1.0)
        elif name in federation.layout.router_names:
            assert tensor is before[name]
        else:
            torch.testing.assert_close(tensor, before[name] + 0.75)


def test_first_work_sends_nothing_then_only_shared_parameters(ems, federation):
    first = ems.hand_out("north")
    assert first.payload == {}
    assert first.receive is Receive.RESET
    ems.receive(ems_update(ems, "north", 1.0))
    second = ems.hand_out("north")
    assert second.receive is Receive.REBASE
    assert all(federation.layout.is_shared(name) for name in second.payload)


def test_merged_model_is_gated_and_ablations_are_not(ems, federation, settings):
    assert ems.merged().gate is not None
    unknown = replace(federation, scores=None, statistics=None)
    assert EmsFl(unknown, settings).merged().gate is None


def score(method, federation, cluster):
    """Let a cluster download the model over the air and send its scores."""
    work = method.hand_out(cluster)
    assert set(work.payload) == set(federation.pretrained)
    scores, statistics = federation.scores[cluster], federation.statistics[cluster]
    method.receive(Update(cluster=cluster, version=0, scores=scores, statistics=statistics))


def in_three(federation, **change):
    """Three clusters; `east` likes what `north` likes, and so do its scores."""
    names = ("north", "south", "east")
    north, south = (federation.scores[c] for c in names[:2])
    statistics = dict(zip(names, [federation.statistics["north"]] * 3, strict=True))
    scores = {"north": north, "south": south, "east": north}
    weights = dict.fromkeys(names, 1 / 3)
    known = {"clusters": names, "scores": scores, "statistics": statistics, "weights": weights}
    return replace(federation, **{**known, "top_k": 1, **change})


def test_over_the_air_scores_come_first(federation, settings):
    method = EmsFl(replace(federation, scores=None, statistics=None), settings)
    score(method, federation, "south")
    assert method.owned("south") == ((2, 3), (2, 3))
    assert method.hand_out("south").receive is Receive.RESET
    assert method.merged().gate is None, "one cluster is no choice"
    with pytest.raises(ValueError, match="north has not been assigned experts yet"):
        method.owned("north")
    assert method.mass_kept() == {"south": pytest.approx([0.8, 0.8])}
    score(method, federation, "north")
    assert method.owned("north") == ((0, 1), (0, 1))
    assert method.merged().gate.owner.tolist() == [[0, 0, 1, 1]] * 2


def test_over_the_air_nobody_waits_for_a_cluster_that_is_never_heard(federation, settings):
    three = in_three(federation)
    air = in_three(federation, scores=None, statistics=None)
    method = EmsFl(air, replace(settings, train_routers=False))
    for cluster in ("east", "north"):
        score(method, three, cluster)
        method.hand_out(cluster)
        method.receive(ems_update(method, cluster, 1.0))
    # Both like experts 0 and 1 equally; one each, in the order in which they came.
    assert method.owned("east") == ((0,), (0,))
    assert method.owned("north") == ((1,), (1,))
    assert method.version == 2
    gate = method.merged().gate
    assert len(gate.means) == 2
    assert gate.owner.tolist() == [[1, 0, -1, -1]] * 2, "places among the known, in their order"
    assert method.submodel("south")[1] == three.layout.all_experts()


def test_over_the_air_what_comes_first_is_kept_when_restored(federation, settings):
    three, air = in_three(federation), in_three(federation, scores=None, statistics=None)
    for random_experts in (False, True):
        method = EmsFl(air, settings, random_experts=random_experts)
        for cluster in ("east", "north"):
            score(method, three, cluster)
        twin = EmsFl(air, settings, random_experts=random_experts)
        arrays, tree = pack(method.save())
        twin.restore(unpack(arrays, json.loads(json.dumps(tree))))
        for each in (method, twin):
            score(each, three, "south")
        for cluster in three.clusters:
            assert twin.owned(cluster) == method.owned(cluster)
        held = [e for c in three.clusters for e in method.owned(c)[0]]
        assert len(held) == len(set(held)) == 3
        assert torch.equal(twin.merged().gate.owner, method.merged().gate.owner)


def test_too_few_experts_is_said(federation, settings):
    crowded = replace(federation, top_k=3)
    for known in (crowded, replace(crowded, scores=None, statistics=None)):
        with pytest.raises(InfeasibleError, match="use at most 1 clusters"):
            EmsFl(known, settings)


def test_save_and_restore_give_the_same_server(ems, federation, settings):
    ems.hand_out("north")
    ems.receive(ems_update(ems, "north", 1.0))
    twin = EmsFl(federation, ems.settings)
    twin.restore(ems.save())
    assert_states_equal(twin.merged().state, ems.merged().state)
    assert twin.hand_out("north").receive is Receive.REBASE
    assert twin.hand_out("south").receive is Receive.RESET


def test_shared_parameters_take_small_steps_until_a_cluster_has_uploaded_often(ems, federation):
    settings = replace(ems.settings, shared_lr_factor=0.4)
    method = EmsFl(federation, settings, shared_warmup_uploads=4)

    def factor(cluster):
        return method.hand_out(cluster).settings.shared_lr_factor

    assert factor("north") == pytest.approx(0.1)
    for later in (0.2, 0.3):
        method.receive(ems_update(method, "north", 1.0))
        assert factor("north") == pytest.approx(later)
    assert factor("south") == pytest.approx(0.1), "the uploads of another cluster do not count"
    spoilt = ems_update(method, "south", float("nan"))
    with pytest.raises(UpdateRefusedError):
        method.receive(spoilt)
    assert factor("south") == pytest.approx(0.1), "nor does a refused one"
    twin = EmsFl(federation, settings, shared_warmup_uploads=4)
    twin.restore(unpack(*pack(method.save())))
    assert twin.hand_out("north").settings.shared_lr_factor == pytest.approx(0.3)
    twin.receive(ems_update(twin, "north", 1.0))
    for _ in range(2):
        assert twin.hand_out("north").settings is settings
        twin.receive(ems_update(twin, "north", 1.0))


# Updates that must be refused


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda u: {n: t * float("nan") for n, t in u.items()}, id="NaN"),
        pytest.param(lambda u: {n: t / 0.0 for n, t in u.items()}, id="infinity"),
        pytest.param(lambda u: {n: t[:1] for n, t in u.items()}, id="shape"),
        pytest.param(lambda u: {n: t.long() for n, t in u.items()}, id="type"),
        pytest.param(lambda u: dict(list(u.items())[1:]), id="missing"),
        pytest.param(lambda u: {**u, "embed.weight": torch.zeros(8, 64)}, id="not asked for"),
    ],
)
def test_bad_update_is_refused_and_nothing_merged(ems, spoil):
    ems.hand_out("north")
    good = ems_update(ems, "north", 1.0)
    before = ems.state
    with pytest.raises(UpdateRefusedError, match="north"):
        ems.receive(replace(good, values=spoil(good.values)))
    assert ems.state is before
    assert ems.version == 0
    work = ems.hand_out("north")
    assert work.receive is Receive.RESET, "a refused cluster starts again from the server's model"
    ems.receive(good)
    assert ems.version == 1


def test_bad_statistics_and_scores_are_refused(federation, settings):
    method = EmsFl(replace(federation, scores=None, statistics=None), settings)
    good = Update(
        cluster="north",
        version=0,
        scores=federation.scores["north"],
        statistics=federation.statistics["north"],
    )
    for bad, message in (
        (replace(good, scores=torch.zeros(2, 3)), "scores"),
        (replace(good, statistics=None), "statistics are missing"),
        (replace(good, statistics=good.statistics.__class__(
            1.0, good.statistics.total * float("nan"), good.statistics.outer)), "domain mean"),
        (replace(good, scores=-good.scores), "no shares"),
        (replace(good, scores=2 * good.scores), "no shares"),
        (replace(good, statistics=replace(good.statistics, count=0.0)), "statistics of 0.0 inputs"),
        (replace(good, statistics=replace(good.statistics, outer=-good.statistics.outer)),
         "no gate can be fitted"),
    ):  # fmt: skip
        method.hand_out("north")
        with pytest.raises(UpdateRefusedError, match=message):
            method.receive(bad)
    assert method.scores == {}
    method.hand_out("south")
    score(method, federation, "north")
    small = good.statistics.of(torch.rand(9, 3))
    with pytest.raises(UpdateRefusedError, match="south: no gate can be fitted"):
        method.receive(replace(good, cluster="south", statistics=small))


def test_update_nobody_asked_for_is_refused(ems):
    with pytest.raises(UpdateRefusedError, match="without being asked"):
        ems.receive(ems_update(ems, "north", 1.0))


# The cluster's side


@pytest.fixture
def cluster():
    return Cluster("north", [0.5, 0.5], [Device(), Device()])


def test_rebase_keeps_each_devices_progress(ems, cluster, federation):
    layout = federation.layout
    cluster.take_over(ems.hand_out("north"), federation)
    start = cluster.devices[0].state
    cluster.devices[0].state = shifted(start, 1.0)
    cluster.devices[1].state = shifted(start, 3.0)
    cluster.take_snapshot()
    update = cluster.build_update(federation)
    assert set(update.values) == set(layout.expert_names)
    for tensor in update.shared_delta.values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 2.0), atol=1e-6, rtol=0)
    ems.receive(update)
    cluster.devices[0].state = shifted(cluster.devices[0].state, 0.25)
    cluster.devices[0].num_steps += 1
    cluster.take_over(ems.hand_out("north"), federation)
    # Experts: the average (+2) plus device 0's own progress since (+0.25).
    # Shared: the server's (0.75 * 2 = +1.5) plus the same.
    moved = difference(cluster.devices[0].state, start)
    for name, tensor in moved.items():
        if name in layout.expert_names:
            torch.testing.assert_close(tensor, torch.full_like(tensor, 2.25), atol=1e-6, rtol=0)
        elif layout.is_shared(name):
            torch.testing.assert_close(tensor, torch.full_like(tensor, 1.75), atol=1e-6, rtol=0)
    # Device 1 has not trained since its snapshot: it takes what it receives, bit for bit.
    received = cluster.devices[1].state
    assert all(received[n] is cluster.received[n] for n in received if layout.is_shared(n))
