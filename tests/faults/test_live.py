"""Without the rehearsal flag: devices train until a contact, and events happen when they happen."""

import json
import time
from pathlib import Path

import pytest
from benchmarks.deployment import deployment, finals

from emsfl.deploy.journal import Journal
from emsfl.deploy.status import Status
from emsfl.errors import RunFolderError
from emsfl.orbit import ContactPlan

pytestmark = pytest.mark.faults

CONFIG = Path(__file__).parents[1] / "deploy" / "rehearsal.yaml"
NAMES = ["Svalbard", "Pilbara", "Patagonia"]
HIGH = (
    "orbit.constellation={walker: {pattern: star, num_satellites: 2, num_planes: 2, "
    "altitude_km: 8000, inclination_deg: 97.6}}"
)
"""Contacts of more than an hour, 20 s at this speed."""
SPEEDUP = 240.0
GUARD_S = 480.0


def test_live(tmp_path):
    """Uploads in contacts, training in between, an end, and a model that is kept."""
    overrides = ["orbit.hours=12", HIGH, f"deploy.guard_s={GUARD_S}"]
    with deployment(
        tmp_path / "d", CONFIG, overrides=overrides, speedup=SPEEDUP, rehearses=False
    ) as d:
        d.start_server()
        for name in NAMES:
            d.start_node(name)
        trained, sent = watch(d)
        assert d.wait("server", 300) == 0, (d.folder / "server.log").read_text()
        for name in NAMES:
            assert d.wait(name, 60) == 0, (d.folder / f"{name}.log").read_text()
        plan = ContactPlan.load(d.run / "plan" / "plan.npz")
        events = [json.loads(line) for line in (d.run / "events.jsonl").read_text().splitlines()]
        arrived = [event for event in events if event["event"] == "upload_arrived"]
        assert arrived
        assert {event["event"] for event in events} >= {"merged", "finished"}
        assert not [event for event in events if event["event"] == "refused"]
        for event in arrived:
            contacts = plan.contacts(event["cluster"])
            assert any(c.start_s <= event["started_s"] < c.end_s for c in contacts)
        assert max(trained.values()) > 0, "nobody trained outside its contacts"
        assert max(sent.values()) == 0, "bytes were sent outside the contacts"
        assert len(finals(d.run)) == 1
        assert list((d.run / "models").glob("*.safetensors"))
        assert (d.run / "result.json").exists()


def watch(d):
    """Return, by cluster, steps trained and bytes sent while it was well out of contact."""
    trained, sent = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    before = {}
    while d.processes["server"].poll() is None:
        for name, now in outside(d).items():
            if name in before:
                trained[name] += max(0, now[0] - before[name][0])
                sent[name] += now[1] - before[name][1]
        before = outside(d)
        time.sleep(1.0)
    return trained, sent


def outside(d):
    """Return (steps, bytes sent up) of those that are out of contact, and have been for long."""
    epoch_path, plan_path = d.run / "deploy" / "epoch.json", d.run / "plan" / "plan.npz"
    try:
        Status.read(d.run)
    except RunFolderError:
        return {}
    now_s = (time.time() - json.loads(epoch_path.read_text())) * SPEEDUP
    plan, found = ContactPlan.load(plan_path), {}
    for name in NAMES:
        near = any(c.start_s - GUARD_S < now_s < c.end_s + GUARD_S for c in plan.contacts(name))
        journals = list((d.folder / f"node-{name}" / "sessions").glob("*"))
        if near or not journals or now_s > plan.duration_s:
            continue
        state = Journal(journals[0], 1).read_state()
        if state is not None:
            found[name] = (state["trained"], d.proxies[name].sent_up)
    return found
