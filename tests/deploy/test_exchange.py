"""Server and nodes with a link that loses, doubles and forgets: the simulator's bits come out."""

import json
import random
from dataclasses import replace

import pytest

from emsfl.deploy.flower import Envelope
from emsfl.deploy.packets import from_packet, manifest_of, to_packet
from tests.simulate.conftest import HOUR_S, make_plan


@pytest.mark.parametrize("method", ["ems_fl", "fedavg"])
def test_a_rehearsal_ends_with_the_bits_of_the_simulation(federates, method):
    federates.method = method
    expected = federates.simulate()
    assert federates.serve() == expected
    assert '"event":"finished"' in expected


@pytest.mark.parametrize("seed", [1, 2])
def test_losses_repeats_and_killed_ends_change_nothing(federates, seed):
    federates.part_bytes = 1024
    expected = federates.simulate()
    federates.random = random.Random(seed)
    federates.loss, federates.node_kill, federates.server_kills = 0.15, 0.05, 3
    assert federates.serve() == expected
    assert federates.server_kills == 0


@pytest.mark.parametrize("kills", [0, 3])
def test_over_the_air_the_bits_are_the_simulations_whoever_is_killed(federates, kills):
    """Scores come in two contacts apart; north trains before south is heard."""
    passes = {
        name: [(hour * HOUR_S, hour * HOUR_S + 300) for hour in range(first, 12, 3)]
        for name, first in (("north", 1), ("south", 2))
    }
    scenario = federates.scenario
    federates.scenario = replace(
        scenario,
        plan=make_plan(1e6, 12 * HOUR_S, passes),
        config=scenario.config.model_copy(update={"bootstrap": "over_the_air"}),
        federation=replace(scenario.federation, scores=None, statistics=None),
    )
    expected = federates.simulate()
    events = [json.loads(line) for line in expected.splitlines()]
    merged = [event for event in events if event["event"] == "merged"]
    assert {event["cluster"] for event in merged} == {"north", "south"}
    federates.random = random.Random(5)
    federates.node_kill, federates.server_kills = 0.05 * bool(kills), kills
    assert federates.serve() == expected
    assert federates.server_kills == 0


def tampering(change, once=True):
    """Return a link on which the first whole upload of the north is changed by `change`."""
    done = []

    def tamper(name, request, reply):
        body = json.loads(reply.text)
        if name != "north" or "answer" not in body or (once and done):
            return reply
        done.append(True)
        packet = change(reply.blob)
        if isinstance(packet, Envelope):
            return packet
        payload = from_packet(packet)["update"].num_bytes() if len(packet) < 10**6 else 0
        body["answer"] = manifest_of(body["answer"]["work"], packet, payload, 512 * 1024).as_json()
        body["part"] = 0
        return Envelope(json.dumps(body), packet)

    return tamper


def test_an_update_with_nan_is_refused_and_named(federates):
    def poison(packet):
        tree = from_packet(packet)
        for tensor in tree["update"].values.values():
            tensor[...] = float("nan")
        return to_packet(tree)

    federates.tamper = tampering(poison)
    events = [json.loads(line) for line in federates.serve().splitlines()]
    (refused,) = [e for e in events if e["event"] == "refused"]
    assert refused["cluster"] == "north"
    assert "not finite" in refused["reason"]
    assert len([e for e in events if e["event"] == "merged"]) == 3


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("work", "north-0", "answers 'north-0' again"),
        ("owned", ((2, 3), (2, 3)), "not its own"),
    ],
)
def test_replays_and_foreign_experts_are_refused_and_named(federates, key, value, reason):
    federates.tamper = tampering(lambda packet: to_packet({**from_packet(packet), key: value}))
    events = [json.loads(line) for line in federates.serve().splitlines()]
    (refused,) = [e for e in events if e["event"] == "refused"]
    assert refused["cluster"] == "north"
    assert reason in refused["reason"]
    assert len([e for e in events if e["event"] == "merged"]) == 3


