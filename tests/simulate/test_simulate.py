"""Virtual time: when things happen, what they cost, and what survives a checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from emsfl.methods import METHODS, Activity, CostModel, MethodSettings, Venue, pack, unpack
from emsfl.simulate import Simulation
from emsfl.simulate.executor import InlineExecutor
from emsfl.simulate.judge import Judge, evaluation_times
from emsfl.simulate.site import Phase
from emsfl.training import train_locally
from tests.simulate.conftest import HOUR_S, make_plan

SETTINGS = MethodSettings.model_validate(
    {
        "fedavg": {"local_steps": 3},
        "ems_fl": {"learning_rate": 0.05},
    }
)


OVER_CONTACTS = [
    name
    for name, entry in METHODS.items()
    if entry.venue is Venue.CONTACTS and entry.training_of is None
]


def simulation(scenario, name, executor=None, settings=SETTINGS):
    events = []
    method = METHODS[name].build(scenario.federation, scenario.training, settings)
    judge = Judge(
        {name: True},
        scenario.model,
        scenario.data.test,
        evaluation_times(scenario.plan.duration_s, scenario.config.evaluation_points),
        domain_of=scenario.data.domain_of,
    )
    sim = Simulation(scenario, method, judge, executor or InlineExecutor(), events.append)
    sim.events = events
    return sim


def finish(sim):
    while not sim.finished:
        sim.step()
    return sim


def of_kind(sim, event, cluster=None):
    return [e for e in sim.events if e["event"] == event and cluster in (None, e["cluster"])]


def test_ems_fl_uploads_in_every_contact(scenario):
    sim = finish(simulation(scenario, "ems_fl"))
    starts = [(e["time_s"], e["cluster"]) for e in of_kind(sim, "upload_started")]
    assert starts == [
        (1 * HOUR_S, "north"), (2 * HOUR_S, "south"), (4 * HOUR_S, "north"), (5 * HOUR_S, "south"),
    ]  # fmt: skip
    for begun, arrived in zip(
        of_kind(sim, "upload_started"), of_kind(sim, "upload_arrived"), strict=True
    ):
        # 1 Mb/s, and half a second to the server.
        expected_s = begun["time_s"] + begun["bytes"] * 8 / 1e6 + 0.5
        assert arrived["time_s"] == pytest.approx(expected_s, abs=1e-6)


def test_steps_are_whole_and_those_that_fit(scenario):
    """Every device's steps equal floor(time / time per step), counted without loss."""
    sim = finish(simulation(scenario, "ems_fl"))
    cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
    for site in sim.sites:
        work = site.gateway.cluster.work
        step_s = cost.seconds(site.name, cost.step_flops(work))
        last_download_s = of_kind(sim, "download_arrived", site.name)[-1]["time_s"]
        for device in site.gateway.cluster.devices:
            assert device.num_steps == int(last_download_s / step_s)
            assert device.num_steps > 10


def test_cap_on_steps_holds_for_every_method(scenario):
    capped = replace(
        scenario, config=scenario.config.model_copy(update={"max_local_steps_per_contact": 2})
    )
    for name in ("ems_fl", "fedavg", "fedavg_fill", "fedasync"):
        submitted = []

        class Spy(InlineExecutor):
            def submit(self, function, argument, /, submitted=submitted):
                if function is train_locally:
                    submitted.append(argument.num_steps)
                return super().submit(function, argument)

        finish(simulation(capped, name, Spy()))
        assert submitted, name
        assert max(submitted) <= 2, name


def test_fedavg_waits_for_the_slowest(scenario):
    sim = finish(simulation(scenario, "fedavg"))
    (merged,) = of_kind(sim, "merged")
    # Round 1 ends with the south's upload at 2 h. The south goes on at once; the north learns of
    # it at 4 h, and has no contact left for its second report.
    assert merged["cluster"] == "south"
    assert 2 * HOUR_S < merged["time_s"] < 2 * HOUR_S + 60
    uploads = [(e["cluster"], e["time_s"]) for e in of_kind(sim, "upload_started")]
    assert uploads == [("north", 1 * HOUR_S), ("south", 2 * HOUR_S), ("south", 5 * HOUR_S)]
    downloads = [e["time_s"] // HOUR_S for e in of_kind(sim, "download_started")]
    assert downloads == [2, 4]


def test_transfer_that_does_not_fit_resumes_in_the_next_contact(scenario):
    slow = replace(scenario, plan=make_plan(rate_bps=100.0))
    sim = finish(simulation(slow, "ems_fl"))
    (upload,) = of_kind(sim, "upload_arrived", "north")
    bits = upload["bytes"] * 8
    assert 300 * 100 < bits < 600 * 100, "the test wants an upload that needs two passes"
    expected_s = 4 * HOUR_S + (bits - 300 * 100) / 100 + 0.5
    assert upload["time_s"] == pytest.approx(expected_s, abs=1e-6)
    assert sim.ledger.uploaded_bytes == 2 * upload["bytes"]


def test_nothing_is_trained_that_is_never_uploaded(scenario):
    """After the last contact devices go on computing, which costs, but nobody needs the result."""
    sim = finish(simulation(scenario, "ems_fl"))
    cost = CostModel(scenario.config.device_flops_per_s, scenario.model)
    for site in sim.sites:
        step_s = cost.seconds(site.name, cost.step_flops(site.gateway.cluster.work))
        assert site.gateway.pending == []
        assert site.free_since_s == pytest.approx(scenario.plan.duration_s)
        assert step_s > 0
    total_s = 4 * scenario.plan.duration_s
    assert sim.ledger.energy_J >= 0.98 * total_s * scenario.config.compute_power_W


def test_poisoned_update_is_refused_recorded_and_the_run_goes_on(scenario):
    class Poison(InlineExecutor):
        """The north's second device returns NaN in its first segment."""

        done = False

        def submit(self, function, argument, /):
            pending = super().submit(function, argument)
            if function is train_locally and argument.seed[-2:] == (0, 1) and not self.done:
                self.done = True
                state = {n: t * float("nan") for n, t in pending.value.state.items()}
                return type(pending)(replace(pending.value, state=state))
            return pending

    sim = finish(simulation(scenario, "ems_fl", Poison()))
    (refused,) = of_kind(sim, "refused")
    assert refused["cluster"] == "north"
    assert "not finite" in refused["reason"]
    assert sim.ledger.num_refused == 1
    assert len(of_kind(sim, "merged")) == 3
    assert all(torch.isfinite(t).all() for t in sim.method.merged().state.values())


def test_experts_in_uploads_never_overlap(scenario):
    """Through a whole run: the rows that a cluster's uploads change are its own, and only those."""
    sim = simulation(scenario, "ems_fl")
    owned = {c: sim.method.owned(c) for c in scenario.federation.clusters}
    for layer in range(2):
        rows = [e for ids in owned.values() for e in ids[layer]]
        assert len(rows) == len(set(rows))
    changed = {c: [set(), set()] for c in owned}
    before = sim.method.state
    while not sim.finished:
        sim.step()
        after = sim.method.state
        if after is before:
            continue
        (cluster,) = {e["cluster"] for e in sim.events[-2:] if e["event"] == "merged"} or {None}
        for index, layer in enumerate(scenario.federation.layout.layers):
            for name in layer.expert_axes:
                moved = (after[name] != before[name]).flatten(1).any(1).nonzero().flatten()
                if cluster is None:
                    cluster = next(e["cluster"] for e in reversed(sim.events)
                                   if e["event"] == "merged")  # fmt: skip
                changed[cluster][index] |= set(moved.tolist())
        before = after
    for cluster, layers in changed.items():
        for index, rows in enumerate(layers):
            assert rows == set(owned[cluster][index])


@pytest.mark.parametrize("bootstrap", ["preinstalled", "over_the_air"])
@pytest.mark.parametrize("name", OVER_CONTACTS)
def test_nobody_starts_to_train_before_fedavg_could(scenario, name, bootstrap):
    """Not even EMS-FL: what devices need for it comes no earlier than what FedAvg needs."""
    config = scenario.config.model_copy(update={"bootstrap": bootstrap})
    federation = scenario.federation
    if bootstrap == "over_the_air":
        federation = replace(federation, scores=None, statistics=None)
    scenario = replace(scenario, config=config, federation=federation)

    def first_training_s(method):
        sim = simulation(scenario, method)
        starts = {}
        while not sim.finished:
            for site in sim.sites:
                work = site.work
                if site.phase is Phase.WORKING and work.activity is Activity.TRAIN:
                    starts.setdefault(site.name, sim.now_s)
            sim.step()
        return starts

    earliest = first_training_s("fedavg_fill")
    assert set(earliest) == {"north", "south"}
    for cluster, start_s in first_training_s(name).items():
        assert start_s >= earliest[cluster], cluster


@pytest.mark.parametrize(
    "name",
    ["ems_fl", "fedavg", "fedavg_fill", "fedavg_quorum", "fedasync", "fedbuff", "fedmoe", "esft"],
)
def test_checkpoint_anywhere_changes_nothing(scenario, name):
    few = scenario.config.model_copy(update={"max_local_steps_per_contact": 4})
    scenario = replace(scenario, config=few)
    whole = finish(simulation(scenario, name))
    sim = simulation(scenario, name)
    events = []
    while not sim.finished:
        sim.step()
        arrays, tree = pack(sim.save())
        events = sim.events
        sim = simulation(scenario, name)
        sim.restore(unpack(arrays, json.loads(json.dumps(tree))))
        sim.events.extend(events)
    assert sim.events == whole.events
    assert sim.ledger.save() == whole.ledger.save()
    assert sim.judge.save() == whole.judge.save()
    for key, tensor in whole.method.merged().state.items():
        assert torch.equal(sim.method.merged().state[key], tensor)


def test_over_the_air_bootstrap_costs_a_download_and_a_wait(scenario):
    config = scenario.config.model_copy(update={"bootstrap": "over_the_air"})
    federation = replace(scenario.federation, scores=None, statistics=None)
    air = replace(scenario, config=config, federation=federation)
    sim = finish(simulation(air, "ems_fl"))
    first = of_kind(sim, "download_started")[0]
    size = sum(t.numel() * 4 for t in federation.pretrained.values())
    assert (first["time_s"], first["bytes"]) == (1 * HOUR_S, size)
    north = [e for e in of_kind(sim, "download_arrived") if e["cluster"] == "north"]
    heard_s = next(e for e in of_kind(sim, "upload_arrived") if e["cluster"] == "south")["time_s"]
    assert north[1]["time_s"] < heard_s, "north trains although nobody has heard of south"
    assert all(sim.method.has_experts(cluster) for cluster in federation.clusters)
    merged = of_kind(sim, "merged")
    average = finish(simulation(air, "fedavg_fill"))
    first_training_s = of_kind(average, "download_arrived")[0]["time_s"]
    assert not merged or merged[0]["time_s"] > first_training_s


def test_ledger_charges_bytes_flops_and_energy(scenario):
    sim = finish(simulation(scenario, "fedasync"))
    uploads = of_kind(sim, "upload_arrived")
    size = sum(t.numel() * 4 for t in scenario.federation.pretrained.values())
    assert sim.ledger.uploaded_bytes == size * len(uploads)
    assert sim.ledger.downloaded_bytes == size * len(of_kind(sim, "download_arrived"))
    radio_s = size * 8 / 1e6
    radio_J = radio_s * (len(uploads) * 20.0 + len(of_kind(sim, "download_arrived")) * 5.0)
    compute_J = sim.ledger.device_flops / 100.0 * 10.0
    assert sim.ledger.energy_J == pytest.approx(radio_J + compute_J, rel=1e-9)