@pytest.mark.parametrize(("field", "reason"), [("version", "version 9"), ("cluster", "'south'")])
def test_an_older_base_and_another_cluster_are_refused_and_named(federates, field, reason):
    def change(packet):
        tree = from_packet(packet)
        wrong = {"version": 9, "cluster": "south"}[field]
        update = type(tree["update"])(**{**vars(tree["update"]), field: wrong})
        return to_packet({**tree, "update": update})

    federates.tamper = tampering(change)
    events = [json.loads(line) for line in federates.serve().splitlines()]
    (refused,) = [e for e in events if e["event"] == "refused"]
    assert reason in refused["reason"]


def test_an_upload_of_ten_gigabytes_is_refused_before_it_is_taken(federates):
    expected = federates.simulate()

    def boast(packet):
        manifest = manifest_of("north-1", b"", 0, 512 * 1024).as_json() | {"num_bytes": 10**10}
        return Envelope(json.dumps({"confirmed": 0, "answer": manifest, "part": 0}), b"\0" * 1000)

    federates.tamper = tampering(boast)
    assert federates.serve() == expected, "asked again, the honest answer counts"
    (refused,) = federates.events_of("upload_refused")
    assert refused["cluster"] == "north"
    assert "10000000000 bytes" in refused["reason"]


def test_a_node_that_only_boasts_is_refused_in_the_end(federates):
    def boast(packet):
        manifest = manifest_of("north-1", b"", 0, 512 * 1024).as_json() | {"num_bytes": 10**10}
        return Envelope(json.dumps({"confirmed": 99, "answer": manifest, "part": 0}))

    federates.tamper = tampering(boast, once=False)
    events = [json.loads(line) for line in federates.serve().splitlines()]
    assert {e["cluster"] for e in events if e["event"] == "refused"} == {"north"}
    assert {e["cluster"] for e in events if e["event"] == "merged"} == {"south"}


@pytest.mark.parametrize(
    "reply", [Envelope("[]"), Envelope("{"), Envelope('{"confirmed": 0, "answer": 3, "part": 0}')]
)
def test_replies_that_make_no_sense_count_as_lost(federates, reply):
    expected = federates.simulate()
    federates.tamper = tampering(lambda packet: reply)
    assert federates.serve() == expected
    assert federates.events_of("bad_reply") or federates.events_of("upload_refused")


def test_an_update_that_changes_too_much_is_refused_and_named(federates):
    def push(packet):
        tree = from_packet(packet)
        for tensor in tree["update"].values.values():
            tensor += 1e3
        return to_packet(tree)

    federates.tamper, federates.max_change_norm = tampering(push), 100.0
    events = [json.loads(line) for line in federates.serve().splitlines()]
    (refused,) = [e for e in events if e["event"] == "refused"]
    assert refused["cluster"] == "north"
    assert "more than 100" in refused["reason"]
    assert len([e for e in events if e["event"] == "merged"]) == 3


def test_a_loss_that_is_not_finite_stops_nobody(federates):
    def diverge(name, request, reply):
        body = json.loads(reply.text) | {"loss": float("nan")}
        return Envelope(json.dumps(body), reply.blob)

    federates.tamper = diverge
    assert '"event":"finished"' in federates.serve()
    assert all(gateway.last_loss is None for gateway in federates.gateways.values())


@pytest.mark.parametrize("kills", [0, 4])
def test_free_running_clusters_train_until_they_are_asked(federates, kills):
    """As between real machines: events happen when they happen, each is saved before it is told."""
    federates.free_running, federates.server_kills = True, kills
    federates.loss, federates.random = 0.1, random.Random(7)
    events = [json.loads(line) for line in federates.serve().splitlines()]
    merged = [e for e in events if e["event"] == "merged"]
    assert [e["version"] for e in merged] == list(range(1, len(merged) + 1))
    assert {e["cluster"] for e in merged} == {"north", "south"}
    received = [note["work"] for note in federates.events_of("update_received")]
    assert set(received) == {f"{c}-{n}" for c in ("north", "south") for n in (1, 2)}
    assert not federates.events_of("bad_reply")
    assert not [n for n in federates.notes if n["event"] == "node_error"]
    for node in federates.nodes.values():
        assert all(device.num_steps > 0 for device in node.worker.cluster.devices)
